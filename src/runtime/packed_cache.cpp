#include "runtime/packed_cache.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "core/checked.h"
#include "core/hadamard.h"
#include "core/hash.h"

namespace nibble {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kMagic = "nibble packed 2\n";
constexpr size_t kHashDigits = 64, kPrologue = kMagic.size() + kHashDigits + sizeof(uint64_t);
constexpr int64_t kAlignment = 64;
constexpr int64_t kMaxHeader = int64_t{256} << 20;

Json shape_json(const PackedShape& shape) {
  return {{"rows", shape.rows},
          {"columns", shape.columns},
          {"weights", to_string(shape.weights)},
          {"activations", to_string(shape.activations)},
          {"kept", shape.kept_columns},
          {"kept_as", shape.kept_levels == Levels::bf16 ? "bf16" : "f16"},
          {"bias", shape.bias},
          {"rotation", shape.rotation},
          {"sparse", shape.sparse},
          {"widths", shape.widths},
          {"exponents", shape.exponents}};
}

Result<std::vector<int32_t>> read_numbers(JsonReader& reader, const char* name, int32_t least) {
  const Json* const list = reader.find(name);
  const std::string where = reader.where();
  std::vector<int32_t> numbers;
  if (list == nullptr || !list->is_array()) return fail(ErrorCode::corrupt, "{}: \"{}\" is not a list", where, name);
  for (const Json& number : *list) {
    const bool fits = number.is_number_integer() && number >= least && number <= INT32_MAX;
    if (!fits) return fail(ErrorCode::corrupt, "{}: \"{}\" has {}", where, name, dump_json(number));
    numbers.push_back(number.get<int32_t>());
  }
  return numbers;
}

Result<PackedShape> read_shape(JsonReader& reader) {
  PackedShape shape;
  NIBBLE_TRY(shape.rows, reader.integer("rows", 0, INT32_MAX));
  NIBBLE_TRY(shape.columns, reader.integer("columns", 0, INT32_MAX));
  NIBBLE_TRY(const std::string weights, reader.string("weights"));
  NIBBLE_TRY(shape.weights, parse_format(weights));
  NIBBLE_TRY(const std::string activations, reader.string("activations"));
  NIBBLE_TRY(shape.activations, parse_format(activations));
  NIBBLE_TRY(shape.kept_columns, read_numbers(reader, "kept", 0));
  NIBBLE_TRY(const std::string kept_as, reader.string("kept_as"));
  shape.kept_levels = kept_as == "bf16" ? Levels::bf16 : Levels::f16;
  NIBBLE_TRY(shape.bias, reader.boolean("bias"));
  NIBBLE_TRY(shape.rotation, reader.integer("rotation", 0, kMaxRotation, 0));
  NIBBLE_TRY(shape.sparse, reader.integer("sparse", 0, INT32_MAX, 0));
  NIBBLE_TRY(const std::vector<int32_t> widths, read_numbers(reader, "widths", 0));
  for (int32_t bits : widths) shape.widths.push_back(static_cast<uint8_t>(std::min<int32_t>(bits, UINT8_MAX)));
  NIBBLE_TRY(const std::vector<int32_t> exponents, read_numbers(reader, "exponents", INT8_MIN));
  for (int32_t exponent : exponents)
    shape.exponents.push_back(static_cast<int8_t>(std::min<int32_t>(exponent, INT8_MAX)));
  return shape;
}

// The header's text, or what is wrong with the file.
Result<std::string_view> read_header(std::string_view text, const std::string& where) {
  if (!text.starts_with(kMagic)) return fail(ErrorCode::corrupt, "{} is not a packed cache of this version", where);
  if (text.size() < kPrologue) return fail(ErrorCode::corrupt, "{} is cut off", where);
  uint64_t size = 0;
  std::memcpy(&size, text.data() + kMagic.size() + kHashDigits, sizeof size);
  if (size > static_cast<uint64_t>(kMaxHeader) || size > text.size() - kPrologue)
    return fail(ErrorCode::corrupt, "{}: a header of {} bytes in a file of {}", where, size, text.size());
  const std::string_view header = text.substr(kPrologue, static_cast<size_t>(size));
  if (sha256(header) != text.substr(kMagic.size(), kHashDigits))
    return fail(ErrorCode::corrupt, "{}: the header's hash does not match", where);
  return header;
}

std::string first_difference(const Json& found, const Json& wanted) {
  for (const auto& item : wanted.items())
    if (!found.is_object() || !found.contains(item.key()) || found[item.key()] != item.value()) return item.key();
  return "key";
}

// Entering a map page by page while computing would cost a fault for every few pages.
void enter_pages(std::span<const std::byte> bytes) {
#ifdef MADV_POPULATE_READ
  // Where the system does not know the request, pages are entered as they are read.
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(bytes.data()) / page * page;
  const auto end = reinterpret_cast<uintptr_t>(bytes.data()) + bytes.size();
  ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_READ);
#else
  (void)bytes;
#endif
}

