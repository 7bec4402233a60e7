// What the operands of attention's two products are rounded to: queries and keys along a head, probabilities and values
// along positions. kernels/abi/attention.h says how they are computed with.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/json.h"
#include "core/result.h"
#include "format/number_format.h"

namespace nibble {

// Positions that a page of cached keys and values holds: blocks along positions must divide it.
inline constexpr int64_t kMostPositionBlock = 64;

// Blocks along a head begin with it; the last one, or the only one, may be shorter.
// q and p: f32 (not rounded) or a block format. k and v, which are stored: f32, f16, bf16 or a block format.
struct AttentionFormats {
  NumberFormat q, k, p, v;
  bool operator==(const AttentionFormats&) const = default;
  // Whether nothing is in a block format.
  bool plain() const { return q.is_float() && k.is_float() && p.is_float() && v.is_float(); }
  // The same with keys and values that are floats in f32: what differs from it only in those is the same model.
  AttentionFormats without_float_types() const;
};
inline constexpr std::string_view kAttentionOperands[] = {"q", "k", "p", "v"};
NumberFormat& operand_of(AttentionFormats& formats, std::string_view name);
const NumberFormat& operand_of(const AttentionFormats& formats, std::string_view name);

// The format of operand q, k, p or v; `where` starts the message of the `usage` error: what attention cannot decide
// token by token (a search, a fraction still to be found), blocks of positions that do not divide a page, and
// probabilities in a format without 1. The fraction of probabilities follows from that 1 where it is not said.
Result<NumberFormat> parse_attention_format(std::string_view operand, std::string_view text, std::string_view where);
// The same in a recipe, where the fractions of q, k and v may be left to calibration text: "fixed8".
Result<NumberFormat> parse_planned_attention_format(std::string_view operand, std::string_view text,
                                                    std::string_view where);
// "FORMAT" for both keys and values, or "KEYS/VALUES".
Result<AttentionFormats> with_cache(AttentionFormats formats, std::string_view text, std::string_view where);

// The largest magnitudes of queries and keys, rotated, and of values.
struct AttentionMagnitudes {
  float q = 0, k = 0, v = 0;
};
// Whether a fraction is still to be found, and the formats with the fractions that just hold these magnitudes.
bool has_open_fractions(const AttentionFormats& formats);
AttentionFormats with_fractions(AttentionFormats formats, const AttentionMagnitudes& most);
bool fulfils(const AttentionFormats& stored, const AttentionFormats& planned);

// "f32", or "KEYS/VALUES" where they differ.
std::string cache_name(const AttentionFormats& formats);
// In one line for people: "q f32, k bfp8:b16, p f32, v bfp8:b16", run by run where blocks differ.
std::string summary_of(std::span<const AttentionFormats> blocks);
// {"q": FORMAT, "k": ...}, all four.
Json to_json(const AttentionFormats& formats);
Result<AttentionFormats> attention_from_json(const Json& source, const std::string& where);

// What a cached code takes: 4, 5, 6 or 8 bits.
int cached_code_bits(const NumberFormat& format);
// Bits per cached number, scales included, as the cache stores them; of keys and values together.
double key_bits(const NumberFormat& format, int64_t head_dim);
double value_bits(const NumberFormat& format, int64_t head_dim);
double cache_bits(const AttentionFormats& formats, int64_t head_dim);
double cache_bits(std::span<const AttentionFormats> blocks, int64_t head_dim);  // the mean

}  // namespace nibble
