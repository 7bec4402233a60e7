#include <algorithm>
#include <cerrno>
#include <set>

#include "checkpoint/file_name.h"
#include "checkpoint/safetensors.h"
#include "core/json.h"

namespace nibble {
namespace fs = std::filesystem;
namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr size_t kMaxIndexBytes = size_t{256} << 20;

bool is_pickle(const fs::path& file) {
  const fs::path extension = file.extension();
  return extension == ".bin" || extension == ".pt" || extension == ".pth" || extension == ".pkl";
}

tl::unexpected<Error> pickle_refused(const fs::path& folder, const std::string& file) {
  return fail(ErrorCode::unsupported,
              "{}: the weights ({}) are Python pickle, which can run any code when it is loaded; Nibble reads "
              "safetensors only. Convert where you trust the file: python3 -c 'from transformers import "
              "AutoModelForCausalLM as M; M.from_pretrained(\"{}\").save_pretrained(\"OUT\", safe_serialization=True)' "
              "and copy the tokenizer files to OUT",
              folder.string(), file, folder.string());
}

tl::unexpected<Error> gguf_refused(const fs::path& file) {
  return fail(ErrorCode::unsupported,
              "{}: GGUF files are not read; Nibble starts from a Hugging Face safetensors folder", file.string());
}

// Why a folder without model.safetensors and index cannot be opened. Names are sorted, so the message is stable.
Status no_weights(const fs::path& folder) {
  std::error_code error;
  std::set<std::string> names;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    names.insert(it->path().filename().string());
  if (error) return system_failure(error.value(), "list", folder);
  auto first = [&](auto matches) { return std::find_if(names.begin(), names.end(), matches); };
  auto is = [](const char* extension) {
    return [extension](const std::string& name) { return fs::path(name).extension() == extension; };
  };
  if (auto it = first(is(".safetensors")); it != names.end())
    return fail(ErrorCode::corrupt, "{}: has {} but neither {} nor {}", folder.string(), *it, kSingleFile, kIndexFile);
  if (auto it = first([](const std::string& name) { return is_pickle(name); }); it != names.end())
    return pickle_refused(folder, *it);
  if (auto it = first(is(".gguf")); it != names.end()) return gguf_refused(folder / *it);
  return fail(ErrorCode::corrupt, "{}: no weights: neither {} nor {} is there", folder.string(), kSingleFile,
              kIndexFile);
}

Status refuse_file(const fs::path& path) {
  if (is_pickle(path)) return pickle_refused(path.parent_path(), path.filename().string());
  if (path.extension() == ".gguf") return gguf_refused(path);
  return fail(ErrorCode::usage, "{} is a file; expected the folder of a Hugging Face model", path.string());
}

Result<std::vector<std::string>> shard_names(const ShardIndex& index, const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& [tensor, file] : index) names.insert(file);
  std::error_code error;
  for (const std::string& name : names)
    if (!fs::is_regular_file(folder / name, error))
      return fail(ErrorCode::corrupt, "{}: names the shard {}, which is not in the folder",
                  (folder / kIndexFile).string(), in_quotes(name));
  return std::vector<std::string>(names.begin(), names.end());
}

// Whether the folder has this entry, even as a link to nowhere: opening it then says what is wrong.
bool has_entry(const fs::path& path) {
  std::error_code error;
  return fs::exists(fs::symlink_status(path, error));
}

Status check_placed(const ShardIndex& index, const Checkpoint& checkpoint) {
  std::map<std::string, const SafetensorsFile*> by_name;
  for (const SafetensorsFile& file : checkpoint.files()) by_name[file.path().filename().string()] = &file;
  for (const auto& [tensor, shard] : index) {
    if (by_name.at(shard)->find(tensor) != nullptr) continue;
    const bool elsewhere = checkpoint.find(tensor) != nullptr;
    return fail(ErrorCode::corrupt, "{}: maps tensor {} to {}, but it is {}",
                (checkpoint.folder() / kIndexFile).string(), in_quotes(tensor), shard,
                elsewhere ? "in another shard" : "in no shard");
  }
  return {};
}

}  // namespace

