#include "kernels/attention_plan.h"

#include <cmath>

#include "core/checked.h"
#include "core/half.h"
#include "format/block_scale.h"

namespace nibble {
namespace {

static_assert(kMostPositionBlock == kPagePositions);

constexpr int kHalfMantissa = 10, kHalfBias = 15;

Stored stored_floats(Levels levels) {
  return levels == Levels::f32 ? Stored::f32 : levels == Levels::f16 ? Stored::f16 : Stored::bf16;
}

// The level of a code of up to 4 bits.
float short_level(int code, const StoredFormat& format) {
  const int magnitude = code & 7;
  const float sign = code >= 8 ? -1.0f : 1.0f;
  if (format.as == Stored::integers) return static_cast<float>(code >= 8 ? code - 16 : code);
  if (format.as == Stored::minifloats)
    return sign * (format.unit * f16_to_f32(static_cast<uint16_t>(magnitude << format.half_shift)));
  return magnitude == 0 ? sign * 0.0f : sign * std::ldexp(1.0f, magnitude - 7);
}

// A minifloat is a float16 number whose exponent has another bias. Without a leading one its numbers are those of
// a minifloat with one bit of mantissa less, which float16 holds as they are.
void place_minifloat(const Minifloat& element, StoredFormat& out) {
  out.as = Stored::minifloats;
  out.half_shift = kHalfMantissa - element.mantissa_bits + (element.leading_one ? 0 : 1);
  out.unit = element.leading_one ? std::ldexp(1.0f, kHalfBias - element.bias) : 1;
}

// `count`: how many numbers a block could hold at most.
StoredFormat stored_as(const NumberFormat& format, int64_t count) {
  StoredFormat out;
  if (format.is_float()) {
    out.as = stored_floats(format.levels);
    return out;
  }
  out.code_bits = cached_code_bits(format);
  out.rounding = rounding_of(format);
  out.block = format.sharing == Sharing::none ? 0 : format.group_size(count);
  if (format.levels == Levels::minifloat) {
    place_minifloat((begin_levels() + format.row)->element, out);
  } else {
    out.as = format.levels == Levels::power ? Stored::powers : Stored::integers;
  }
  out.most_exponent = 127 - std::ilogb(out.unit);
  if (out.code_bits == 4)
    for (int code = 0; code < 16; ++code) out.levels[code] = short_level(code, out);
  return out;
}

int64_t bytes_of(const StoredFormat& format, int64_t count) {
  if (format.codes()) return count * format.code_bits / 8;
  return count * (format.as == Stored::f32 ? 4 : 2);
}

RoundArgs rounding_of_probabilities(const NumberFormat& format) {
  RoundArgs args = rounding_of(format);
  if (args.scale != BlockScale::e4m3) return args;
  args.outer = kProbabilityOuter;
  args.greatest = kProbabilityLevel;
  args.least = -kProbabilityLevel;
  return args;
}

CacheType type_of(Stored as) {
  return as == Stored::f32 ? CacheType::f32 : as == Stored::f16 ? CacheType::f16 : CacheType::bf16;
}

}  // namespace

RoundArgs rounding_of(const NumberFormat& format) {
  RoundArgs args{};
  if (!format.is_block()) return args;
  args.block = format.sharing == Sharing::group ? format.group : INT64_MAX;
  if (format.levels == Levels::integer) {
    args.mantissa_bits = args.least_exponent = format.bits - 2;
    args.least = std::ldexp(-1.0f, format.bits - 1);
    args.greatest = -args.least - 1;
  } else {
    const Element& element = Element::of(format);
    args.rounding = format.levels == Levels::power ? Rounding::powers
                    : element.ties_away()          ? Rounding::away
                                                   : Rounding::to_even;
    args.mantissa_bits = element.mantissa_bits();
    args.least_exponent = element.least_exponent();
    args.greatest = element.greatest();
    args.least = -args.greatest;
  }
  if (format.sharing == Sharing::none) {
    args.constant = block_scale(format, 1, 1);
  } else if (format.scale == ScaleCodec::e4m3) {
    args.scale = BlockScale::e4m3;
  } else {
    args.scale = BlockScale::power;
    const PowerRule rule = power_rule(format);
    args.shift = rule.shift;
    args.up_from = rule.up_from;
    args.down_below = rule.down_below;
  }
  return args;
}

AttentionPlan::AttentionPlan(const AttentionFormats& formats, int64_t head_dim)
    : formats_(formats),
      head_dim_(head_dim),
      value_stride_(round_up(head_dim, kKeyPanel)),
      key_(stored_as(formats.k, head_dim)),
      value_(stored_as(formats.v, kPagePositions)),
      q_(rounding_of(formats.q)),
      p_(rounding_of_probabilities(formats.p)) {
  if (formats.plain() && key_.as == value_.as) type_ = type_of(key_.as);
  values_ = round_up(bytes_of(key_, kPagePositions * head_dim_), 64);
  key_scales_ = values_ + round_up(bytes_of(value_, kPagePositions * value_stride_), 64);
  key_outers_ = key_scales_ + (key_.block > 0 ? kPagePositions * ceil_div(head_dim_, key_.block) : 0);
  value_scales_ = key_outers_ + (key_.outer() ? kPagePositions : 0);
  const int64_t value_blocks = value_.block > 0 ? kPagePositions / value_.block : 0;
  value_outers_ = value_scales_ + value_blocks * value_stride_;
  end_ = round_up(value_outers_ + (value_.outer() ? value_blocks : 0), 64);
}

CachedHead AttentionPlan::head(std::byte* const* pages, int64_t at) const {
  CachedHead head{};
  head.type = type_;
  head.head_dim = head_dim_;
  head.value_stride = value_stride_;
  head.pages = pages;
  head.keys = at;
  head.values = at + values_;
  head.key_scales = at + key_scales_;
  head.value_scales = at + value_scales_;
  head.key_outers = at + key_outers_;
  head.value_outers = at + value_outers_;
  head.key_format = &key_;
  head.value_format = &value_;
  head.q = formats_.q.is_block() ? &q_ : nullptr;
  head.p = formats_.p.is_block() ? &p_ : nullptr;
  return head;
}

}  // namespace nibble
