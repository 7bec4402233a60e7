#include "bench/layers.h"

#include <cstring>

#include "core/random.h"

namespace nibble::bench {
namespace {

// Random bits except where `fixed` says: bits & ~fixed are random, the others those of `value`.
struct BitPattern {
  uint64_t fixed, value;
};

// The exponent of numbers around 0.03; sign and mantissa are random.
BitPattern pattern_of(Levels levels) {
  switch (levels) {
    case Levels::f32: return {0x7F8000007F800000u, 0x3D0000003D000000u};
    case Levels::f16: return {0x7C007C007C007C00u, 0x2800280028002800u};
    case Levels::bf16: return {0x7F807F807F807F80u, 0x3D003D003D003D00u};
    default: return {0, 0};  // any bits are a code
  }
}

void fill(std::span<std::byte> bytes, const BitPattern& pattern, Random& random) {
  for (size_t at = 0; at < bytes.size(); at += sizeof(uint64_t)) {
    const uint64_t word = (random.next() & ~pattern.fixed) | pattern.value;
    std::memcpy(bytes.data() + at, &word, std::min(sizeof word, bytes.size() - at));
  }
}

}  // namespace

Result<LinearWeight> random_layer(const LayerKind& kind, const Shape& shape) {
  constexpr float kScale = 1.0f / 128;  // any scale codec holds it
  Random random(1);
  LinearWeight weight;
  weight.rows = shape.n;
  weight.columns = shape.k;
  NIBBLE_TRY(weight.format, parse_format(kind.weights));
  NIBBLE_TRY(weight.activations, parse_format(kind.activations));
  for (int64_t i = 0; i < kind.kept; ++i) weight.kept_columns.push_back(static_cast<int32_t>(i * shape.k / kind.kept));
  weight.codes.resize(static_cast<size_t>(shape.n * packed_bytes(weight.dense_columns(), weight.format.bits)));
  fill(weight.codes, pattern_of(weight.format.levels), random);
  if (weight.format.scale != ScaleCodec::none)
    weight.scales.assign(static_cast<size_t>(shape.n * weight.groups()), kScale);
  weight.kept.resize(static_cast<size_t>(shape.n * kind.kept));
  weight.kept_levels = kind.kept_as == "bf16" ? Levels::bf16 : Levels::f16;
  fill(std::as_writable_bytes(std::span(weight.kept)), pattern_of(weight.kept_levels), random);
  return weight;
}

std::vector<float> random_input(int64_t m, int64_t k) {
  Random random(2);
  std::vector<float> x(static_cast<size_t>(m * k));
  for (float& value : x) value = 2 * random.uniform() - 1;
  return x;
}

}  // namespace nibble::bench
