// Estimates from many numbers: a value and its standard error. The numbers are taken as independent.
#pragma once

#include <span>
#include <vector>

namespace nibble {

struct Estimate {
  double value = 0, standard_error = 0;
};

// The mean; its error is the sample's standard deviation over the square root of the count, 0 for a single number.
Estimate estimate_mean(std::span<const double> values);

// The q-quantile of ascending numbers, at rank q (n - 1), between two numbers in proportion. How many numbers lie below
// the true quantile is binomial: half the distance between the numbers one deviation sqrt(n q (1 - q)) of it before and
// behind that rank is the standard error. Ranks end at the first and last number, so near the ends of a small sample
// the error comes out too small.
Estimate estimate_quantile(std::span<const double> ascending, double q);

// The middle number, or the mean of the two in the middle: estimate_quantile(ascending, 0.5).value of numbers in any
// order, none of which is NaN. 0 for none.
double median_of(std::vector<double> values);

}  // namespace nibble
