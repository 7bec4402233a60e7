// Which files a packed cache was made from.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "checkpoint/manifest.h"
#include "checkpoint/safetensors_header.h"
#include "core/checked.h"
#include "core/hash.h"
#include "runtime/packed_cache.h"

namespace nibble {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kWeights = ".safetensors", kIndex = "model.safetensors.index.json";
constexpr int64_t kPage = 4096, kSampledPages = 64;

// Names of the files that weights are read from, in order.
Result<std::set<std::string>> source_files(const fs::path& model) {
  std::set<std::string> names = {"config.json"};
  std::error_code error, ignored;
  for (fs::directory_iterator it(model, error), end; !error && it != end; it.increment(error))
    if (const bool named = it->path().extension() == kWeights || it->path().filename() == kIndex;
        named && !fs::is_directory(it->path(), ignored))
      names.insert(it->path().filename().string());
  if (error) return system_failure(error.value(), "list", model);
  return names;
}

// Bytes at the beginning that are read whole: a header with its size in front, or a file of text.
size_t whole_part(const fs::path& path, std::span<const std::byte> bytes) {
  uint64_t header = 0;
  if (path.extension() != kWeights) return bytes.size();
  if (bytes.size() < sizeof header) return bytes.size();
  std::memcpy(&header, bytes.data(), sizeof header);
  return std::min<size_t>(bytes.size(), sizeof header + std::min(header, kMaxHeaderBytes));
}

Result<uint64_t> sample_of(const fs::path& path) {
  NIBBLE_TRY(const MappedFile file, MappedFile::open(path));
  file.expect_scattered_reads();
  const std::span<const std::byte> bytes = file.bytes();
  std::vector<uint64_t> hashes = {xxh3(bytes.first(whole_part(path, bytes)))};
  const int64_t size = static_cast<int64_t>(bytes.size()), pages = ceil_div(size, kPage);
  const int64_t sampled = std::min(pages, kSampledPages);
  for (int64_t i = 0; i < sampled; ++i) {
    const int64_t begin = (sampled > 1 ? i * (pages - 1) / (sampled - 1) : 0) * kPage;
    hashes.push_back(
        xxh3(bytes.subspan(static_cast<size_t>(begin), static_cast<size_t>(std::min(kPage, size - begin)))));
  }
  return xxh3(std::as_bytes(std::span(hashes)));
}

}  // namespace

Result<Json> packed_cache_key(const fs::path& model, Isa isa, std::string_view weights) {
  Json key = {{"layout", PackedLinear::kLayoutVersion}, {"isa", to_string(isa)}, {"converted", weights}};
  NIBBLE_TRY(const std::set<std::string> names, source_files(model));
  Json files = Json::array(), contents = Json::array();
  for (const std::string& name : names) {
    struct stat info {};
    if (::stat((model / name).c_str(), &info) != 0) return system_failure(errno, "look at", model / name);
    const int64_t nanoseconds = info.st_mtim.tv_sec * int64_t{1'000'000'000} + info.st_mtim.tv_nsec;
    files.push_back({name, static_cast<int64_t>(info.st_size), nanoseconds});
    NIBBLE_TRY(const uint64_t sample, sample_of(model / name));
    contents.push_back(fmt::format("{:016x}", sample));
  }
  key["files"] = std::move(files);
  key["contents"] = std::move(contents);
  std::error_code error;
  if (fs::is_regular_file(model / kManifestName, error)) {
    NIBBLE_TRY(const std::string hash, sha256_file(model / kManifestName));
    key["manifest"] = hash;
  }
  return key;
}

}  // namespace nibble
