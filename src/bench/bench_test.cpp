#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "bench/cases.h"
#include "bench/layers.h"
#include "bench/machine.h"
#include "bench/plot.h"
#include "bench/roof.h"
#include "bench/roofline.h"

namespace nibble::bench {
namespace {

// --- Shares: numbers one can check in the head ---------------------------------------------------------------------

TEST(Roof, TheSlowerOfOperationsAndBytesCounts) {
  const Roof roof{1000, 10};                             // operations and bytes per second
  EXPECT_DOUBLE_EQ(least_seconds({2000, 5}, roof), 2);   // 2 s of operations, half a second of bytes
  EXPECT_DOUBLE_EQ(least_seconds({2000, 50}, roof), 5);  // 5 s of bytes
  EXPECT_FALSE(memory_bound({2000, 5}, roof));
  EXPECT_TRUE(memory_bound({2000, 50}, roof));
}

TEST(Roof, Share) {
  const Roof roof{1000, 10};
  EXPECT_DOUBLE_EQ(share_of_roof({2000, 5}, roof, 4), 0.5);
  EXPECT_DOUBLE_EQ(share_of_roof({2000, 50}, roof, 5), 1);
  EXPECT_DOUBLE_EQ(share_of_roof({2000, 50}, roof, 0), 0);
}

TEST(Roof, Middle) {
  EXPECT_EQ(middle({}), 0);
  EXPECT_EQ(middle(std::vector<double>{3, 1, 2}), 2);
  EXPECT_EQ(middle(std::vector<double>{4, 1, 2, 3}), 2);
}

TEST(Rates, ForgetsWhatIsOldButNotTheBest) {
  Rates rates;
  rates.add(100);
  for (int i = 1; i <= 15; ++i) rates.add(i);
  EXPECT_EQ(rates.recent(), 100);
  rates.add(3);
  EXPECT_EQ(rates.recent(), 15);
  EXPECT_EQ(rates.best(), 100);
}

// --- Cases ---------------------------------------------------------------------------------------------------------

TEST(Cases, EveryKindMakesALayerOfItsFormats) {
  for (bool quick : {true, false}) {
    const auto plan = make_plan({quick, {{64, 256}}, {}});
    ASSERT_TRUE(plan) << plan.error().message;
    for (const Task& task : plan->tasks) {
      const auto layer = random_layer(task.kind, task.shape);
      ASSERT_TRUE(layer) << layer.error().message;
      EXPECT_TRUE(layer->validate("layer"));
      EXPECT_EQ(to_string(layer->format), task.kind.weights);
      EXPECT_EQ(to_string(layer->activations), task.kind.activations);
      EXPECT_EQ(layer->kept_count(), task.kind.kept);
      std::vector<float> row(256);
      decode_row(*layer, 63, row);
      for (float value : row) EXPECT_LT(std::abs(value), 2.0f) << task.kind.weights;
    }
  }
}

TEST(Cases, ImpossibleWishesAreRefused) {
  for (const Wish& wish : {Wish{false, {{0, 64}}, {}}, Wish{false, {{64, 1 << 20}}, {}}, Wish{false, {}, {0}},
                           Wish{false, {{1 << 17, 1 << 17}}, {}}}) {
    const auto plan = make_plan(wish);
    ASSERT_FALSE(plan);
    EXPECT_EQ(plan.error().code, ErrorCode::usage);
  }
}

TEST(Cases, GlobChoosesKernels) {
  const auto chosen = chosen_kernels(Isa::portable, "linear_w?_a8*");
  ASSERT_TRUE(chosen);
  EXPECT_EQ(chosen->size(), 2u);
  const auto none = chosen_kernels(Isa::portable, "*avx2*");  // not within `portable`
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::usage);
  const auto usual = chosen_kernels(Isa::avx2, "");
  ASSERT_TRUE(usual);
  for (const KernelRow& kernel : *usual) EXPECT_EQ(kernel.isa, Isa::avx2) << kernel.row->name;
}

// --- A run, as small as can be -------------------------------------------------------------------------------------

TEST(Roofline, EveryKernelOfTheMachineIsMeasured) {
  const auto plan = make_plan({true, {{64, 128}}, {1, 3}});
  ASSERT_TRUE(plan);
  const auto kernels = chosen_kernels(detected_isa(), "");
  ASSERT_TRUE(kernels);
  ThreadPool pool(2);
  Machine machine(detected_isa(), 1, pool);
  EXPECT_GT(machine.best_peak(Arithmetic::int8), 0);
  EXPECT_GT(machine.best_peak(Arithmetic::f32), 0);
  EXPECT_GT(machine.bandwidth(), 0);
  const auto cases = run_cases(machine, *plan, *kernels, {});
  ASSERT_TRUE(cases) << cases.error().message;
  for (const KernelRow& kernel : *kernels) {
    int found = 0, chosen = 0;
    for (const Case& one : *cases) {
      found += one.kernel.row == kernel.row;
      chosen += one.chosen;
      EXPECT_EQ(one.measured.work.operations, 2.0 * 64 * 128 * static_cast<double>(one.m));
      EXPECT_GT(one.measured.share, 0);
      EXPECT_LE(one.measured.prepare_seconds, one.measured.seconds);
    }
    EXPECT_GT(found, 0) << kernel.row->name;
    EXPECT_GT(chosen, 0);
  }
  EXPECT_NE(svg(plot_of(machine, *cases)).find("</svg>"), std::string::npos);
}

// --- The plot ------------------------------------------------------------------------------------------------------

// Whether tags nest and attributes are quoted: all of XML that a drawing without comments and entities of its own
// needs.
bool well_formed(const std::string& text) {
  std::vector<std::string> open;
  for (size_t at = text.find('<'); at != std::string::npos; at = text.find('<', at)) {
    const size_t end = text.find('>', at);
    if (end == std::string::npos) return false;
    const std::string tag = text.substr(at + 1, end - at - 1);
    at = end + 1;
    if (tag.find('<') != std::string::npos || std::count(tag.begin(), tag.end(), '"') % 2 != 0) return false;
    const std::string name = tag.substr(0, tag.find_first_of(" /", tag[0] == '/' ? 1 : 0));
    if (tag[0] == '/') {
      if (open.empty() || "/" + open.back() != tag) return false;
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(name);
    }
  }
  return open.empty();
}

TEST(Plot, IsWellFormedWhateverTheNames) {
  Plot plot{.title = "<a> & \"b\"",
            .caption = "c > d",
            .gbps = 40,
            .roofs = {{"int8 & more", 1900}, {"none", 0}},
            .series = {}};
  plot.series.push_back({"int4", true, {{1, 30, "x < y", "M = 1", true}, {100, 1500, "", "", false}}});
  plot.series.push_back({"f32", false, {{0, 5, "no place for this one", "", true}}});
  const std::string drawing = svg(plot);
  EXPECT_TRUE(well_formed(drawing)) << drawing;
  EXPECT_EQ(drawing.find("no place"), std::string::npos);
  EXPECT_NE(drawing.find("x &lt; y"), std::string::npos);
  EXPECT_NE(drawing.find("prefers-color-scheme: dark"), std::string::npos);
}

TEST(Plot, EmptyIsStillADrawing) { EXPECT_TRUE(well_formed(svg({}))); }

}  // namespace
}  // namespace nibble::bench
