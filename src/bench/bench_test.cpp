#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "bench/cases.h"
#include "bench/layers.h"
#include "bench/machine.h"
#include "bench/measure.h"
#include "bench/model.h"
#include "bench/model_bench.h"
#include "bench/plot.h"
#include "bench/reading.h"
#include "bench/roof.h"
#include "bench/roofline.h"
#include "bench/solving.h"
#include "kernels/list.h"
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
  ModelRoof roof(model, machine);
  constexpr int64_t kMany = 1 << 20;  // so that bytes do not count
  roof.probe({kMany, kMany, 0});
  const int64_t before = (48 + 24 + 24) * 40, behind = 40 * 48 + 3 * 72 * 40, head = 61 * 40;
  EXPECT_NEAR(roof.least_seconds({kMany, kMany, 0}) / roof.least_seconds({kMany, 1, 0}),
              static_cast<double>(before + behind + head) / static_cast<double>(before), 1e-3);
}

// Blocks of bytes, a head of floats: two units.
TEST(ModelRoof, KnowsTheFastestProbesOfEveryUnitAndOfTheHeads) {
  ThreadPool pool(1);
  RandomSource source(small_spec());
  source.edit_block = [](LinearWeight weight) {
    return *random_layer({"int8:row", "int8:token:asym"}, {weight.rows, weight.columns});
  };
  const Model model = *Model::load(source, {}, pool);
  Machine machine(model.isa(), 1 << 20, pool);
  ModelRoof roof(model, machine);
  roof.begin();
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 40; ++i) {
    roof.probe({8, 1, 8});
    const double now = roof.least_seconds({8, 1, 8});
    EXPECT_GT(now, 0);
    EXPECT_LE(now, least);  // a slower probe changes nothing
    least = now;
  }
}

TEST(ModelTiming, SharesAndRatesOfEveryRepetition) {
  ThreadPool pool(1);
  const Model model = *Model::load(RandomSource(small_spec()), {}, pool);
  Machine machine(model.isa(), 1 << 20, pool);
  ModelRoof roof(model, machine);
  std::vector<Progress> said;
  ProgressMeter meter(6, [&](const Progress& one) { said.push_back(one); });
  Passes passes(model, pool, 64);
  ModelTiming timing(passes, roof, 2, meter);
  for (const auto& series : {timing.prefill(40), timing.decode(3, 8, 5)}) {
    ASSERT_TRUE(series) << series.error().message;
    EXPECT_EQ(series->rates.size(), 2u);
    EXPECT_GT(series->share, 0);
  }
  EXPECT_EQ(said.size(), 6u);
  EXPECT_EQ(said.back().done, 1);
}

// --- Probes --------------------------------------------------------------------------------------------------------

TEST(Readers, EveryWayReadsEveryLineOnce) {
  AlignedBuffer<uint64_t> words(kReadBytes / static_cast<int64_t>(sizeof(uint64_t)));
  uint64_t sum = 0;
  for (int64_t i = 0; i < words.size(); ++i) words[i] = static_cast<uint64_t>(i * i);
  for (int64_t i = 0; i < words.size(); i += kLine / static_cast<int64_t>(sizeof(uint64_t))) sum += words[i];
  for (Reader read : readers()) EXPECT_EQ(read(reinterpret_cast<const std::byte*>(words.data())), sum);
}

