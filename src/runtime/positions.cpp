#include "runtime/positions.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>
#include <utility>

#include "core/checked.h"
#include "core/half.h"
#include "core/result.h"

namespace nibble {
namespace {

constexpr int64_t kStep = 64;            // positions that are added together
constexpr int64_t kFirstRoom = 1 << 12;  // positions: a few megabytes at most, which are touched as they are filled

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
  const Key key{spec.positions, spec.rope, spec.head_dim, spec.heads, spec.alibi_scale};
  if (key != key_) {
    PositionTables empty;
    empty.key_ = key;
    if (key.kind == Positions::rotary) empty.frequencies_ = rope_frequencies(key.rope, key.head_dim);
    if (key.kind == Positions::alibi) empty.slopes_ = alibi_slopes(key.heads);
    *this = std::move(empty);
  }
  if (positions <= positions_) return;
  const int64_t begin = positions_, end = std::min(round_up(positions, kStep), spec.max_positions);
  // Doubling, so that moving the entries costs little.
  if (end > room_) make_room(std::min(std::max({end, 2 * room_, kFirstRoom}), spec.max_positions));
  positions_ = end;
  if (key_.kind == Positions::rotary) add_angles(begin, end);
  if (key_.kind == Positions::alibi) add_biases(begin, end);
}

void PositionTables::make_room(int64_t room) {
  const auto angles = static_cast<size_t>(room) * frequencies_.size();
  cosines_.reserve(angles), sines_.reserve(angles);
  std::vector<float> biases(slopes_.size() * static_cast<size_t>(room));
  for (int64_t head = 0; head < static_cast<int64_t>(slopes_.size()); ++head)
    std::copy_n(biases_.begin() + head * room_, positions_, biases.begin() + head * room);
  biases_ = std::move(biases);
  room_ = room;
}

void PositionTables::add_angles(int64_t begin, int64_t end) {
  for (int64_t position = begin; position < end; ++position) {
    for (double frequency : frequencies_) {
      const double angle = static_cast<double>(position) * frequency;
      cosines_.push_back(static_cast<float>(std::cos(angle)));
      sines_.push_back(static_cast<float>(std::sin(angle)));
    }
  }
}

void PositionTables::add_biases(int64_t begin, int64_t end) {
  float* of_head = biases_.data();
  for (float slope : slopes_) {
    for (int64_t position = begin; position < end; ++position) {
      const float bias = to_bf16(slope * to_bf16(static_cast<double>(position)));
      of_head[position] = static_cast<float>(key_.alibi_scale * static_cast<double>(bias));
    }
    of_head += room_;
  }
}

}  // namespace nibble
