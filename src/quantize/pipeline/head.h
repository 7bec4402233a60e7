// The output matrix of a model whose recipe gives it a format ("head"). No step sees it: it is rounded to nearest, and
// needs no data.
#pragma once

#include "core/threads.h"
#include "model/model.h"
#include "quantize/recipe/recipe.h"

namespace nibble {

// The Spec of the model as it is stored: a quantized head is not the embedding any more.
Spec stored_spec(Spec spec, const Recipe& recipe);

// globals.head in the recipe's format, made from the embedding where it is tied; nothing without "head".
Status quantize_head(const Recipe& recipe, GlobalWeights& globals, ThreadPool& pool);

// Bytes that a quantized head takes in the output.
int64_t head_bytes(const Spec& spec, const HeadFormats& formats);

}  // namespace nibble
