#include "quantize/solve/kmeans.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

namespace nibble {
namespace {

constexpr double kLeastShare = 0x1p-44;
constexpr size_t kFewKeys = 512;  // sorted by comparing

// A number whose order is that of the floats, above the place of the value.
uint64_t key_of(float value, size_t place) {
  const auto bits = std::bit_cast<uint32_t>(value + 0.0f);  // -0 is 0
  const uint32_t ordered = bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | place;
}

// By the upper halves; equal ones stay in order.
void sort_keys(std::vector<uint64_t>& keys, std::vector<uint64_t>& scratch) {
  if (keys.size() < kFewKeys) return std::sort(keys.begin(), keys.end());
  constexpr int kDigit = 11;
  constexpr uint64_t kMask = (1 << kDigit) - 1;
  scratch.resize(keys.size());
  for (int shift = 32; shift < 64; shift += kDigit) {
    std::array<uint32_t, kMask + 1> places{};
    for (const uint64_t key : keys) ++places[key >> shift & kMask];
    uint32_t place = 0;
    for (uint32_t& count : places) place += std::exchange(count, place);
    for (const uint64_t key : keys) scratch[places[key >> shift & kMask]++] = key;
    keys.swap(scratch);
  }
}

bool all_zero(std::span<const float> weights) {
  return std::all_of(weights.begin(), weights.end(), [](float weight) { return weight == 0; });
}

// Two doubles, which every processor has.
typedef double Pair __attribute__((vector_size(16)));
constexpr int kPairs = 2, kLanes = 2 * kPairs;  // splits that are tried side by side

// What the values before a split gain, and the run behind it.
template <class T>
T gain(T mass, T moment, T before) {
  return before + moment * moment / mass;
}

// In each lane the greatest offer, and the first place that made it.
struct Best {
  Pair gain = {-1, -1}, place = {0, 0};

