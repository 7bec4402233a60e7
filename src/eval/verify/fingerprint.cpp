// Does the model still answer the manifest's prompt as it did when it was made?
#include "quantize/pipeline/fingerprint.h"
#include "eval/verify/checks.h"

namespace nibble {
namespace {

// The same version on the same instruction set gives the same bits. Others add in another order in a few places: the
// last bits differ, and where activations are rounded to a grid now and then one falls to the other side, which every
// logit after it sees. Both tolerances and what was measured are in docs/evidence.md.
struct Tolerance {
  double logit, entropy, nll;
};
constexpr Tolerance kTight{1e-3, 1e-3, 1e-4}, kRounded{4, 1.5, 0.1};

std::string describe(const FingerprintDifference& found) {
  return fmt::format("{} logits after {} tokens differ by at most {:.2g}, entropies by {:.2g}, the nll by {:.2g}",
                     found.logits, found.tokens, found.logit, found.entropy, found.nll);
}

}  // namespace

Result<Finding> check_fingerprint(Examination& examination) {
  if (!examination.manifest) return skipped("no manifest, so no recorded logits");
  const auto recorded = examination.manifest->find("logits");
  if (recorded == examination.manifest->end()) return skipped("the manifest records no logits");
  NIBBLE_TRY(const Model* model, examination.candidate_model());
  NIBBLE_TRY(const FingerprintDifference found, compare_fingerprint(*model, *recorded, examination.pool));
  if (found.identical)
    return passed(fmt::format("{} logits after {} tokens are the manifest's, bit for bit", found.logits, found.tokens));
  NIBBLE_TRY(const BitWidths widths, bit_widths_of(*examination.candidate.source));
  const bool tight = widths.activations == 16 || same_arithmetic(*examination.manifest, *model);
  const Tolerance& most = tight ? kTight : kRounded;
  const std::string allowed = fmt::format("allowed are {}, {} and {}{}", most.logit, most.entropy, most.nll,
                                          tight ? "" : ", as another program or instruction set wrote the manifest");
  if (found.logit <= most.logit && found.entropy <= most.entropy && found.nll <= most.nll)
    return passed(fmt::format("{}; {}", describe(found), allowed));
  return failed(ErrorCode::verification,
                fmt::format("not the manifest's answer to its prompt: {}; {}", describe(found), allowed));
}

}  // namespace nibble
