#include "checkpoint/safetensors_header.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <tuple>
#include <utility>

#include "checkpoint/file_name.h"
#include "core/checked.h"

namespace nibble {
namespace {

// Offset of the first byte that does not continue well-formed UTF-8 (Unicode 15, table 3-7), or npos.
size_t first_invalid_utf8(std::string_view text) {
  auto at = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  for (size_t i = 0; i < text.size();) {
    const unsigned lead = at(i), second = at(i + 1);
    size_t length = lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
    const unsigned least = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const unsigned most = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (length > 1 && (second < least || second > most)) length = 0;
    for (size_t k = 2; k < length; ++k)
      if ((at(i + k) & 0xC0u) != 0x80u) length = 0;
    if (length == 0) return i;
    i += length;
  }
  return std::string_view::npos;
}

// Accepts the header's grammar and nothing else, event by event. A header may describe a million tensors: building a
// document first would cost ten times its size.
class HeaderParser : public nlohmann::json_sax<nlohmann::json> {
 public:
  ParsedHeader take() { return std::move(header_); }
  const std::string& problem() const { return problem_; }

  bool start_object(size_t) override {
    if (place_ == Place::document) return enter(Place::tensors);
    if (place_ != Place::tensors) return unexpected("an object");
    return enter(key_ == kMetadata ? Place::metadata : Place::tensor);
  }
  bool end_object() override {
    if (place_ == Place::tensor) {
      if (!(has_dtype_ && has_shape_ && has_offsets_)) return refuse_tensor("lacks dtype, shape or data_offsets");
      return enter(Place::tensors);
    }
    return enter(place_ == Place::metadata ? Place::tensors : Place::done);
  }
  bool key(std::string& key) override {
    key_ = std::move(key);
    if (place_ == Place::tensors) return key_ == kMetadata ? begin_metadata() : begin_tensor();
    if (place_ == Place::tensor) return begin_field();
    if (header_.metadata.count(key_) != 0) return refuse("duplicate key " + in_quotes(key_) + " in __metadata__");
    return true;
  }
  bool start_array(size_t) override {
    if (place_ != Place::tensor || key_ == "dtype") return unexpected("a list");
    return enter(key_ == "shape" ? Place::shape : Place::offsets);
  }
  bool end_array() override {
    if (place_ == Place::offsets && offsets_ != 2) return refuse_tensor("needs two data_offsets");
    return enter(Place::tensor);
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == Place::shape) {
      if (entry().shape.size() == kMaxRank) return refuse_tensor(fmt::format("has more than {} dimensions", kMaxRank));
      entry().shape.push_back(value);
      return true;
    }
    if (place_ != Place::offsets) return unexpected("a number");
    if (offsets_ == 2) return refuse_tensor("has more than two data_offsets");
    (offsets_++ == 0 ? entry().begin : entry().end) = value;
    return true;
  }
  bool string(std::string& value) override {
    if (place_ == Place::metadata) {
      header_.metadata.emplace(key_, std::move(value));
      return true;
    }
    if (place_ != Place::tensor || key_ != "dtype") return unexpected("a string");
    const auto dtype = dtype_named(value);
    if (!dtype) return refuse_tensor("has unknown dtype " + in_quotes(value));
    entry().dtype = *dtype;
    return true;
  }
  // The reference takes a null __metadata__ for an absent one.
  bool null() override { return place_ == Place::tensors && key_ == kMetadata ? true : unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_integer(number_integer_t value) override { return unexpected(fmt::format("the number {}", value)); }
  bool number_float(number_float_t, const std::string& text) override {
    return unexpected("the number " + in_quotes(text));
  }
  bool binary(nlohmann::json::binary_t&) override { return unexpected("binary data"); }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return refuse(fmt::format("not valid JSON at byte {} of the header", position));
  }

 private:
  enum class Place { document, tensors, metadata, tensor, shape, offsets, done };
  static constexpr std::string_view kMetadata = "__metadata__";

  TensorEntry& entry() { return header_.entries.back(); }
  bool enter(Place place) {
    place_ = place;
    return true;
  }
  bool refuse(std::string what) {
    if (problem_.empty()) problem_ = std::move(what);
    return false;
  }
  bool refuse_tensor(std::string_view what) {
    return refuse(fmt::format("tensor {} {}", in_quotes(entry().name), what));
  }
  bool unexpected(std::string_view what) {
    switch (place_) {
      case Place::document:
      case Place::done: return refuse(fmt::format("the header is {}, expected an object", what));
      case Place::tensors: return refuse(fmt::format("{} is {}, expected an object", in_quotes(key_), what));
      case Place::metadata: return refuse(fmt::format("__metadata__ {} is {}, expected text", in_quotes(key_), what));
      case Place::tensor:
        return refuse_tensor(fmt::format("has {} for {}, expected {}", what, key_,
                                         key_ == "dtype" ? "the name of a type" : "a list of integers >= 0"));
      default: return refuse_tensor(fmt::format("has {} in {}, expected integers >= 0", what, key_));
    }
  }
  bool begin_metadata() {
    if (std::exchange(has_metadata_, true)) return refuse("duplicate key \"__metadata__\"");
    return true;
  }
  bool begin_tensor() {
    if (key_.empty()) return refuse("a tensor has an empty name");
    if (key_.size() > kMaxNameBytes)
      return refuse(fmt::format("the tensor name {} has {} bytes, at most {} are allowed", in_quotes(key_), key_.size(),
                                kMaxNameBytes));
    if (has_control_characters(key_)) return refuse("the tensor name " + in_quotes(key_) + " has control characters");
    if (header_.entries.size() == kMaxTensors) return refuse(fmt::format("more than {} tensors", kMaxTensors));
    header_.entries.emplace_back().name = key_;
    has_dtype_ = has_shape_ = has_offsets_ = false;
    offsets_ = 0;
    return true;
  }
  bool begin_field() {
    bool* seen = key_ == "dtype"          ? &has_dtype_
                 : key_ == "shape"        ? &has_shape_
                 : key_ == "data_offsets" ? &has_offsets_
                                          : nullptr;
    if (seen == nullptr) return refuse_tensor("has the unknown key " + in_quotes(key_));
    if (std::exchange(*seen, true)) return refuse_tensor("has the duplicate key " + in_quotes(key_));
    return true;
  }

