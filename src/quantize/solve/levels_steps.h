// Steps of a linear in learned levels, all before the step that solves; linears in other formats pass through them.
//   "kmeans": {"weighted_by": "moments" | "fisher" | "none"}        the tables, by weighted k-means (solve/kmeans.h)
//   "binary": {"linear_bits": 5, "scales": 10, "weighted_by": ...}  the tables, by binary codings (solve/binary.h)
//   "bell":   {"weighted_by": ...}                                  the tables of 2-bit codes, +-a and +-b
//             (solve/bell.h), but binary codings for groups in which all rows together err less with them
//   "sparse": {"sensitive": share, "effect": share, "magnitude": share, "loss": share, "weighted_by": ...}
//                                                                   weights that are kept apart (solve/sparse.h)
// What the error of a weight counts: `moments`: the sum of squares of its input channel on the calibration text;
// `fisher`: what the file of sensitivities says; `none`: all alike.
#pragma once

#include "quantize/step.h"

namespace nibble {

Result<StepPointer> read_kmeans(JsonReader& parameters);
Result<StepPointer> read_binary(JsonReader& parameters);
Result<StepPointer> read_bell(JsonReader& parameters);
Result<StepPointer> read_sparse(JsonReader& parameters);

}  // namespace nibble
