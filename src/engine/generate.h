// Generation of one sequence: prefill in chunks, then one token at a time.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"
#include "core/threads.h"
#include "engine/sampler.h"
#include "runtime/model.h"
#include "tokenizer/tokenizer.h"

namespace nibble {

struct GenerationOptions {
  int64_t max_tokens = 128;
  SamplingOptions sampling;
  std::vector<std::string> stop;     // stop strings; not part of the output
  std::vector<int32_t> stop_tokens;  // end-of-sequence ids; not part of the text
  int64_t prefill_chunk = 512;       // tokens run at a time; does not change the result
};

// Why it ended: max_tokens were made, a stop token or string came, the model's positions are full, or on_text said so.
enum class StopReason : uint8_t { length, stop_token, stop_string, context, cancelled };
std::string_view name_of(StopReason reason);

struct Generation {
  std::string text;                // of the generated tokens, decoded by themselves
  std::vector<int32_t> token_ids;  // generated ones, the stop token included
  int64_t prompt_tokens = 0;
  StopReason reason = StopReason::length;
  double prefill_seconds = 0, decode_seconds = 0;
};

// `on_text` gets the text as it appears: never half a code point, never part of a stop string; returning false
// stops early. `usage` error for an empty prompt or one longer than the model's positions.
Result<Generation> generate(const Model& model, const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                            const GenerationOptions& options, ThreadPool& pool,
                            const std::function<bool(std::string_view)>& on_text = {});

}  // namespace nibble
