#include "runtime/positions.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>

#include "core/half.h"
#include "core/result.h"

namespace nibble {
namespace {

float to_bf16(double value) { return bf16_to_f32(f32_to_bf16(static_cast<float>(value))); }

double llama3_frequency(const Rope& rope, double frequency) {
  const double original = static_cast<double>(rope.original_positions);
  const double turns = original * frequency / (2 * std::numbers::pi);  // within the original context
  if (turns < rope.low_frequency_factor) return frequency / rope.factor;
  if (turns > rope.high_frequency_factor) return frequency;
  const double share = (turns - rope.low_frequency_factor) / (rope.high_frequency_factor - rope.low_frequency_factor);
  return (1 - share) * frequency / rope.factor + share * frequency;
}

double scaled(const Rope& rope, double frequency) {
  switch (rope.scaling) {
    case RopeScaling::none: return frequency;
    case RopeScaling::linear: return frequency / rope.factor;
    case RopeScaling::llama3: return llama3_frequency(rope, frequency);
  }
  return frequency;
}

}  // namespace

std::vector<double> rope_frequencies(const Rope& rope, int64_t head_dim) {
  std::vector<double> out;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(head_dim);
    out.push_back(scaled(rope, std::pow(rope.theta, exponent)));
  }
  return out;
}

std::vector<float> alibi_slopes(int64_t heads) {
  const auto power = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(heads)));
  std::vector<float> out;
  for (int64_t i = 1; i <= power; ++i)
    out.push_back(to_bf16(std::exp2(-8.0 * static_cast<double>(i) / static_cast<double>(power))));
  for (int64_t i = 1; static_cast<int64_t>(out.size()) < heads; i += 2)
    out.push_back(to_bf16(std::exp2(-4.0 * static_cast<double>(i) / static_cast<double>(power))));
  return out;
}

void PositionTables::reserve(const Spec& spec, int64_t positions) {
  NIBBLE_CHECK(positions <= spec.max_positions);
  Key key{spec.positions, spec.rope, spec.head_dim, spec.heads, spec.alibi_scale};
  if (key == key_ && positions <= positions_) return;
  // Doubling, so that token after token costs little; the kind of table is made anew.
  positions_ = key == key_ ? std::max(positions, 2 * positions_) : positions;
  positions_ = std::min(positions_, spec.max_positions);
  key_ = key;
  cosines_.clear(), sines_.clear(), biases_.clear();
  if (key.kind == Positions::rotary) make_angles();
  if (key.kind == Positions::alibi) make_biases();
}

void PositionTables::make_angles() {
  const std::vector<double> frequencies = rope_frequencies(key_.rope, key_.head_dim);
  for (int64_t position = 0; position < positions_; ++position) {
    for (double frequency : frequencies) {
      const double angle = static_cast<double>(position) * frequency;
      cosines_.push_back(static_cast<float>(std::cos(angle)));
      sines_.push_back(static_cast<float>(std::sin(angle)));
    }
  }
}

void PositionTables::make_biases() {
  for (float slope : alibi_slopes(key_.heads)) {
    for (int64_t position = 0; position < positions_; ++position) {
      const float bias = to_bf16(slope * to_bf16(static_cast<double>(position)));
      biases_.push_back(static_cast<float>(key_.alibi_scale * static_cast<double>(bias)));
    }
  }
}

}  // namespace nibble
