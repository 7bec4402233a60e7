// What calibration text tells about the input of a site: the largest |x| per channel and the Gram matrix for the steps
// of a recipe; moments of all values and a few rows for the report.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "core/buffer.h"
#include "core/result.h"
#include "core/threads.h"
#include "quantize/observe/moments.h"
#include "quantize/observe/row_sample.h"
#include "quantize/triangle.h"

namespace nibble {

// Sum of x x' over tokens: float32 products over runs of kGramRun tokens, runs added up in float64. A sample is cut
// into runs from its beginning, so the sum depends on the samples and their order only.
class Gram {
 public:
  static constexpr int64_t kGramRun = 256;

  Gram() = default;
  explicit Gram(int64_t width) : sums_(width) {}

  int64_t width() const { return sums_.width(); }
  int64_t tokens() const { return tokens_; }
  bool empty() const { return tokens_ == 0; }
  // One sample: x [count][width]. Needs a copy of a part of it.
  void add(const float* x, int64_t count, ThreadPool& pool);
  static int64_t scratch_bytes(int64_t width, int64_t count);  // what add() needs at most
  double at(int64_t i, int64_t j) const { return sums_.at(i, j); }
  const Triangle& sums() const { return sums_; }
  // That of T x, with T the rotation of the columns that are not kept (format/linear_weight.h).
  void rotate(std::span<const int32_t> kept, int64_t rotation, ThreadPool& pool);

 private:
  void add_part(const float* x, int64_t count, AlignedBuffer<float>& packed, ThreadPool& pool);

  Triangle sums_;
  int64_t tokens_ = 0;
};

// Which statistics; bits of a set. Steps ask for absmax, gram and squares.
enum Statistics : unsigned { kNoStatistics = 0, kAbsmax = 1, kGram = 2, kMoments = 4, kRows = 8, kSquares = 16 };

struct SiteStatistics {
  std::vector<float> absmax;    // [K]; empty when not observed
  std::vector<double> squares;  // [K], sums of x^2 over all tokens; empty when not observed
  Gram gram;                    // empty() when not observed
  Moments moments;              // of all values; count is 0 when not observed
  RowSample rows;               // empty() when not observed
};

// Statistics of the rotated input: its Gram matrix. The largest |x| is not known of what is rotated; there, the root
// of the mean square stands for it (where there is a Gram matrix), to sort channels by. Without a Gram matrix the
// squares of a rotated block are their mean, as if its channels had nothing to do with each other. `rows` are not
// rotated.
void rotate(SiteStatistics& statistics, std::span<const int32_t> kept, int64_t rotation, ThreadPool& pool);

// The largest |x| of the channels of every site, by block and by site in execution order.
using ModelStatistics = std::vector<std::vector<std::vector<float>>>;

// squares[k] += x[m][k]^2, token by token.
void observe_squares(const float* x, int64_t count, std::vector<double>& squares, ThreadPool& pool);

// absmax[k] = max(absmax[k], |x[m][k]|); `failure` naming the site and the channel when a value is NaN or infinite.
Status observe_absmax(const float* x, int64_t count, std::vector<float>& absmax, std::string_view site,
                      ThreadPool& pool);

}  // namespace nibble
