// A model with random weights that exists only in memory, for tests.
#pragma once

#include <cmath>
#include <functional>
#include <string>
#include <utility>

#include "core/half.h"
#include "core/random.h"
#include "format/block_scale.h"
#include "model/model.h"

namespace nibble {

// A small Spec that is valid for every family's knobs; tests turn them.
inline Spec small_spec() {
  Spec spec;
  spec.family = "llama";
  spec.vocabulary = 61;
  spec.hidden = spec.embedding = 40;
  spec.layers = 2;
  spec.heads = 4;
  spec.kv_heads = 2;
  spec.head_dim = 12;
  spec.ffn = 72;
  spec.max_positions = 96;
  spec.gated = true;
  return spec;
}

class RandomSource : public ModelSource {
 public:
  explicit RandomSource(const Spec& spec, uint64_t seed = 1) : seed_(seed) { spec_ = spec; }

  // Applied to every linear of a block before it is handed out, e.g. to quantize it.
  std::function<LinearWeight(LinearWeight)> edit_block = [](LinearWeight w) { return w; };
  // Applied to every weight value as it is made, e.g. to round it.
  std::function<float(float)> edit_value = [](float x) { return x; };

  // quantization_config, of which the runtime reads "attention"; null: not quantized.
  Json stored;
  const Json* quantization() const override { return stored.is_null() ? nullptr : &stored; }

  Result<GlobalWeights> globals() const override {
    Random random(seed_);
    GlobalWeights out;
    out.embedding = linear(random, spec_.vocabulary, spec_.embedding, false);
    if (!spec_.tied_head) out.head = linear(random, spec_.vocabulary, spec_.embedding, false);
    if (spec_.embedding != spec_.hidden) {
      out.project_in = linear(random, spec_.hidden, spec_.embedding, false);
      out.project_out = linear(random, spec_.embedding, spec_.hidden, false);
    }
    if (spec_.positions == Positions::learned)
      out.position_rows = values(random, (spec_.max_positions + spec_.position_offset) * spec_.hidden, 0, 0.3f);
    if (spec_.final_norm) out.final_norm = norm(random);
    return out;
  }

  Result<BlockWeights> block(int64_t index) const override {
    Random random(seed_ * 1000003 + static_cast<uint64_t>(index));
    BlockWeights out;
    out.attention_norm = norm(random);
    if (!spec_.shared_norm) out.mlp_norm = norm(random);
    for (Role role : kAllRoles) {
      const Shape shape = shape_of(spec_, role);
      if (shape.rows == 0) continue;
      out[role] = edit_block(linear(random, shape.rows, shape.columns, spec_.bias[static_cast<size_t>(role)]));
    }
    return out;
  }

  int64_t file_bytes() const override { return 0; }

 private:
  static std::vector<float> values(Random& random, int64_t count, float mean, float deviation) {
    std::vector<float> out(static_cast<size_t>(count));
    for (float& x : out) x = mean + deviation * random.normal();
    return out;
  }

  NormWeight norm(Random& random) const {
    if (!spec_.norm_affine) return {};
    NormWeight out{values(random, spec_.hidden, 1, 0.2f), {}};
    if (spec_.norm == Norm::layer) out.bias = values(random, spec_.hidden, 0, 0.2f);
    return out;
  }

  LinearWeight linear(Random& random, int64_t rows, int64_t columns, bool bias) const {
    std::vector<float> weights = values(random, rows * columns, 0, 1.0f / std::sqrt(static_cast<float>(columns)));
    for (float& x : weights) x = edit_value(x);
    const auto* bytes = reinterpret_cast<const std::byte*>(weights.data());
    return float_linear(rows, columns, Levels::f32, Bytes(bytes, bytes + weights.size() * sizeof(float)),
                        bias ? values(random, rows, 0, 0.2f) : std::vector<float>());
  }

  uint64_t seed_;
};

// Symmetric around zero; of a block format as it says.
inline Grid nearest_grid(std::span<const float> values, const NumberFormat& format) {
  if (format.is_block()) return choose_block_grid(values, format, 1);
  float most = 0;
  for (float value : values) most = std::max(most, std::fabs(value));
  const float scale = round_scale(symmetric_grid(most, format.bits).scale, format.scale);
  return Grid::make(scale, 1 << (format.bits - 1), format.bits);
}

// Rounds a float layer to the nearest codes of an integer format, or one of blocks without an outer scale; the first
// `kept` columns of every eight are kept.
inline LinearWeight rounded(const LinearWeight& from, std::string_view weights, std::string_view activations,
                            int64_t kept) {
  LinearWeight out;
  out.rows = from.rows;
  out.columns = from.columns;
  out.format = *parse_format(weights);
  out.activations = *parse_format(activations);
  out.bias = from.bias;
  for (int64_t k = 0; k < from.columns; ++k)
    if (k % 8 < kept) out.kept_columns.push_back(static_cast<int32_t>(k));
  const std::vector<int32_t> dense = dense_columns_of(out.columns, out.kept_columns);
  const auto row_bytes = static_cast<size_t>(packed_bytes(out.dense_columns(), out.format.bits));
  const int64_t group = out.format.group_size(out.dense_columns());
  out.codes.resize(static_cast<size_t>(out.rows) * row_bytes);
  std::vector<float> row(static_cast<size_t>(from.columns));
  std::vector<uint8_t> codes(dense.size());
  for (int64_t n = 0; n < out.rows; ++n) {
    decode_row(from, n, row);
    for (size_t begin = 0; begin < dense.size(); begin += static_cast<size_t>(group)) {
      const size_t end = std::min(dense.size(), begin + static_cast<size_t>(group));
      std::vector<float> values;
      for (size_t i = begin; i < end; ++i) values.push_back(row[static_cast<size_t>(dense[i])]);
      const Grid grid = nearest_grid(values, out.format);
      for (size_t i = begin; i < end; ++i) codes[i] = static_cast<uint8_t>(grid.encode(values[i - begin]));
      out.scales.push_back(grid.scale);
    }
    pack_codes(codes, out.format.bits, std::span(out.codes).subspan(static_cast<size_t>(n) * row_bytes, row_bytes));
    for (int32_t column : out.kept_columns) out.kept.push_back(f32_to_f16(row[static_cast<size_t>(column)]));
  }
  return out;
}

}  // namespace nibble
