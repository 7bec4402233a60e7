// safetensors files: an 8-byte little-endian header size, a JSON header, the tensors' bytes without holes.
//
//   u64 N | N bytes: {"__metadata__":{..}, "name":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]}, ..} | bytes
//
// Every rule of the reference implementation is checked before the first tensor is handed out, in its order, so a
// view always lies inside the file and its size equals shape x type. Whitespace around the header is tolerated, as
// the reference does. Stricter than the reference: duplicate and unknown keys, empty names, names over 1 KB or with
// control characters, more than 8 dimensions or a million tensors are refused, and a zero dimension does not excuse
// an overflow in the others. Tensors are views of the mapped file.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "checkpoint/tensor.h"
#include "core/file.h"
#include "core/result.h"

namespace nibble {

// Movable, not copyable. Safe to read from any number of threads.
class SafetensorsFile {
 public:
  // `corrupt` errors name the file, the rule and what was found.
  static Result<SafetensorsFile> open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const std::vector<TensorView>& tensors() const { return tensors_; }  // in file order
  const TensorView* find(std::string_view name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  int64_t file_bytes() const { return static_cast<int64_t>(file_.bytes().size()); }
  // The tensor's pages need not stay resident.
  void release(const TensorView& tensor) const { file_.release(tensor.bytes); }
  // A hold on bytes of a tensor, which outlives this object; the pages are released when it goes.
  std::shared_ptr<const std::byte> borrow(std::span<const std::byte> part) const { return file_.borrow(part); }

 private:
  std::filesystem::path path_;
  MappedFile file_;
  std::vector<TensorView> tensors_;
  std::map<std::string_view, size_t> index_;  // keys are the names in tensors_, which moves with its storage
  std::map<std::string, std::string> metadata_;
};

// What open() does to the bytes of a file, for tests and fuzzing: the tensors (views into `bytes`) and the metadata.
struct SafetensorsHeader {
  std::vector<TensorView> tensors;
  std::map<std::string, std::string> metadata;
};
Result<SafetensorsHeader> parse_safetensors(std::span<const std::byte> bytes, std::string_view where);

// Writes one file durably (temporary name, fsync, rename) while its tensors are being computed: the header is
// declared first, then the bytes follow in order() in pieces of any size. Nothing is kept in memory. The order is the
// reference writer's: DType descending (so that alignment never increases), then name; the header is padded with
// spaces to 8 bytes. Without commit() nothing is left behind.
class SafetensorsWriter {
 public:
  // Names, types and shapes of `tensors` are used, their bytes are not. The metadata gets {"format": "pt"}, without
  // which Hugging Face refuses to load a file. What the reader would refuse is a `failure`.
  static Result<SafetensorsWriter> create(const std::filesystem::path& path, std::vector<TensorView> tensors,
                                          std::map<std::string, std::string> metadata = {});

  const std::vector<TensorView>& order() const { return tensors_; }
  // The next bytes, all of tensor `name`: a `failure` when another tensor is due or the tensor is full.
  Status write(std::string_view name, std::span<const std::byte> part);
  // A `failure` when bytes are missing.
  Status commit();

 private:
  SafetensorsWriter(std::filesystem::path path, DurableFile file, std::vector<TensorView> tensors,
                    std::vector<uint64_t> sizes)
      : path_(std::move(path)), file_(std::move(file)), tensors_(std::move(tensors)), missing_(std::move(sizes)) {}
  void skip_full();

  std::filesystem::path path_;
  DurableFile file_;
  std::vector<TensorView> tensors_;
  std::vector<uint64_t> missing_;  // bytes that each tensor still needs
  size_t next_ = 0;                // the tensor that is due
};

// The same for tensors whose bytes exist, for example views of another file.
Status write_safetensors(const std::filesystem::path& path, const std::vector<TensorView>& tensors,
                         std::map<std::string, std::string> metadata = {});

// All tensors of a Hugging Face folder: model.safetensors, or else the shards of model.safetensors.index.json (as
// transformers chooses when both are there). Every tensor name occurs once over the shards, and in the shard that the
// index maps it to; tensors that the index does not mention are found too, since transformers loads whole shards.
// A folder with only pickle files (.bin, .pt, .pth) is `unsupported`, with how to convert; so are GGUF files.
class Checkpoint {
 public:
  static Result<Checkpoint> open(const std::filesystem::path& folder);

  const std::filesystem::path& folder() const { return folder_; }
  const std::vector<SafetensorsFile>& files() const { return files_; }
  std::vector<const TensorView*> tensors() const;  // by shard, in file order
  const TensorView* find(std::string_view name) const;
  // `corrupt` error naming the folder and the tensor when it is not there.
  Result<const TensorView*> tensor(std::string_view name) const;
  // For a tensor of this checkpoint; others are ignored.
  void release(const TensorView& tensor) const;
  // A hold on a part of a tensor of this checkpoint (SafetensorsFile::borrow).
  std::shared_ptr<const std::byte> borrow(const TensorView& tensor, std::span<const std::byte> part) const;
  int64_t file_bytes() const;  // of all shards

 private:
  Status add(SafetensorsFile file);

  std::filesystem::path folder_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string_view, std::pair<size_t, const TensorView*>> index_;
};

// {"metadata": {...}, "weight_map": {tensor: shard}}: the map, with every file name checked.
using ShardIndex = std::map<std::string, std::string>;
Result<ShardIndex> parse_shard_index(std::string_view text, std::string_view where);
// Writes model.safetensors.index.json durably; total_size as Hugging Face counts it, the bytes of the tensors.
Status write_shard_index(const std::filesystem::path& folder, const ShardIndex& index, int64_t total_size);

}  // namespace nibble
