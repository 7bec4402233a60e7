#include "quantize/solve/binary.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <memory>

namespace nibble {
namespace {

constexpr int kMostSteps = 1 << kMostLinearBits;

// Adds c_i from `least` on to the codes that there are.
void extend(std::vector<int>& codes, int least, int left, int most, std::vector<BinaryCode>& out) {
  if (left == 0) {
    std::vector<int> sorted = codes;
    std::sort(sorted.begin(), sorted.end());
    if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end()) return;
    BinaryCode code{};
    std::copy(sorted.begin(), sorted.end(), code.levels.begin());
    out.push_back(code);
    return;
  }
  const int greatest = *std::max_element(codes.begin(), codes.end());
  const size_t count = codes.size();
  for (int c = least; greatest + c <= most; ++c) {
    for (size_t i = 0; i < count; ++i) codes.push_back(codes[i] + c);
    extend(codes, c + 1, left - 1, most, out);
    codes.resize(count);
  }
}

// The values of a run on the integers of the first step: for each, the sums of w and of w x up to it.
struct Histogram {
  std::array<double, kMostSteps + 1> mass, moment;
};

class Coder {
 public:
  explicit Coder(const BinaryOptions& options) : options_(options) {
    for (int bits = 1; bits <= std::min(kMostBinaryBits, options.linear_bits - 1); ++bits)
      codes_[static_cast<size_t>(bits)] = binary_codes(options.linear_bits, bits);
  }

  void fit(std::span<const float> values, std::span<const float> weights, std::span<float> levels) const {
    const bool all = weights.empty() || std::all_of(weights.begin(), weights.end(), [](float w) { return w == 0; });
    if (all) weights = {};
    Range range;
    for (size_t i = 0; i < values.size(); ++i)
      if (weights.empty() || weights[i] > 0) range.widen(values[i]);
    const int most = (1 << options_.linear_bits) - 1;
    const double whole = std::max(static_cast<double>(range.greatest) - static_cast<double>(range.least),
                                  static_cast<double>(kSmallestRange)) /
                         most;
    const double zero = std::nearbyint(-static_cast<double>(range.least) / whole);
    const std::vector<BinaryCode>& codes = codes_[static_cast<size_t>(std::bit_width(levels.size()) - 1)];
    const std::vector<size_t> tries = cheapest(codes, count(values, weights, whole, zero), whole, zero, levels.size());
    Best best;
    for (int i = -options_.scales; i <= options_.scales; ++i) {
      const double scale = whole * (1 + 0.02 * i);
      const Histogram sums = count(values, weights, scale, zero);
      for (const size_t at : tries)
        if (const double cost = cost_of(codes[at], sums, scale, zero, levels.size()); cost < best.cost)
          best = {cost, scale, &codes[at]};
    }
    for (size_t i = 0; i < levels.size(); ++i) {
      const double level = best.scale * (static_cast<double>(best.code->levels[i]) - zero);
      levels[i] = static_cast<float>(level) + 0.0f;
    }
  }

 private:
  struct Best {
    double cost = std::numeric_limits<double>::infinity(), scale = 0;
    const BinaryCode* code = nullptr;
  };

  Histogram count(std::span<const float> values, std::span<const float> weights, double scale, double zero) const {
    const double most = (1 << options_.linear_bits) - 1, inverse = 1 / scale;
    Histogram out{};
    for (size_t i = 0; i < values.size(); ++i) {
      const auto x = static_cast<double>(values[i]);
      const double weight = weights.empty() ? 1 : static_cast<double>(weights[i]);
      const auto step = static_cast<size_t>(std::clamp(std::nearbyint(x * inverse + zero), 0.0, most));
      out.mass[step + 1] += weight;
      out.moment[step + 1] += weight * x;
    }
    for (size_t i = 1; i <= kMostSteps; ++i) {
      out.mass[i] += out.mass[i - 1];
      out.moment[i] += out.moment[i - 1];
    }
    return out;
  }

  // Of levels: the sum of w (x - level)^2, less that of w x^2, which is the same for all.
  double cost_of(const BinaryCode& code, const Histogram& sums, double scale, double zero, size_t count) const {
    double cost = 0;
    size_t begin = 0;
    for (size_t i = 0; i < count; ++i) {
      // Of two codes at one distance the lower.
      const size_t end =
          i + 1 < count ? (code.levels[i] + code.levels[i + 1]) / 2 + size_t{1} : size_t{1} << options_.linear_bits;
      const double level = scale * (static_cast<double>(code.levels[i]) - zero);
      cost += level * (level * (sums.mass[end] - sums.mass[begin]) - 2 * (sums.moment[end] - sums.moment[begin]));
      begin = end;
    }
    return cost;
  }

  // The codings of the least cost under one scale, in the order of the list.
  std::vector<size_t> cheapest(const std::vector<BinaryCode>& codes, const Histogram& sums, double scale, double zero,
                               size_t levels) const {
    std::vector<std::pair<double, size_t>> costs;
    costs.reserve(codes.size());
    for (size_t i = 0; i < codes.size(); ++i) costs.emplace_back(cost_of(codes[i], sums, scale, zero, levels), i);
    const size_t many = std::min(kBinaryTries, costs.size());
    std::nth_element(costs.begin(), costs.begin() + static_cast<std::ptrdiff_t>(many) - 1, costs.end());
    std::vector<size_t> out;
    for (size_t i = 0; i < many; ++i) out.push_back(costs[i].second);
    std::sort(out.begin(), out.end());
    return out;
  }

  BinaryOptions options_;
  std::array<std::vector<BinaryCode>, kMostBinaryBits + 1> codes_;
};

}  // namespace

std::vector<BinaryCode> binary_codes(int linear_bits, int bits) {
  const int most = (1 << linear_bits) - 1;
  std::vector<BinaryCode> out;
  for (int first = 0; first < most; ++first) {
    std::vector<int> codes = {first};
    extend(codes, 1, bits, most, out);
  }
  return out;
}

MakeLevelFit make_binary(const BinaryOptions& options) {
  const auto coder = std::make_shared<const Coder>(options);
  return [coder]() -> LevelFit {
    return [coder](std::span<const float> values, std::span<const float> weights, std::span<float> levels) {
      coder->fit(values, weights, levels);
    };
  };
}

}  // namespace nibble
