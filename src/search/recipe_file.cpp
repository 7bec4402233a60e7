#include "search/recipe_file.h"

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "model/model.h"
#include "quantize/pipeline/estimate.h"
#include "quantize/recipe/formats.h"
#include "quantize/recipe/plan.h"
#include "quantize/recipe/recipe.h"
#include "search/footprint.h"

namespace nibble::search {
namespace {

using Formats = std::pair<NumberFormat, NumberFormat>;  // weights and activations

// Of every linear, by name and in order.
std::vector<std::pair<std::string, Formats>> formats_of(const Spec& spec, const Space& space, const Choice& choice) {
  std::map<std::pair<int64_t, Role>, Formats> found;
  for (size_t i = 0; i < choice.size(); ++i) {
    const Variable& variable = space.variables[i];
    if (variable.operand == Operand::attention) continue;
    const NumberFormat& format = space.candidates(variable)[static_cast<size_t>(choice[i])];
    for (Role role : variable.roles) {
      Formats& of = found[{variable.block, role}];
      (variable.operand == Operand::weights ? of.first : of.second) = format;
    }
  }
  std::vector<std::pair<std::string, Formats>> out;
  for (int64_t block = 0; block < spec.layers; ++block)
    for (const Site& site : sites_of(spec))
      for (Role role : site.roles) {
        Formats formats = found.at({block, role});
        if (formats.first.is_float()) formats.second = NumberFormat();
        out.emplace_back(linear_name(block, role), formats);
      }
  return out;
}

// Of every block, where it is chosen.
std::vector<AttentionFormats> attention_of(const Spec& spec, const Space& space, const Choice& choice) {
  if (!space.chooses_attention()) return {};
  std::vector<AttentionFormats> out(static_cast<size_t>(spec.layers));
  for (size_t i = 0; i < choice.size(); ++i) {
    const Variable& variable = space.variables[i];
    if (variable.operand == Operand::attention)
      operand_of(out[static_cast<size_t>(variable.block)], variable.attention) =
          space.candidates(variable)[static_cast<size_t>(choice[i])];
  }
  return out;
}

// As JSON, with spaces, on one line.
std::string spaced(const Json& value) {
  if (!value.is_structured()) return dump_json(value);
  std::string out;
  for (const auto& item : value.items()) {
    out += out.empty() ? "" : ", ";
    if (value.is_object()) out += dump_json(Json(item.key())) + ": ";
    out += spaced(item.value());
  }
  return value.is_object() ? "{" + out + "}" : "[" + out + "]";
}

std::string text_of(const Json& recipe) {
  std::string out;
  for (const auto& item : recipe.items()) {
    out += out.empty() ? "{\n  " : ",\n  ";
    out += dump_json(Json(item.key())) + ": ";
    if (!item.value().is_array()) {
      out += spaced(item.value());
      continue;
    }
    std::string lines;
    for (const Json& entry : item.value()) lines += (lines.empty() ? "\n    " : ",\n    ") + spaced(entry);
    out += "[" + lines + "\n  ]";
  }
  return out + "\n}\n";
}

// The most frequent of some values, the first among equals.
template <class T>
const T& commonest(const std::vector<T>& values) {
  return *std::max_element(values.begin(), values.end(), [&](const T& a, const T& b) {
    return std::count(values.begin(), values.end(), a) < std::count(values.begin(), values.end(), b);
  });
}

// The exceptions without formats, which the choice replaces, and those for blocks whose attention is not the commonest.
Json exceptions_of(const Json& recipe, const std::vector<AttentionFormats>& attention) {
  Json out = Json::array();
  for (Json entry : recipe.value("except", Json::array())) {
    entry.erase("weights");
    entry.erase("activations");
    if (!attention.empty()) entry.erase("attention");
    if (entry.contains("set") || entry.contains("attention")) out.push_back(std::move(entry));
  }
  for (size_t block = 0; block < attention.size(); ++block)
    if (attention[block] != commonest(attention)) {
      Json entry = Json::object();
      entry["blocks"] = Json::array({block});
      entry["attention"] = to_json(attention[block]);
      out.push_back(std::move(entry));
    }
  return out;
}

// A name as a regular expression that matches nothing else.
std::string pattern_of(std::string_view name) {
  std::string out;
  for (char c : name) out += c == '.' ? std::string("\\.") : std::string(1, c);
  return out;
}

Json override_of(const std::string& name, const Formats& formats) {
  Json out = Json::object();
  out["linears"] = pattern_of(name);
  out["weights"] = to_string(formats.first);
  out["activations"] = to_string(formats.second);
  return out;
}

// The recipe must do what was chosen: its reader and its planner say so.
Status expect_formats(const Json& source, const Spec& spec, const std::vector<std::pair<std::string, Formats>>& formats,
                      const std::vector<AttentionFormats>& attention) {
  NIBBLE_TRY(const Recipe recipe, parse_recipe(source, "the recipe that was found"));
  NIBBLE_TRY(const std::vector<AttentionFormats> planned, closed_attention_of_recipe(recipe, spec));
  NIBBLE_CHECK(attention.empty() || planned == attention);
  auto next = formats.begin();
  for (int64_t block = 0; block < spec.layers; ++block) {
    NIBBLE_TRY(const std::vector<SitePlan> sites, plan_block(recipe, spec, block));
    for (const SitePlan& site : sites)
      for (const LinearPlan& linear : site.linears) {
        NIBBLE_CHECK(linear.name == next->first && linear.weights == next->second.first &&
                     linear.activations == next->second.second);
        ++next;
      }
  }
  return {};
}

// --- weights only -------------------------------------------------------------------------------------------------

constexpr size_t kLongestList = 200;  // of block numbers in a pattern, which may have 256 characters

// "blocks\\.(0|3|5)\\.q" for some blocks, as many patterns as it takes.
std::vector<std::string> patterns_of(Role role, const std::vector<int64_t>& blocks) {
  std::vector<std::string> lists;
  for (int64_t block : blocks) {
    if (lists.empty() || lists.back().size() > kLongestList) lists.emplace_back();
    if (!lists.back().empty()) lists.back() += '|';
    lists.back() += std::to_string(block);
  }
  for (std::string& list : lists) {
    const bool several = list.find('|') != std::string::npos;
    list = fmt::format("blocks\\.{}{}{}\\.{}", several ? "(" : "", list, several ? ")" : "", name_of(role));
  }
  return lists;
}

// Without formats of weights; entries that say nothing any more are left out.
Json without_weights(const Json& entries, std::initializer_list<const char*> effects) {
  Json out = Json::array();
  for (Json entry : entries) {
    entry.erase("weights");
    if (std::any_of(effects.begin(), effects.end(), [&](const char* key) { return entry.contains(key); }))
      out.push_back(std::move(entry));
  }
  return out;
}

// The commonest format and average of the first kind that there is: bits by column, what can be multiplied with the
// recipe's activations, what cannot, and floats. Under the last two these would be lost.
std::pair<NumberFormat, double> usual_of(const Space& space, const Choice& choice, const NumberFormat& activations) {
  std::map<int, std::vector<std::pair<NumberFormat, double>>> by_rank;
  for (size_t i = 0; i < choice.size(); ++i) {
    const Variable& variable = space.variables[i];
    if (variable.operand != Operand::weights) continue;
    const auto k = static_cast<size_t>(choice[i]);
    const NumberFormat& format = space.palette.weights[k];
    const int rank = format.bits == 0 ? 0 : format.is_float() ? 3 : can_multiply(format, activations) ? 1 : 2;
    for (size_t role = 0; role < variable.roles.size(); ++role)
      by_rank[rank].emplace_back(format, variable.averages.empty() ? 0 : variable.averages[k]);
  }
  return commonest(by_rank.begin()->second);
}

bool quantizes_inputs(const Json& recipe) {
  if (const auto usual = parse_activations(recipe["activations"].get<std::string>(), ""); usual && !usual->is_float())
    return true;
  const Json none = Json::array();
  for (const char* exceptions : {"except", "overrides"})
    for (const Json& entry : recipe.value(exceptions, none))
      if (entry.contains("activations")) return true;
  return false;
}

// By role, the blocks of every format that is not the usual one. Linears that stay floats read floats, whatever `base`
// quantizes.
Json overrides_of(const Space& space, const Choice& choice, const NumberFormat& usual, const Json& base) {
  const bool quantized = quantizes_inputs(base);
  const auto weights_of = [&](int candidate) { return space.palette.weights[static_cast<size_t>(candidate)]; };
  const auto needs_floats = [&](int candidate) { return quantized && weights_of(candidate).is_float(); };
  std::map<std::pair<Role, int>, std::vector<int64_t>> others;
  for (size_t i = 0; i < choice.size(); ++i) {
    const Variable& variable = space.variables[i];
    if (variable.operand != Operand::weights) continue;
    if (weights_of(choice[i]) == usual && !needs_floats(choice[i])) continue;
    for (Role role : variable.roles) others[{role, choice[i]}].push_back(variable.block);
  }
  Json out = Json::array();
  for (const auto& [key, blocks] : others)
    for (const std::string& pattern : patterns_of(key.first, blocks)) {
      Json entry = Json::object();
      entry["linears"] = pattern;
      entry["weights"] = to_string(weights_of(key.second));
      if (needs_floats(key.second)) entry["activations"] = to_string(NumberFormat());
      out.push_back(std::move(entry));
    }
  return out;
}

// --- averages of sites whose columns have bits of their own -------------------------------------------------------

// Of a site where it is chosen, else 0.
double average_of(const Variable& variable, int candidate) {
  return variable.averages.empty() ? 0 : variable.averages[static_cast<size_t>(candidate)];
}

// What gives a step of a recipe an average of stored bits.
Json average_parameters(double bits) { return {{"bits", bits}, {"count", "stored"}}; }

Json exception_of(const std::vector<Role>& roles, const std::vector<int64_t>& blocks, const std::string& step,
                  double average) {
  Json out = Json::object();
  out["blocks"] = std::vector<uint64_t>(blocks.begin(), blocks.end());
  for (Role role : roles) out["roles"].push_back(std::string(name_of(role)));
  out["set"][step] = {{"bits", average}};
  return out;
}

// By site, the blocks of every average that is not the usual one.
Json averages_of(const Space& space, const Choice& choice, double usual, const std::string& step) {
  std::map<std::pair<std::vector<Role>, double>, std::vector<int64_t>> others;
  for (size_t i = 0; i < choice.size(); ++i) {
    const Variable& variable = space.variables[i];
    const double average = average_of(variable, choice[i]);
    if (average > 0 && average != usual) others[{variable.roles, average}].push_back(variable.block);
  }
  Json out = Json::array();
  for (const auto& [key, blocks] : others) out.push_back(exception_of(key.first, blocks, step, key.second));
  return out;
}

void set_average(Json& steps, const std::string& id, double average) {
  for (Json& step : steps)
    if (step.value("id", "") == id)
      for (auto item = step.begin(); item != step.end(); ++item)
        if (item.key() != "id") item.value().update(average_parameters(average));
}

// Exceptions that give the step another average of their own, or another way of counting it, do so no more.
void drop_averages(Json& entries, const std::string& id) {
  for (Json& entry : entries) {
    if (!entry.contains("set") || !entry["set"].contains(id)) continue;
    for (const auto& item : average_parameters(0).items()) entry["set"][id].erase(item.key());
    if (entry["set"][id].empty()) entry["set"].erase(id);
    if (entry["set"].empty()) entry.erase("set");
  }
}

void drop_cached(Json& entry) {
  const auto found = entry.find("attention");
  if (found == entry.end() || !found->is_object()) return;
  found->erase("k");
  found->erase("v");
  if (found->empty()) entry.erase("attention");
}

// Keys and values in the cache's formats, whatever the recipe had.
void set_cache(Json& recipe, const std::string& cache) {
  recipe["cache"] = cache;
  drop_cached(recipe);
  if (recipe.contains("except"))
    for (Json& entry : recipe["except"]) drop_cached(entry);
}

Status expect_weights(const Json& source, const Spec& spec, const Space& space, const Choice& choice) {
  NIBBLE_TRY(const Recipe recipe, parse_recipe(source, "the recipe that was found"));
  std::map<std::string, std::pair<NumberFormat, double>> chosen;
  for (size_t i = 0; i < choice.size(); ++i) {
    const Variable& variable = space.variables[i];
    if (variable.operand != Operand::weights) continue;
    for (Role role : variable.roles)
      chosen[linear_name(variable.block, role)] = {space.palette.weights[static_cast<size_t>(choice[i])],
                                                   average_of(variable, choice[i])};
  }
  for (int64_t block = 0; block < spec.layers; ++block) {
    NIBBLE_TRY(const std::vector<SitePlan> sites, plan_block(recipe, spec, block));
    for (const SitePlan& site : sites)
      for (const LinearPlan& linear : site.linears) {
        const auto& [format, average] = chosen.at(linear.name);
        NIBBLE_CHECK(linear.weights == format);
        for (const PlannedStep& step : site.steps)
          NIBBLE_CHECK(average == 0 || !step.step->gives_bits(open_columns()) || step.parameters["bits"] == average);
      }
  }
  return {};
}

}  // namespace

Result<std::string> recipe_text(const Spec& spec, const Space& space, const Choice& choice, const Json& recipe,
                                const std::string& name, const std::string& summary) {
  const auto formats = formats_of(spec, space, choice);
  const std::vector<AttentionFormats> attention = attention_of(spec, space, choice);
  std::vector<Formats> pairs;
  for (const auto& [linear, pair] : formats) pairs.push_back(pair);
  const Formats& usual = commonest(pairs);
  Json out = Json::object();
  out["name"] = name;
  out["summary"] = summary;
  out["weights"] = to_string(usual.first);
  out["activations"] = to_string(usual.second);
  if (!attention.empty()) out["attention"] = to_json(commonest(attention));
  for (const char* kept : {"cache", "head", "steps"})
    if (recipe.contains(kept) && (kept != std::string_view("cache") || attention.empty())) out[kept] = recipe[kept];
  for (const auto& item : recipe.items())
    if (!out.contains(item.key()) && item.key() != "paper" && item.key() != "except" && item.key() != "overrides" &&
        (item.key() != "cache" || attention.empty()))
      out[item.key()] = item.value();
  if (Json exceptions = exceptions_of(recipe, attention); !exceptions.empty()) out["except"] = std::move(exceptions);
  Json overrides = Json::array();
  for (const auto& [linear, pair] : formats)
    if (pair != usual) overrides.push_back(override_of(linear, pair));
  if (!overrides.empty()) out["overrides"] = std::move(overrides);
  NIBBLE_DO(expect_formats(out, spec, formats, attention));
  return text_of(out);
}

Result<Recipe> with_average(const Recipe& recipe, const Spec& spec, const std::string& bits_step, double average) {
  Json source = recipe.source;
  Json& exceptions = source["except"];
  if (exceptions.is_null()) exceptions = Json::array();
  Json all = Json::object();
  all["set"][bits_step] = average_parameters(average);
  exceptions.push_back(std::move(all));
  const std::string where = "recipe " + recipe.name;
  NIBBLE_TRY(const Recipe wanted, parse_recipe(source, where));
  std::map<std::pair<std::vector<Role>, double>, std::vector<int64_t>> raised;
  for (int64_t block = 0; block < spec.layers; ++block) {
    NIBBLE_TRY(const std::vector<SitePlan> sites, plan_block(wanted, spec, block));
    for (const SitePlan& site : sites)
      if (const double least = least_average(site, spec, most_kept(site, spec)); least > average)
        raised[{site.site.roles, least}].push_back(block);
  }
  for (const auto& [of, blocks] : raised) exceptions.push_back(exception_of(of.first, blocks, bits_step, of.second));
  return parse_recipe(source, where);
}

Result<std::string> fitted_recipe_text(const Spec& spec, const Space& space, const Choice& choice, const Json& base,
                                       const std::string& bits_step, const std::string& cache, const std::string& name,
                                       const std::string& summary) {
  NIBBLE_TRY(const NumberFormat activations, parse_activations(base["activations"].get<std::string>(), name));
  const auto [usual, average] = usual_of(space, choice, activations);
  Json out = Json::object();
  out["name"] = name;
  out["summary"] = summary;
  out["weights"] = to_string(usual);
  if (!can_multiply(usual, activations)) out["activations"] = to_string(NumberFormat());
  for (const auto& item : base.items())
    if (!out.contains(item.key()) && item.key() != "paper" && item.key() != "except" && item.key() != "overrides")
      out[item.key()] = item.value();
  const Json none = Json::array();
  out["except"] = base.value("except", none);
  if (!cache.empty()) set_cache(out, cache);
  if (space.palette.gives_averages()) drop_averages(out["except"], bits_step);
  out["except"] = without_weights(out["except"], {"activations", "set", "attention"});
  if (average > 0) {
    set_average(out["steps"], bits_step, average);
    for (Json& entry : averages_of(space, choice, average, bits_step)) out["except"].push_back(std::move(entry));
  }
  if (out["except"].empty()) out.erase("except");
  Json overrides = without_weights(base.value("overrides", none), {"activations"});
  for (Json& entry : overrides_of(space, choice, usual, base)) overrides.push_back(std::move(entry));
  if (!overrides.empty()) out["overrides"] = std::move(overrides);
  NIBBLE_DO(expect_weights(out, spec, space, choice));
  return text_of(out);
}

}  // namespace nibble::search
