#include <algorithm>
#include <bit>
#include <cmath>
#include <initializer_list>
#include <limits>

#include "core/half.h"
#include "kernels/ref/rounding.h"
#include "kernels/ref/rows.h"

namespace nibble::ref {
namespace {

// --- codes ------------------------------------------------------------------------------------------------------

float float_of(Stored as, const std::byte* from, int64_t at) {
  if (as == Stored::f32) return reinterpret_cast<const float*>(from)[at];
  const uint16_t half = reinterpret_cast<const uint16_t*>(from)[at];
  return as == Stored::f16 ? f16_to_f32(half) : bf16_to_f32(half);
}

void put_float(Stored as, std::byte* to, int64_t at, float value) {
  if (as == Stored::f32) {
    reinterpret_cast<float*>(to)[at] = value;
  } else {
    reinterpret_cast<uint16_t*>(to)[at] = as == Stored::f16 ? f32_to_f16(value) : f32_to_bf16(value);
  }
}

int code_of(float level, const StoredFormat& format) {
  const int magnitudes = 1 << (format.code_bits - 1);
  if (format.as == Stored::integers) return static_cast<int>(level) & (2 * magnitudes - 1);
  const int sign = std::signbit(level) ? magnitudes : 0;
  if (format.as == Stored::minifloats) return sign | f32_to_f16(std::fabs(level) / format.unit) >> format.half_shift;
  if (level == 0) return sign;
  const int exponent = static_cast<int>(std::bit_cast<uint32_t>(level) >> 23 & 255);
  return sign | (exponent - (127 - magnitudes + 1));
}

float level_of_code(int code, const StoredFormat& format) {
  if (format.code_bits == 4) return format.levels[code];
  const int magnitudes = 1 << (format.code_bits - 1);
  if (format.as == Stored::integers) return static_cast<float>(code >= magnitudes ? code - 2 * magnitudes : code);
  const float sign = code >= magnitudes ? -1.0f : 1.0f;
  const int magnitude = code & (magnitudes - 1);
  if (format.as == Stored::minifloats)
    return sign * (format.unit * f16_to_f32(static_cast<uint16_t>(magnitude << format.half_shift)));
  return magnitude == 0 ? sign * 0.0f : sign * std::ldexp(1.0f, magnitude - magnitudes + 1);
}

// A run of bits of a code: `bits` of them at bit `shift` of a byte.
struct BitField {
  int64_t byte;
  int64_t shift, bits;

  int mask() const { return (1 << bits) - 1; }
  int get(const std::byte* from) const { return static_cast<int>(from[byte]) >> shift & mask(); }
  void put(std::byte* to, int value) const {
    const int others = static_cast<int>(to[byte]) & ~(mask() << shift);
    to[byte] = static_cast<std::byte>(others | (value & mask()) << shift);
  }
};

// Code `at` of groups of 16: its upper bits, and those below them.
BitField upper_bits(int64_t at, int64_t bits) {
  if (bits == 8) return {at, 0, 8};
  return {at / 16 * 2 * bits + at % 8, at % 16 / 8 * 4, 4};
}
BitField lower_bits(int64_t at, int64_t bits) {
  const int64_t begin = at / 16 * 2 * bits + 8, i = at % 16;
  return bits == 5 ? BitField{begin + i / 8, i % 8, 1} : BitField{begin + i % 4, i / 4 * 2, 2};
}

int get_code(const std::byte* from, int64_t at, int bits) {
  const int upper = upper_bits(at, bits).get(from);
  if (bits == 4 || bits == 8) return upper;
  const BitField lower = lower_bits(at, bits);
  return upper << lower.bits | lower.get(from);
}

void put_code(std::byte* to, int64_t at, int bits, int code) {
  if (bits == 4 || bits == 8) return upper_bits(at, bits).put(to, code);
  const BitField lower = lower_bits(at, bits);
  upper_bits(at, bits).put(to, code >> lower.bits);
  lower.put(to, code);
}

float scale_of(std::byte byte) {
  const int exponent = static_cast<int>(byte);
  return exponent == 255 ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0f, exponent - 127);
}
std::byte byte_of(float power) { return static_cast<std::byte>(std::ilogb(power) + 127); }

// E4M3 numbers are float16 numbers whose exponent has another bias.
constexpr int kE4m3Shift = 7;
constexpr float kE4m3Unit = 256;
float e4m3_of(std::byte byte) {
  if (byte == std::byte{127}) return std::numeric_limits<float>::quiet_NaN();
  return kE4m3Unit * f16_to_f32(static_cast<uint16_t>(static_cast<int>(byte) << kE4m3Shift));
}

// --- a head's part of the pages -----------------------------------------------------------------------------------

struct Cached {
  const CachedHead& head;
  StoredFormat plain{};
  const StoredFormat &keys, &values;

