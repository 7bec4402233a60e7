// Texts to ids as lm-evaluation-harness does it for the likelihood of a continuation.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/result.h"
#include "tokenizer/tokenizer.h"

namespace nibble {

// A context and its continuation. ids[start ..] are predicted, each from all ids before it; the last one is never read.
struct Continuation {
  std::vector<int32_t> ids;
  int64_t start = 0;       // >= 1
  bool truncated = false;  // ids at the beginning of the context were left out

  int64_t tokens() const { return static_cast<int64_t>(ids.size()) - start; }  // predicted
};

// White space at the end of the context belongs to the continuation. The context's ids are those of the context alone;
// the continuation's are what the ids of the whole text have after that many. What exceeds `positions` + 1 ids is cut
// off on the left. Special tokens (<s>) are put in front as the tokenizer's own rule says, unless not wanted or the
// text itself starts with the bos token's (else the eos token's) spelling.
//
// `usage` when the continuation alone has more than `positions` ids; `corrupt` when context or continuation have none.
Result<Continuation> encode_continuation(const Tokenizer& tokenizer, std::string_view context,
                                         std::string_view continuation, bool special_tokens, int64_t positions);

}  // namespace nibble