// Of every item, in pieces, so that all threads have work whatever the sizes of the items.
std::vector<std::string> checksums_of(std::span<const std::span<const std::byte>> items, ThreadPool& pool) {
  constexpr size_t kPiece = size_t{4} << 20;
  std::vector<std::span<const std::byte>> pieces;
  std::vector<size_t> ends;  // of each item, among the pieces
  for (std::span<const std::byte> rest : items) {
    for (; !rest.empty(); rest = rest.subspan(pieces.back().size()))
      pieces.push_back(rest.first(std::min(kPiece, rest.size())));
    ends.push_back(pieces.size());
  }
  std::vector<uint64_t> hashes(pieces.size());
  pool.run(static_cast<int64_t>(pieces.size()), [&](int64_t i) {
    const auto at = static_cast<size_t>(i);
    enter_pages(pieces[at]);
    hashes[at] = xxh3(pieces[at]);
  });
  std::vector<std::string> checksums;
  size_t begin = 0;
  for (const size_t end : ends) {
    checksums.push_back(fmt::format("{:016x}", xxh3(std::as_bytes(std::span(hashes).subspan(begin, end - begin)))));
    begin = end;
  }
  return checksums;
}

// Leftovers are nobody's after a day in which nobody wrote to them. What cannot be removed does no harm.
void remove_leftovers(const fs::path& path) {
  const std::string start = path.filename().string() + ".tmp";
  const auto oldest = fs::file_time_type::clock::now() - std::chrono::hours(24);
  std::error_code error;
  std::vector<fs::path> leftovers;
  for (fs::directory_iterator it(path.parent_path(), error), end; !error && it != end; it.increment(error)) {
    std::error_code of_entry;
    if (!it->path().filename().string().starts_with(start) || !fs::is_regular_file(it->symlink_status(of_entry)))
      continue;
    const auto written = it->last_write_time(of_entry);
    if (!of_entry && written < oldest) leftovers.push_back(it->path());
  }
  for (const fs::path& leftover : leftovers) fs::remove(leftover, error);
}

}  // namespace

Result<PackedCache> PackedCache::open(const fs::path& path, const Json& key, ThreadPool& pool) {
  PackedCache cache;
  cache.where_ = path.string();
  NIBBLE_TRY(cache.file_, MappedFile::open(path));
  NIBBLE_TRY(const std::string_view text, read_header(cache.file_.text(), cache.where_));
  NIBBLE_TRY(const Json header, parse_json(text, cache.where_));
  const Json *found = find_path(header, {"key"}), *items = find_path(header, {"items"});
  if (found == nullptr || *found != key)
    return fail(ErrorCode::corrupt, "{} was made from something else: its \"{}\" differs", cache.where_,
                first_difference(found == nullptr ? Json() : *found, key));
  if (items == nullptr || !items->is_array()) return fail(ErrorCode::corrupt, "{}: no items", cache.where_);
  for (const Json& item : *items) NIBBLE_DO(cache.read_item(item));
  NIBBLE_DO(cache.verify(pool));
  return cache;
}

Status PackedCache::verify(ThreadPool& pool) const {
  std::vector<std::pair<const std::string*, const Item*>> items;
  for (const auto& [name, item] : items_) items.emplace_back(&name, &item);
  // In the order of the file, which is read on where it is not in memory yet.
  std::sort(items.begin(), items.end(),
            [](const auto& a, const auto& b) { return a.second->bytes.data() < b.second->bytes.data(); });
  std::vector<std::span<const std::byte>> parts;
  for (const auto& [name, item] : items) parts.push_back(item->bytes);
  const std::vector<std::string> checksums = checksums_of(parts, pool);
  for (size_t i = 0; i < items.size(); ++i)
    if (checksums[i] != items[i].second->checksum)
      return fail(ErrorCode::corrupt, "{}: \"{}\" is damaged: its checksum does not match", where_, *items[i].first);
  return {};
}

Status PackedCache::read_item(const Json& value) {
  NIBBLE_TRY(JsonReader reader, JsonReader::open(value, where_));
  NIBBLE_TRY(const std::string name, reader.string("name"));
  const auto size = static_cast<int64_t>(file_.bytes().size());
  NIBBLE_TRY(const int64_t offset, reader.integer("offset", 0, size));
  NIBBLE_TRY(const int64_t bytes, reader.integer("bytes", 0, size - offset));
  if (offset % kAlignment != 0) return fail(ErrorCode::corrupt, "{}: \"{}\" is at {}", where_, name, offset);
  Item item;
  item.bytes = file_.bytes().subspan(static_cast<size_t>(offset), static_cast<size_t>(bytes));
  NIBBLE_TRY(item.checksum, reader.string("xxh3"));
  if (reader.has("rows")) {
    NIBBLE_TRY(item.shape, read_shape(reader));
  }
  if (!items_.emplace(name, std::move(item)).second)
    return fail(ErrorCode::corrupt, "{}: \"{}\" is there twice", where_, name);
  return {};
}

