#include "bench/roof.h"

#include <algorithm>
#include <vector>

namespace nibble::bench {

double least_seconds(const Work& work, const Roof& roof) {
  return std::max(work.operations / roof.operations, work.bytes / roof.bytes);
}

bool memory_bound(const Work& work, const Roof& roof) {
  return work.bytes / roof.bytes > work.operations / roof.operations;
}

double share_of_roof(const Work& work, const Roof& roof, double seconds) {
  return seconds > 0 ? least_seconds(work, roof) / seconds : 0;
}

double middle(std::span<const double> values) {
  if (values.empty()) return 0;
  std::vector<double> sorted(values.begin(), values.end());
  const auto at = sorted.begin() + static_cast<std::ptrdiff_t>((sorted.size() - 1) / 2);
  std::nth_element(sorted.begin(), at, sorted.end());
  return *at;
}

}  // namespace nibble::bench