  void offer(Pair offered, Pair at) {
    place = offered > gain ? at : place;
    gain = offered > gain ? offered : gain;
  }
};

Pair load(const double* from) {
  Pair to;
  std::memcpy(&to, from, sizeof to);
  return to;
}

}  // namespace

void KMeans::solve(std::span<const float> values, std::span<const float> weights, int most) {
  if (all_zero(weights)) weights = {};
  sort(values, weights);
  accumulate();
  split_all(most);
}

void KMeans::sort(std::span<const float> values, std::span<const float> weights) {
  keys_.clear();
  for (size_t i = 0; i < values.size(); ++i)
    if (weights.empty() || weights[i] > 0) keys_.push_back(key_of(values[i], i));
  sort_keys(keys_, sorted_keys_);
  values_.clear();
  weights_.clear();
  for (const uint64_t key : keys_) {
    const auto at = static_cast<uint32_t>(key);
    const auto value = static_cast<double>(values[at]);
    const double weight = weights.empty() ? 1 : static_cast<double>(weights[at]);
    if (!values_.empty() && values_.back() == value) {
      weights_.back() += weight;
    } else {
      values_.push_back(value);
      weights_.push_back(weight);
    }
  }
}

void KMeans::accumulate() {
  const size_t n = values_.size();
  double mass = 0, moment = 0;
  for (const double weight : weights_) mass += weight;
  for (double& weight : weights_) weight = std::max(weight, mass * kLeastShare);
  for (size_t i = 0; i < n; ++i) moment += weights_[i] * values_[i];
  middle_ = mass > 0 ? moment / mass : 0;
  mass_.assign(n + 1, 0);
  moment_.assign(n + 1, 0);
  energy_ = 0;
  for (size_t i = 0; i < n; ++i) {
    const double x = values_[i] - middle_;
    mass_[i + 1] = mass_[i] + weights_[i];
    moment_[i + 1] = moment_[i] + weights_[i] * x;
    energy_ += weights_[i] * x * x;
  }
}

void KMeans::split_all(int most) {
  const int64_t n = distinct();
  costs_.assign(static_cast<size_t>(most), 0);
  const int last = static_cast<int>(std::min<int64_t>(most, n - 1));  // with n levels nothing is left to choose
  if (last < 1) return;
  gains_.assign(static_cast<size_t>(n) + 1, 0);
  next_gains_.resize(gains_.size());
  starts_.resize(static_cast<size_t>(last - 1) * gains_.size());
  for (size_t i = 1; i < gains_.size(); ++i) gains_[i] = moment_[i] * moment_[i] / mass_[i];
  for (int m = 1;; ++m) {
    costs_[static_cast<size_t>(m) - 1] = std::max(energy_ - gains_.back(), 0.0);
    if (m == last) return;
    // Of the last number of levels only the whole row is of interest; its pieces are read by nobody.
    split(m + 1, m + 1 == last ? n : m + 1, n + 1, m, n);
    gains_.swap(next_gains_);
  }
}

// The first i values with m levels, for i in [begin, end); the last level's run begins in [least, greatest).
void KMeans::split(int m, int64_t begin, int64_t end, int64_t least, int64_t greatest) {
  while (begin < end) {
    // More levels on the same values: the last one's run begins no earlier.
    if (m > 2 && begin >= m) least = std::max<int64_t>(least, std::min<int64_t>(starts(m - 1)[begin], greatest - 1));
    if (end - begin <= kLanes) return split_few(m, begin, end, least, greatest);
    const int64_t i = begin + (end - begin) / 2;
    const int64_t at = split_one(m, i, least, std::min(greatest, i));
    split(m, begin, i, least, at + 1);
    begin = i + 1;
    least = at;
  }
}

// One number of values, several splits side by side.
int64_t KMeans::split_one(int m, int64_t i, int64_t least, int64_t greatest) {
  const double *const mass = mass_.data(), *const moment = moment_.data(), *const before = gains_.data();
  const Pair whole_mass = {mass[i], mass[i]}, whole_moment = {moment[i], moment[i]};
  Best best[kPairs];
  int64_t j = least;
  for (; j + kLanes <= greatest; j += kLanes)
    for (int v = 0; v < kPairs; ++v) {
      const int64_t at = j + 2 * v;
      best[v].offer(gain(whole_mass - load(mass + at), whole_moment - load(moment + at), load(before + at)),
                    Pair{0, 1} + static_cast<double>(at));
    }
  double most = -1, place = static_cast<double>(least);
  const auto offer = [&](double offered, double at) {
    if (offered < most || (offered == most && at > place)) return;
    most = offered;
    place = at;
  };
  for (const Best& of : best) {
    offer(of.gain[0], of.place[0]);
    offer(of.gain[1], of.place[1]);
  }
  for (; j < greatest; ++j) offer(gain(mass[i] - mass[j], moment[i] - moment[j], before[j]), static_cast<double>(j));
  starts(m)[i] = static_cast<int32_t>(place);
  next_gains_[static_cast<size_t>(i)] = most;
  return static_cast<int64_t>(place);
}

// Up to kLanes numbers of values side by side, split by split.
void KMeans::split_few(int m, int64_t begin, int64_t end, int64_t least, int64_t greatest) {
  const double *const mass = mass_.data(), *const moment = moment_.data(), *const before = gains_.data();
  Best best[kPairs];
  Pair whole_mass[kPairs], whole_moment[kPairs];
  for (int v = 0; v < kPairs; ++v) {
    const int64_t first = std::min(begin + 2 * v, end - 1), second = std::min(first + 1, end - 1);
    whole_mass[v] = Pair{mass[first], mass[second]};
    whole_moment[v] = Pair{moment[first], moment[second]};
  }
  greatest = std::min(greatest, end - 1);
  for (int64_t j = least; j < greatest; ++j)
    for (int v = 0; v < kPairs; ++v) {
      const Pair own = whole_mass[v] - mass[j], before_it = {before[j], before[j]};
      const Pair offered = gain(own, whole_moment[v] - moment[j], before_it);
      // No run is left of j values or fewer.
      best[v].offer(own > 0 ? offered : Pair{-1, -1}, Pair{} + static_cast<double>(j));
    }
  for (int64_t i = begin; i < end; ++i) {
    const Best& of = best[(i - begin) / 2];
    starts(m)[i] = static_cast<int32_t>(of.place[(i - begin) % 2]);
    next_gains_[static_cast<size_t>(i)] = of.gain[(i - begin) % 2];
  }
}

double KMeans::cost(int count) const { return costs_[static_cast<size_t>(count) - 1]; }

float KMeans::mean(int64_t begin, int64_t end) const {
  double mass = 0, moment = 0;
  for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
    mass += weights_[i];
    moment += weights_[i] * (values_[i] - values_[static_cast<size_t>(begin)]);
  }
  const double mean = values_[static_cast<size_t>(begin)] + moment / mass;
  return static_cast<float>(mean) + 0.0f;
}

void KMeans::levels(int count, std::span<float> out) const {
  const int64_t n = distinct();
  std::fill(out.begin(), out.end(), 0.0f);
  if (n == 0) return;
  int64_t end = n;
  int m = count;
  // A level for each value, and the greatest again.
  for (; m > n; --m) out[static_cast<size_t>(m) - 1] = mean(n - 1, n);
  if (m == n)
    for (; m > 0; --m, --end) out[static_cast<size_t>(m) - 1] = mean(end - 1, end);
  for (; m > 0; --m) {
    const int64_t begin = m == 1 ? 0 : starts(m)[end];
    out[static_cast<size_t>(m) - 1] = mean(begin, end);
    end = begin;
  }
}

}  // namespace nibble
