// Everything that is known about a model, layer by layer, from its folder and from that of the original.
#pragma once

#include <filesystem>
#include <string>

#include "core/progress.h"
#include "core/result.h"
#include "core/threads.h"
#include "eval/report/layer_report.h"

namespace nibble {

// `folder`: what `nibble quantize` wrote, or any model folder (a dequantized one, say: then formats, sizes and, with a
// reference, weight errors are known). `reference`: the original, or empty; with it the weight errors are computed
// again, from the tensors of both, for every linear. One block of each model is in memory at a time. The divergence is
// left empty.
//
// Errors: those of opening both models; `corrupt` when the manifest or the statistics belong to another model, or when
// the reference has another Spec (names what differs).
Result<LayerReport> collect_report(const std::filesystem::path& folder, const std::filesystem::path& reference,
                                   ThreadPool& pool, const ProgressCallback& progress = {});

}  // namespace nibble
