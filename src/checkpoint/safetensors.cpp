#include "checkpoint/safetensors.h"

#include <algorithm>
#include <cstring>
#include <tuple>

#include "checkpoint/file_name.h"
#include "checkpoint/safetensors_header.h"
#include "core/checked.h"
#include "core/json.h"

namespace nibble {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kLengthBytes = 8;

uint64_t little_endian(std::span<const std::byte> bytes) {
  uint64_t value = 0;
  for (size_t i = kLengthBytes; i-- > 0;) value = value << 8 | std::to_integer<uint64_t>(bytes[i]);
  return value;
}

// What large-file storage leaves in a clone whose files were not fetched: common, and worth its own message.
bool is_lfs_pointer(std::span<const std::byte> bytes) {
  constexpr std::string_view kStart = "version https://git-lfs";
  return bytes.size() >= kStart.size() && std::memcmp(bytes.data(), kStart.data(), kStart.size()) == 0;
}

// Rules 1 to 3: the header's text.
Result<std::string_view> header_text(std::span<const std::byte> bytes, std::string_view where) {
  if (is_lfs_pointer(bytes))
    return fail(ErrorCode::corrupt, "{} is a Git LFS pointer, not the weights: fetch them with `git lfs pull`", where);
  if (bytes.size() < kLengthBytes)
    return fail(ErrorCode::corrupt, "{}: {} bytes are too few for a safetensors file, which starts with an 8-byte size",
                where, bytes.size());
  const uint64_t length = little_endian(bytes);
  if (length > kMaxHeaderBytes)
    return fail(ErrorCode::corrupt, "{}: a safetensors header of {} bytes is too large, at most {} are allowed", where,
                length, kMaxHeaderBytes);
  const auto end = checked_add(kLengthBytes, length);
  if (!end || *end > bytes.size())
    return fail(ErrorCode::corrupt, "{}: the safetensors header has {} bytes, but only {} follow its size", where,
                length, bytes.size() - kLengthBytes);
  return std::string_view(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, static_cast<size_t>(length));
}

TensorView view_of(TensorEntry entry, std::span<const std::byte> data) {
  TensorView view;
  view.name = std::move(entry.name);
  view.dtype = entry.dtype;
  view.shape.assign(entry.shape.begin(), entry.shape.end());
  view.bytes = data.subspan(static_cast<size_t>(entry.begin), static_cast<size_t>(entry.end - entry.begin));
  return view;
}

Status unwritable(const fs::path& path, std::string_view why) {
  return fail(ErrorCode::failure, "cannot write {}: {}", path.string(), why);
}

// Entries with consecutive offsets; nullopt when the sizes do not fit into 64 bits or do not end on bytes.
std::optional<std::vector<TensorEntry>> lay_out(const std::vector<TensorView>& tensors) {
  std::vector<TensorEntry> entries;
  uint64_t offset = 0;
  for (const TensorView& tensor : tensors) {
    std::vector<uint64_t> shape;
    for (int64_t extent : tensor.shape) {
      if (extent < 0) return std::nullopt;
      shape.push_back(static_cast<uint64_t>(extent));
    }
    const auto count = checked_product(std::span<const uint64_t>(shape));
    const auto bits = count ? checked_mul(*count, static_cast<uint64_t>(bits_of(tensor.dtype))) : std::nullopt;
    const auto end = bits && *bits % 8 == 0 ? checked_add(offset, *bits / 8) : std::nullopt;
    if (!end) return std::nullopt;
    entries.push_back({tensor.name, tensor.dtype, std::move(shape), offset, *end});
    offset = *end;
  }
  return entries;
}

std::string json_text(std::string_view text) { return dump_json(Json(std::string(text))); }

// Written out by hand: the ordered JSON object looks keys up one by one, which is quadratic for many tensors.
std::string compose_header(const std::vector<TensorEntry>& entries,
                           const std::map<std::string, std::string>& metadata) {
  std::string text = "{\"__metadata__\":{";
  for (const auto& [key, value] : metadata)
    text += fmt::format("{}{}:{}", text.back() == '{' ? "" : ",", json_text(key), json_text(value));
  text += "}";
  for (const TensorEntry& entry : entries)
    text += fmt::format(",{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", json_text(entry.name),
                        name_of(entry.dtype), fmt::join(entry.shape, ","), entry.begin, entry.end);
  text += "}";
  text.resize(static_cast<size_t>(round_up(static_cast<int64_t>(text.size()), 8)), ' ');
  return text;
}

// What the writer is about to write, read back: a file that the reader would refuse is never begun.
Status check_composed(const std::string& header, const std::vector<TensorEntry>& entries, const fs::path& path) {
  if (header.size() > kMaxHeaderBytes) return unwritable(path, "its header would be larger than 100 MB");
  auto parsed = parse_header(header, "its header");
  if (!parsed) return unwritable(path, parsed.error().message);
  const uint64_t data_bytes = entries.empty() ? 0 : entries.back().end;
  if (auto valid = sort_and_validate(parsed->entries, data_bytes, "its header"); !valid)
    return unwritable(path, valid.error().message);
  for (size_t i = 0; i < entries.size(); ++i)
    if (parsed->entries[i].name != entries[i].name)
      return unwritable(path, "the tensor name " + in_quotes(entries[i].name) + " is not valid UTF-8");
  return {};
}

std::string length_prefix(uint64_t length) {
  std::string text;
  for (uint64_t i = 0; i < kLengthBytes; ++i) text += static_cast<char>(length >> 8 * i & 0xFFu);
  return text;
}

}  // namespace

