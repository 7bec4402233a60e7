#include "quantize/solve/split_step.h"

#include <algorithm>
#include <charconv>

#include "quantize/solve/split.h"

namespace nibble {
namespace {

class Split final : public Step {
 public:
  Split(const KeptCount& rule, Levels as) : rule_(rule), as_(as) {}
  unsigned needs() const override { return kAbsmax; }
  bool keeps() const override { return true; }

  Status apply_to_site(SiteWork& site, ThreadPool&) const override {
    const std::vector<float>& absmax = site.statistics->absmax;
    const bool quiet = *std::max_element(absmax.begin(), absmax.end()) <= static_cast<float>(rule_.threshold);
    const int64_t count = kept_count(quiet ? KeptCount{} : rule_, site.inputs, site.hidden, site.sparse24 ? 4 : 1);
    if (count >= site.inputs)
      return fail(ErrorCode::usage, "{}: the recipe keeps {} of {} input columns; fewer must be kept than there are",
                  site.name, count, site.inputs);
    site.kept = loudest_columns(absmax, count);
    site.kept_levels = as_;
    return {};
  }

 private:
  KeptCount rule_;
  Levels as_;
};

bool parse_positive(std::string_view text, int64_t& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size() && out > 0 && out <= 1 << 20;
}

// 256 or "1/16".
Status read_columns(JsonReader& parameters, KeptCount& rule) {
  const Json* value = parameters.find("columns");
  if (value != nullptr && value->is_string()) {
    const auto text = value->get<std::string>();
    const size_t slash = text.find('/');
    const bool fits = slash != std::string::npos && parse_positive(text.substr(0, slash), rule.numerator) &&
                      parse_positive(text.substr(slash + 1), rule.denominator) && rule.numerator < rule.denominator;
    if (fits) return {};
    return fail(ErrorCode::usage, "{}: \"columns\" is \"{}\", expected a number or a fraction below 1 such as \"1/16\"",
                parameters.where(), text);
  }
  NIBBLE_TRY(rule.columns, parameters.integer("columns", 0, 1 << 20));
  return {};
}

// A parameter with one supported value, written out in recipes because it says what they mean.
Status read_only(JsonReader& parameters, std::string_view key, std::string_view only) {
  NIBBLE_TRY(const std::string found, parameters.string(key, std::string(only)));
  if (found == only) return {};
  return fail(ErrorCode::usage, "{}: \"{}\" is \"{}\"; supported is \"{}\"", parameters.where(), key, found, only);
}

}  // namespace

Result<StepPointer> read_split(JsonReader& parameters) {
  KeptCount rule;
  NIBBLE_DO(read_only(parameters, "by", "absmax"));
  NIBBLE_TRY(const std::string as, parameters.string("as", "f16"));
  if (as != "f16" && as != "bf16")
    return fail(ErrorCode::usage, "{}: \"as\" is \"{}\"; supported are \"f16\" and \"bf16\"", parameters.where(), as);
  NIBBLE_DO(read_columns(parameters, rule));
  NIBBLE_TRY(rule.at_most, parameters.integer("at_most", 0, INT64_MAX, INT64_MAX));
  if (parameters.find("scale_with") != nullptr) {
    NIBBLE_DO(read_only(parameters, "scale_with", "width"));
    rule.scale_with_width = true;
  }
  NIBBLE_TRY(rule.threshold, parameters.number("threshold", 0, 1e30, 0));
  return std::make_shared<Split>(rule, as == "bf16" ? Levels::bf16 : Levels::f16);
}

}  // namespace nibble
