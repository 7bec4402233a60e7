// safetensors files: an 8-byte little-endian header size, a JSON header, the tensors' bytes without holes.
//
// Every rule of the reference implementation is checked before the first tensor is handed out, so a view always
// lies inside the file and its size equals shape x type. Tensors are views of the mapped file.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/tensor.h"
#include "core/file.h"
#include "core/result.h"

namespace nibble {

class SafetensorsFile {
 public:
  // `corrupt` errors name the file, the rule and what was found.
  static Result<SafetensorsFile> open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const std::vector<TensorView>& tensors() const { return tensors_; }  // in file order
  const TensorView* find(std::string_view name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // The tensor's pages need not stay resident.
  void release(const TensorView& tensor) const { file_.release(tensor.bytes); }

 private:
  std::filesystem::path path_;
  MappedFile file_;
  std::vector<TensorView> tensors_;
  std::map<std::string, size_t, std::less<>> index_;
  std::map<std::string, std::string> metadata_;
};

// What open() does to the bytes of a file, for tests and fuzzing: the tensors (views into `bytes`) and the metadata.
struct SafetensorsHeader {
  std::vector<TensorView> tensors;
  std::map<std::string, std::string> metadata;
};
Result<SafetensorsHeader> parse_safetensors(std::span<const std::byte> bytes, std::string_view where);

// Writes one file durably (temporary name, fsync, rename): tensors by descending alignment, then name; the header
// padded to 8 bytes; metadata always contains {"format": "pt"}. Names must be distinct.
Status write_safetensors(const std::filesystem::path& path, std::vector<TensorView> tensors,
                         std::map<std::string, std::string> metadata = {});

// All tensors of a Hugging Face folder: model.safetensors, or the shards of model.safetensors.index.json.
// A folder with only pickle files (.bin, .pt, .pth) is refused with how to convert.
class Checkpoint {
 public:
  static Result<Checkpoint> open(const std::filesystem::path& folder);

  const std::filesystem::path& folder() const { return folder_; }
  std::vector<const TensorView*> tensors() const;  // by shard, in file order
  const TensorView* find(std::string_view name) const;
  // `corrupt` error naming the folder and the tensor when it is not there.
  Result<const TensorView*> tensor(std::string_view name) const;
  void release(const TensorView& tensor) const;
  int64_t file_bytes() const;  // of all shards

 private:
  std::filesystem::path folder_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::pair<size_t, const TensorView*>, std::less<>> index_;
};

// The tensor's values as float32, `count` elements from element `first`. Only F32, F16 and BF16.
Status read_floats(const TensorView& tensor, int64_t first, std::span<float> out);
// `corrupt` error when a value is NaN or infinite, naming the tensor and the index.
Status check_finite(const TensorView& tensor);

}  // namespace nibble
