#include "quantize/solve/round_step.h"

#include "quantize/solve/round.h"

namespace nibble {
namespace {

class Round final : public Step {
 public:
  Round(Clip clip, bool sparse24) : clip_(clip), sparse24_(sparse24) {}
  bool sparse24() const override { return sparse24_; }

  Status apply_to_linear(LinearWork& work, ThreadPool& pool) const override {
    NIBBLE_TRY(const LayerForm form, form_of(work, sparse24_));
    NIBBLE_TRY(work.solved, round_to_nearest(work.layer, form, clip_, pool));
    return {};
  }

 private:
  Clip clip_;
  bool sparse24_;
};

}  // namespace

Result<StepPointer> read_round(JsonReader& parameters) {
  NIBBLE_TRY(const Clip clip, read_clip(parameters, false));
  NIBBLE_TRY(const bool sparse24, read_pattern(parameters));
  return std::make_shared<Round>(clip, sparse24);
}

}  // namespace nibble