Result<const PackedCache::Item*> PackedCache::find(const std::string& name) const {
  const auto found = items_.find(name);
  if (found == items_.end()) return fail(ErrorCode::corrupt, "{}: \"{}\" is missing", where_, name);
  return &found->second;
}

Result<const PackedCache::Item*> PackedCache::find(const std::string& name, int64_t rows, int64_t columns) const {
  NIBBLE_TRY(const Item* item, find(name));
  if (item->shape.rows != rows || item->shape.columns != columns)
    return fail(ErrorCode::corrupt, "{}: \"{}\" is {} x {}, expected {} x {}", where_, name, item->shape.rows,
                item->shape.columns, rows, columns);
  return item;
}

Result<PackedLinear> PackedCache::linear(const std::string& name, int64_t rows, int64_t columns, Isa isa) const {
  NIBBLE_TRY(const Item* item, find(name, rows, columns));
  auto made = PackedLinear::view(item->shape, isa, item->bytes, std::make_shared<const MappedFile>(file_));
  if (!made) return fail(made.error().code, "{}: \"{}\": {}", where_, name, made.error().message);
  return made;
}

Result<LinearWeight> PackedCache::matrix(const std::string& name, int64_t rows, int64_t columns) const {
  NIBBLE_TRY(const Item* item, find(name, rows, columns));
  const Levels levels = item->shape.weights.levels;
  if (!item->shape.weights.is_float()) return fail(ErrorCode::corrupt, "{}: \"{}\" is not in floats", where_, name);
  LinearWeight weight =
      float_linear(rows, columns, levels, CodeBytes::borrowed(item->bytes, file_.borrow(item->bytes)), {});
  NIBBLE_DO(weight.validate(where_ + ": " + name));
  return weight;
}

Result<std::vector<float>> PackedCache::floats(const std::string& name) const {
  NIBBLE_TRY(const Item* item, find(name));
  std::vector<float> values(item->bytes.size() / sizeof(float));
  if (!values.empty()) std::memcpy(values.data(), item->bytes.data(), values.size() * sizeof(float));
  return values;
}

void PackedCacheWriter::add(const std::string& name, const PackedLinear& linear) {
  add(name, linear.image(), shape_json(linear.shape()));
}

void PackedCacheWriter::add(const std::string& name, const LinearWeight& matrix) {
  PackedShape shape;
  shape.rows = matrix.rows;
  shape.columns = matrix.columns;
  shape.weights = matrix.format;
  shape.activations = matrix.activations;
  add(name, {matrix.codes.data(), matrix.codes.size()}, shape_json(shape));
}

void PackedCacheWriter::add(const std::string& name, std::span<const float> values) {
  add(name, std::as_bytes(values), Json::object());
}

void PackedCacheWriter::add(const std::string& name, std::span<const std::byte> bytes, Json item) {
  item["name"] = name;
  item["offset"] = end_;
  item["bytes"] = bytes.size();
  items_.push_back(std::move(item));
  parts_.push_back(bytes);
  end_ = round_up(end_ + static_cast<int64_t>(bytes.size()), kAlignment);
}

Status PackedCacheWriter::write(const fs::path& path, const Json& key, ThreadPool& pool) const {
  remove_leftovers(path);
  // The first item begins at a multiple of the alignment after a header whose own size depends on that number's digits:
  // room is left for it.
  Json header = {{"key", key}, {"items", items_}};
  const std::vector<std::string> checksums = checksums_of(parts_, pool);
  for (size_t i = 0; i < checksums.size(); ++i) header["items"][i]["xxh3"] = checksums[i];
  const int64_t items = static_cast<int64_t>(items_.size());
  const int64_t room = static_cast<int64_t>(dump_json(header).size()) + 20 * items;
  const int64_t begin = round_up(static_cast<int64_t>(kPrologue) + room, 4096);
  for (Json& item : header["items"]) item["offset"] = item["offset"].get<int64_t>() + begin;
  std::string text = dump_json(header);
  text.resize(static_cast<size_t>(begin) - kPrologue, ' ');
  const uint64_t size = text.size();
  NIBBLE_TRY(DurableFile file, DurableFile::create(path));
  NIBBLE_DO(file.write(kMagic));
  NIBBLE_DO(file.write(sha256(text)));
  NIBBLE_DO(file.write(std::as_bytes(std::span(&size, 1))));
  NIBBLE_DO(file.write(text));
  constexpr std::byte kZeros[kAlignment] = {};
  for (std::span<const std::byte> part : parts_) {
    NIBBLE_DO(file.write(part));
    const auto filled = static_cast<int64_t>(part.size());
    NIBBLE_DO(file.write(std::span(kZeros).first(static_cast<size_t>(round_up(filled, kAlignment) - filled))));
  }
  return file.commit();
}

}  // namespace nibble
