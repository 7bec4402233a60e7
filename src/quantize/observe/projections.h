// What calibration text shows of the operands of attention's products: how large queries, keys and values get.
#pragma once

#include <cstdint>

#include "core/threads.h"
#include "format/attention_formats.h"
#include "model/spec.h"
#include "runtime/attention.h"
#include "runtime/positions.h"

namespace nibble {

// Raises `most` to the largest magnitudes among `samples` sequences of `length` tokens each, queries and keys rotated
// to their positions. Values that are no numbers are passed over: the site that reads attention reports them.
void observe_projections(const Spec& spec, const Projections& from, const PositionTables& positions, int64_t samples,
                         int64_t length, AttentionMagnitudes& most, ThreadPool& pool);

}  // namespace nibble
