// Text to calibrate or to measure on: slices of equal length at random places.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"
#include "tokenizer/tokenizer.h"

namespace nibble {

struct Samples {
  int64_t count = 0, length = 0;
  std::vector<int32_t> tokens;  // [count][length]
  std::string hash;             // SHA-256 of the tokens as little-endian int32

  std::span<const int32_t> sample(int64_t i) const {
    return std::span(tokens).subspan(static_cast<size_t>(i * length), static_cast<size_t>(length));
  }
};

// The files are joined and tokenized once, with the special tokens that the tokenizer puts around a text. Each sample
// is a plain slice of `length` tokens, its start drawn uniformly from all possible ones, with replacement (as the GPTQ
// papers do; nothing is put in front of a slice). `usage` error with the numbers when the text is shorter than one
// slice. `what` names the text in messages: "calibration".
Result<Samples> draw_samples(std::span<const std::filesystem::path> files, const Tokenizer& tokenizer, int64_t count,
                             int64_t length, uint64_t seed, std::string_view what);
// The same from ids that are there already.
Result<Samples> draw_samples(std::span<const int32_t> ids, int64_t count, int64_t length, uint64_t seed,
                             std::string_view what);

}  // namespace nibble
