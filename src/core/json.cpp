#include "core/json.h"

#include <algorithm>
#include <cmath>

#include "core/file.h"

namespace nibble {
namespace {

constexpr size_t kMaxDepth = 128;

// Builds the document while refusing what nlohmann's own builder lets through.
class StrictBuilder : public nlohmann::json_sax<Json> {
 public:
  Json take() { return std::move(root_); }
  const std::string& problem() const { return problem_; }

  bool null() override { return add(nullptr); }
  bool boolean(bool v) override { return add(v); }
  bool number_integer(number_integer_t v) override { return add(v); }
  bool number_unsigned(number_unsigned_t v) override { return add(v); }
  bool number_float(number_float_t v, const string_t& text) override {
    return std::isfinite(v) ? add(v) : refuse("number out of range: " + text);
  }
  bool string(string_t& v) override { return add(std::move(v)); }
  bool binary(binary_t&) override { return refuse("binary value"); }
  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& v) override {
    // Files may hold objects with a hundred thousand keys: a linear look-up in the ordered map would be quadratic.
    if (!keys_.back().insert(v).second) return refuse("duplicate key \"" + v + "\"");
    key_ = std::move(v);
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& e) override {
    return refuse(e.what());
  }

 private:
  bool refuse(std::string what) {
    if (problem_.empty()) problem_ = std::move(what);
    return false;
  }
  Json* place(Json value) {
    if (stack_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& top = *stack_.back();
    if (top.is_array()) {
      top.push_back(std::move(value));
      return &top.back();
    }
    auto& object = top.get_ref<Json::object_t&>();
    object.Container::emplace_back(std::move(key_), std::move(value));
    return &object.back().second;
  }
  bool add(Json value) {
    place(std::move(value));
    return true;
  }
  bool open(Json value) {
    if (stack_.size() >= kMaxDepth) return refuse("nested deeper than 128 levels");
    stack_.push_back(place(std::move(value)));
    keys_.emplace_back();
    return true;
  }
  bool close() {
    stack_.pop_back();
    keys_.pop_back();
    return true;
  }

  Json root_;
  std::vector<Json*> stack_;
  std::vector<std::set<std::string>> keys_;
  std::string key_, problem_;
};

std::string shown(const Json& value) {
  std::string text = dump_json(value);
  return text.size() <= 60 ? text : text.substr(0, 57) + "...";
}

}  // namespace

Result<Json> parse_json(std::string_view text, std::string_view where) {
  // The library takes a NUL byte for the end of the text and would not look at what follows.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos)
    return fail(ErrorCode::corrupt, "{}: not valid JSON: NUL byte at offset {}", where, nul);
  StrictBuilder builder;
  bool parsed = Json::sax_parse(text.begin(), text.end(), &builder);
  if (!parsed || !builder.problem().empty())
    return fail(ErrorCode::corrupt, "{}: not valid JSON: {}", where, builder.problem());
  return builder.take();
}

Result<Json> read_json(const std::filesystem::path& path, size_t limit) {
  NIBBLE_TRY(std::string text, read_text(path, limit));
  return parse_json(text, path.string());
}

std::string dump_json(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

const Json* find_path(const Json& value, std::initializer_list<std::string_view> keys) {
  const Json* at = &value;
  for (std::string_view key : keys) {
    if (!at->is_object()) return nullptr;
    const auto found = at->find(std::string(key));
    if (found == at->end()) return nullptr;
    at = &*found;
  }
  return at;
}

Result<JsonReader> JsonReader::open(const Json& value, std::string where, ErrorCode code) {
  if (!value.is_object()) return fail(code, "{}: expected an object, found {}", where, shown(value));
  return JsonReader(value, std::move(where), code);
}

bool JsonReader::has(std::string_view key) const {
  auto it = value_->find(std::string(key));
  return it != value_->end() && !it->is_null();
}

bool JsonReader::is_null(std::string_view key) const {
  auto it = value_->find(std::string(key));
  return it != value_->end() && it->is_null();
}

const Json* JsonReader::find(std::string_view key) {
  read_.emplace(key);
  auto it = value_->find(std::string(key));
  return it == value_->end() || it->is_null() ? nullptr : &*it;
}

tl::unexpected<Error> JsonReader::wrong(std::string_view key, const Json& found, std::string_view expected) const {
  return fail(code_, "{}: \"{}\" is {}, expected {}", where_, key, shown(found), expected);
}

tl::unexpected<Error> JsonReader::missing(std::string_view key) const {
  return fail(code_, "{}: \"{}\" is missing", where_, key);
}

Result<int64_t> JsonReader::integer(std::string_view key, int64_t least, int64_t most,
                                    std::optional<int64_t> fallback) {
  const Json* value = find(key);
  if (value == nullptr) return fallback ? Result<int64_t>(*fallback) : missing(key);
  bool fits = value->is_number_integer() &&
              !(value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX));
  int64_t number = fits ? value->get<int64_t>() : 0;
  if (!fits || number < least || number > most)
    return wrong(key, *value, fmt::format("an integer from {} to {}", least, most));
  return number;
}

Result<double> JsonReader::number(std::string_view key, double least, double most, std::optional<double> fallback) {
  const Json* value = find(key);
  if (value == nullptr) return fallback ? Result<double>(*fallback) : missing(key);
  double number = value->is_number() ? value->get<double>() : 0;
  if (!value->is_number() || !(number >= least && number <= most))
    return wrong(key, *value, fmt::format("a number from {} to {}", least, most));
  return number;
}

Result<bool> JsonReader::boolean(std::string_view key, std::optional<bool> fallback) {
  const Json* value = find(key);
  if (value == nullptr) return fallback ? Result<bool>(*fallback) : missing(key);
  if (!value->is_boolean()) return wrong(key, *value, "true or false");
  return value->get<bool>();
}

Result<std::string> JsonReader::string(std::string_view key, std::optional<std::string> fallback) {
  const Json* value = find(key);
  if (value == nullptr) return fallback ? Result<std::string>(*fallback) : missing(key);
  if (!value->is_string()) return wrong(key, *value, "a string");
  return value->get<std::string>();
}

Result<std::vector<std::string>> JsonReader::strings(std::string_view key,
                                                     std::optional<std::vector<std::string>> fallback) {
  const Json* value = find(key);
  if (value == nullptr) return fallback ? Result<std::vector<std::string>>(*fallback) : missing(key);
  bool fits = value->is_array() && std::all_of(value->begin(), value->end(), [](auto& v) { return v.is_string(); });
  if (!fits) return wrong(key, *value, "a list of strings");
  return value->get<std::vector<std::string>>();
}

Result<JsonReader> JsonReader::object(std::string_view key) {
  const Json* value = find(key);
  if (value == nullptr) return missing(key);
  return open(*value, fmt::format("{}, \"{}\"", where_, key), code_);
}

void JsonReader::ignore(std::initializer_list<std::string_view> keys) {
  for (std::string_view key : keys) read_.emplace(key);
}

Status JsonReader::refuse_unknown() const {
  for (const auto& item : value_->items())
    if (read_.find(item.key()) == read_.end()) return fail(code_, "{}: unknown key \"{}\"", where_, item.key());
  return {};
}

}  // namespace nibble