  explicit Cached(const CachedHead& cached)
      : head(cached),
        keys(cached.type == CacheType::mixed ? *cached.key_format : plain),
        values(cached.type == CacheType::mixed ? *cached.value_format : plain) {
    plain.as = cached.type == CacheType::f16    ? Stored::f16
               : cached.type == CacheType::bf16 ? Stored::bf16
                                                : Stored::f32;
  }
  Cached(const Cached&) = delete;

  std::byte* page(int64_t j) const { return head.pages[j / kPagePositions]; }

  int64_t key_at(int64_t j, int64_t d) const {
    return (j % kPagePositions / kKeyPanel * head.head_dim + d) * kKeyPanel + j % kKeyPanel;
  }
  int64_t value_at(int64_t j, int64_t d) const { return j % kPagePositions * head.value_stride + d; }
  std::byte& key_scale(int64_t j, int64_t d) const {
    const int64_t blocks = (head.head_dim + keys.block - 1) / keys.block, panel = j % kPagePositions / kKeyPanel;
    return page(j)[head.key_scales + (panel * blocks + d / keys.block) * kKeyPanel + j % kKeyPanel];
  }
  std::byte& value_scale(int64_t j, int64_t d) const {
    return page(j)[head.value_scales + j % kPagePositions / values.block * head.value_stride + d];
  }
  std::byte& key_outer(int64_t j) const { return page(j)[head.key_outers + j % kPagePositions]; }
  std::byte& value_outer(int64_t j) const { return page(j)[head.value_outers + j % kPagePositions / values.block]; }

  // What the codes of a key, and of a value, are multiplied with. Outer scales have a place in NVFP4 pages alone.
  float unit_of_key(int64_t j, int64_t d) const {
    if (keys.block == 0) return keys.rounding.constant;
    return keys.outer() ? e4m3_of(key_scale(j, d)) * scale_of(key_outer(j)) : scale_of(key_scale(j, d));
  }
  float unit_of_value(int64_t j, int64_t d) const {
    if (values.block == 0) return values.rounding.constant;
    return values.outer() ? e4m3_of(value_scale(j, d)) * scale_of(value_outer(j)) : scale_of(value_scale(j, d));
  }

  float key(int64_t j, int64_t d) const {
    const std::byte* from = page(j) + head.keys;
    if (!keys.codes()) return float_of(keys.as, from, key_at(j, d));
    return unit_of_key(j, d) * level_of_code(get_code(from, key_at(j, d), keys.code_bits), keys);
  }
  float value(int64_t j, int64_t d) const {
    const std::byte* from = page(j) + head.values;
    if (!values.codes()) return float_of(values.as, from, value_at(j, d));
    return unit_of_value(j, d) * level_of_code(get_code(from, value_at(j, d), values.code_bits), values);
  }

