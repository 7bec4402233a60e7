#include "quantize/transform/hadamard_step.h"

#include "core/hadamard.h"

namespace nibble {
namespace {

class Hadamard final : public Step {
 public:
  explicit Hadamard(int64_t block) : block_(block) {}

  Status check(const NumberFormat&, const NumberFormat& activations, int64_t inputs,
               std::string_view where) const override {
    const int64_t block = block_of(activations);
    if (block == 0)
      return fail(ErrorCode::usage, "{}: activations in {} have no blocks to rotate; give \"block\"", where,
                  to_string(activations));
    if (!is_rotation(block))
      return fail(ErrorCode::usage, "{}: blocks of {} cannot be rotated; give \"block\", a power of two", where, block);
    if (block > inputs)
      return fail(ErrorCode::usage, "{}: blocks of {} do not fit its {} inputs", where, block, inputs);
    if (activations.is_profiled())
      return fail(ErrorCode::usage,
                  "{}: activations in {} take their fraction from the largest input, which is not known once it is "
                  "rotated; give a fraction ({}:f4)",
                  where, to_string(activations), to_string(activations));
    return {};
  }

  bool turns() const override { return true; }

  Status apply_to_site(SiteWork& site, ThreadPool&) const override {
    NIBBLE_DO(check({}, site.activations, site.inputs, site.name));
    site.rotation = block_of(site.activations);
    return {};
  }

 private:
  int64_t block_of(const NumberFormat& activations) const {
    if (block_ > 0) return block_;
    return activations.sharing == Sharing::group ? activations.group : 0;
  }

  int64_t block_;  // 0: that of the activations
};

}  // namespace

Result<StepPointer> read_hadamard(JsonReader& parameters) {
  NIBBLE_TRY(const int64_t block, parameters.integer("block", 2, kMaxRotation, 0));
  if (!is_rotation(block))
    return fail(ErrorCode::usage, "{}: \"block\" is {}; expected a power of two", parameters.where(), block);
  return std::make_shared<Hadamard>(block);
}

}  // namespace nibble
