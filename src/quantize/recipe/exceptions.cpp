#include "quantize/recipe/exceptions.h"

#include <algorithm>
#include <charconv>
#include <optional>

namespace nibble {
namespace {

struct BlockRange {
  bool from_end = false;
  int64_t count = 0;
};

std::optional<BlockRange> parse_range(std::string_view text) {
  BlockRange range;
  if (text.starts_with("last:")) {
    range.from_end = true;
    text.remove_prefix(5);
  } else if (text.starts_with("first:")) {
    text.remove_prefix(6);
  } else {
    return std::nullopt;
  }
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), range.count);
  if (error != std::errc() || end != text.data() + text.size() || range.count < 1) return std::nullopt;
  return range;
}

bool is_block_list(const Json& blocks) {
  return blocks.is_array() &&
         std::all_of(blocks.begin(), blocks.end(), [](const Json& v) { return v.is_number_unsigned(); });
}

std::string missing_statistics(unsigned missing) {
  std::string names;
  for (const auto& [statistic, name] : {std::pair(kAbsmax, "absmax"), {kGram, "gram"}, {kSquares, "squares"}})
    if (missing & statistic) names += fmt::format("{}\"{}\"", names.empty() ? "" : " and ", name);
  return names;
}

std::string_view works_on(const PlannedStep& step) {
  return step.row->scope == Scope::model ? "the model" : step.row->scope == Scope::site ? "sites" : "linears";
}

}  // namespace

Status check_sequence(const std::vector<PlannedStep>& steps, std::string_view where) {
  unsigned observed = kNoStatistics;
  const PlannedStep* last = nullptr;
  const PlannedStep* solver = nullptr;
  for (const PlannedStep& step : steps) {
    if (last != nullptr && step.row->scope < last->row->scope)
      return fail(ErrorCode::usage, "{}: step {} works on {} and must come before step {}, which works on {}", where,
                  step.id, works_on(step), last->id, works_on(*last));
    last = &step;
    if (step.row->solves && solver != nullptr)
      return fail(ErrorCode::usage, "{}: steps {} and {} both solve for the weights; a recipe has one such step", where,
                  solver->id, step.id);
    if (step.row->solves) solver = &step;
    if (const unsigned missing = step.step->needs() & ~observed; missing != kNoStatistics)
      return fail(ErrorCode::usage, "{}: step {} ({}) needs the statistic {}, which no observe step before it collects",
                  where, step.id, step.row->kind, missing_statistics(missing));
    observed |= step.step->observes();
  }
  if (solver == nullptr)
    return fail(ErrorCode::usage, "{}: no step solves for the weights; expected one of round, gptq", where);
  return {};
}

Json with_parameters(Json parameters, const Json& over) {
  for (const auto& item : over.items()) {
    if (item.value().is_null()) {
      parameters.erase(item.key());
    } else {
      parameters[item.key()] = item.value();
    }
  }
  return parameters;
}

Status check_blocks(const Json& blocks, std::string_view where) {
  if (is_block_list(blocks)) return {};
  if (blocks.is_string() && parse_range(blocks.get<std::string>())) return {};
  return fail(ErrorCode::usage, "{}: \"blocks\" is {}, expected a list of block numbers, \"first:N\" or \"last:N\"",
              where, dump_json(blocks));
}

bool matches_blocks(const Json& blocks, int64_t block, int64_t layers) {
  if (blocks.is_array())
    return std::any_of(blocks.begin(), blocks.end(), [&](const Json& v) { return v.get<int64_t>() == block; });
  const auto range = parse_range(blocks.get<std::string>());
  return range->from_end ? block >= layers - range->count : block < range->count;
}

}  // namespace nibble
