// Which tokens of a text are predicted, and from what: the protocols of perplexity.
//
//   windows       the ids are cut into windows of W that do not overlap, the incomplete last one is dropped; every
//                 token of a window but its first is predicted. The GPTQ papers' protocol.
//   strided       windows of W begin every S tokens (S <= W), the last one may be shorter; a token is predicted once,
//                 in the first window that holds it, so that all but the first tokens have at least W - S tokens before
//                 them. Every token of the text but its first is predicted, unless S = W: then windows do not overlap
//                 and the first token of each has nothing to be predicted from. Hugging Face's protocol.
//   second_half   windows as in `windows`; where the tokenizer puts a bos in front of a text, it replaces the first
//                 token of every window; only tokens W/2 + 1 .. W - 1 of a window are predicted. llama.cpp's protocol.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"

namespace nibble {

enum class Protocol : uint8_t { windows, strided, second_half };
std::string_view name_of(Protocol protocol);  // "windows", "strided", "second-half"
Result<Protocol> protocol_named(std::string_view name);

struct ProtocolOptions {
  Protocol protocol = Protocol::windows;
  int64_t window = 0;            // W, tokens
  int64_t stride = 0;            // S, strided only
  std::optional<int32_t> bos{};  // second_half only
};

// A run of the model from an empty context over tokens [begin, begin + count) of a text. Tokens `first` .. count - 1
// of it are predicted, each from the tokens before it in the passage; first >= 1.
struct Passage {
  int64_t begin = 0, count = 0, first = 1;
  int64_t predictions() const { return count - first; }
  bool operator==(const Passage&) const = default;
};

struct ScoredText {
  std::vector<int32_t> ids;
  std::vector<Passage> passages;  // in the order of the text
  // How they were chosen, for reports; empty or 0 where that is not known.
  std::string protocol{};
  int64_t window = 0, stride = 0;
  std::string preset{};

  int64_t predictions() const;
  int64_t tokens_run() const;            // through a model: the sum of the passages' counts
  std::vector<int32_t> targets() const;  // the predicted tokens, in order
};
// What differs between two texts, for a message ("token 7 is 3 and 9"); nullopt when nothing does.
std::optional<std::string> difference_of(const ScoredText& a, const ScoredText& b);

// The part of scored_text()'s refusals that does not need the text.
Status check_protocol(const ProtocolOptions& options, int64_t max_positions);

// `usage` when the ids do not fill one window (strided: are fewer than 2), a window is shorter than 2 (second_half: 3)
// or longer than `max_positions`, or a stride is not in 1..W.
Result<ScoredText> scored_text(std::vector<int32_t> ids, const ProtocolOptions& options, int64_t max_positions);

}  // namespace nibble