// The four tasks of its first slice are the fastest by far.
void slowing_probe(int64_t) {
  static int runs = 0;
  if (++runs > 4) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

TEST(Measure, TheRoofIsTheFastestProbeOfAllSlices) {
  ThreadPool pool(1);
  Machine machine(Isa::portable, 1, pool);
  const ProbeRow row{Arithmetic::f32, "none", 1000, slowing_probe};
  Unit unit{Isa::portable, &row, 1, {}};
  Plan plan{};
  plan.least_slices = plan.most_slices = 20;
  const Measurement measured = measure(machine, {{1e9, 1}, &unit, true}, plan, [] { return CallTime{0.01, 0}; });
  EXPECT_EQ(measured.slices, 20);
  EXPECT_EQ(measured.roof.operations, unit.rates.best());
  EXPECT_DOUBLE_EQ(measured.share, 1e9 / unit.rates.best() / 0.01);
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

TEST(Cases, CopiesFillTheRotationButTinyOnesEnd) {
  ThreadPool pool(1);
  const LayerKind kind{"int8:row", "f32"};
  const auto few = packed_copies({kind, {256, 1024}}, Isa::portable, 1 << 20, pool);
  ASSERT_TRUE(few) << few.error().message;
  EXPECT_EQ(few->size(), 4u);  // of a quarter of it and a little
  const auto many = packed_copies({kind, {16, 16}}, Isa::portable, 400 << 20, pool);
  ASSERT_TRUE(many) << many.error().message;
  EXPECT_EQ(many->size(), 4096u);
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

class SmallRun : public testing::TestWithParam<Isa> {
 protected:
  Plan plan_ = *make_plan({true, {{64, 128}}, {1, 3}});
  Kernels kernels_ = *chosen_kernels(GetParam(), "");
  ThreadPool pool_{2};
  Machine machine_{GetParam(), 1, pool_};
};

std::vector<Isa> levels_of_this_machine() {
  std::vector<Isa> levels;
  for (const IsaTable& entry : all_tables())
    if (entry.isa <= detected_isa()) levels.push_back(entry.isa);
  return levels;
}

// Layers are packed in tiles only where there are any to multiply, although the reference can read them.
bool packed_for(Isa isa, const LinearRow& row) {
  const bool tiles = row.weights == PackedType::bf16_tiles || row.weights == PackedType::coded_tiles;
  return isa == Isa::amx || !tiles;
}

INSTANTIATE_TEST_SUITE_P(Levels, SmallRun, testing::ValuesIn(levels_of_this_machine()),
                         [](const auto& level) { return to_string(level.param); });

TEST_P(SmallRun, EveryKernelOfTheMachineIsMeasured) {
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
    EXPECT_EQ(found > 0, packed_for(GetParam(), *kernel.row)) << kernel.row->name;
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
  if (GetParam() == detected_isa()) {
    EXPECT_EQ(cases->solving.size(), 3u);
  }
  for (const SolveCase& one : cases->solving) {
    EXPECT_GT(one.measured.share, 0);
    EXPECT_EQ(one.unit->probe->arithmetic, arithmetic_of(one.task.what));
  }
  const std::string drawing = svg(plot_of(machine_, *cases));
  EXPECT_NE(drawing.find("</svg>"), std::string::npos);
  EXPECT_NE(drawing.find(">attention</text>"), std::string::npos);
  EXPECT_EQ(drawing.find(">solvers</text>") != std::string::npos, !cases->solving.empty());
  EXPECT_NE(drawing.find("int4:row.</text>"), std::string::npos);  // whose points are labelled
}

TEST_P(SmallRun, ThatMeasuresNothingIsAnError) {
  plan_.tasks = {{{"f32", "f32"}, {64, 128}}};
  const auto kernels = chosen_kernels(GetParam(), "linear_w4*");
  ASSERT_TRUE(kernels) << kernels.error().message;
  const auto cases = run_cases(machine_, plan_, *kernels, {});
  ASSERT_FALSE(cases);
  EXPECT_EQ(cases.error().code, ErrorCode::usage);
  EXPECT_NE(cases.error().message.find("nothing"), std::string::npos) << cases.error().message;
}

TEST_P(SmallRun, ProgressEstimatesFirstAndEndsWhole) {
  const auto kernels = chosen_kernels(GetParam(), "attention*");
  ASSERT_TRUE(kernels);
  std::vector<Progress> said;
  const auto cases = run_cases(machine_, plan_, *kernels, [&](const Progress& one) { said.push_back(one); });
  ASSERT_TRUE(cases && cases->linear.empty() && cases->quantization.empty());
  ASSERT_EQ(said.size(), 1 + cases->attention.size());
  EXPECT_EQ(said.front().done, 0);
  EXPECT_GT(said.front().seconds_left, 0);
  EXPECT_NEAR(said.back().done, 1, 1e-9);
  const std::string drawing = svg(plot_of(machine_, *cases));
  EXPECT_EQ(drawing.find("int4:row"), std::string::npos);  // no such line
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

// Where a text lies: to the left or to the right of its x.
struct Placed {
  double left, right, y;
};

double number_after(const std::string& tag, const std::string& key) {
  const size_t at = tag.find(" " + key + "=\"");
  return at == std::string::npos ? NAN : std::stod(tag.substr(at + key.size() + 3));
}

std::vector<Placed> texts_of(const std::string& drawing) {
  constexpr double kWide = 7;  // pixels of a character of the usual size
  std::vector<Placed> out;
  for (size_t at = drawing.find("<text "); at != std::string::npos; at = drawing.find("<text ", at + 1)) {
    const size_t inside = drawing.find('>', at) + 1;
    const std::string tag = drawing.substr(at, inside - at);
    if (tag.find("rotate(") != std::string::npos) continue;
    const double wide = kWide * (tag.find("head") != std::string::npos ? 17.0 / 13 : 1) *
                        static_cast<double>(drawing.find('<', inside) - inside);
    const bool end = tag.find("\"end\"") != std::string::npos, middle = tag.find("\"middle\"") != std::string::npos;
    const double left = number_after(tag, "x") - (end ? wide : middle ? wide / 2 : 0);
    out.push_back({left, left + wide, number_after(tag, "y")});
  }
  return out;
}

TEST(Plot, AllTextLiesInsideHoweverManyFamilies) {
  Plot plot{.title = "Kernels", .caption = "of this machine", .gbps = 40, .roofs = {{"int8", 1900}}, .series = {}};
  for (int i = 0; i < 24; ++i)
    plot.series.push_back({fmt::format("a family called {}", i), true, {{1000, 30.0 + i, "", "M = 512", true}}});
  const std::string drawing = svg(plot);
  const size_t box = drawing.find("viewBox=\"0 0 960 ");
  ASSERT_NE(box, std::string::npos);
  const double height = std::stod(drawing.substr(box + std::string("viewBox=\"0 0 960 ").size()));
  const std::vector<Placed> texts = texts_of(drawing);
  EXPECT_GT(texts.size(), 50u);  // of the legend and of the points, at least
  for (const Placed& text : texts) {
    EXPECT_GE(text.left, 0);
    EXPECT_LE(text.right, 960);
    EXPECT_GT(text.y, 10);
    EXPECT_LT(text.y, height);
  }
  for (int i = 0; i < 24; ++i)
    EXPECT_NE(drawing.find(fmt::format(">a family called {}<", i)), std::string::npos) << "in the legend";
}

// As many as there are kinds of things: none shares its colour with another.
TEST(Plot, EightFamiliesHaveEightColours) {
  Plot plot;
  for (int i = 0; i < 8; ++i) plot.series.push_back({std::to_string(i), false, {}});
  const std::string drawing = svg(plot);
  for (int i = 0; i < 8; ++i) EXPECT_NE(drawing.find(fmt::format("<circle class=\"s{}\"", i)), std::string::npos) << i;
}

TEST(Plot, EmptyIsStillADrawing) { EXPECT_TRUE(well_formed(svg({}))); }

}  // namespace
}  // namespace nibble::bench
