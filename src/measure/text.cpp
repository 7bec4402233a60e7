#include "measure/text.h"

#include <algorithm>
#include <vector>

#include "measure/preset.h"

namespace nibble {
namespace {

Result<ProtocolOptions> protocol_options(const TextOptions& options, const Tokenizer& tokenizer, int64_t positions) {
  ProtocolOptions out;
  NIBBLE_TRY(out.protocol, protocol_named(options.protocol));
  out.window = options.window != 0 ? options.window : std::min(kLongestDefaultWindow, positions);
  const bool strided = out.protocol == Protocol::strided;
  if (!strided && options.stride != 0)
    return fail(ErrorCode::usage, "a stride of {} with the protocol {}; only strided has one", options.stride,
                options.protocol);
  if (strided) out.stride = options.stride != 0 ? options.stride : std::max<int64_t>(1, out.window / 2);
  if (!options.preset.empty() && out.protocol != Protocol::windows)
    return fail(ErrorCode::usage, "preset {} is scored by the protocol windows, not {}", options.preset,
                options.protocol);
  if (out.protocol == Protocol::second_half) out.bos = leading_token(tokenizer);
  return out;
}

}  // namespace

std::optional<int32_t> leading_token(const Tokenizer& tokenizer) {
  // Some tokenizers put their special token behind the text.
  const auto alone = tokenizer.encode(""), around = tokenizer.encode("a"), without = tokenizer.encode("a", false);
  const bool in_front = !alone.empty() && !around.empty() && around.front() == alone.front();
  if (!in_front || around == without) return std::nullopt;
  return alone.front();
}

Result<ScoredText> read_scored_text(std::string_view text, const TextOptions& options, const Tokenizer& tokenizer,
                                    int64_t max_positions) {
  NIBBLE_TRY(const ProtocolOptions protocol, protocol_options(options, tokenizer, max_positions));
  const auto encode = [&](std::string_view part) { return tokenizer.encode(part); };
  // Windows that cannot be scored are refused before a long text is tokenised.
  NIBBLE_DO(check_protocol(protocol, max_positions));
  std::vector<int32_t> ids;
  if (options.preset.empty()) {
    ids = encode(text);
  } else {
    NIBBLE_TRY(ids, preset_ids(options.preset, text, protocol.window, encode));
  }
  NIBBLE_TRY(ScoredText out, scored_text(std::move(ids), protocol, max_positions));
  out.preset = options.preset;
  return out;
}

}  // namespace nibble
