#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "bench/cases.h"
#include "bench/layers.h"
#include "bench/machine.h"
#include "bench/model.h"
#include "bench/plot.h"
#include "bench/roof.h"
#include "bench/roofline.h"
#include "bench/solving.h"
#include "kernels/product.h"
#include "runtime/random_source.h"

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

TEST(ModelRoof, BehindTheLastAttentionOnlyWantedTokensCount) {
  ThreadPool pool(1);
  Spec spec = small_spec();
  spec.layers = 1;
  const Model model = *Model::load(RandomSource(spec), {}, pool);
  Machine machine(model.isa(), 1 << 20, pool);
  const ModelRoof roof(model, machine);
  constexpr int64_t kMany = 1 << 20;  // so that bytes do not count
  const int64_t before = (48 + 24 + 24) * 40, behind = 40 * 48 + 3 * 72 * 40, head = 61 * 40;
  EXPECT_NEAR(roof.least_seconds({kMany, kMany, 0}) / roof.least_seconds({kMany, 1, 0}),
              static_cast<double>(before + behind + head) / static_cast<double>(before), 1e-3);
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
  EXPECT_EQ(chosen->linear.size(), 2u);
  EXPECT_TRUE(chosen->attention.empty() && chosen->quantize.empty());
  const auto none = chosen_kernels(Isa::portable, "*avx2*");  // not within `portable`
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::usage);
  const auto usual = chosen_kernels(Isa::avx2, "");
  ASSERT_TRUE(usual);
  for (const KernelRow& kernel : usual->linear) EXPECT_EQ(kernel.isa, Isa::avx2) << kernel.row->name;
  EXPECT_EQ(usual->attention.size(), 6u);  // f32, f16, bf16 and three mixtures
  const auto quantize = chosen_kernels(Isa::avx2, "quantize*");
  ASSERT_TRUE(quantize);
  EXPECT_TRUE(quantize->linear.empty() && quantize->attention.empty());
  ASSERT_EQ(quantize->quantize.size(), 1u);
  EXPECT_EQ(quantize->quantize[0].name, "quantize__avx2");
}

TEST(Cases, SolversAreThoseOfThisProcess) {
  const auto chosen = chosen_kernels(detected_isa(), "gptq__*");
  ASSERT_TRUE(chosen) << chosen.error().message;
  EXPECT_TRUE(chosen->linear.empty() && chosen->attention.empty() && chosen->quantize.empty());
  ASSERT_EQ(chosen->solve.size(), 1u);
  EXPECT_EQ(chosen->solve[0].name, std::string("gptq__") + solve_kernels().isa);
  EXPECT_EQ(chosen->solve[0].what, Solving::gptq);
}

// --- What has to be done -------------------------------------------------------------------------------------------

TEST(Work, Linear) {
  const Work work = work_of(1000, {4, 3}, 2);
  EXPECT_EQ(work.operations, 2 * 2 * 4 * 3);
  EXPECT_EQ(work.bytes, 1000 + 2 * (4 + 3) * 4);  // float input and output
}

// Counted one by one instead.
TEST(Work, Attention) {
  for (const AttentionTask& task : {AttentionTask{6, 2, 5, 7, 0}, AttentionTask{6, 2, 5, 1, 9}, {4, 4, 8, 3, 2}}) {
    double operations = 0;
    for (int64_t token = 0; token < task.tokens; ++token)
      for (int64_t seen = 0; seen <= task.context + token; ++seen)
        operations += 2.0 * static_cast<double>(task.heads * task.head_dim * 2);  // q k, and p v
    const Work work = work_of(task, *with_cache({}, "f16", "test"));
    EXPECT_EQ(work.operations, operations);
    const int64_t key = task.kv_heads * task.head_dim, query = task.heads * task.head_dim;
    EXPECT_EQ(work.bytes, static_cast<double>((task.context + task.tokens) * 2 * key * 2 +
                                              task.tokens * (query + key + key + query) * 4));
    EXPECT_EQ(work_of(task, {}).bytes - work.bytes, static_cast<double>((task.context + task.tokens) * 2 * key * 2));
  }
}

TEST(Work, Quantization) {
  const Work work = work_of(QuantizeTask{{"int4:row", "int8:token:asym", 16}, {8, 256}, 3});
  EXPECT_EQ(work.operations, 0);
  EXPECT_EQ(work.bytes, 3 * (256 * 4 + 240 + 16 * 4 + 12));
}