Result<SafetensorsHeader> parse_safetensors(std::span<const std::byte> bytes, std::string_view where) {
  NIBBLE_TRY(std::string_view text, header_text(bytes, where));
  NIBBLE_TRY(ParsedHeader header, parse_header(text, where));
  const auto data = bytes.subspan(kLengthBytes + text.size());
  NIBBLE_DO(sort_and_validate(header.entries, data.size(), where));
  SafetensorsHeader result;
  result.tensors.reserve(header.entries.size());
  for (TensorEntry& entry : header.entries) result.tensors.push_back(view_of(std::move(entry), data));
  result.metadata = std::move(header.metadata);
  return result;
}

Result<SafetensorsFile> SafetensorsFile::open(const fs::path& path) {
  SafetensorsFile file;
  NIBBLE_TRY(file.file_, MappedFile::open(path));
  NIBBLE_TRY(SafetensorsHeader header, parse_safetensors(file.file_.bytes(), path.string()));
  file.path_ = path;
  file.tensors_ = std::move(header.tensors);
  file.metadata_ = std::move(header.metadata);
  for (size_t i = 0; i < file.tensors_.size(); ++i) file.index_.emplace(file.tensors_[i].name, i);
  return file;
}

const TensorView* SafetensorsFile::find(std::string_view name) const {
  auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

Result<SafetensorsWriter> SafetensorsWriter::create(const fs::path& path, std::vector<TensorView> tensors,
                                                    std::map<std::string, std::string> metadata) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorView& a, const TensorView& b) {
    return std::tie(b.dtype, a.name) < std::tie(a.dtype, b.name);
  });
  metadata["format"] = "pt";
  const auto entries = lay_out(tensors);
  if (!entries) return fail(ErrorCode::failure, "cannot write {}: a tensor has an impossible shape", path.string());
  const std::string header = compose_header(*entries, metadata);
  NIBBLE_DO(check_composed(header, *entries, path));
  std::vector<uint64_t> sizes;
  for (const TensorEntry& entry : *entries) sizes.push_back(entry.end - entry.begin);
  NIBBLE_TRY(DurableFile file, DurableFile::create(path));
  SafetensorsWriter writer(path, std::move(file), std::move(tensors), std::move(sizes));
  NIBBLE_DO(writer.file_.write(length_prefix(header.size())));
  NIBBLE_DO(writer.file_.write(header));
  writer.skip_full();
  return writer;
}

void SafetensorsWriter::skip_full() {
  while (next_ < missing_.size() && missing_[next_] == 0) ++next_;
}

Status SafetensorsWriter::write(std::string_view name, std::span<const std::byte> part) {
  if (part.empty()) return {};
  const std::string_view due = next_ < tensors_.size() ? std::string_view(tensors_[next_].name) : "nothing";
  if (next_ == tensors_.size() || due != name)
    return unwritable(path_, fmt::format("{} came while {} was due", in_quotes(name), in_quotes(due)));
  if (part.size() > missing_[next_])
    return unwritable(path_,
                      fmt::format("tensor {} has {} bytes too many", in_quotes(name), part.size() - missing_[next_]));
  NIBBLE_DO(file_.write(part));
  missing_[next_] -= part.size();
  skip_full();
  return {};
}

Status SafetensorsWriter::commit() {
  if (next_ != tensors_.size())
    return unwritable(path_, fmt::format("tensor {} lacks {} bytes", in_quotes(tensors_[next_].name), missing_[next_]));
  return file_.commit();
}

Status write_safetensors(const fs::path& path, const std::vector<TensorView>& tensors,
                         std::map<std::string, std::string> metadata) {
  NIBBLE_TRY(SafetensorsWriter writer, SafetensorsWriter::create(path, tensors, std::move(metadata)));
  for (const TensorView& tensor : writer.order()) NIBBLE_DO(writer.write(tensor.name, tensor.bytes));
  return writer.commit();
}

}  // namespace nibble
