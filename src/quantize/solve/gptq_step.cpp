#include "quantize/solve/gptq_step.h"

#include "quantize/solve/gptq.h"

namespace nibble {
namespace {

struct OrderName {
  std::string_view name;
  ColumnOrder order;
};
constexpr OrderName kOrders[] = {
    {"natural", ColumnOrder::natural}, {"kept-last", ColumnOrder::kept_last}, {"activation", ColumnOrder::activation}};

class Gptq final : public Step {
 public:
  Gptq(GptqOptions options, double damp, bool sparse24) : options_(options), damp_(damp), sparse24_(sparse24) {}

  unsigned needs() const override { return options_.order == ColumnOrder::kept_last ? kGram | kAbsmax : kGram; }
  bool sparse24() const override { return sparse24_; }

  Status apply_to_linear(LinearWork& work, ThreadPool& pool) const override {
    NIBBLE_TRY(const LayerForm form, form_of(work, sparse24_));
    NIBBLE_TRY(const auto factor, factor_of(work, pool));
    NIBBLE_TRY(work.solved, gptq(work.layer, form, *factor, options_, pool));
    work.damping = factor->damp;
    return {};
  }

 private:
  // Linears of a site that are solved in the same order with the same damping share the factorisation.
  Result<std::shared_ptr<const GptqFactor>> factor_of(LinearWork& work, ThreadPool& pool) const {
    SiteWork& site = work.site;
    const std::string key = fmt::format("gptq {} {} {}", static_cast<int>(options_.order), sparse24_, damp_);
    if (const auto found = site.shared.find(key); found != site.shared.end())
      return std::static_pointer_cast<const GptqFactor>(found->second);
    // At most one: they are as large as the Gram matrix.
    std::erase_if(site.shared, [](const auto& entry) { return entry.first.starts_with("gptq "); });
    auto order = column_order(options_.order, sparse24_, site.kept, site.statistics->absmax, site.statistics->gram);
    NIBBLE_TRY(GptqFactor made, factorise(site.statistics->gram, std::move(order), damp_, work.layer.name, pool));
    const auto factor = std::make_shared<const GptqFactor>(std::move(made));
    site.shared[key] = factor;
    return factor;
  }

  GptqOptions options_;
  double damp_;
  bool sparse24_;
};

Result<ColumnOrder> read_order(JsonReader& parameters) {
  NIBBLE_TRY(const std::string name, parameters.string("order", "natural"));
  for (const OrderName& row : kOrders)
    if (row.name == name) return row.order;
  return fail(ErrorCode::usage, "{}: \"order\" is \"{}\"; there are natural, kept-last and activation",
              parameters.where(), name);
}

// What becomes of the weights of columns whose input was always zero.
Result<bool> read_zero_dead(JsonReader& parameters) {
  NIBBLE_TRY(const std::string dead, parameters.string("dead", "zero"));
  if (dead == "zero" || dead == "round") return dead == "zero";
  return fail(ErrorCode::usage, "{}: \"dead\" is \"{}\"; there are zero and round", parameters.where(), dead);
}

}  // namespace

Result<StepPointer> read_gptq(JsonReader& parameters) {
  GptqOptions options;
  NIBBLE_TRY(options.order, read_order(parameters));
  NIBBLE_TRY(const double damp, parameters.number("damp", 0, 10, 0.01));
  NIBBLE_TRY(options.block, parameters.integer("block", 1, 65536, 128));
  NIBBLE_TRY(options.clip, read_clip(parameters));
  NIBBLE_TRY(options.zero_dead, read_zero_dead(parameters));
  NIBBLE_TRY(const bool sparse24, read_pattern(parameters));
  if (sparse24 && options.block % 4 != 0)
    return fail(ErrorCode::usage, "{}: \"block\" is {}; a 2:4 pattern needs a multiple of 4", parameters.where(),
                options.block);
  return std::make_shared<Gptq>(options, damp, sparse24);
}

}  // namespace nibble
