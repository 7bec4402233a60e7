#include "bench/layers.h"

#include <cstring>
#include <numeric>

#include "core/random.h"

namespace nibble::bench {
namespace {

// Random bits except where `fixed` says: bits & ~fixed are random, the others those of `value`.
struct BitPattern {
  uint64_t fixed, value;
};

// The exponent of numbers around 0.03; sign and mantissa are random. Codes of minifloats of a byte have no greatest
// exponent, under which some are no numbers.
BitPattern pattern_of(const NumberFormat& format) {
  switch (format.levels) {
    case Levels::f32: return {0x7F8000007F800000u, 0x3D0000003D000000u};
    case Levels::f16: return {0x7C007C007C007C00u, 0x2800280028002800u};
    case Levels::bf16: return {0x7F807F807F807F80u, 0x3D003D003D003D00u};
    case Levels::minifloat: return {format.bits == 8 ? 0x4040404040404040u : 0, 0};
    default: return {0, 0};  // any bits are a code
  }
}

void fill(std::span<std::byte> bytes, const BitPattern& pattern, Random& random) {
  for (size_t at = 0; at < bytes.size(); at += sizeof(uint64_t)) {
    const uint64_t word = (random.next() & ~pattern.fixed) | pattern.value;
    std::memcpy(bytes.data() + at, &word, std::min(sizeof word, bytes.size() - at));
  }
}

// Tables of evenly spread levels; columns with bits of their own have 3 on average, one in a hundred 8.
void add_levels(LinearWeight& weight) {
  const int64_t columns = weight.dense_columns();
  if (weight.format.bits == 0)
    for (int64_t k = 0; k < columns; ++k) weight.widths.push_back(static_cast<uint8_t>(k % 100 == 0 ? 8 : 2 + k % 3));
  const int64_t tables = weight.format.sharing == Sharing::column ? columns : weight.rows * weight.groups();
  for (int64_t t = 0; t < tables; ++t) {
    const int bits = weight.widths.empty() ? weight.format.bits : weight.widths[static_cast<size_t>(t)];
    weight.exponents.push_back(-7);
    for (int i = 0; bits <= kTableBits && i < 1 << bits; ++i)
      weight.levels.push_back(static_cast<float>(4 * i + 2 - (2 << bits)) / 128);
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
  if (weight.format.is_learned()) add_levels(weight);
  const int64_t bits = std::accumulate(weight.widths.begin(), weight.widths.end(), int64_t{0});
  const int64_t row_bytes = bits > 0 ? packed_bytes(bits, 1) : packed_bytes(weight.dense_columns(), weight.format.bits);
  weight.codes.resize(static_cast<size_t>(shape.n * row_bytes));
  fill(weight.codes, pattern_of(weight.format), random);
  if (weight.format.scale != ScaleCodec::none)
    weight.scales.assign(static_cast<size_t>(shape.n * weight.groups()), kScale);
  weight.kept.resize(static_cast<size_t>(shape.n * kind.kept));
  weight.kept_levels = kind.kept_as == "bf16" ? Levels::bf16 : Levels::f16;
  NumberFormat kept;
  kept.levels = weight.kept_levels;
  fill(std::as_writable_bytes(std::span(weight.kept)), pattern_of(kept), random);
  return weight;
}

Result<std::vector<PackedLinear>> packed_copies(const Task& task, Isa isa, int64_t rotation_bytes, ThreadPool& pool) {
  constexpr size_t kMost = 4096;
  NIBBLE_TRY(const LinearWeight weight, random_layer(task.kind, task.shape));
  std::vector<PackedLinear> copies;
  int64_t bytes = 0;
  while (copies.empty() || (bytes < rotation_bytes && copies.size() < kMost)) {
    NIBBLE_TRY(PackedLinear packed, PackedLinear::pack(weight, isa, pool));
    bytes += packed.bytes() + static_cast<int64_t>(sizeof(PackedLinear));
    copies.push_back(std::move(packed));
  }
  return copies;
}

std::vector<float> random_input(int64_t m, int64_t k) {
  Random random(2);
  std::vector<float> x(static_cast<size_t>(m * k));
  for (float& value : x) value = 2 * random.uniform() - 1;
  return x;
}

}  // namespace nibble::bench
