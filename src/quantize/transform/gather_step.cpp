#include "quantize/transform/gather_step.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "measure/statistics.h"

namespace nibble {
namespace {

using Magnitudes = std::vector<double>;

std::vector<int32_t> descending(std::span<const double> magnitudes) {
  std::vector<int32_t> order(magnitudes.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return magnitudes[static_cast<size_t>(a)] > magnitudes[static_cast<size_t>(b)];
  });
  return order;
}

// Length of each row of a matrix.
Magnitudes row_lengths(const LinearWeight& weight) {
  Magnitudes lengths;
  std::vector<float> row(static_cast<size_t>(weight.columns));
  for (int64_t n = 0; n < weight.rows; ++n) {
    decode_row(weight, n, row);
    double sum = 0;
    for (float value : row) sum += static_cast<double>(value) * static_cast<double>(value);
    lengths.push_back(std::sqrt(sum));
  }
  return lengths;
}

// What a norm makes of channels of one size.
Magnitudes of_norm(const NormWeight& norm, int64_t hidden) {
  Magnitudes out(static_cast<size_t>(hidden), 1);
  for (size_t i = 0; i < norm.gain.size(); ++i) out[i] = std::fabs(static_cast<double>(norm.gain[i]));
  for (size_t i = 0; i < norm.bias.size(); ++i) out[i] += std::fabs(static_cast<double>(norm.bias[i]));
  return out;
}

bool reads_residual(const Site& site) { return site.roles[0] != Role::o && site.roles[0] != Role::down; }

class Gathering {
 public:
  explicit Gathering(ModelWork& work)
      : work_(work), spec_(work.source.spec()), residual_(static_cast<size_t>(spec_.hidden)) {}

  Status run() {
    for (int64_t index = 0; index < spec_.layers; ++index)
      NIBBLE_DO(work_.statistics != nullptr ? observed(index) : guessed(index));
    work_.order.residual = descending(residual_);
    return {};
  }

 private:
  // From the largest |x|.
  Status observed(int64_t index) {
    const std::vector<Site>& sites = sites_of(spec_);
    ChannelOrder::Block block;
    for (size_t i = 0; i < sites.size(); ++i) {
      const std::vector<float>& absmax = (*work_.statistics)[static_cast<size_t>(index)][i];
      const Magnitudes magnitudes(absmax.begin(), absmax.end());
      if (reads_residual(sites[i])) {
        add_residual(magnitudes);
      } else if (sites[i].roles[0] == Role::o) {
        block.values = order_values(loudest_of_group(magnitudes));
      } else {
        block.mlp = descending(magnitudes);
      }
    }
    work_.order.blocks.push_back(std::move(block));
    return {};
  }

  // From weights.
  Status guessed(int64_t index) {
    NIBBLE_TRY(const BlockWeights weights, work_.source.block(index));
    add_residual(of_norm(weights.attention_norm, spec_.hidden));
    if (!spec_.shared_norm) add_residual(of_norm(weights.mlp_norm, spec_.hidden));
    Magnitudes hidden = row_lengths(weights[Role::up]);
    if (spec_.gated) {
      const Magnitudes gates = row_lengths(weights[Role::gate]);
      for (size_t i = 0; i < hidden.size(); ++i) hidden[i] *= gates[i];
    }
    work_.order.blocks.push_back({descending(hidden), order_values(row_lengths(weights[Role::v]))});
    return {};
  }

  void add_residual(const Magnitudes& magnitudes) {
    const double median = median_of(magnitudes);
    const double unit = median > 0 ? median : 1;
    for (size_t i = 0; i < residual_.size(); ++i) residual_[i] += magnitudes[i] / unit;
  }

  // Of the inputs of the output projection, over the query heads that read the same values.
  Magnitudes loudest_of_group(const Magnitudes& inputs) const {
    Magnitudes out(static_cast<size_t>(spec_.kv_heads * spec_.head_dim));
    const auto width = static_cast<size_t>(spec_.head_dim), group = static_cast<size_t>(spec_.heads / spec_.kv_heads);
    for (size_t i = 0; i < inputs.size(); ++i) {
      double& most = out[i / width / group * width + i % width];
      most = std::max(most, inputs[i]);
    }
    return out;
  }

  // Within each head.
  std::vector<int32_t> order_values(const Magnitudes& magnitudes) const {
    std::vector<int32_t> out;
    const auto width = static_cast<size_t>(spec_.head_dim);
    for (size_t begin = 0; begin < magnitudes.size(); begin += width)
      for (int32_t channel : descending(std::span(magnitudes).subspan(begin, width)))
        out.push_back(static_cast<int32_t>(begin) + channel);
    return out;
  }

  ModelWork& work_;
  const Spec& spec_;
  Magnitudes residual_;
};

class Gather final : public Step {
 public:
  Status apply_to_model(ModelWork& work, ThreadPool&) const override { return Gathering(work).run(); }
};

}  // namespace

Result<StepPointer> read_gather(JsonReader&) { return std::make_shared<Gather>(); }

}  // namespace nibble
