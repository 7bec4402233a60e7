#include "quantize/solve/allocate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace nibble {
namespace {

// Indices by descending value, the lower one first among equals.
std::vector<size_t> descending(std::span<const double> values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] > values[b]; });
  return order;
}

size_t whole_units(double channels, const ChannelBits& bits, size_t most) {
  const double units = std::nearbyint(std::max(channels, 0.0) / static_cast<double>(bits.unit));
  return std::min(most, static_cast<size_t>(units) * static_cast<size_t>(bits.unit));
}

// Units of the channels of one width, those that gain the most by one more bit first.
class Climber {
 public:
  Climber(std::span<const double> costs, const ChannelBits& bits)
      : costs_(costs), bits_(bits), at_(kMostWidth + 1), widths_(costs.size() / (kMostWidth + 1)) {
    std::fill(widths_.begin(), widths_.end(), static_cast<uint8_t>(bits.least));
    at_[static_cast<size_t>(bits.least)].resize(widths_.size());
    std::iota(at_[static_cast<size_t>(bits.least)].begin(), at_[static_cast<size_t>(bits.least)].end(), size_t{0});
    for (int width = bits.least; width < bits.most; ++width) sort(width);
  }

  // Widens the unit that saves the most for a bit; false when what is left, `budget` less what is stored, does not pay
  // for half of any.
  bool widen(double& left) {
    int best = 0;
    double most = -1;
    for (int width = bits_.least; width < bits_.most; ++width) {
      const double price = price_of(width);
      if (price == 0 || left < price / 2) continue;
      if (const double saved = gain_of(width) / price; saved > most) {
        most = saved;
        best = width;
      }
    }
    if (best == 0) return false;
    left -= price_of(best);
    promote(best);
    return true;
  }

  std::vector<uint8_t> take() { return std::move(widths_); }

 private:
  std::vector<size_t>& at(int width) { return at_[static_cast<size_t>(width)]; }
  double cost(size_t channel, int width) const {
    return costs_[channel * (kMostWidth + 1) + static_cast<size_t>(width)];
  }
  double gain(size_t channel, int width) const { return cost(channel, width) - cost(channel, width + 1); }
  size_t unit_of(int width) { return std::min(at(width).size(), static_cast<size_t>(bits_.unit)); }
  double price_of(int width) {
    return static_cast<double>(unit_of(width)) * (bits_.stored[width + 1] - bits_.stored[width]);
  }
  double gain_of(int width) {
    double sum = 0;
    for (size_t i = 0; i < unit_of(width); ++i) sum += gain(at(width)[i], width);
    return sum;
  }
  void sort(int width) {
    std::stable_sort(at(width).begin(), at(width).end(), [&](size_t a, size_t b) {
      return gain(a, width) != gain(b, width) ? gain(a, width) > gain(b, width) : a < b;
    });
  }
  void promote(int width) {
    const auto begin = at(width).begin(), end = begin + static_cast<std::ptrdiff_t>(unit_of(width));
    for (auto it = begin; it != end; ++it) widths_[*it] = static_cast<uint8_t>(width + 1);
    at(width + 1).insert(at(width + 1).end(), begin, end);
    at(width).erase(begin, end);
    if (width + 1 < bits_.most) sort(width + 1);
  }

  std::span<const double> costs_;
  const ChannelBits& bits_;
  std::vector<std::vector<size_t>> at_;  // channels by width
  std::vector<uint8_t> widths_;
};

}  // namespace

double ChannelBits::of(std::span<const uint8_t> widths) const {
  double sum = 0;
  for (const uint8_t width : widths) sum += stored[width];
  return sum;
}

std::vector<uint8_t> widths_by_norm(std::span<const double> norms, const ChannelBits& bits, double budget,
                                    double swap) {
  const size_t channels = norms.size();
  const auto all = static_cast<double>(channels);
  int width = bits.least;
  while (width < bits.most && all * bits.stored[width + 1] <= budget) ++width;
  std::vector<uint8_t> widths(channels, static_cast<uint8_t>(width));
  const std::vector<size_t> order = descending(norms);
  const bool swaps = swap > 0 && width > bits.least && width < bits.most;
  const size_t swapped = swaps ? whole_units(swap * all, bits, channels / 2) : 0;
  for (size_t i = 0; i < swapped; ++i) {
    widths[order[i]]++;
    widths[order[channels - 1 - i]]--;
  }
  if (width == bits.most) return widths;
  const double each = bits.stored[width + 1] - bits.stored[width];
  const size_t wider = whole_units((budget - bits.of(widths)) / each, bits, channels - 2 * swapped);
  for (size_t i = 0; i < wider; ++i) widths[order[swapped + i]]++;
  return widths;
}

std::vector<uint8_t> widths_by_cost(std::span<const double> costs, const ChannelBits& bits, double budget) {
  Climber climber(costs, bits);
  double left = budget - static_cast<double>(costs.size() / (kMostWidth + 1)) * bits.stored[bits.least];
  while (climber.widen(left)) {
  }
  return climber.take();
}

}  // namespace nibble
