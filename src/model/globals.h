// The linears outside the blocks as a list, so that reading, writing and checking walk it instead of naming each.
#pragma once

#include <string_view>
#include <vector>

#include "model/model.h"

namespace nibble {

enum class Global : uint8_t { embedding, head, project_in, project_out };

std::string_view name_of(Global linear);  // canonical: "embedding", "head", ...
Shape shape_of(const Spec& spec, Global linear);
// Those that a model of this Spec has.
std::vector<Global> globals_of(const Spec& spec);

// nullptr when it is not there.
const LinearWeight* find_linear(const GlobalWeights& globals, Global linear);
void set_linear(GlobalWeights& globals, Global linear, LinearWeight weight);

// Rows of the table of learned positions; 0 for other kinds of positions.
int64_t position_rows_of(const Spec& spec);

// Floats of a norm's gain and bias.
struct NormParts {
  bool gain = false, bias = false;
};
NormParts norm_parts_of(const Spec& spec);

// Bytes of one value of float levels.
inline int64_t bytes_of(Levels levels) { return levels == Levels::f32 ? 4 : 2; }

}  // namespace nibble