Result<ShardIndex> parse_shard_index(std::string_view text, std::string_view where) {
  NIBBLE_TRY(Json json, parse_json(text, where));
  const auto refuse = [&](std::string_view what) { return fail(ErrorCode::corrupt, "{}: {}", where, what); };
  if (!json.is_object()) return refuse("expected an object with \"weight_map\"");
  const auto map = json.find("weight_map");
  if (map == json.end()) return refuse("\"weight_map\" is missing");
  if (!map->is_object()) return refuse("\"weight_map\" is not an object");
  if (map->empty()) return refuse("\"weight_map\" is empty");
  ShardIndex index;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string()) return refuse("the shard of tensor " + in_quotes(tensor) + " is not a file name");
    const std::string& name = file.get_ref<const std::string&>();
    NIBBLE_DO(check_file_name(name, where));
    if (fs::path(name).extension() != ".safetensors")
      return refuse("the shard " + in_quotes(name) + " is not a .safetensors file");
    index.emplace(tensor, name);
  }
  return index;
}

Status write_shard_index(const fs::path& folder, const ShardIndex& index, int64_t total_size) {
  std::string text =
      fmt::format("{{\n  \"metadata\": {{\n    \"total_size\": {}\n  }},\n  \"weight_map\": {{", total_size);
  for (const auto& [tensor, file] : index)
    text +=
        fmt::format("{}\n    {}: {}", text.back() == '{' ? "" : ",", dump_json(Json(tensor)), dump_json(Json(file)));
  text += "\n  }\n}\n";
  return write_durably(folder / kIndexFile, text);
}

Result<Checkpoint> Checkpoint::open(const fs::path& folder) {
  std::error_code error;
  const fs::file_status status = fs::status(folder, error);
  if (!fs::exists(status)) return system_failure(error ? error.value() : ENOENT, "open", folder);
  Checkpoint checkpoint;
  checkpoint.folder_ = folder;
  if (!fs::is_directory(status)) {
    NIBBLE_DO(refuse_file(folder));
  } else if (has_entry(folder / kSingleFile)) {
    NIBBLE_TRY(SafetensorsFile file, SafetensorsFile::open(folder / kSingleFile));
    NIBBLE_DO(checkpoint.add(std::move(file)));
  } else if (has_entry(folder / kIndexFile)) {
    NIBBLE_TRY(std::string text, read_text(folder / kIndexFile, kMaxIndexBytes));
    NIBBLE_TRY(ShardIndex index, parse_shard_index(text, (folder / kIndexFile).string()));
    NIBBLE_TRY(std::vector<std::string> names, shard_names(index, folder));
    checkpoint.files_.reserve(names.size());
    for (const std::string& name : names) {
      NIBBLE_TRY(SafetensorsFile file, SafetensorsFile::open(folder / name));
      NIBBLE_DO(checkpoint.add(std::move(file)));
    }
    NIBBLE_DO(check_placed(index, checkpoint));
  } else {
    NIBBLE_DO(no_weights(folder));
  }
  return checkpoint;
}

Status Checkpoint::add(SafetensorsFile file) {
  files_.push_back(std::move(file));
  for (const TensorView& tensor : files_.back().tensors()) {
    const auto [it, inserted] = index_.emplace(tensor.name, std::pair{files_.size() - 1, &tensor});
    if (!inserted)
      return fail(ErrorCode::corrupt, "{}: tensor {} is in {} and in {}", folder_.string(), in_quotes(tensor.name),
                  files_[it->second.first].path().filename().string(), files_.back().path().filename().string());
  }
  return {};
}

std::vector<const TensorView*> Checkpoint::tensors() const {
  std::vector<const TensorView*> all;
  for (const SafetensorsFile& file : files_)
    for (const TensorView& tensor : file.tensors()) all.push_back(&tensor);
  return all;
}

const TensorView* Checkpoint::find(std::string_view name) const {
  auto it = index_.find(name);
  return it == index_.end() ? nullptr : it->second.second;
}

Result<const TensorView*> Checkpoint::tensor(std::string_view name) const {
  const TensorView* found = find(name);
  if (found == nullptr) return fail(ErrorCode::corrupt, "{}: tensor {} is missing", folder_.string(), in_quotes(name));
  return found;
}

void Checkpoint::release(const TensorView& tensor) const {
  auto it = index_.find(tensor.name);
  if (it != index_.end() && it->second.second->bytes.data() == tensor.bytes.data())
    files_[it->second.first].release(tensor);
}

std::shared_ptr<const std::byte> Checkpoint::borrow(const TensorView& tensor, std::span<const std::byte> part) const {
  return files_[index_.at(tensor.name).first].borrow(part);
}

int64_t Checkpoint::file_bytes() const {
  int64_t bytes = 0;
  for (const SafetensorsFile& file : files_) bytes += file.file_bytes();
  return bytes;
}

}  // namespace nibble
