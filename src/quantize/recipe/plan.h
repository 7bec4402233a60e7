// A recipe applied to a model: what happens to every linear of a block.
#pragma once

#include <vector>

#include "format/attention_formats.h"
#include "format/number_format.h"
#include "model/spec.h"
#include "quantize/recipe/exceptions.h"
#include "quantize/recipe/recipe.h"

namespace nibble {

struct LinearPlan {
  Role role = Role::q;
  std::string name;  // "blocks.3.q"
  // Float weights: the linear is stored in that type and no step touches it.
  NumberFormat weights, activations;
  std::vector<PlannedStep> steps;  // of linear scope
  bool sparse24 = false;

  bool quantized() const { return weights.has_codes(); }
  bool has_tables_by_column() const { return weights.is_learned() && weights.sharing == Sharing::column; }
  bool reads_sensitivities() const;
};

struct SitePlan {
  Site site;
  std::string name;                // "blocks.3.gate_up"
  int64_t inputs = 0;              // K
  std::vector<PlannedStep> steps;  // of site scope; the same for all quantized linears
  std::vector<LinearPlan> linears;

  unsigned statistics() const;       // to be collected: none when no linear is quantized
  bool sparse24() const;             // some linear stores a 2:4 pattern
  bool turns() const;                // its input is rotated
  NumberFormat activations() const;  // of the quantized linears
};

// The sites of one block in execution order. `usage` errors: exceptions that conflict within a site, or that leave a
// linear with steps or formats that do not fit together, or with integer products whose sum may exceed 32 bits (columns
// that the recipe keeps count, too).
Result<std::vector<SitePlan>> plan_block(const Recipe& recipe, const Spec& spec, int64_t block);

// What attention of a block is computed in; fractions may be open (has_open_fractions).
Result<AttentionFormats> attention_of_block(const Recipe& recipe, const Spec& spec, int64_t block);
// Of all blocks, in order.
Result<std::vector<AttentionFormats>> attention_of_recipe(const Recipe& recipe, const Spec& spec);
// The same where no calibration text will find fractions: `usage` where one is open.
Result<std::vector<AttentionFormats>> closed_attention_of_recipe(const Recipe& recipe, const Spec& spec);

}  // namespace nibble
