// What a quantized model answers to one prompt: a value that anyone who runs the folder can compare with.
#pragma once

#include "core/json.h"
#include "core/threads.h"
#include "model/model.h"
#include "quantize/pipeline/samples.h"
#include "tokenizer/tokenizer.h"

namespace nibble {

// The prompt as one sample: a fixed text, or, for a model without a tokenizer, a few fixed ids.
Samples fingerprint_prompt(const Tokenizer* tokenizer, const Spec& spec);

// {"ids": [...], "top": [[id, logit] x 8]} for the token after the prompt. `hidden`: its states after the last block
// [length][hidden]; only the globals of the quantized model are loaded.
Result<Json> logit_fingerprint(const ModelSource& quantized, const Samples& prompt, const std::vector<float>& hidden,
                               ThreadPool& pool);

// A few strings with their ids: [{"text", "ids"} ...].
Json tokenizer_examples(const Tokenizer& tokenizer);

}  // namespace nibble