  // Values that share no scale with others, or float ones.
  void store_key(int64_t j, int64_t d, float key) const { store_one(keys, page(j) + head.keys, key_at(j, d), key); }
  void store_value(int64_t j, int64_t d, float value) const {
    store_one(values, page(j) + head.values, value_at(j, d), value);
  }
  static void store_one(const StoredFormat& format, std::byte* to, int64_t at, float x) {
    if (!format.codes()) return put_float(format.as, to, at, x);
    const float level = std::isfinite(x) ? level_of(x / format.rounding.constant, format.rounding) : 0;
    put_code(to, at, format.code_bits, code_of(level, format));
  }
};

// Chooses the scale byte of a block and gives every value's code to `put`. `outer`: of E4M3 scales.
template <class Put>
std::byte encode_block(const StoredFormat& format, const float* x, int64_t count, float outer, const Put& put) {
  const float most = absmax_of(x, count);
  if (std::isnan(most)) {
    for (int64_t i = 0; i < count; ++i) put(i, 0);
    return static_cast<std::byte>(format.outer() ? 127 : 255);
  }
  const auto put_codes = [&](float scale) {
    for (int64_t i = 0; i < count; ++i) put(i, code_of(level_of(x[i] / scale, format.rounding), format));
  };
  if (format.outer()) {
    const float scale = most == 0 ? 1 : to_e4m3(most / (format.rounding.greatest * outer));
    put_codes(scale * outer);
    return static_cast<std::byte>(f32_to_f16(scale / kE4m3Unit) >> kE4m3Shift);
  }
  int exponent = 0;
  if (most > 0) exponent = std::min(scale_exponent(format.rounding, most), format.most_exponent);
  put_codes(std::ldexp(1.0f, exponent));
  return static_cast<std::byte>(exponent + 127);
}

// --- attention ----------------------------------------------------------------------------------------------------

// Value d of x, rotated to `position`.
float rotated(const float* x, int64_t d, const RotaryTables& angles, int64_t position, int64_t head_dim) {
  if (angles.cosines == nullptr) return x[d];
  const int64_t half = head_dim / 2, i = d % half;
  const float cosine = angles.cosines[position * half + i], sine = angles.sines[position * half + i];
  return d < half ? std::fma(x[i], cosine, -(x[i + half] * sine)) : std::fma(x[i + half], cosine, x[i] * sine);
}

float exponential(float x) {
  if (std::isnan(x)) return x;
  x = x < -87.0f ? -87.0f : x;
  const float n = std::nearbyint(x * 1.44269504f);
  float r = std::fma(n, -0.693359375f, x);
  r = std::fma(n, 2.12194440e-4f, r);
  float e = 1.0f / 5040;
  for (float coefficient : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
    e = std::fma(e, r, coefficient);
  return std::ldexp(e, static_cast<int>(n));
}

float score(const Cached& cached, const float* q, int64_t j, float scale, const float* bias) {
  float a = 0;
  for (int64_t d = 0; d < cached.head.head_dim; ++d) a = std::fma(q[d], cached.key(j, d), a);
  const float s = scale * a;
  return bias != nullptr ? s + bias[j] : s;
}

// Scores to weights; returns their sum.
float exponentiate(float* scores, int64_t count, float greatest) {
  float sums[kKeyPanel] = {};
  for (int64_t j = 0; j < count; ++j) {
    scores[j] = exponential(scores[j] - greatest);
    sums[j % kKeyPanel] += scores[j];
  }
  for (int64_t step = kKeyPanel / 2; step > 0; step /= 2)
    for (int64_t lane = 0; lane < step; ++lane) sums[lane] += sums[lane + step];
  return sums[0];
}

// `room` has space for count / 2 floats.
void round_in_place(RoundArgs args, float* x, int64_t count, float* room) {
  args.x = x;
  args.count = count;
  args.y = reinterpret_cast<uint16_t*>(room);
  round(args);
  for (int64_t i = 0; i < count; ++i) x[i] = bf16_to_f32(args.y[i]);
}

// The value that a query at position t reads at j.
float value_seen(const AttentionArgs& args, const Cached& cached, int64_t t, int64_t j, int64_t d) {
  const int64_t block = cached.values.codes() ? cached.values.block : 0;
  if (block == 0 || j / block < t / block) return cached.value(j, d);
  if (j >= args.added_position)
    return bf16_to_f32(f32_to_bf16(args.added[(j - args.added_position) * args.added_stride + d]));
  return bf16_to_f32(args.cache.tail[j % args.cache.tail_rows * args.cache.value_stride + d]);
}

void attend(const AttentionArgs& args, const AttentionQuery& query) {
  const Cached cached(args.cache);
  const bool mixed = args.cache.type == CacheType::mixed;
  const int64_t head_dim = args.cache.head_dim;
  float *const q = args.scratch, *const scores = q + head_dim, *const room = scores + query.position + 1;
  for (int64_t d = 0; d < head_dim; ++d) q[d] = rotated(query.q, d, args.angles, query.position, head_dim);
  if (mixed && args.cache.q != nullptr) round_in_place(*args.cache.q, q, head_dim, scores);
  float greatest = -INFINITY;
  for (int64_t j = 0; j <= query.position; ++j) {
    scores[j] = score(cached, q, j, args.scale, query.bias);
    greatest = scores[j] > greatest ? scores[j] : greatest;
  }
  const float total = exponentiate(scores, query.position + 1, greatest);
  if (mixed && args.cache.p != nullptr) round_in_place(*args.cache.p, scores, query.position + 1, room);
  for (int64_t d = 0; d < head_dim; ++d) {
    float a = 0;
    for (int64_t j = 0; j <= query.position; ++j)
      a = std::fma(scores[j], value_seen(args, cached, query.position, j, d), a);
    query.y[d] = a / total;
  }
}

// --- storing ------------------------------------------------------------------------------------------------------

void store_keys(const CacheStoreArgs& args, const Cached& cached, int64_t token) {
  const int64_t position = args.position + token, head_dim = args.cache.head_dim;
  const float* const keys = args.keys + token * args.key_stride;
  const auto key = [&](int64_t d) { return rotated(keys, d, args.angles, position, head_dim); };
  if (!cached.keys.codes() || cached.keys.block == 0) {
    for (int64_t d = 0; d < head_dim; ++d) cached.store_key(position, d, key(d));
    return;
  }
  for (int64_t d = 0; d < head_dim; ++d) args.scratch[d] = key(d);
  const float outer = outer_scale(cached.keys.rounding, absmax_of(args.scratch, head_dim));
  if (cached.keys.outer()) cached.key_outer(position) = byte_of(outer);
  for (int64_t begin = 0; begin < head_dim; begin += cached.keys.block) {
    const int64_t count = std::min(cached.keys.block, head_dim - begin);
    cached.key_scale(position, begin) =
        encode_block(cached.keys, args.scratch + begin, count, outer, [&](int64_t i, int code) {
          put_code(cached.page(position) + args.cache.keys, cached.key_at(position, begin + i), cached.keys.code_bits,
                   code);
        });
  }
}

// The bfloat16 number of position j, which is being added or in the tail.
uint16_t half_of(const CacheStoreArgs& args, int64_t j, int64_t d) {
  if (j >= args.position) return f32_to_bf16(args.values[(j - args.position) * args.value_stride + d]);
  return args.cache.tail[j % args.cache.tail_rows * args.cache.value_stride + d];
}

// The block that begins at position `begin`.
void store_value_block(const CacheStoreArgs& args, const Cached& cached, int64_t begin) {
  const int64_t block = cached.values.block, head_dim = args.cache.head_dim;
  float* const x = args.scratch;  // [head_dim][block]
  for (int64_t d = 0; d < head_dim; ++d)
    for (int64_t i = 0; i < block; ++i) x[d * block + i] = bf16_to_f32(half_of(args, begin + i, d));
  const float outer = outer_scale(cached.values.rounding, absmax_of(x, head_dim * block));
  if (cached.values.outer()) cached.value_outer(begin) = byte_of(outer);
  for (int64_t d = 0; d < head_dim; ++d)
    cached.value_scale(begin, d) = encode_block(cached.values, x + d * block, block, outer, [&](int64_t i, int code) {
      put_code(cached.page(begin) + args.cache.values, cached.value_at(begin + i, d), cached.values.code_bits, code);
    });
}

// Those blocks that end with the tokens given.
void store_value_blocks(const CacheStoreArgs& args, const Cached& cached) {
  const int64_t block = cached.values.block, end = (args.position + args.count) / block * block;
  for (int64_t begin = args.position / block * block; begin < end; begin += block)
    store_value_block(args, cached, begin);
}

void store_tail(const CacheStoreArgs& args) {
  const int64_t end = args.position + args.count, rows = args.cache.tail_rows;
  for (int64_t j = end / rows * rows; j < end; ++j)
    for (int64_t d = 0; d < args.cache.head_dim; ++d)
      args.cache.next_tail[j % rows * args.cache.value_stride + d] = half_of(args, j, d);
}

}  // namespace

void attention(const AttentionArgs& args) {
  for (int64_t i = 0; i < args.count; ++i) attend(args, args.queries[i]);
}

void store_cache(const CacheStoreArgs& args) {
  const Cached cached(args.cache);
  for (int64_t token = 0; token < args.count; ++token) store_keys(args, cached, token);
  if (cached.values.codes() && cached.values.block > 0) {
    store_value_blocks(args, cached);
    return store_tail(args);
  }
  for (int64_t token = 0; token < args.count; ++token)
    for (int64_t d = 0; d < args.cache.head_dim; ++d)
      cached.store_value(args.position + token, d, args.values[token * args.value_stride + d]);
}

}  // namespace nibble::ref
