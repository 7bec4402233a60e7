// From the bytes of a text file to the tokens that are scored: preset, tokenization, protocol.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "measure/protocol.h"
#include "tokenizer/tokenizer.h"

namespace nibble {

inline constexpr int64_t kLongestDefaultWindow = 2048;

struct TextOptions {
  std::string protocol = "windows";
  int64_t window = 0;    // 0: min(2048, the model's positions)
  int64_t stride = 0;    // strided only; 0: half a window
  std::string preset{};  // measure/preset.h; empty: the text as it is
};

// The text is tokenised once with the tokenizer's own special tokens (c4: once per document). `usage` for an unknown
// protocol or preset, a stride without `strided`, another protocol than `windows` with a preset, and what scored_text()
// refuses; errors of preset_ids().
Result<ScoredText> read_scored_text(std::string_view text, const TextOptions& options, const Tokenizer& tokenizer,
                                    int64_t max_positions);

// What the tokenizer puts in front of a text: its bos or what serves as one; nullopt when nothing.
std::optional<int32_t> leading_token(const Tokenizer& tokenizer);

}  // namespace nibble