  ParsedHeader header_;
  Place place_ = Place::document;
  std::string key_, problem_;
  bool has_metadata_ = false, has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  int offsets_ = 0;
};

// A name that occurs twice, or null. Sorting, not hashing: names are chosen by whoever made the file.
const std::string* duplicate_name(const std::vector<TensorEntry>& entries) {
  std::vector<const std::string*> names;
  names.reserve(entries.size());
  for (const TensorEntry& entry : entries) names.push_back(&entry.name);
  std::sort(names.begin(), names.end(), [](auto a, auto b) { return *a < *b; });
  auto twice = std::adjacent_find(names.begin(), names.end(), [](auto a, auto b) { return *a == *b; });
  return twice == names.end() ? nullptr : *twice;
}

// Bits of the tensor, or nullopt when a number on the way does not fit. Zero extents do not hide an overflow in the
// others: sizes of rows and strides are computed from them later.
std::optional<uint64_t> bits_in(const TensorEntry& entry) {
  uint64_t bits = static_cast<uint64_t>(bits_of(entry.dtype));
  bool empty = false;
  for (uint64_t extent : entry.shape) {
    empty = empty || extent == 0;
    const auto next = checked_mul(bits, std::max<uint64_t>(extent, 1));
    if (!next || extent > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
    bits = *next;
  }
  return empty ? 0 : bits;
}

}  // namespace

Result<ParsedHeader> parse_header(std::string_view text, std::string_view where) {
  auto refuse = [&](std::string_view what) {
    return fail(ErrorCode::corrupt, "{}: safetensors header: {}", where, what);
  };
  if (const size_t offset = first_invalid_utf8(text); offset != std::string_view::npos)
    return refuse(fmt::format("not valid UTF-8 at byte {}", offset));
  // The JSON library skips a byte order mark and stops at a NUL: both would let bytes through that nobody reads.
  if (const size_t start = text.find_first_not_of(" \t\r\n"); start == std::string_view::npos || text[start] != '{')
    return refuse("does not start with '{'");
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos)
    return refuse(fmt::format("not valid JSON at byte {} of the header", nul));
  HeaderParser parser;
  const bool parsed = nlohmann::json::sax_parse(text.begin(), text.end(), &parser);
  if (!parsed) return refuse(parser.problem());
  ParsedHeader header = parser.take();
  if (const std::string* name = duplicate_name(header.entries)) return refuse("duplicate key " + in_quotes(*name));
  return header;
}

Status sort_and_validate(std::vector<TensorEntry>& entries, uint64_t data_bytes, std::string_view where) {
  std::stable_sort(entries.begin(), entries.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  uint64_t expected = 0;
  for (const TensorEntry& entry : entries) {
    auto refuse = [&](std::string_view what) {
      return fail(ErrorCode::corrupt, "{}: tensor {} {}", where, in_quotes(entry.name), what);
    };
    if (entry.begin != expected || entry.end < entry.begin)
      return refuse(
          fmt::format("has data_offsets [{}, {}], expected to start at {}: holes, overlaps and reversed "
                      "offsets are not allowed",
                      entry.begin, entry.end, expected));
    expected = entry.end;
    const auto bits = bits_in(entry);
    if (!bits) return refuse(fmt::format("has shape [{}], too large to exist", fmt::join(entry.shape, ", ")));
    if (*bits % 8 != 0)
      return refuse(fmt::format("of type {} and shape [{}] does not end on a byte", name_of(entry.dtype),
                                fmt::join(entry.shape, ", ")));
    if (entry.end - entry.begin != *bits / 8)
      return refuse(fmt::format("of type {} and shape [{}] needs {} bytes, its data_offsets give it {}",
                                name_of(entry.dtype), fmt::join(entry.shape, ", "), *bits / 8,
                                entry.end - entry.begin));
  }
  if (expected != data_bytes)
    return fail(ErrorCode::corrupt, "{}: the tensors need {} bytes after the header, the file has {}: it is {}", where,
                expected, data_bytes, expected > data_bytes ? "truncated" : "longer than its header says");
  return {};
}

}  // namespace nibble
