#include "quantize/pipeline/head.h"

#include "model/globals.h"
#include "quantize/solve/round.h"

namespace nibble {

Spec stored_spec(Spec spec, const Recipe& recipe) {
  if (recipe.head) spec.tied_head = false;
  return spec;
}

Status quantize_head(const Recipe& recipe, GlobalWeights& globals, ThreadPool& pool) {
  if (!recipe.head) return {};
  const LinearWeight& original = globals.head ? *globals.head : globals.embedding;
  NIBBLE_TRY(const FloatLayer layer, float_layer(original, "head", pool));
  NIBBLE_TRY(globals.head,
             round_to_nearest(layer, {recipe.head->weights, recipe.head->activations, {}, false}, {}, pool));
  return globals.head->validate("head");
}

int64_t head_bytes(const Spec& spec, const HeadFormats& formats) {
  const Shape shape = shape_of(spec, Global::head);
  return shape.rows * row_sizes(formats.weights, shape.columns, false).bytes() +
         formats.weights.table_bytes(shape.rows, shape.columns) + (formats.weights.outer ? 4 : 0);
}

}  // namespace nibble
