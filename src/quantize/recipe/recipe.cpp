#include "quantize/recipe/recipe.h"

#include <algorithm>

#include "format/attention_formats.h"
#include "model/families.h"
#include "model/spec.h"
#include "quantize/recipe/exceptions.h"
#include "quantize/recipe/formats.h"
#include "quantize/recipe/steps.h"

namespace nibble {
namespace {

constexpr size_t kMaxRecipeBytes = size_t{1} << 20;

// --- reading, part by part, into the canonical form ---------------------------------------------------------

struct FormatPair {
  std::optional<NumberFormat> weights, activations;
};

// Reads "weights" and "activations" where they are there, and writes them canonically.
Result<FormatPair> read_formats(JsonReader& reader, Json& canonical) {
  FormatPair pair;
  NIBBLE_TRY(const std::string weights, reader.string("weights", ""));
  if (!weights.empty()) {
    NIBBLE_TRY(pair.weights, parse_weights(weights, reader.where()));
    canonical["weights"] = to_string(*pair.weights);
  }
  NIBBLE_TRY(const std::string activations, reader.string("activations", ""));
  if (!activations.empty()) {
    NIBBLE_TRY(pair.activations, parse_activations(activations, reader.where()));
    canonical["activations"] = to_string(*pair.activations);
  }
  if (pair.weights && pair.activations && !can_multiply(*pair.weights, *pair.activations))
    return fail(ErrorCode::usage, "{}: weights in {} are not multiplied with activations in {}", reader.where(),
                weights, activations);
  return pair;
}

// {"q": FORMAT, ...}, any of them.
Status read_attention(JsonReader& reader, Json& canonical) {
  const Json* source = reader.find("attention");
  if (source == nullptr) return {};
  const std::string where = reader.where() + ", \"attention\"";
  NIBBLE_TRY(JsonReader attention, JsonReader::open(*source, where, ErrorCode::usage));
  Json formats = Json::object();
  for (const std::string_view operand : kAttentionOperands) {
    NIBBLE_TRY(const std::string text, attention.string(operand, ""));
    if (text.empty()) continue;
    NIBBLE_TRY(const NumberFormat format, parse_planned_attention_format(operand, text, where));
    formats[std::string(operand)] = to_string(format);
  }
  NIBBLE_DO(attention.refuse_unknown());
  if (!formats.empty()) canonical["attention"] = std::move(formats);
  return {};
}

std::string known_kinds() {
  std::string names;
  for (const StepRow& row : step_rows()) names += (names.empty() ? "" : ", ") + std::string(row.kind);
  return names;
}

// {"id": ID, KIND: {...}}; the id is the kind when it is absent.
Result<PlannedStep> read_planned_step(const Json& source, const std::string& where) {
  NIBBLE_TRY(JsonReader reader, JsonReader::open(source, where, ErrorCode::usage));
  PlannedStep out{"", nullptr, nullptr, Json::object()};
  for (const auto& item : source.items()) {
    if (item.key() == "id") continue;
    const StepRow* row = find_step(item.key());
    if (row == nullptr)
      return fail(ErrorCode::usage, "{}: unknown step \"{}\"; there are {}", where, item.key(), known_kinds());
    if (out.row != nullptr)
      return fail(ErrorCode::usage, "{}: \"{}\" and \"{}\" in one step; a step does one thing", where, out.row->kind,
                  row->kind);
    out.row = row;
    out.parameters = item.value();
  }
  if (out.row == nullptr) return fail(ErrorCode::usage, "{}: names no step; there are {}", where, known_kinds());
  NIBBLE_TRY(out.id, reader.string("id", std::string(out.row->kind)));
  const bool plain = !out.id.empty() && out.id.find_first_of(".=") == std::string::npos;
  if (!plain) return fail(ErrorCode::usage, "{}: \"id\" is \"{}\", expected a name without '.' and '='", where, out.id);
  NIBBLE_TRY(out.step, read_step(*out.row, out.parameters, fmt::format("{}, step {}", where, out.id)));
  return out;
}

Result<std::vector<PlannedStep>> read_steps(JsonReader& reader) {
  const Json* list = reader.find("steps");
  if (list == nullptr || !list->is_array())
    return fail(ErrorCode::usage, "{}: \"steps\" must be a list of steps", reader.where());
  std::vector<PlannedStep> steps;
  for (const Json& source : *list) {
    NIBBLE_TRY(PlannedStep step, read_planned_step(source, fmt::format("{}, steps[{}]", reader.where(), steps.size())));
    for (const PlannedStep& other : steps)
      if (other.id == step.id)
        return fail(ErrorCode::usage, "{}: two steps have the id \"{}\"", reader.where(), step.id);
    steps.push_back(std::move(step));
  }
  return steps;
}

// --- exceptions -----------------------------------------------------------------------------------------------

Status check_names(JsonReader& reader) {
  NIBBLE_TRY(const std::vector<std::string> roles, reader.strings("roles", std::vector<std::string>()));
  for (const std::string& role : roles)
    if (!role_named(role))
      return fail(ErrorCode::usage, "{}: unknown role \"{}\"; there are q, k, v, o, gate, up and down", reader.where(),
                  role);
  NIBBLE_TRY(const std::vector<std::string> names, reader.strings("families", std::vector<std::string>()));
  for (const std::string& name : names) {
    const auto known = [&](const Family& family) { return family.name == name; };
    if (std::any_of(families().begin(), families().end(), known)) continue;
    std::string all;
    for (const Family& family : families()) all += (all.empty() ? "" : ", ") + std::string(family.name);
    return fail(ErrorCode::usage, "{}: unknown family \"{}\"; there are {}", reader.where(), name, all);
  }
  if (const Json* blocks = reader.find("blocks"); blocks != nullptr) NIBBLE_DO(check_blocks(*blocks, reader.where()));
  return {};
}

// The parameters that an exception gives a step must make sense together with the step's own.
Status check_set(const Json& set, const std::vector<PlannedStep>& steps, const std::string& where) {
  if (!set.is_object())
    return fail(ErrorCode::usage, "{}: \"set\" must be an object of step ids and their parameters", where);
  for (const auto& item : set.items()) {
    const auto step =
        std::find_if(steps.begin(), steps.end(), [&](const PlannedStep& s) { return s.id == item.key(); });
    if (step == steps.end()) {
      std::string ids;
      for (const PlannedStep& known : steps) ids += (ids.empty() ? "" : ", ") + known.id;
      return fail(ErrorCode::usage, "{}: \"set\" names the step \"{}\"; the recipe's steps are {}", where, item.key(),
                  ids);
    }
    if (step->row->scope == Scope::model)
      return fail(ErrorCode::usage, "{}: \"set\" names the step {}, which works on the whole model", where, item.key());
    if (!item.value().is_object())
      return fail(ErrorCode::usage, "{}: \"set\" of step {} must be an object of parameters", where, item.key());
    const Json merged = with_parameters(step->parameters, item.value());
    NIBBLE_DO(read_step(*step->row, merged, fmt::format("{}, step {}", where, item.key())));
  }
  return {};
}

Result<Json> read_exception(const Json& source, const std::vector<PlannedStep>& steps, const std::string& where) {
  NIBBLE_TRY(JsonReader reader, JsonReader::open(source, where, ErrorCode::usage));
  Json canonical = Json::object();
  NIBBLE_DO(check_names(reader));
  for (const char* key : {"roles", "families", "blocks"})
    if (const Json* value = reader.find(key)) canonical[key] = *value;
  NIBBLE_TRY(const FormatPair formats, read_formats(reader, canonical));
  const Json* set = reader.find("set");
  if (set != nullptr) {
    NIBBLE_DO(check_set(*set, steps, where));
    canonical["set"] = *set;
  }
  NIBBLE_DO(read_attention(reader, canonical));
  NIBBLE_DO(reader.refuse_unknown());
  const bool attention = canonical.contains("attention");
  if (attention && canonical.contains("roles"))
    return fail(ErrorCode::usage, "{}: \"attention\" belongs to whole blocks; expected no \"roles\" beside it", where);
  if (set == nullptr && !formats.weights && !formats.activations && !attention)
    return fail(ErrorCode::usage, "{}: changes nothing; expected weights, activations, attention or set", where);
  return canonical;
}

Result<Json> read_override(const Json& source, std::vector<NamePattern>& patterns, const std::string& where) {
  NIBBLE_TRY(JsonReader reader, JsonReader::open(source, where, ErrorCode::usage));
  Json canonical = Json::object();
  NIBBLE_TRY(const std::string pattern, reader.string("linears"));
  NIBBLE_TRY(NamePattern compiled, NamePattern::compile(pattern, where));
  patterns.push_back(std::move(compiled));
  canonical["linears"] = pattern;
  NIBBLE_TRY(const FormatPair formats, read_formats(reader, canonical));
  NIBBLE_DO(reader.refuse_unknown());
  if (!formats.weights && !formats.activations)
    return fail(ErrorCode::usage, "{}: changes nothing; expected weights or activations", where);
  return canonical;
}

// The entries of an optional list, each read by `read(entry, where)`.
template <class Read>
Status read_list(JsonReader& reader, const char* key, Json& canonical, const Read& read) {
  const Json* list = reader.find(key);
  if (list == nullptr) return {};
  if (!list->is_array()) return fail(ErrorCode::usage, "{}: \"{}\" must be a list", reader.where(), key);
  Json entries = Json::array();
  for (const Json& source : *list) {
    NIBBLE_TRY(Json entry, read(source, fmt::format("{}, {}[{}]", reader.where(), key, entries.size())));
    entries.push_back(std::move(entry));
  }
  if (!entries.empty()) canonical[key] = std::move(entries);
  return {};
}

Status read_heading(JsonReader& reader, Json& canonical) {
  NIBBLE_TRY(const std::string name, reader.string("name"));
  if (name.empty()) return fail(ErrorCode::usage, "{}: \"name\" is empty", reader.where());
  canonical["name"] = name;
  for (const char* key : {"paper", "summary"}) {
    NIBBLE_TRY(const std::string text, reader.string(key, ""));
    if (!text.empty()) canonical[key] = text;
  }
  return {};
}

Status read_cache(JsonReader& reader, Json& canonical) {
  NIBBLE_TRY(const std::string cache, reader.string("cache", ""));
  if (cache.empty()) return {};
  NIBBLE_TRY(const AttentionFormats formats, with_cache({}, cache, reader.where() + ", \"cache\""));
  canonical["cache"] = cache_name(formats);
  return {};
}

Result<std::optional<HeadFormats>> read_head(JsonReader& reader, Json& canonical) {
  const Json* source = reader.find("head");
  if (source == nullptr) return std::nullopt;
  const std::string where = reader.where() + ", \"head\"";
  NIBBLE_TRY(JsonReader head, JsonReader::open(*source, where, ErrorCode::usage));
  Json formats = Json::object();
  NIBBLE_TRY(const FormatPair pair, read_formats(head, formats));
  NIBBLE_DO(head.refuse_unknown());
  if (!pair.weights || !pair.weights->has_codes())
    return fail(ErrorCode::usage, "{}: expected \"weights\" in codes; without \"head\" the checkpoint's type is kept",
                where);
  if (pair.weights->bits == 0)
    return fail(ErrorCode::usage, "{}: \"weights\" is \"{}\", and nothing says how many bits a column of the head has",
                where, to_string(*pair.weights));
  canonical["head"] = std::move(formats);
  return HeadFormats{*pair.weights, pair.activations.value_or(NumberFormat())};
}

Json canonical_steps(const std::vector<PlannedStep>& steps) {
  Json list = Json::array();
  for (const PlannedStep& step : steps) {
    Json entry = Json::object();
    entry["id"] = step.id;
    entry[std::string(step.row->kind)] = step.parameters;
    list.push_back(std::move(entry));
  }
  return list;
}

// --- names, and modifiers after them ------------------------------------------------------------------------------

struct ModifiedName {
  std::string base;
  std::vector<std::string> modifiers;
};

bool is_file(const std::string& name) { return name.find('/') != std::string::npos || name.ends_with(".json"); }

// A file's name may have a '+' itself: its modifiers begin behind ".json".
ModifiedName split_name(const std::string& text) {
  const size_t file = text.rfind(".json+");
  size_t plus = file != std::string::npos ? file + 5 : is_file(text) ? std::string::npos : text.find('+');
  ModifiedName name{text.substr(0, plus), {}};
  while (plus != std::string::npos) {
    const size_t begin = plus + 1;
    plus = text.find('+', begin);
    name.modifiers.push_back(text.substr(begin, plus == std::string::npos ? plus : plus - begin));
  }
  return name;
}

std::string names_of(std::span<const ShippedRecipe> shipped) {
  std::string names;
  for (const ShippedRecipe& one : shipped) names += (names.empty() ? "" : ", ") + std::string(one.name);
  return names;
}

const ShippedRecipe* find_shipped(std::span<const ShippedRecipe> shipped, std::string_view name) {
  const auto found = std::find_if(shipped.begin(), shipped.end(), [&](const auto& one) { return one.name == name; });
  return found == shipped.end() ? nullptr : &*found;
}

Result<Recipe> load_plain(const std::string& name) {
  if (is_file(name)) {
    auto source = read_json(name, kMaxRecipeBytes);
    if (source) return parse_recipe(*source, name);
    Error error = source.error();
    if (error.code == ErrorCode::corrupt) error.code = ErrorCode::usage;
    return tl::unexpected(error);
  }
  const ShippedRecipe* shipped = find_shipped(shipped_recipes(), name);
  if (shipped == nullptr)
    return fail(ErrorCode::usage, "unknown recipe \"{}\"; shipped are {}; a file's name ends in .json or has a slash",
                name, names_of(shipped_recipes()));
  NIBBLE_TRY(const Json source, parse_json(shipped->text, "recipe " + name));
  return parse_recipe(source, "recipe " + name);
}

const StepRow* row_of(const Json& step) {
  for (const auto& item : step.items())
    if (item.key() != "id") return find_step(item.key());
  return nullptr;
}

// The id of a step that is added: its own, or with a number where the recipe has one of that name.
std::string free_id(const Json& steps, const std::string& wanted) {
  const auto taken = [&](const std::string& id) {
    return std::any_of(steps.begin(), steps.end(), [&](const Json& step) { return step["id"] == id; });
  };
  std::string id = wanted;
  for (int number = 2; taken(id); ++number) id = fmt::format("{}-{}", wanted, number);
  return id;
}

// Behind the steps of its scope.
Status insert_step(Json& steps, Json step, const std::string& where) {
  const StepRow* row = row_of(step);
  NIBBLE_CHECK(row != nullptr);
  step["id"] = free_id(steps, step["id"].get<std::string>());
  auto at = steps.begin();
  for (auto it = steps.begin(); it != steps.end(); ++it) {
    const StepRow* other = row_of(*it);
    if (other == row && row->kind != "observe")
      return fail(ErrorCode::usage, "{}: the recipe has a step \"{}\" already", where, row->kind);
    if (other->scope <= row->scope) at = it + 1;
  }
  steps.insert(at, step);
  return {};
}

// The recipe's solver becomes another one.
Status replace_solver(Json& steps, const Json& solver, const std::string& where) {
  const std::string kind = solver.begin().key();
  for (Json& step : steps) {
    const StepRow* row = row_of(step);
    if (!row->solves) continue;
    if (row->kind == kind) return fail(ErrorCode::usage, "{}: the recipe solves by {} already", where, kind);
    Json changed = Json::object();
    changed["id"] = step["id"];
    changed[kind] = with_parameters(step[std::string(row->kind)], solver.begin().value());
    step = std::move(changed);
  }
  return {};
}

void append_text(Json& source, const Json& modifier, const char* key, const char* between) {
  if (!modifier.contains(key)) return;
  std::string text = source.value(key, "");
  if (text.ends_with('.')) text.pop_back();
  source[key] = text.empty() ? modifier[key] : Json(text + between + modifier[key].get<std::string>());
}

Result<Recipe> modified(const Recipe& recipe, const std::string& name) {
  const ShippedRecipe* shipped = find_shipped(shipped_modifiers(), name);
  if (shipped == nullptr)
    return fail(ErrorCode::usage, "unknown modifier \"{}\" of recipe {}; there are {}", name, recipe.name,
                names_of(shipped_modifiers()));
  NIBBLE_TRY(const Json modifier, parse_json(shipped->text, "modifier " + name));
  Json source = recipe.source;
  source["name"] = recipe.name + "+" + name;
  append_text(source, modifier, "summary", "; ");
  append_text(source, modifier, "paper", "; ");
  const std::string where = source["name"].get<std::string>();
  if (modifier.contains("solve")) NIBBLE_DO(replace_solver(source["steps"], modifier["solve"], where));
  for (const Json& step : modifier.value("insert", Json::array())) NIBBLE_DO(insert_step(source["steps"], step, where));
  return parse_recipe(source, "recipe " + where);
}

// --- --set and --override ---------------------------------------------------------------------------------------

Json value_of(const std::string& text) {
  auto parsed = parse_json(text, "value");
  return parsed ? *parsed : Json(text);
}

// Sets keys[1..] of the parameters of the step keys[0].
Status set_parameter(Json& source, const std::vector<std::string>& keys, Json value, const std::string& where) {
  std::string ids;
  for (Json& step : source["steps"]) {
    const auto id = step["id"].get<std::string>();
    ids += (ids.empty() ? "" : ", ") + id;
    if (id != keys[0]) continue;
    Json* at = &step;
    for (auto item = step.begin(); item != step.end(); ++item)
      if (item.key() != "id") at = &item.value();
    for (size_t i = 1; i + 1 < keys.size(); ++i) {
      Json& next = (*at)[keys[i]];
      if (!next.is_object()) next = Json::object();
      at = &next;
    }
    if (value.is_null()) {
      at->erase(keys.back());
    } else {
      (*at)[keys.back()] = std::move(value);
    }
    return {};
  }
  return fail(ErrorCode::usage, "{}: no step has the id \"{}\"; the recipe's steps are {}", where, keys[0], ids);
}

Status apply_set(Json& source, const std::string& text) {
  const std::string where = "--set " + text;
  const size_t equals = text.find('=');
  std::vector<std::string> keys;
  for (size_t begin = 0; equals != std::string::npos && begin <= equals;) {
    const size_t end = std::min(text.find('.', begin), equals);
    keys.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  const bool named = !keys.empty() && std::none_of(keys.begin(), keys.end(), [](auto& key) { return key.empty(); });
  if (!named) return fail(ErrorCode::usage, "{}: expected STEP.KEY=VALUE", where);
  if (keys.size() == 2 && keys[0] == "attention") {
    Json& attention = source["attention"];
    if (attention.is_null()) attention = Json::object();
    attention[keys[1]] = text.substr(equals + 1);
    return {};
  }
  if (keys.size() > 1) return set_parameter(source, keys, value_of(text.substr(equals + 1)), where);
  const std::string value = text.substr(equals + 1);
  if (keys[0] == "attention" && (value.empty() || value == "null")) {
    source.erase("attention");
    return {};
  }
  if (keys[0] != "weights" && keys[0] != "activations" && keys[0] != "cache")
    return fail(ErrorCode::usage,
                "{}: expected STEP.KEY=VALUE, attention.OPERAND=FORMAT, attention=null, or weights=, activations= or "
                "cache=",
                where);
  source[keys[0]] = value;
  return {};
}

Status apply_override(Json& source, const std::string& text) {
  const size_t equals = text.rfind('=');
  if (equals == std::string::npos || equals == 0)
    return fail(ErrorCode::usage, "--override {}: expected REGEX=WEIGHTS[/ACTIVATIONS]", text);
  const std::string formats = text.substr(equals + 1);
  const size_t slash = formats.find('/');
  Json entry = Json::object();
  entry["linears"] = text.substr(0, equals);
  entry["weights"] = formats.substr(0, slash);
  if (slash != std::string::npos) entry["activations"] = formats.substr(slash + 1);
  if (!source.contains("overrides")) source["overrides"] = Json::array();
  source["overrides"].push_back(std::move(entry));
  return {};
}

}  // namespace

Result<Recipe> parse_recipe(const Json& source, std::string where) {
  NIBBLE_TRY(JsonReader reader, JsonReader::open(source, std::move(where), ErrorCode::usage));
  Json canonical = Json::object();
  NIBBLE_DO(read_heading(reader, canonical));
  NIBBLE_DO(read_formats(reader, canonical));
  for (const char* key : {"weights", "activations"})
    if (!canonical.contains(key)) return fail(ErrorCode::usage, "{}: \"{}\" is missing", reader.where(), key);
  NIBBLE_DO(read_cache(reader, canonical));
  NIBBLE_DO(read_attention(reader, canonical));
  NIBBLE_TRY(const std::optional<HeadFormats> head, read_head(reader, canonical));
  NIBBLE_TRY(const std::vector<PlannedStep> steps, read_steps(reader));
  NIBBLE_DO(check_sequence(steps, reader.where()));
  canonical["steps"] = canonical_steps(steps);
  NIBBLE_DO(read_list(reader, "except", canonical,
                      [&](const Json& entry, const std::string& at) { return read_exception(entry, steps, at); }));
  Recipe recipe;
  recipe.head = head;
  for (const PlannedStep& step : steps)
    if (step.row->scope == Scope::model) recipe.model_steps.push_back(step.step);
  NIBBLE_DO(read_list(reader, "overrides", canonical, [&](const Json& entry, const std::string& at) {
    return read_override(entry, recipe.override_patterns, at);
  }));
  NIBBLE_DO(reader.refuse_unknown());
  recipe.name = canonical["name"].get<std::string>();
  recipe.source = std::move(canonical);
  return recipe;
}

Result<Recipe> load_recipe(const std::string& name_or_file) {
  const ModifiedName name = split_name(name_or_file);
  NIBBLE_TRY(Recipe recipe, load_plain(name.base));
  for (const std::string& modifier : name.modifiers) {
    NIBBLE_TRY(recipe, modified(recipe, modifier));
  }
  return recipe;
}

Result<Recipe> customise(const Recipe& recipe, std::span<const std::string> sets,
                         std::span<const std::string> overrides) {
  Json source = recipe.source;
  for (const std::string& text : sets) NIBBLE_DO(apply_set(source, text));
  for (const std::string& text : overrides) NIBBLE_DO(apply_override(source, text));
  return parse_recipe(source, "recipe " + recipe.name);
}

std::string step_of_bits(const Recipe& recipe, const NumberFormat& weights) {
  for (const Json& source : recipe.source["steps"]) {
    const auto step = read_planned_step(source, recipe.name);
    if (step && step->step->gives_bits(weights)) return step->id;
  }
  return "";
}

}  // namespace nibble
