// Every stored value is read. What the loader refuses (NaN, Inf, zero scales, kept columns out of order, bad patterns)
// is the verdict at once; what is here is legal for a loader and still never comes out of an honest run.
#include <algorithm>
#include <limits>

#include "eval/verify/checks.h"
#include "model/globals.h"

namespace nibble {
namespace {

constexpr float kSmallestNormalF16 = 6.103515625e-05f;
constexpr int64_t kFewestColumns = 16;  // a row of fewer may be constant by chance

// Counted over the whole model; the first bad thing ends the check.
struct Tally {
  int64_t tensors = 0, dead_rows = 0, subnormal_scales = 0;
};

tl::unexpected<Error> bad(const std::string& message) { return fail(ErrorCode::verification, "{}", message); }

enum class RowKind : uint8_t { varied, dead, constant };

RowKind kind_of(std::span<const float> row) {
  for (float value : row)
    if (value != row[0]) return RowKind::varied;
  return row[0] == 0 ? RowKind::dead : RowKind::constant;
}

// What is seen of a row. `one_code`: all dense codes are equal, though with the kept columns the row may still vary.
struct Row {
  RowKind kind = RowKind::varied;
  bool one_code = false;
};

std::vector<Row> rows_of(const LinearWeight& weight, ThreadPool& pool) {
  std::vector<Row> rows(static_cast<size_t>(weight.rows));
  const bool coded = weight.format.has_codes() && weight.dense_columns() >= kFewestColumns;
  pool.run_ranges(weight.rows, 64, [&](int64_t begin, int64_t end) {
    std::vector<float> values(static_cast<size_t>(weight.columns));
    std::vector<uint8_t> codes(coded ? static_cast<size_t>(weight.dense_columns()) : 0);
    for (int64_t n = begin; n < end; ++n) {
      Row& row = rows[static_cast<size_t>(n)];
      decode_row(weight, n, values);
      row.kind = kind_of(values);
      if (!coded) continue;
      decode_codes(weight, n, codes);
      row.one_code = std::all_of(codes.begin(), codes.end(), [&](uint8_t code) { return code == codes[0]; });
    }
  });
  return rows;
}

Status check_scales(const std::string& name, const LinearWeight& weight, Tally& tally) {
  for (size_t i = 0; i < weight.scales.size(); ++i) {
    const float scale = weight.scales[i];
    const auto row = static_cast<int64_t>(i) / std::max<int64_t>(weight.groups(), 1);
    if (scale < 0) return bad(fmt::format("{}: the scale of row {} is {}; scales are positive", name, row, scale));
    const bool half = weight.format.scale == ScaleCodec::f16;
    if (weight.format.scale == ScaleCodec::f32 && scale < std::numeric_limits<float>::min())
      return bad(fmt::format("{}: the scale of row {} is {}, a subnormal number", name, row, scale));
    if (half && scale < kSmallestNormalF16) ++tally.subnormal_scales;
  }
  return {};
}

// Rows of zeros are honest now and then (a pruned neuron); a row of one other value, or a matrix that is mostly dead
// rows or rows of one code, is not.
Status check_rows(const std::string& name, const LinearWeight& weight, Tally& tally, ThreadPool& pool) {
  ++tally.tensors;
  const std::vector<Row> rows = rows_of(weight, pool);
  const auto dead = std::count_if(rows.begin(), rows.end(), [](const Row& row) { return row.kind == RowKind::dead; });
  tally.dead_rows += dead;
  if (2 * dead > weight.rows) return bad(fmt::format("{}: {} of {} rows are all zero", name, dead, weight.rows));
  if (weight.columns < kFewestColumns) return {};
  const auto constant =
      std::find_if(rows.begin(), rows.end(), [](const Row& row) { return row.kind == RowKind::constant; });
  if (constant != rows.end())
    return bad(fmt::format("{}: all {} values of row {} are equal", name, weight.columns, constant - rows.begin()));
  const auto one_code = std::count_if(rows.begin(), rows.end(), [](const Row& row) { return row.one_code; });
  if (2 * one_code <= weight.rows) return {};
  return bad(fmt::format("{}: in {} of {} rows all codes are equal", name, one_code, weight.rows));
}

Status check_linear(const std::string& name, const LinearWeight& weight, Tally& tally, ThreadPool& pool) {
  NIBBLE_DO(check_scales(name, weight, tally));
  return check_rows(name, weight, tally, pool);
}

Status check_norm(const std::string& name, const NormWeight& norm, Tally& tally) {
  if (norm.gain.empty()) return {};
  ++tally.tensors;
  if (std::all_of(norm.gain.begin(), norm.gain.end(), [](float gain) { return gain == 0; }))
    return bad(fmt::format("{}.gain: all {} values are zero", name, norm.gain.size()));
  return {};
}

// The linears of a site read one input: its quantization and its kept columns are theirs in common.
Status check_sites(const Spec& spec, int64_t index, const BlockWeights& block) {
  for (const Site& site : sites_of(spec)) {
    const LinearWeight* first = nullptr;
    Role first_role = Role::q;
    for (Role role : site.roles) {
      const LinearWeight& weight = block[role];
      if (!weight.format.has_codes()) continue;
      if (first == nullptr) {
        first = &weight;
        first_role = role;
      } else if (weight.kept_columns != first->kept_columns) {
        return bad(fmt::format("{} and {} read the same input but keep other columns of it",
                               linear_name(index, first_role), linear_name(index, role)));
      } else if (weight.rotation != first->rotation) {
        return bad(fmt::format("{} and {} read the same input but rotate it in blocks of {} and {}",
                               linear_name(index, first_role), linear_name(index, role), first->rotation,
                               weight.rotation));
      }
    }
  }
  return {};
}

Status check_block(const Spec& spec, int64_t index, const BlockWeights& block, Tally& tally, ThreadPool& pool) {
  NIBBLE_DO(check_norm(fmt::format("blocks.{}.attention_norm", index), block.attention_norm, tally));
  NIBBLE_DO(check_norm(fmt::format("blocks.{}.mlp_norm", index), block.mlp_norm, tally));
  for (Role role : kAllRoles)
    if (block[role].rows > 0) NIBBLE_DO(check_linear(linear_name(index, role), block[role], tally, pool));
  return check_sites(spec, index, block);
}

Status check_globals(const Spec& spec, const GlobalWeights& globals, Tally& tally, ThreadPool& pool) {
  for (Global linear : globals_of(spec))
    if (const LinearWeight* weight = find_linear(globals, linear))
      NIBBLE_DO(check_linear(std::string(name_of(linear)), *weight, tally, pool));
  return check_norm("final_norm", globals.final_norm, tally);
}

Status check_all(Examination& examination, Tally& tally) {
  const ModelSource& source = *examination.candidate.source;
  const Spec& spec = source.spec();
  NIBBLE_TRY(const GlobalWeights globals, source.globals());
  NIBBLE_DO(check_globals(spec, globals, tally, examination.pool));
  for (int64_t index = 0; index < spec.layers; ++index) {
    NIBBLE_TRY(const BlockWeights block, source.block(index));
    NIBBLE_DO(check_block(spec, index, block, tally, examination.pool));
    examination.told("reading tensors", static_cast<double>(index + 1) / static_cast<double>(spec.layers));
  }
  return {};
}

}  // namespace

Result<Finding> check_tensors(Examination& examination) {
  Tally tally;
  NIBBLE_DO(check_all(examination, tally));
  std::string evidence = fmt::format("{} tensors are finite, with positive scales and no constant rows", tally.tensors);
  if (tally.dead_rows > 0) evidence += fmt::format("; {} rows of zeros", tally.dead_rows);
  if (tally.subnormal_scales > 0) evidence += fmt::format("; {} scales are subnormal in f16", tally.subnormal_scales);
  return passed(evidence);
}

}  // namespace nibble
