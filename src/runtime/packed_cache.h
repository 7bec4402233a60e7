// A file beside a model that holds its packed weights, to be mapped as they are: loading then reads a header.
//
//   "nibble packed 2\n" | SHA-256 of the header, 64 hexadecimal digits | u64 header size | header | items
//
// The header is JSON: {"key": {...}, "items": [{"name", "offset", "bytes", "xxh3", ...}, ...]}, little-endian sizes,
// items at multiples of 64 bytes from the beginning of the file. The key says which files, which layout and which
// instruction set the items were made from and for: a cache whose key differs is stale. It may always be deleted.
//
// Everything is checked when it is opened: the header by its hash, sizes and shapes, and every item by its checksum,
// the XXH3 (core/hash.h) of the eight-byte XXH3s of its pieces of 4 MiB.
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/cpu.h"
#include "core/file.h"
#include "core/json.h"
#include "core/result.h"
#include "core/threads.h"
#include "format/linear_weight.h"
#include "kernels/linear.h"

namespace nibble {

inline constexpr const char* kPackedCacheName = "nibble.packed-cache";

// What a model's packed weights depend on: names, sizes and times of its weight files and config.json, samples of their
// contents, the hash of its manifest where it has one, the layout and the instruction set. `weights`: the type that
// floats were converted to, or "".
//
// A sample is what may be read before every start: text files and the headers of safetensors files whole, and of each
// file 64 pages of 4 KiB at equal distances, the first and the last among them, which is all of a file that has no
// more. `io` when a file cannot be read.
Result<Json> packed_cache_key(const std::filesystem::path& model, Isa isa, std::string_view weights);

class PackedCache {
 public:
  // `io` when there is none; `corrupt` when it is damaged or was made for another key, saying what differs. Its pages
  // are read in parallel.
  static Result<PackedCache> open(const std::filesystem::path& path, const Json& key, ThreadPool& pool);

  // Each item as it was added, `corrupt` when it is not there or of another shape. They share the map.
  Result<PackedLinear> linear(const std::string& name, int64_t rows, int64_t columns, Isa isa) const;
  Result<LinearWeight> matrix(const std::string& name, int64_t rows, int64_t columns) const;  // float levels
  Result<std::vector<float>> floats(const std::string& name) const;
  bool has(const std::string& name) const { return items_.contains(name); }

 private:
  struct Item {
    std::span<const std::byte> bytes;
    std::string checksum;
    PackedShape shape;  // of a matrix or a linear
  };
  Result<const Item*> find(const std::string& name) const;
  Result<const Item*> find(const std::string& name, int64_t rows, int64_t columns) const;
  Status read_item(const Json& value);
  Status verify(ThreadPool& pool) const;

  std::string where_;
  MappedFile file_;
  std::map<std::string, Item, std::less<>> items_;
};

// Collects views of what is to be stored, then writes it durably. Everything added must outlive it. What writers of the
// same file that were killed have left beside it is removed when it is a day old.
class PackedCacheWriter {
 public:
  void add(const std::string& name, const PackedLinear& linear);
  void add(const std::string& name, const LinearWeight& matrix);  // float levels, without bias
  void add(const std::string& name, std::span<const float> values);
  Status write(const std::filesystem::path& path, const Json& key, ThreadPool& pool) const;

 private:
  void add(const std::string& name, std::span<const std::byte> bytes, Json item);
  std::vector<std::span<const std::byte>> parts_;
  Json items_ = Json::array();
  int64_t end_ = 0;  // of the items, counted from the first
};

}  // namespace nibble
