#include "quantize/observe/observe_step.h"

namespace nibble {
namespace {

class Observe final : public Step {
 public:
  explicit Observe(unsigned statistics) : statistics_(statistics) {}
  unsigned observes() const override { return statistics_; }

 private:
  unsigned statistics_;
};

}  // namespace

Result<StepPointer> read_observe(JsonReader& parameters) {
  NIBBLE_TRY(const std::vector<std::string> names, parameters.strings("statistics"));
  unsigned statistics = kNoStatistics;
  for (const std::string& name : names) {
    if (name != "absmax" && name != "gram" && name != "squares")
      return fail(ErrorCode::usage, "{}: unknown statistic \"{}\"; there are absmax, gram and squares",
                  parameters.where(), name);
    statistics |= name == "gram" ? kGram : name == "absmax" ? kAbsmax : kSquares;
  }
  return std::make_shared<Observe>(statistics);
}

}  // namespace nibble
