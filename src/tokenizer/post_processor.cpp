#include "tokenizer/post_processor.h"

#include <algorithm>

namespace nibble {
namespace {

constexpr size_t kMaxItems = 64;

Result<int32_t> read_id(const Json& value, const IsId& is_id, const std::string& where) {
  bool fits = value.is_number_integer() && value >= 0 && value <= INT32_MAX;
  if (!fits || !is_id(value.get<int64_t>()))
    return fail(ErrorCode::corrupt, "{}: {} is not an id of the vocabulary", where, dump_json(value));
  return static_cast<int32_t>(value.get<int64_t>());
}

// Roberta and Bert: "cls" and "sep" are pairs [token, id].
Result<int32_t> read_pair(JsonReader& reader, std::string_view key, const IsId& is_id) {
  const Json* pair = reader.find(key);
  std::string where = fmt::format("{}, \"{}\"", reader.where(), key);
  if (pair == nullptr || !pair->is_array() || pair->size() != 2 || !(*pair)[0].is_string())
    return fail(ErrorCode::corrupt, "{}: expected a pair of a token and its id", where);
  return read_id((*pair)[1], is_id, where);
}

Result<Template> read_roberta(JsonReader& reader, const IsId& is_id) {
  NIBBLE_TRY(int32_t first, read_pair(reader, "cls", is_id));
  NIBBLE_TRY(int32_t last, read_pair(reader, "sep", is_id));
  reader.ignore({"trim_offsets", "add_prefix_space"});
  return surround({first}, {last});
}

// "special_tokens": {name: {"id": name, "ids": [...], "tokens": [...]}}
Result<TemplateItem> read_special(const std::string& name, const Json* specials, const IsId& is_id,
                                  const std::string& where) {
  if (specials == nullptr || !specials->is_object() || !specials->contains(name))
    return fail(ErrorCode::corrupt, "{}: \"special_tokens\" lacks \"{}\"", where, name);
  std::string there = fmt::format("{}, \"special_tokens\", \"{}\"", where, name);
  NIBBLE_TRY(JsonReader special, JsonReader::open((*specials)[name], there));
  const Json* ids = special.find("ids");
  if (ids == nullptr || !ids->is_array() || ids->size() > kMaxItems)
    return fail(ErrorCode::corrupt, "{}: \"ids\" must be a list of at most {} ids", there, kMaxItems);
  TemplateItem item;
  for (const Json& value : *ids) {
    NIBBLE_TRY(int32_t id, read_id(value, is_id, there));
    item.ids.push_back(id);
  }
  special.ignore({"id", "tokens"});
  NIBBLE_DO(special.refuse_unknown());
  return item;
}

Result<std::string> read_item_id(const Json& value, const std::string& where) {
  NIBBLE_TRY(JsonReader reader, JsonReader::open(value, where));
  NIBBLE_TRY(std::string id, reader.string("id"));
  reader.ignore({"type_id"});
  NIBBLE_DO(reader.refuse_unknown());
  return id;
}

Result<TemplateItem> read_item(const Json& value, const Json* specials, const IsId& is_id, const std::string& where) {
  if (!value.is_object() || value.size() != 1)
    return fail(ErrorCode::corrupt,
                "{}: an item of \"single\" must be {{\"Sequence\": ...}} or {{\"SpecialToken\": ...}}", where);
  const std::string& kind = value.items().begin().key();
  NIBBLE_TRY(std::string id, read_item_id(value.items().begin().value(), where + ", \"single\""));
  if (kind == "SpecialToken") return read_special(id, specials, is_id, where);
  if (kind != "Sequence" || id != "A")
    return fail(ErrorCode::unsupported, "{}: \"single\" has {} \"{}\", supported are Sequence \"A\" and SpecialToken",
                where, kind, id);
  return TemplateItem{true, {}};
}

Result<Template> read_template(JsonReader& reader, const IsId& is_id) {
  const Json* single = reader.find("single");
  const Json* specials = reader.find("special_tokens");
  reader.ignore({"pair"});
  if (single == nullptr || !single->is_array() || single->size() > kMaxItems)
    return fail(ErrorCode::corrupt, "{}: \"single\" must be a list of at most {} items", reader.where(), kMaxItems);
  Template items;
  int texts = 0;
  for (const Json& value : *single) {
    NIBBLE_TRY(TemplateItem item, read_item(value, specials, is_id, reader.where()));
    texts += item.text;
    items.push_back(std::move(item));
  }
  if (texts != 1)
    return fail(ErrorCode::unsupported, "{}: \"single\" uses the text {} times, supported is once", reader.where(),
                texts);
  return items;
}

bool adds_ids(const Template& items) {
  return std::any_of(items.begin(), items.end(), [](const TemplateItem& item) { return !item.ids.empty(); });
}

// A second processor would get what the first one added as texts of their own and treat them as such; nobody does that.
Result<Template> read_list(JsonReader& reader, const IsId& is_id) {
  const Json* list = reader.find("processors");
  if (list == nullptr || !list->is_array() || list->size() > kMaxItems)
    return fail(ErrorCode::corrupt, "{}: \"processors\" must be a list of at most {}", reader.where(), kMaxItems);
  Template items = surround({}, {});
  for (size_t i = 0; i < list->size(); ++i) {
    std::string where = fmt::format("{}, \"processors\"[{}]", reader.where(), i);
    NIBBLE_TRY(Template next, read_post_processor((*list)[i], is_id, where));
    if (!adds_ids(next)) continue;
    if (adds_ids(items))
      return fail(ErrorCode::unsupported, "{}: a second processor that adds tokens; supported is one", where);
    items = std::move(next);
  }
  return items;
}

// Moves offsets only, which nobody here keeps.
Result<Template> read_byte_level(JsonReader& reader, const IsId&) {
  reader.ignore({"add_prefix_space", "trim_offsets", "use_regex"});
  return surround({}, {});
}

struct Row {
  std::string_view type;
  Result<Template> (*read)(JsonReader&, const IsId&);
};
constexpr Row kRows[] = {
    {"TemplateProcessing", read_template}, {"ByteLevel", read_byte_level}, {"RobertaProcessing", read_roberta},
    {"BertProcessing", read_roberta},      {"Sequence", read_list},
};

}  // namespace

Result<Template> read_post_processor(const Json& value, const IsId& is_id, const std::string& where) {
  if (value.is_null()) return surround({}, {});
  NIBBLE_TRY(JsonReader reader, JsonReader::open(value, where));
  NIBBLE_TRY(std::string type, reader.string("type"));
  for (const Row& row : kRows) {
    if (row.type != type) continue;
    NIBBLE_TRY(Template items, row.read(reader, is_id));
    NIBBLE_DO(reader.refuse_unknown());
    return items;
  }
  return fail(ErrorCode::unsupported,
              "{}: type \"{}\" is not supported; supported are TemplateProcessing, ByteLevel, RobertaProcessing, "
              "BertProcessing, Sequence",
              where, type);
}

std::vector<int32_t> filled(const Template& items, const std::vector<int32_t>& ids) {
  std::vector<int32_t> out;
  for (const TemplateItem& item : items) {
    const std::vector<int32_t>& part = item.text ? ids : item.ids;
    out.insert(out.end(), part.begin(), part.end());
  }
  return out;
}

Template surround(std::vector<int32_t> prefix, std::vector<int32_t> suffix) {
  return {{false, std::move(prefix)}, {true, {}}, {false, std::move(suffix)}};
}

}  // namespace nibble
