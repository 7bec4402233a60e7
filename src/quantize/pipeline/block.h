// One block: its sites observed and its linears solved, in execution order, each site on the input that the already
// quantized part of the block gives it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "format/attention_formats.h"
#include "quantize/observe/sensitivity.h"
#include "quantize/pipeline/hidden_stream.h"
#include "quantize/quantize.h"
#include "quantize/recipe/plan.h"

namespace nibble {

// Text running through the model while it is quantized. Either may be null; without calibration text only recipes
// that observe nothing can be carried out.
struct Streams {
  HiddenStream* calibration = nullptr;
  HiddenStream* validation = nullptr;
  bool any() const { return calibration != nullptr || validation != nullptr; }
};

struct BlockResult {
  BlockWeights weights;
  std::vector<LinearReport> reports;  // of quantized linears
  // With calibration text, of every site in execution order: what its input looked like, and the largest |x| of its
  // channels, all in one array.
  std::vector<SiteReport> sites;
  std::vector<float> absmax;
  double left_over = 0;        // SiteWork::left_over after the last site
  AttentionFormats attention;  // with the fractions that calibration text gives
};

// `told` is called after each site with its number. `sensitivities`: null where no step reads any.
// `left_over`: of the block before. `attention`: as planned; open fractions need calibration text.
Result<BlockResult> quantize_block(const Spec& spec, const std::vector<SitePlan>& plan,
                                   const AttentionFormats& attention, int64_t index, BlockWeights original,
                                   const Streams& streams, const SensitivityFile* sensitivities, double left_over,
                                   Isa isa, ThreadPool& pool, const std::function<void(size_t)>& told);

}  // namespace nibble
