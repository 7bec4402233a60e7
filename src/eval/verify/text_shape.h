// What a text drawn at temperature 1 looks like: text, noise, or one token over and over. Nothing here reads a model.
#pragma once

#include <cstdint>
#include <string>

#include "eval/verify/sampling.h"

namespace nibble {

// All four are shares, 0 .. 1.
struct TextShape {
  double commonest = 0;         // of the drawn tokens: the most frequent one
  double distinct_bigrams = 1;  // of all pairs of neighbours
  double periodic = 0;          // of the drawn tokens: those in stretches of kShortestRepetition and more that repeat
                                // what came up to kLongestPeriod tokens before
  double entropy = 0;           // mean of the predictions, over log of the vocabulary: 1 is noise
};

inline constexpr int64_t kLongestPeriod = 16;
inline constexpr int64_t kShortestRepetition = 24;

TextShape text_shape(const SampledText& text, int64_t vocabulary);

// Limits without a reference: the first and the last two are the most that passes, the second is the least.
inline constexpr TextShape kShapeAlone{0.5, 0.15, 0.5, 0.97};
// Limits beside a reference whose own text looks like this: an honest model's text may be as monotonous as its
// original's.
TextShape limits_beside(const TextShape& reference);

// Why the text cannot be a language model's; empty when nothing is beyond its limit.
std::string fault_of(const TextShape& found, const TextShape& limit);

}  // namespace nibble
