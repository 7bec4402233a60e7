// What a quantized model answers to one prompt, and what its tokenizer does with a few strings: values that anyone who
// has the folder can compute again and compare (`nibble verify`).
//
// In the manifest:
//   "tokenizer": {"examples": [{"text", "ids", "decoded"} ...],
//                 "vocabulary": {"size", "sha256"}, "bos", "eos", "end_tokens": [...]}
//   "logits":    {"ids": [...], "top": [[id, logit] x 8], "entropy",
//                 "positions": [{"after", "top": [[id, logit] x 4], "entropy"} ...], "nll"}
//
// `top` of the whole prompt's last token; `positions` of the tokens in between, after the prompt's first `after`
// tokens; entropies and `nll` (the mean over the prompt's own tokens) in nats. Manifests of earlier versions hold the
// list of examples as "tokenizer", without "decoded", and of "logits" only `ids` and `top`.
#pragma once

#include <span>
#include <vector>

#include "core/json.h"
#include "core/threads.h"
#include "model/model.h"
#include "quantize/pipeline/samples.h"
#include "runtime/model.h"
#include "tokenizer/tokenizer.h"

namespace nibble {

// The prompt as one sample of at most 64 tokens: a fixed text, or, for a model without a tokenizer, fixed ids.
Samples fingerprint_prompt(const Tokenizer* tokenizer, const Spec& spec);

// "logits". `hidden`: the prompt's states after the last block [length][hidden]; only the globals of the quantized
// model are loaded.
Result<Json> logit_fingerprint(const ModelSource& quantized, const Samples& prompt, const std::vector<float>& hidden,
                               ThreadPool& pool);

// How far a model that runs is from a recorded "logits"; its keys and values in f32, as while quantizing.
struct FingerprintDifference {
  int64_t tokens = 0, logits = 0;  // of the prompt; logits that were compared
  double logit = 0;                // the greatest difference of a logit
  double entropy = 0, nll = 0;     // likewise; 0 where nothing is recorded
  bool identical = true;           // all of them bit for bit
};
// `corrupt` when `recorded` is malformed, has ids outside the vocabulary or is longer than the model's positions.
Result<FingerprintDifference> compare_fingerprint(const Model& model, const Json& recorded, ThreadPool& pool);

// Whether this program computes as the one that wrote the manifest did, bit for bit: the same version on the same
// instruction set. (The GELU takes erf from the C library, which is nobody's promise.)
bool same_arithmetic(const Json& manifest, const Model& model);

// "tokenizer". `end_tokens`: of the folder (model/end_tokens.h).
Json tokenizer_fingerprint(const Tokenizer& tokenizer, std::span<const int32_t> end_tokens);
// The strings of the examples.
std::vector<std::string> tokenizer_strings();
// {"size", "sha256"}: over all tokens in the order of their ids.
Json vocabulary_digest(const Tokenizer& tokenizer);

}  // namespace nibble