// Counted one by one instead: multiply-adds, two operations each.
TEST(Work, Solving) {
  constexpr int64_t kRows = 3, kWidth = 40, kTokens = 5;
  int64_t gram = 0, cholesky = 0, updates = 0;
  for (int64_t i = 0; i < kWidth; ++i) {
    gram += (kWidth - i) * kTokens;
    for (int64_t j = i + 1; j < kWidth; ++j) cholesky += j - i;  // row j of what is left receives row i
    updates += (kWidth - 1 - i) * kRows;
  }
  EXPECT_EQ(work_of(SolveTask{Solving::gram, {kRows, kWidth}, kTokens}).operations, 2.0 * gram);
  const double factor = work_of(SolveTask{Solving::factorise, {kRows, kWidth}, 0}).operations;
  EXPECT_NEAR(factor, 2 * 2.0 * cholesky, factor / kWidth);  // and as much for its inverse
  const double gptq = work_of(SolveTask{Solving::gptq, {kRows, kWidth}, 0}).operations;
  EXPECT_NEAR(gptq, 2.0 * updates, gptq / kWidth);
}

TEST(ExpectedSeconds, SlicesOfAMillisecondUntilTheTimeIsSpent) {
  Plan plan{};
  plan.case_seconds = 0.2;
  plan.least_slices = 5;
  plan.most_slices = 40;
  EXPECT_NEAR(expected_seconds(1, plan), 6, 0.1);         // one call to begin with, five slices
  EXPECT_NEAR(expected_seconds(0.01, plan), 0.21, 0.01);  // until the time is spent
  EXPECT_NEAR(expected_seconds(1e-5, plan), 0.16, 0.01);  // most slices
}

// --- A run, as small as can be -------------------------------------------------------------------------------------

class SmallRun : public testing::Test {
 protected:
  Plan plan_ = *make_plan({true, {{64, 128}}, {1, 3}});
  Kernels kernels_ = *chosen_kernels(detected_isa(), "");
  ThreadPool pool_{2};
  Machine machine_{detected_isa(), 1, pool_};
};

TEST_F(SmallRun, EveryKernelOfTheMachineIsMeasured) {
  EXPECT_GT(machine_.best_peak(Arithmetic::int8), 0);
  EXPECT_GT(machine_.best_peak(Arithmetic::f32), 0);
  EXPECT_GT(machine_.bandwidth(), 0);
  const auto cases = run_cases(machine_, plan_, kernels_, {});
  ASSERT_TRUE(cases) << cases.error().message;
  for (const KernelRow& kernel : kernels_.linear) {
    int found = 0, chosen = 0;
    for (const Case& one : cases->linear) {
      found += one.kernel.row == kernel.row;
      chosen += one.chosen;
      EXPECT_EQ(one.measured.work.operations, 2.0 * 64 * 128 * static_cast<double>(one.m));
      EXPECT_GT(one.measured.share, 0);
      EXPECT_LE(one.measured.time.prepare, one.measured.time.total);
    }
    EXPECT_GT(found, 0) << kernel.row->name;
    EXPECT_GT(chosen, 0);
  }
  const auto kept_as = [&](std::string_view type) {
    return std::any_of(cases->linear.begin(), cases->linear.end(),
                       [&](const Case& one) { return one.kind.kept > 0 && one.kind.kept_as == type; });
  };
  EXPECT_TRUE(kept_as("f16") && kept_as("bf16"));
  EXPECT_EQ(cases->attention.size(), kernels_.attention.size() * plan_.attention.size());
  for (const AttentionCase& one : cases->attention) {
    EXPECT_GT(one.measured.share, 0);
    EXPECT_TRUE(one.chosen);
    EXPECT_EQ(one.unit->probe->arithmetic, Arithmetic::f32);
  }
  EXPECT_EQ(cases->quantization.size(), kernels_.quantize.size() * plan_.quantization.size());
  for (const QuantizeCase& one : cases->quantization) {
    EXPECT_GT(one.measured.alone.share, 0);
    EXPECT_GT(one.measured.of_gemm, 0);
  }
  EXPECT_EQ(cases->solving.size(), kernels_.solve.size());
  EXPECT_EQ(cases->solving.size(), 3u);
  for (const SolveCase& one : cases->solving) {
    EXPECT_GT(one.measured.share, 0);
    EXPECT_EQ(one.unit->probe->arithmetic, arithmetic_of(one.task.what));
  }
  const std::string drawing = svg(plot_of(machine_, *cases));
  EXPECT_NE(drawing.find("</svg>"), std::string::npos);
  EXPECT_NE(drawing.find(">attention</text>"), std::string::npos);
  EXPECT_NE(drawing.find(">solvers</text>"), std::string::npos);
}

TEST_F(SmallRun, ProgressEstimatesFirstAndEndsWhole) {
  const auto kernels = chosen_kernels(detected_isa(), "attention*");
  ASSERT_TRUE(kernels);
  std::vector<Progress> said;
  const auto cases = run_cases(machine_, plan_, *kernels, [&](const Progress& one) { said.push_back(one); });
  ASSERT_TRUE(cases && cases->linear.empty() && cases->quantization.empty());
  ASSERT_EQ(said.size(), 1 + cases->attention.size());
  EXPECT_EQ(said.front().done, 0);
  EXPECT_GT(said.front().seconds_left, 0);
  EXPECT_NEAR(said.back().done, 1, 1e-9);
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
