// How many bits each input channel of a site gets (arXiv 2410.13056): channels that matter more get more.
//
// All linears that read a channel store it in one width, so that the input is gathered once for all of them. A width
// holds for whole units of channels, as kernels read them; the last unit may be shorter.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nibble {

inline constexpr int kMostWidth = 8;

// The widths to choose from, and what one channel takes in each: bits stored by all linears of the site together,
// codes and tables. Ascending from `least` on.
struct ChannelBits {
  int least = 1, most = kMostWidth;
  double stored[kMostWidth + 1] = {};
  int64_t unit = 32;  // channels

  double of(std::span<const uint8_t> widths) const;  // all channels together
};

// The rule of the paper: with the widths k and k + 1 around the budget, the channels of the greatest norm get k + 1.
// `swap`, a part of the channels below 1/2: so many of the greatest norm get one bit more than that, and as many of the
// least norm one bit less. Among equals the lower channel comes first. budget: bits, met to the nearest unit; below
// least everywhere all channels get that.
std::vector<uint8_t> widths_by_norm(std::span<const double> norms, const ChannelBits& bits, double budget, double swap);

// The least sum of costs within the budget, where costs are convex: units of channels are widened one after the other,
// always those which save the most cost for a stored bit. costs: [I][kMostWidth + 1] by channel and width, of which
// least .. most are read.
std::vector<uint8_t> widths_by_cost(std::span<const double> costs, const ChannelBits& bits, double budget);

}  // namespace nibble
