#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/half.h"
#include "kernels/ref/coded.h"
#include "kernels/ref/rows.h"

namespace nibble::ref {
namespace {

constexpr float kLeastNormal = std::numeric_limits<float>::min();

// One output of the layer: its panel and its lane in it.
struct Output {
  int64_t panel, lane;
};

// Where a [panel][row][16] array keeps the entry of this output.
int64_t entry(Output n, int64_t rows, int64_t row) { return (n.panel * rows + row) * kLanes + n.lane; }

int64_t group_length(const PackedDense& dense, int64_t g) {
  return std::min(dense.group_size, dense.k - g * dense.group_size);
}

// Bytes from one group of the quantized activations to the next.
int64_t padded_group(const PackedDense& dense) { return dense.group_steps * 4; }

// The stored level of input i of group g.
int32_t level(const PackedDense& dense, Output n, int64_t g, int64_t i) {
  if (dense.type == PackedType::coded_integers) return coded_level(dense, n.panel, n.lane, g * padded_group(dense) + i);
  const auto* bytes = static_cast<const uint8_t*>(dense.codes);
  const bool int4 = dense.type == PackedType::int4;
  const Output stored{int4 ? n.panel / 2 : n.panel, n.lane};
  const int64_t step = g * dense.group_steps + i / 4;
  const uint8_t byte = bytes[entry(stored, dense.groups * dense.group_steps, step) * 4 + i % 4];
  if (!int4) return static_cast<int8_t>(byte);
  return n.panel % 2 == 0 ? (byte & 15) - 8 : static_cast<int8_t>(byte) >> 4;
}

int32_t zero(const PackedDense& dense, Output n, int64_t g) {
  if (dense.zeros == nullptr) return 0;
  const int64_t at = entry(n, dense.groups, g);
  return dense.compact ? static_cast<const int8_t*>(dense.zeros)[at] : static_cast<const int32_t*>(dense.zeros)[at];
}

float scale(const PackedDense& dense, Output n, int64_t g) {
  const int64_t at = entry(n, dense.groups, g);
  if (dense.compact) return f16_to_f32(static_cast<const uint16_t*>(dense.scales)[at]);
  return static_cast<const float*>(dense.scales)[at];
}

float float_value(const PackedDense& dense, Output n, int64_t k) {
  const int64_t at = entry(n, dense.k, k);
  switch (dense.type) {
    case PackedType::f16: return f16_to_f32(static_cast<const uint16_t*>(dense.codes)[at]);
    case PackedType::bf16: return bf16_to_f32(static_cast<const uint16_t*>(dense.codes)[at]);
    case PackedType::coded: return bf16_to_f32(coded_value(dense, n.panel, n.lane, k));
    default: return static_cast<const float*>(dense.codes)[at];
  }
}

// What an output starts from.
float base(const LinearArgs& args, int64_t m, Output n) {
  const int64_t at = n.panel * kLanes + n.lane;
  if (args.begun) return args.y[m * args.y_stride + at];
  return args.bias == nullptr ? 0.0f : args.bias[at];
}

int32_t group_sum(const LinearArgs& args, int64_t m, Output n, int64_t g) {
  const uint8_t* codes = args.rows.codes + m * args.rows.stride + g * padded_group(args.dense);
  int64_t sum = 0;
  for (int64_t i = 0; i < group_length(args.dense, g); ++i)
    sum += int64_t{codes[i] - args.rows.zeros[m]} * (level(args.dense, n, g, i) - zero(args.dense, n, g));
  return static_cast<int32_t>(sum);
}

float integer_output(const LinearArgs& args, int64_t m, Output n) {
  float f = 0;
  for (int64_t g = 0; g < args.dense.groups; ++g)
    f = std::fma(scale(args.dense, n, g), static_cast<float>(group_sum(args, m, n, g)), f);
  return std::fma(args.rows.scales[m], f, base(args, m, n));
}

float integer_weights_output(const LinearArgs& args, int64_t m, Output n) {
  const PackedDense& dense = args.dense;
  float f = 0;
  for (int64_t g = 0; g < dense.groups; ++g) {
    const float* x = args.x + m * args.x_stride + g * dense.group_size;
    float a = 0;
    for (int64_t i = 0; i < group_length(dense, g); ++i)
      a = std::fma(x[i], static_cast<float>(level(dense, n, g, i) - zero(dense, n, g)), a);
    f = std::fma(scale(dense, n, g), a, f);
  }
  return base(args, m, n) + f;
}

float float_output(const LinearArgs& args, int64_t m, Output n) {
  float a = base(args, m, n);
  for (int64_t k = 0; k < args.dense.k; ++k)
    a = std::fma(args.x[m * args.x_stride + k], float_value(args.dense, n, k), a);
  return a;
}

float flushed(float value) { return std::abs(value) < kLeastNormal ? std::copysign(0.0f, value) : value; }

float flushing_fma(float x, float w, float a) {
  x = flushed(x);
  w = flushed(w);
  a = flushed(a);
  const float value = std::fma(x, w, a);
  if (value == 0 || !(std::abs(value) <= kLeastNormal)) return value;
  // Where rounding to a subnormal would take part in the decision: once more 2^32 times as large. The smaller factor
  // and the sum have room for that, or the result would not be this small.
  constexpr float kScale = 4294967296.0f;
  (std::abs(x) < std::abs(w) ? x : w) *= kScale;
  return std::abs(std::fma(x, w, a * kScale)) < kLeastNormal * kScale ? std::copysign(0.0f, value) : value;
}

// A subnormal sum is exact.
float flushing_add(float a, float b) { return flushed(flushed(a) + flushed(b)); }

// The weight of input k, of bf16_pairs and bf16_tiles or of codes; k_end with the layout's padding.
float half_weight(const PackedDense& dense, Output n, int64_t k, int64_t k_end) {
  if (dense.type == PackedType::coded_pairs || dense.type == PackedType::coded_tiles)
    return bf16_to_f32(coded_value(dense, n.panel, n.lane, k));
  return bf16_to_f32(static_cast<const uint16_t*>(dense.codes)[entry(n, k_end / 2, k / 2) * 2 + k % 2]);
}

float bf16_tiles_output(const LinearArgs& args, int64_t m, Output n) {
  constexpr int64_t kBlock = 32;
  const int64_t k_end = (args.dense.k + kBlock - 1) / kBlock * kBlock;
  const uint16_t* const x = args.halves + m * args.x_stride;
  float a = base(args, m, n);
  for (int64_t begin = 0; begin < k_end; begin += kBlock) {
    float sums[2] = {};
    for (int64_t k = begin; k < begin + kBlock; ++k)
      sums[k % 2] = flushing_fma(bf16_to_f32(x[k]), half_weight(args.dense, n, k, k_end), sums[k % 2]);
    a = flushing_add(a, flushing_add(sums[0], sums[1]));
  }
  return a;
}

float bf16_pairs_output(const LinearArgs& args, int64_t m, Output n) {
  const int64_t k_end = (args.dense.k + 1) / 2 * 2;
  const uint16_t* const x = args.halves + m * args.x_stride;
  float a = base(args, m, n);
  for (int64_t pair = 0; pair < k_end; pair += 2)
    for (int64_t k : {pair + 1, pair}) a = flushing_fma(bf16_to_f32(x[k]), half_weight(args.dense, n, k, k_end), a);
  return a;
}

int bits_of(PackedType type) {
  return type == PackedType::blocks4 ? 4 : type == PackedType::blocks5 ? 5 : type == PackedType::blocks6 ? 6 : 8;
}

// The level of input k in a block layout.
int32_t block_level(const PackedDense& dense, Output n, int64_t k) {
  const int bits = bits_of(dense.type);
  const int64_t chunks = dense.groups * dense.group_steps / kChunkSteps, step = k / 4 % kChunkSteps;
  const auto at = static_cast<size_t>(n.lane * 4 + k % 4);
  const uint8_t* chunk = static_cast<const uint8_t*>(dense.codes) + (n.panel * chunks + k / kChunkInputs) * 32 * bits;
  if (bits == 8) return chunk[static_cast<size_t>(step) * 64 + at] - 128;
  int code = chunk[static_cast<size_t>(step) / 2 * 64 + at] >> step % 2 * 4 & 15;
  if (bits == 6) code |= (chunk[128 + at] >> 2 * step & 3) << 4;
  if (bits == 5) code |= (chunk[128 + at % 32] >> (4 * (n.lane / 8) + step) & 1) << 4;
  return dense.levels[code] - 128;
}

float block_scale(const PackedDense& dense, Output n, int64_t b) {
  const uint8_t byte = static_cast<const uint8_t*>(dense.scales)[entry(n, dense.groups, b)];
  if (!dense.e4m3) return byte == 0 ? std::ldexp(1.0f, -127) : std::bit_cast<float>(uint32_t{byte} << 23);
  return f16_to_f32(static_cast<uint16_t>(byte << 7));  // whose exponents have a bias of 15, not 7
}

float blocks_output(const LinearArgs& args, int64_t m, Output n) {
  const int64_t block = args.dense.group_size, stride = block + int64_t{sizeof(BlockTail)};
  float f = 0;
  for (int64_t b = 0; b < args.dense.groups; ++b) {
    const uint8_t* record = args.rows.codes + m * args.rows.stride + b * stride;
    BlockTail tail;
    std::memcpy(&tail, record + block, sizeof tail);
    int32_t sum = 0;
    for (int64_t i = 0; i < block; ++i)
      sum += static_cast<int8_t>(record[i]) * block_level(args.dense, n, b * block + i);
    f = std::fma(static_cast<float>(sum) * tail.scale, block_scale(args.dense, n, b), f);
  }
  return std::fma(args.rows.scales[m] * args.dense.factor, f, base(args, m, n));
}

void each_output(const LinearArgs& args, float (*output)(const LinearArgs&, int64_t, Output)) {
  const int64_t end = std::min(args.dense.n, args.panel_end * kLanes);
  for (int64_t m = args.m_begin; m < args.m_end; ++m)
    for (int64_t n = args.panel_begin * kLanes; n < end; ++n)
      args.y[m * args.y_stride + n] = output(args, m, {n / kLanes, n % kLanes});
}

}  // namespace

void linear_blocks(const LinearArgs& args) { each_output(args, blocks_output); }
void linear_integer(const LinearArgs& args) { each_output(args, integer_output); }
void linear_integer_weights(const LinearArgs& args) { each_output(args, integer_weights_output); }
void linear_float(const LinearArgs& args) { each_output(args, float_output); }
void linear_bf16_pairs(const LinearArgs& args) { each_output(args, bf16_pairs_output); }
void linear_bf16_tiles(const LinearArgs& args) { each_output(args, bf16_tiles_output); }
void sparse(const SparseArgs& args) {
  for (int64_t m = args.token_begin; m < args.token_end; ++m)
    for (int64_t n = args.n_begin; n < args.n_end; ++n) {
      float& y = args.y[m * args.y_stride + n];
      float r = args.begun ? y : args.bias != nullptr ? args.bias[n] : 0.0f;
      for (int64_t i = n == 0 ? 0 : args.row_ends[n - 1]; i < args.row_ends[n]; ++i) {
        const int64_t place = args.columns[i];
        r = std::fma(args.x[args.alone ? place : place * kLanes + m], args.values[i], r);
      }
      y = r;
    }
}
void linear_coded(const LinearArgs& args) { each_output(args, float_output); }
void linear_coded_pairs(const LinearArgs& args) { each_output(args, bf16_pairs_output); }
void linear_coded_tiles(const LinearArgs& args) { each_output(args, bf16_tiles_output); }

}  // namespace nibble::ref
