// The best levels for a run of values: weighted k-means in one dimension, solved exactly by dynamic programming.
//
// For values x_i with weights w_i, `count` levels and the nearest level c(i) of each value it finds the levels of the
// least sum of w_i (x_i - c(i))^2. In one dimension the values of a level are a run of the sorted values, so
//   least(m, i) = min over j of least(m - 1, j) + spread of the sorted values j .. i - 1,
// where the best j never falls as i grows: each number of levels m costs n log n (divide and conquer), and whoever asks
// for `most` levels gets the costs of all smaller numbers, which is what an allocation of bits chooses from.
//
// Nothing is random, and nothing depends on the order of the values but the last bits of sums. Of splits of equal cost
// the one that leaves fewer values to the lower levels wins.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nibble {

// One at a time; memory is kept from run to run, so that a thread solves many with one object.
class KMeans {
 public:
  // values: finite. weights: as many, finite and not negative, or none for equal ones. Values of weight 0 are left out,
  // unless all weights are 0, which then count as equal. Weights below 2^-44 of their sum count as that, so that sums
  // in float64 tell them apart. most: 1 or more.
  void solve(std::span<const float> values, std::span<const float> weights, int most);

  // Different values that were not left out. From so many levels on, costs are 0.
  int64_t distinct() const { return static_cast<int64_t>(values_.size()); }
  // The least cost with `count` levels, 1 .. most.
  double cost(int count) const;
  // The levels themselves, ascending: means of their values. Where there are fewer distinct values than levels, the
  // greatest fills the places that are left; without any value all levels are 0. out: `count` levels, 1 .. most.
  void levels(int count, std::span<float> out) const;

 private:
  void sort(std::span<const float> values, std::span<const float> weights);
  void accumulate();
  void split_all(int most);
  void split(int m, int64_t begin, int64_t end, int64_t least, int64_t greatest);
  int64_t split_one(int m, int64_t i, int64_t least, int64_t greatest);
  void split_few(int m, int64_t begin, int64_t end, int64_t least, int64_t greatest);
  int32_t* starts(int m) { return starts_.data() + static_cast<size_t>(m - 2) * (values_.size() + 1); }
  const int32_t* starts(int m) const { return starts_.data() + static_cast<size_t>(m - 2) * (values_.size() + 1); }
  float mean(int64_t begin, int64_t end) const;

  std::vector<uint64_t> keys_, sorted_keys_;
  std::vector<double> values_, weights_;  // distinct values, ascending, and the sums of their weights
  double middle_ = 0;                     // the mean of all, which sums are taken from
  double energy_ = 0;                     // sum of w (x - middle)^2
  // Sums of w and of w (x - middle) over the first i values. A run gains S^2 / W: what its level takes off the energy.
  std::vector<double> mass_, moment_;
  std::vector<double> gains_, next_gains_;  // the greatest gain of the first i values, with m - 1 levels and with m
  std::vector<int32_t> starts_;  // [m - 2][i]: where the last of m levels' run begins, for the first i values
  std::vector<double> costs_;
};

}  // namespace nibble
