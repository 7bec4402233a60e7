// Whole searches on a small random model, and the refusals.
#include "search/search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "core/testing.h"
#include "measure/divergence.h"
#include "model/model.h"
#include "model/random/byte_tokenizer.h"
#include "quantize/quantize.h"
#include "quantize/recipe/recipe.h"
#include "runtime/random_source.h"
#include "search/fit.h"
#include "search/footprint.h"
#include "search/log.h"
#include "search/observer.h"
#include "search/plot.h"
#include "tokenizer/tokenizer.h"

namespace nibble::search {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::expect_ok;
using testing::TemporaryFolder;

constexpr int64_t kVocabulary = 300, kHidden = 64, kFfn = 96, kLayers = 2, kSamples = 2, kLength = 24;

class LlamaSource final : public RandomSource {
 public:
  explicit LlamaSource(const Spec& spec, uint64_t seed) : RandomSource(spec, seed) {
    config_ = {{"architectures", {"LlamaForCausalLM"}},
               {"model_type", "llama"},
               {"hidden_act", "silu"},
               {"hidden_size", spec.hidden},
               {"intermediate_size", spec.ffn},
               {"max_position_embeddings", spec.max_positions},
               {"num_attention_heads", spec.heads},
               {"num_hidden_layers", spec.layers},
               {"num_key_value_heads", spec.kv_heads},
               {"rms_norm_eps", 1e-5},
               {"rope_theta", 10000.0},
               {"tie_word_embeddings", false},
               {"torch_dtype", "float32"},
               {"vocab_size", spec.vocabulary}};
  }
};

Spec llama_spec() {
  Spec spec = small_spec();
  spec.vocabulary = kVocabulary;
  spec.hidden = spec.embedding = kHidden;
  spec.layers = kLayers;
  spec.heads = 4;
  spec.kv_heads = 2;
  spec.head_dim = kHidden / 4;
  spec.ffn = kFfn;
  spec.max_positions = 64;
  return spec;
}

void write_llama(const fs::path& folder, uint64_t seed) {
  expect_ok(write_checkpoint(LlamaSource(llama_spec(), seed), folder, Levels::f32));
  testing::put(folder / "tokenizer.json", byte_tokenizer_json(kVocabulary, {}));
  testing::put(folder / "tokenizer_config.json", byte_tokenizer_config({}));
}

Json rounding() {
  return *parse_json(R"({"name": "r", "weights": "int8:row", "activations": "f32", "steps": [{"round": {}}]})", "r");
}

Budget bits(double average) {
  Budget out;
  out.bits = average;
  return out;
}

class SearchOfAModel : public ::testing::Test {
 protected:
  void SetUp() override {
    write_llama(folder_ / "model", 1);
    std::string text;
    for (int i = 0; i < 40; ++i) text += "The " + std::to_string(i * i) + " boats lay at the quay. ";
    testing::put(folder_ / "text", text);
  }

  SearchOptions options(std::string_view weights, std::string_view activations, std::optional<double> bits,
                        std::string_view attention = {}) const {
    SearchOptions out;
    out.model = folder_ / "model";
    out.palette = *read_palette("", weights, activations, attention);
    out.budget.bits = bits;
    out.name = "found";
    out.recipe = parse_recipe(rounding(), "r")->source;
    out.text = {folder_ / "text"};
    out.samples = kSamples;
    out.length = kLength;
    return out;
  }

  void expect_worth(const SearchReport& report);

  TemporaryFolder folder_;
  ThreadPool pool_{2};
};

// Mean KL of a quantized folder, the long way.
double divergence_of(const fs::path& reference, const fs::path& candidate, const Samples& text, ThreadPool& pool) {
  const Model a = *Model::load(reference, {}, pool), b = *Model::load(candidate, {}, pool);
  ScoredText scored;
  scored.ids = text.tokens;
  for (int64_t i = 0; i < text.count; ++i) scored.passages.push_back({i * text.length, text.length, 1});
  ModelLogits expected(a, scored, pool), found(b, scored, pool);
  LogitSource* const candidates[] = {&found};
  return compare_logits(expected, candidates, pool)->at(0).mean_kl.value;
}

// The found recipe, carried out, has the bits and the divergence that the search says.
void SearchOfAModel::expect_worth(const SearchReport& report) {
  QuantizeOptions quantizing;
  quantizing.model = folder_ / "model";
  quantizing.output = folder_ / "out";
  const Result<Json> source = parse_json(report.recipe, "found");
  expect_ok(source);
  quantizing.recipe = *parse_recipe(*source, "found");
  const Result<QuantizeReport> quantized = quantize(quantizing, pool_);
  expect_ok(quantized);
  EXPECT_NEAR(quantized->quantized_bits_per_weight, report.chosen.weight_bits, 1e-9);
  const Tokenizer tokenizer = *Tokenizer::load(quantizing.model);
  const Samples text = *draw_samples(std::vector<fs::path>{folder_ / "text"}, tokenizer, kSamples, kLength, 0, "");
  const double kl = divergence_of(quantizing.model, quantizing.output, text, pool_);
  EXPECT_NEAR(report.chosen.measured.kl / kl, 1, 1e-6);
}

TEST_F(SearchOfAModel, TheRecipeIsWorthWhatTheSearchSays) {
  SearchOptions asked =
      options("int3:g32,int4:g32,int6:g32,int8:g32", "int4:token:asym,int6:token:asym,int8:token:asym", 5);
  asked.budget.activation_bits = 7;
  const Result<SearchReport> report = run_search(asked, pool_);
  expect_ok(report);
  EXPECT_LE(report->chosen.weight_bits, 5);
  EXPECT_LE(report->chosen.activation_bits, 7);
  EXPECT_GT(report->chosen.weight_bits, 4.5);
  EXPECT_GT(report->chosen.activation_bits, 6);
  for (const Point& point : report->points)
    if (point.fits) {
      EXPECT_GE(point.measured.kl, report->chosen.measured.kl);
    }
  expect_worth(*report);
}

TEST_F(SearchOfAModel, SoIsOneThatChoosesAttention) {
  SearchOptions asked = options("bfp4:b16,bfp6:b16", "bfp6:b16,bfp8:b16", 5, "bfp4:b16,bfp6:b16,bfp8:b16");
  asked.budget.activation_bits = 7;
  asked.budget.length = kLength;
  const Result<SearchReport> found = run_search(asked, pool_);
  expect_ok(found);
  const SearchReport& report = *found;
  expect_worth(report);
  std::set<std::string> attention;
  for (size_t i = 0; i < report.space.variables.size(); ++i) {
    const Variable& variable = report.space.variables[i];
    if (variable.operand == Operand::attention)
      attention.insert(to_string(report.space.palette.attention[static_cast<size_t>(report.chosen.choice[i])]));
  }
  EXPECT_GT(attention.size(), 1u);
  // Queries of 4 heads of 16; keys of 2; probabilities of 12 positions, values in blocks of positions.
  const auto variable = [&](std::string_view name) {
    return *std::find_if(report.space.variables.begin(), report.space.variables.end(),
                         [&](const Variable& one) { return one.name == name; });
  };
  EXPECT_EQ(variable("blocks.1.attention.q").bits, (std::vector<int64_t>{4 * 72, 4 * 104, 4 * 136}));
  EXPECT_EQ(variable("blocks.1.attention.k").bits, (std::vector<int64_t>{2 * 72, 2 * 104, 2 * 136}));
  EXPECT_EQ(variable("blocks.1.attention.p").bits, (std::vector<int64_t>{4 * 56, 4 * 80, 4 * 104}));
  EXPECT_EQ(variable("blocks.1.attention.v").bits, (std::vector<int64_t>{149, 213, 277}));  // 32 * (4 + 16 / 24) ...
}

TEST_F(SearchOfAModel, MemoryCountsTheChosenCache) {
  Budget budget;
  budget.memory = 1 << 20;
  budget.all = true;
  budget.length = 32;
  const Space space =
      *make_space(llama_spec(), *read_palette("", "int8:row", "f32", "bfp4:b16,bfp6:b16"), budget, {800, 16});
  const int64_t weights = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96), rows = 2 * (64 + 32 + 32 + 64 + 96 + 96 + 64);
  const int64_t cached = 2 * 2 * 32 * 32;  // layers, keys and values, their width, tokens
  EXPECT_EQ(space.cost(space.pools[0], space.uniform(0, 0, 0)), 800 + 8 * weights + 32 * rows + cached * 9 / 2);
  EXPECT_EQ(space.cost(space.pools[0], space.uniform(0, 0, 1)), 800 + 8 * weights + 32 * rows + cached * 13 / 2);
}

TEST_F(SearchOfAModel, CountsWhatIsStored) {
  const Spec spec = llama_spec();
  const std::string formats = "int2:g32,int3:row,int4:g32:asym,int8:g24,bfp4:b16,mxfp6,nvfp4,f16";
  const Space space = *make_space(spec, *read_palette("", formats, "int8:token,int4:token:asym,f32"), bits(20), {});
  QuantizeOptions quantizing;
  quantizing.model = folder_ / "model";
  for (size_t k = 0; k < space.palette.weights.size(); ++k) {
    Json source = rounding();
    source["weights"] = to_string(space.palette.weights[k]);
    quantizing.output = folder_ / fmt::format("out{}", k);
    quantizing.recipe = *parse_recipe(source, "r");
    const auto found = quantize(quantizing, pool_);
    expect_ok(found);
    std::map<std::string, int64_t> stored;
    for (const LinearReport& linear : found->linears) stored[linear.name + ".weights"] = linear.stored_bytes;
    for (const Variable& variable : space.variables)
      if (stored.contains(variable.name)) {
        EXPECT_EQ(variable.bits[k], 8 * stored[variable.name]) << variable.name;
      }
    EXPECT_EQ(stored.empty(), space.palette.weights[k].bits == 16);  // floats are not reported
  }
  // q, k and v read 64 inputs each: of 8 bits and a scale, of 4 bits, a scale and a zero, of 32 bits.
  EXPECT_EQ(space.variables[0].name, "blocks.0.qkv.activations");
  EXPECT_EQ(space.variables[0].bits, (std::vector<int64_t>{3 * (64 * 8 + 32), 3 * (64 * 4 + 32 + 8), 3 * 64 * 32}));
}

TEST_F(SearchOfAModel, AveragesOverAllOperandsAtALength) {
  const Spec spec = llama_spec();
  Budget budget = bits(9);
  budget.all = true;
  budget.length = 10;
  const Space space = *make_space(spec, *read_palette("", "int8:row", "int8:token"), budget, {0, 16});
  const double weights = 2.0 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96), inputs = 2.0 * (6 * 64 + 96);
  const double rows = 2.0 * (64 + 32 + 32 + 64 + 96 + 96 + 64), cache = 2.0 * 2 * 2 * 16;
  const double total = 8 * weights + 32 * rows + 10 * (8 * inputs + 2.0 * 7 * 32) + 10 * 16 * cache;
  EXPECT_NEAR(space.budget_bits(space.uniform(0, 0)), total / (weights + 10 * inputs + 10 * cache), 1e-12);
}

TEST_F(SearchOfAModel, InterruptedSearchesGoOn) {
  SearchOptions asked = options("int3:g32,int4:g32,int8:g32", "f32", 4.5);
  asked.log = folder_ / "log.jsonl";
  const SearchReport whole = *run_search(asked, pool_);
  const std::string log = testing::get(asked.log);
  expect_error(run_search(asked, pool_), ErrorCode::usage, "--resume", "log.jsonl");

  testing::put(asked.log, log.substr(0, log.size() / 2));  // in the middle of a line
  asked.resume = true;
  const SearchReport resumed = *run_search(asked, pool_);
  EXPECT_EQ(resumed.chosen.choice, whole.chosen.choice);
  EXPECT_EQ(resumed.chosen.measured.kl, whole.chosen.measured.kl);
  EXPECT_LT(resumed.measured, whole.measured * 2 / 3);
  EXPECT_GT(resumed.measured, 0);
  EXPECT_EQ(testing::get(asked.log), log);

  asked.budget.bits = 5;  // another budget needs its own solution only
  const SearchReport other = *run_search(asked, pool_);
  EXPECT_LE(other.measured, 1);
  EXPECT_LE(other.chosen.measured.kl, whole.chosen.measured.kl);
}

TEST(SearchLog, AFirstLineThatWasTornIsWrittenAgain) {
  const testing::TemporaryFolder folder;
  const auto path = folder.path() / "log.jsonl";
  const Json header = {{"nibble_search", 1}, {"model", "x"}};
  for (const char* left : {"", "{\"nib", "{\"nibble_search\":1,\"mod"}) {
    testing::put(path, left);
    ASSERT_TRUE(Log::open(path, header, true, false)) << left;
    EXPECT_TRUE(Log::open(path, header, true, false)) << left;
    EXPECT_EQ(testing::get(path), dump_json(header) + "\n") << left;
  }
}

TEST_F(SearchOfAModel, TrialsGoOnAsIfNotInterrupted) {
  SearchOptions asked = options("int3:g32,int4:g32,int8:g32", "f32", 4.5);
  asked.engine = Engine::tpe;
  asked.trials = 24;
  asked.log = folder_ / "whole.jsonl";
  const SearchReport whole = *run_search(asked, pool_);
  const std::string log = testing::get(asked.log);
  for (const Point& point : whole.points)
    if (point.study == "tpe") {
      EXPECT_TRUE(point.fits);
    }

  asked.log = folder_ / "parts.jsonl";
  asked.trials = 13;
  ASSERT_TRUE(run_search(asked, pool_));
  asked.trials = 24;
  asked.resume = true;
  const SearchReport resumed = *run_search(asked, pool_);
  EXPECT_EQ(testing::get(asked.log), log);
  EXPECT_EQ(resumed.chosen.choice, whole.chosen.choice);
  EXPECT_LE(whole.chosen.measured.kl, whole.points[1].measured.kl);  // uniform int4

  const std::string drawn = svg(whole, "Search of <a>");
  EXPECT_NE(drawn.find("Search of &lt;a&gt;"), std::string::npos);
  EXPECT_EQ(std::count(drawn.begin(), drawn.end(), '\n') > 30, true);
  EXPECT_NE(drawn.find("class=\"chosen\""), std::string::npos);
}

TEST_F(SearchOfAModel, FurtherRoundsMeasureAroundTheLast) {
  SearchOptions asked = options("int2:g32,int3:g32,int4:g32", "f32", 3.5);
  const SearchReport once = *run_search(asked, pool_);
  asked.rounds = 2;
  const SearchReport twice = *run_search(asked, pool_);
  EXPECT_LE(twice.chosen.measured.kl, once.chosen.measured.kl);
  EXPECT_GT(twice.measured, once.measured);
}

TEST_F(SearchOfAModel, RefusesTheLogOfSomethingElse) {
  SearchOptions asked = options("int4:g32,int8:g32", "f32", 6);
  asked.text.clear();  // the model's own
  asked.log = folder_ / "log.jsonl";
  ASSERT_TRUE(run_search(asked, pool_));
  asked.resume = true;
  asked.seed = 1;
  expect_error(run_search(asked, pool_), ErrorCode::corrupt, "tokens", "log.jsonl");
  asked.seed = 0;
  write_llama(folder_ / "other", 2);
  asked.model = folder_ / "other";
  expect_error(run_search(asked, pool_), ErrorCode::corrupt, "another model", "model");
  testing::put(asked.log, "{\"a\": 1}\n");
  expect_error(run_search(asked, pool_), ErrorCode::corrupt, "no log of a search");
  asked.resume = false;
  asked.force = true;
  expect_error(run_search(asked, pool_), ErrorCode::usage, "not replaced");
}

TEST_F(SearchOfAModel, RefusesBudgetsByName) {
  expect_error(run_search(options("int4:g32", "f32", {}), pool_), ErrorCode::usage, "no budget", "--bits");
  expect_error(run_search(options("int4:g32", "f32", 0.0), pool_), ErrorCode::usage, "--bits is 0");
  expect_error(run_search(options("int4:g32", "f32", std::nan("")), pool_), ErrorCode::usage, "--bits");
  expect_error(run_search(options("int4:g32,int3:g32", "f32", 3.49), pool_), ErrorCode::usage, "impossible", "3.5000");
  expect_ok(run_search(options("int3:g32", "f32", 3.5), pool_));
  SearchOptions both = options("int4:g32", "f32", 4.5);
  both.budget.memory = 1000;
  expect_error(run_search(both, pool_), ErrorCode::usage, "two budgets");
  both.budget.bits.reset();
  expect_error(run_search(both, pool_), ErrorCode::usage, "1000", "impossible", "bytes");
  SearchOptions trials = options("int4:g32", "f32", 4.5);
  trials.engine = Engine::tpe;
  trials.trials = 0;
  expect_error(run_search(trials, pool_), ErrorCode::usage, "--trials");
  SearchOptions window = options("int4:g32", "f32", 4.5);
  window.length = 65;
  expect_error(run_search(window, pool_), ErrorCode::usage, "--window", "64");
}

TEST_F(SearchOfAModel, RefusesFormatsThatAreNotMultiplied) {
  expect_error(run_search(options("int4:g32,bfp4:b16", "bfp8:b16", 6), pool_), ErrorCode::usage, "int4:g32",
               "bfp8:b16");
}

TEST_F(SearchOfAModel, RefusesBasesWhosePartsItDoesNotCount) {
  SearchOptions keeping = options("int4:g32,int8:row", "f32", 6);
  keeping.recipe["steps"] = *parse_json(R"([{"observe": {"statistics": ["absmax"]}},
      {"split": {"columns": 4, "by": "absmax"}}, {"round": {}}])",
                                        "steps");
  expect_error(run_search(keeping, pool_), ErrorCode::usage, "--base", "\"split\"");
}

TEST_F(SearchOfAModel, RefusesBitsThatStepsGive) {
  for (const char* formats : {"int4:g32,int:g32", "int:g32:asym"})
    expect_error(run_search(options(formats, "f32", 4.5), pool_), ErrorCode::usage, "--formats: int:g32",
                 "--recipe slim-llm --bits X");
  for (const char* formats : {"int4:g32,code:col@3", "code:col"})
    expect_error(run_search(options(formats, "f32", 4.5), pool_), ErrorCode::usage, "--formats: code:col",
                 "--palette channels");
}

TEST_F(SearchOfAModel, ChoosesAmongBlockFormats) {
  SearchOptions asked = options("bfp3:b16,bfp4:b16,bfp6:b16", "bfp4:b16,bfp8:b16", 4.5);
  asked.recipe["steps"] = *parse_json(R"([{"id": "turn", "hadamard": {}}, {"id": "r", "round": {}}])", "r");
  const auto found = run_search(asked, pool_);
  expect_ok(found);
  EXPECT_LE(found->chosen.weight_bits, 4.5);
  EXPECT_EQ(found->chosen.activation_bits, 8.5);  // free, so the widest
  EXPECT_NE(found->recipe.find("bfp8:b16"), std::string::npos);
  EXPECT_NE(found->recipe.find("\"hadamard\": {\"block\": 16}"), std::string::npos);
  expect_worth(*found);  // rotated while searching, too
  const SearchOptions mixed = [&] {
    SearchOptions out = options("bfp4:b16", "bfp8:b16,mxint8", 4.5);
    out.recipe["steps"] = asked.recipe["steps"];
    return out;
  }();
  expect_error(run_search(mixed, pool_), ErrorCode::usage, "no block in common", "mxint8");
}

TEST_F(SearchOfAModel, AMemoryBudgetCountsEveryTensor) {
  SearchOptions asked = options("int2:g32,int4:g32,int8:g32", "f32", {});
  asked.budget.memory = 1;
  const auto refused = run_search(asked, pool_);
  ASSERT_FALSE(refused);
  // All linears at 2.5 bits, embedding, head and five norms in f32.
  const int64_t weights = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96), others = 4 * (2 * 300 * 64 + 5 * 64);
  expect_error(refused, ErrorCode::usage, fmt::format("{} bytes, {} of which", weights * 5 / 16 + others, others));
  asked.budget.memory = weights * 5 / 16 + others;
  const auto least = run_search(asked, pool_);
  expect_ok(least);
  EXPECT_EQ(least->chosen.weight_bits, 2.5);
}

TEST(Palettes, AreReadByName) {
  EXPECT_EQ(read_palette("int", "", "")->weights.size(), 7u);
  EXPECT_EQ(read_palette("int", "int4:row", "")->weights.size(), 1u);
  EXPECT_EQ(read_palette("", "int4:row", "")->activations, std::vector<NumberFormat>{NumberFormat()});
  const auto unknown = read_palette("nothing", "", "");
  expect_error(unknown, ErrorCode::usage, "nothing", "bfp, mx, int");
  EXPECT_EQ(unknown.error().message.find("channels"), std::string::npos);  // a search refuses it
  EXPECT_TRUE(read_palette("channels", "", "")->gives_averages());
  expect_error(read_palette("", "", ""), ErrorCode::usage, "--formats");
  expect_error(read_palette("", "int4:g32,int4:g32", ""), ErrorCode::usage, "twice");
  expect_error(read_palette("", "int4:g32,", ""), ErrorCode::usage, "--formats");
  expect_error(read_palette("", "int9:g32", ""), ErrorCode::usage, "int9");
  EXPECT_EQ(read_palette("mx", "", "", "palette")->attention.size(), 3u);
  EXPECT_TRUE(read_palette("mx", "", "")->attention.empty());
  expect_error(read_palette("int", "", "", "palette"), ErrorCode::usage, "--attention", "int");
  expect_error(read_palette("bfp", "", "", "fixed8:f7"), ErrorCode::usage, "--attention");
}

// --- the best that fits -------------------------------------------------------------------------------------------

Json gptq() {
  return *parse_json(R"({"name": "g", "weights": "int4:g32:asym", "activations": "f32", "steps": [
      {"observe": {"statistics": ["gram"]}}, {"gptq": {}}]})",
                     "g");
}

class FitOfAModel : public SearchOfAModel {
 protected:
  FitOptions fitting(const Json& recipe, Limit limit, double bits, int64_t bytes) const {
    FitOptions out;
    out.model = folder_ / "model";
    out.recipe = *parse_recipe(recipe, "r");
    out.name = "fitted";
    out.palette = "int2:g32:asym,int3:g32:asym,int4:g32:asym,int8:g32:asym";
    out.allow_slow = true;
    out.limit = limit;
    out.bits = bits;
    out.bytes = bytes;
    out.context = 40;
    out.calibration = {folder_ / "text"};
    out.samples = 4;
    out.length = kLength;
    out.text_samples = kSamples;
    out.text_length = kLength;
    out.sensitivities = folder_ / "kept";
    return out;
  }

  QuantizeReport written(const FitReport& report, const FitOptions& fitted) {
    QuantizeOptions quantizing;
    quantizing.model = fitted.model;
    quantizing.output = folder_ / "fitted";
    quantizing.force = true;
    quantizing.calibration = fitted.calibration;
    quantizing.samples = fitted.samples;
    quantizing.length = fitted.length;
    const Result<Json> source = parse_json(report.recipe, "fitted");
    expect_ok(source);
    quantizing.recipe = *parse_recipe(*source, "fitted");
    auto out = quantize(quantizing, pool_);
    expect_ok(out);
    return *std::move(out);
  }
};

TEST_F(FitOfAModel, TheModelIsAsLargeAndAsGoodAsItSays) {
  for (const Limit limit : {Limit::bits, Limit::files, Limit::memory}) {
    FitOptions asked = fitting(rounding(), limit, 4.9, INT64_MAX / 32);
    asked.predict_only = true;
    const Result<FitReport> ample = run_fit(asked, pool_);
    expect_ok(ample);
    const FitBytes &narrow = ample->uniform[2].bytes, &wide = ample->uniform[3].bytes;  // 4 and 8 bits
    asked.bytes = limit == Limit::files ? (narrow.files + wide.files) / 2 : (narrow.memory() + wide.memory()) / 2;
    asked.predict_only = false;
    const Result<FitReport> found = run_fit(asked, pool_);
    expect_ok(found);
    const FitPlan& chosen = found->chosen;
    EXPECT_TRUE(chosen.fits);
    for (const FitPlan& plan : found->uniform)
      if (plan.fits && plan.measured) {
        EXPECT_LE(chosen.measured->kl, plan.measured->kl);
      }
    const QuantizeReport report = written(*found, asked);
    EXPECT_NEAR(static_cast<double>(chosen.bytes.files) / static_cast<double>(report.file_bytes), 1, 0.01);
    const Model model = *Model::load(folder_ / "fitted", {}, pool_);
    EXPECT_NEAR(static_cast<double>(chosen.bytes.resident_linears + chosen.bytes.resident_rest) /
                    static_cast<double>(model.packed_bytes() + model.mapped_bytes()),
                1, 1e-3);
    if (limit == Limit::bits) {
      EXPECT_LE(chosen.bits, 4.9);
      EXPECT_GT(chosen.bits, 4.4);
    } else {
      EXPECT_LE(limit == Limit::files ? report.file_bytes : chosen.bytes.memory(), asked.bytes);
      EXPECT_EQ(found->left_bytes >= 0, true);
    }
    // The cache of the choice, too: the recipe says it. What is written is what was measured.
    const Fidelity worth = *measure_written(asked, folder_ / "fitted", pool_);
    EXPECT_NEAR(worth.kl / chosen.measured->kl, 1, 1e-6);
  }
}

TEST_F(FitOfAModel, MeasuresOnceWhatSolversMakeOfIt) {
  FitOptions asked = fitting(gptq(), Limit::bits, 4.5, 0);
  const Result<FitReport> found = run_fit(asked, pool_);
  expect_ok(found);
  EXPECT_EQ(found->singles.size(), 2u * 7 * 5);
  // The written model's calibration sees quantized blocks, the measurement's float ones: not the same, but near.
  written(*found, asked);
  const double worth = measure_written(asked, folder_ / "fitted", pool_)->kl;
  EXPECT_NEAR(worth / found->chosen.measured->kl, 1, 0.25);

  asked.bits = 6;
  asked.predict_only = true;
  const FitReport again = *run_fit(asked, pool_);
  EXPECT_EQ(again.measured, 0);
  EXPECT_EQ(again.log, found->log);
  EXPECT_LT(again.chosen.predicted_kl, found->chosen.predicted_kl);
  asked.memory_limit = int64_t{1} << 30;  // while measuring formats: a written model is compared all the same
  EXPECT_EQ(measure_written(asked, folder_ / "fitted", pool_)->kl, worth);
  ASSERT_EQ(again.singles.size(), found->singles.size());
  for (size_t i = 0; i < again.singles.size(); ++i) EXPECT_EQ(again.singles[i].kl, found->singles[i].kl);

  // An interrupted measurement goes on.
  const std::string log = testing::get(found->log);
  testing::put(found->log, log.substr(0, log.size() / 3));
  const FitReport resumed = *run_fit(asked, pool_);
  EXPECT_EQ(resumed.chosen.choice, again.chosen.choice);
  EXPECT_GT(resumed.measured, 0);
  EXPECT_LT(resumed.measured, found->measured);

  // Another model of the same name is another file, which a note says.
  fs::create_directories(folder_ / "elsewhere");
  write_llama(folder_ / "elsewhere" / "model", 2);
  asked.model = folder_ / "elsewhere" / "model";
  const FitReport other = *run_fit(asked, pool_);
  EXPECT_NE(other.log, found->log);
  EXPECT_EQ(other.reused, 0);
  ASSERT_EQ(other.notes.size(), 1u);
  EXPECT_NE(other.notes[0].find("\"files\""), std::string::npos) << other.notes[0];

  EXPECT_NE(picture(*found).find("int4:g32:asym"), std::string::npos) << picture(*found);
  EXPECT_NE(fit_svg(*found, "a <b>", 1e9).find("a &lt;b&gt;"), std::string::npos);
}

// Linears for which there is room stay floats, also where the recipe quantizes their inputs.
TEST_F(FitOfAModel, FloatsReadFloatsWhateverTheRecipeQuantizes) {
  for (const char* usual : {"f32", "int8:token"}) {
    Json base = rounding();
    base["activations"] = usual;
    base["except"] =
        *parse_json(R"([{"roles": ["down"], "weights": "int8:row", "activations": "int8:token"}])", "except");
    const Result<FitReport> found = run_fit(fitting(base, Limit::memory, 0, 1 << 30), pool_);
    ASSERT_TRUE(found.has_value()) << usual << ": " << found.error().message;
    const Recipe fitted = *parse_recipe(*parse_json(found->recipe, "fitted"), "fitted");
    const std::vector<SitePlan> sites = *plan_block(fitted, found->spec, 0);
    for (const SitePlan& site : sites)
      for (const LinearPlan& linear : site.linears) EXPECT_FALSE(linear.quantized()) << linear.name;
  }
}

Json by_channel() {
  return *parse_json(R"({"name": "c", "weights": "code:col", "activations": "bf16", "steps": [
      {"observe": {"statistics": ["squares"]}}, {"id": "widths", "allocate": {"bits": 3, "unit": 8}},
      {"kmeans": {"weighted_by": "none"}}, {"round": {}}]})",
                     "c");
}

// Bits by channel, an average for every site: no worse than one average for all, as large as it says, and written as it
// was measured, what sites leave over handed on.
TEST_F(FitOfAModel, GivesSitesAveragesOfBitsByChannel) {
  FitOptions asked = fitting(by_channel(), Limit::bits, 5.3, 0);
  asked.palette = "code:col@4.5,code:col@5.5,code:col@6.5,int4:g32:asym";
  const Result<FitReport> found = run_fit(asked, pool_);
  ASSERT_TRUE(found.has_value()) << found.error().message;
  EXPECT_EQ(found->singles.size(), 2u * 4 * 5);  // blocks, sites, the palette and floats
  EXPECT_EQ(found->singles[0].variable, 1u);
  EXPECT_EQ(found->space.variables[1].name, "blocks.0.qkv.weights");
  const FitPlan& chosen = found->chosen;
  EXPECT_TRUE(chosen.fits);
  EXPECT_GT(chosen.bits, 5);
  std::set<int> candidates(chosen.choice.begin(), chosen.choice.end());
  EXPECT_GT(candidates.size(), 1u) << picture(*found);
  // The recipe's own average is one of the models that it was compared with.
  const auto own = std::find_if(found->uniform.begin(), found->uniform.end(),
                                [](const FitPlan& plan) { return std::abs(plan.bits - 5.3) < 5e-3; });
  ASSERT_NE(own, found->uniform.end());
  ASSERT_TRUE(own->measured.has_value());
  EXPECT_LE(chosen.measured->kl, own->measured->kl);
  EXPECT_NE(found->recipe.find("\"set\": {\"widths\": {\"bits\": "), std::string::npos) << found->recipe;

  const QuantizeReport report = written(*found, asked);
  EXPECT_NEAR(static_cast<double>(chosen.bytes.files) / static_cast<double>(report.file_bytes), 1, 0.01);
  EXPECT_NEAR(report.quantized_bits_per_weight / chosen.bits, 1, 0.01);
  const Model model = *Model::load(folder_ / "fitted", {}, pool_);
  EXPECT_NEAR(static_cast<double>(chosen.bytes.resident_linears + chosen.bytes.resident_rest) /
                  static_cast<double>(model.packed_bytes() + model.mapped_bytes()),
              1, 0.05);  // few channels, and those of the written model are others
  EXPECT_NEAR(measure_written(asked, folder_ / "fitted", pool_)->kl / chosen.measured->kl, 1, 0.25);

  // Another budget measures nothing anew but whole models, and a site that cannot do with an average gets its least.
  asked.palette = "code:col@1,code:col@4.5";
  asked.predict_only = true;
  asked.bits = 4.5;
  const FitReport least = *run_fit(asked, pool_);
  EXPECT_EQ(least.measured, 2 * 4);
  EXPECT_GT(least.uniform[0].bits, 1.5);
  EXPECT_LT(least.uniform[0].bits, 4);
  asked.bits = 1.2;
  expect_error(run_fit(asked, pool_), ErrorCode::usage, "--bits 1.2 is impossible",
               fmt::format("{:.3f}", least.uniform[0].bits).substr(0, 4));
}

TEST_F(FitOfAModel, RefusesAveragesThatMeanNothing) {
  FitOptions wrong = fitting(gptq(), Limit::bits, 4, 0);
  for (const auto& [palette, part] : {std::pair("code:col@3", "needs a recipe with a step that gives bits"),
                                      {"code:col", "no single size"},
                                      {"int4:g32@3", "only code:col has an average"},
                                      {"int:g32@3", "slim-llm --bits X"},
                                      {"int4:g32,int:g32", "slim-llm --bits X"},
                                      {"code:col@", "expected an average"},
                                      {"code:col@17", "expected an average"},
                                      {"code:col@3,code:col@3.0", "twice"}}) {
    wrong.palette = palette;
    expect_error(run_fit(wrong, pool_), ErrorCode::usage, "--palette", part);
  }
  wrong = fitting(by_channel(), Limit::bits, 4, 0);
  expect_error(run_fit(wrong, pool_), ErrorCode::usage, "--palette channels");
  Json by_group = gptq();
  by_group["weights"] = "int:g32";
  wrong = fitting(by_group, Limit::bits, 4, 0);
  expect_error(run_fit(wrong, pool_), ErrorCode::usage, "bits to groups", "--bits X");
}

TEST_F(FitOfAModel, ChoosesTheCache) {
  FitOptions asked = fitting(rounding(), Limit::memory, 0, INT64_MAX);
  asked.cache = "auto";
  const FitReport ample = *run_fit(asked, pool_);
  EXPECT_EQ(ample.chosen.cache, "f16");
  EXPECT_LT(ample.chosen.predicted_kl, 1e-5);  // everything as it is, but for the cache
  const AttentionFormats narrow = *with_cache({}, "bfp4:b16", "here");
  const FitBytes& least = ample.uniform[0].bytes;  // weights of two bits
  asked.bytes = least.memory() - least.cache + cache_bytes(llama_spec(), std::vector(kLayers, narrow), 40, 1);
  const FitReport tight = *run_fit(asked, pool_);
  EXPECT_EQ(tight.chosen.cache, "bfp4:b16");
  EXPECT_NE(tight.recipe.find("\"cache\": \"bfp4:b16\""), std::string::npos) << tight.recipe;
}

TEST_F(FitOfAModel, NamesTheLeastThatIsPossible) {
  expect_error(run_fit(fitting(rounding(), Limit::bits, 2.7, 0), pool_), ErrorCode::usage, "impossible", "2.7500");
  expect_ok(run_fit(fitting(rounding(), Limit::bits, 2.75, 0), pool_));  // a scale of 16 and an offset of 8 bits for 32
  expect_error(run_fit(fitting(rounding(), Limit::files, 0, 1000), pool_), ErrorCode::usage, "--size 1000",
               "embeddings");
  const auto memory = run_fit(fitting(rounding(), Limit::memory, 0, 1000), pool_);
  expect_error(memory, ErrorCode::usage, "KV cache of 1 x 40 tokens", "workspace");
  const std::string& message = memory.error().message;
  const int64_t least = std::stoll(message.substr(message.find("at least ") + 9));
  expect_error(run_fit(fitting(rounding(), Limit::memory, 0, least - 1), pool_), ErrorCode::usage, "impossible");
  expect_ok(run_fit(fitting(rounding(), Limit::memory, 0, least), pool_));

  FitOptions untold = fitting(gptq(), Limit::bits, 4, 0);
  untold.calibration.clear();
  expect_error(run_fit(untold, pool_), ErrorCode::usage, "calibration");
  FitOptions wrong = fitting(rounding(), Limit::bits, 4, 0);
  wrong.palette = "int4:g32,nonsense";
  expect_error(run_fit(wrong, pool_), ErrorCode::usage, "--palette: ", "nonsense", "one of the palettes", "int-g128");
  wrong = fitting(rounding(), Limit::memory, 0, 1 << 30);
  wrong.context = 65;
  expect_error(run_fit(wrong, pool_), ErrorCode::usage, "--context", "64");
}

TEST_F(FitOfAModel, ObservesWhatTheModelReads) {
  const Model model = *Model::load(folder_ / "model", {}, pool_);
  const Tokenizer tokenizer = *Tokenizer::load(folder_ / "model");
  const Samples text = *draw_samples(std::vector<fs::path>{folder_ / "text"}, tokenizer, 3, kLength, 0, "");
  const std::vector<unsigned> wanted(4, kGram);
  Observer observer(model, text), other(model, text);
  const SiteStatistics first = *observer.take(0, 0, wanted, pool_);
  EXPECT_EQ(first.gram.tokens(), 3 * kLength);
  // Rows that RMSNorm has scaled: their squares sum up to the width where gains are 1.
  double sum = 0, expected = 0;
  for (int64_t k = 0; k < kHidden; ++k) sum += first.gram.at(k, k);
  Workspace workspace;
  Sequence sequence(model.spec(), CacheType::f32);
  std::vector<float> rows(static_cast<size_t>(kLength * kHidden));
  for (int64_t i = 0; i < 3; ++i) {
    sequence.clear();
    const Segment segment{&sequence, kLength, 0};
    expect_ok(model.embedder().embed(text.sample(i), {&segment, 1}, rows.data(), workspace, pool_));
    for (int64_t t = 0; t < kLength; ++t) {
      const float* const row = rows.data() + t * kHidden;
      double square = 0, scaled = 0;
      for (int64_t k = 0; k < kHidden; ++k) {
        const double gain = model.block(0).attention_norm.gain[static_cast<size_t>(k)];
        square += static_cast<double>(row[k]) * row[k] / kHidden;
        scaled += gain * gain * row[k] * row[k];
      }
      expected += scaled / (square + model.spec().norm_eps);
    }
  }
  EXPECT_NEAR(sum / expected, 1, 1e-4);
  // A block is reached in the same state by looking at those before it or not, and again.
  const SiteStatistics after = *observer.take(1, 2, wanted, pool_), direct = *other.take(1, 2, wanted, pool_);
  EXPECT_EQ(after.gram.at(3, 5), direct.gram.at(3, 5));
  EXPECT_EQ(after.absmax, direct.absmax);
  EXPECT_EQ(observer.take(0, 0, wanted, pool_)->gram.at(3, 5), first.gram.at(3, 5));
}

// What runtime/block.h's scratch grows to is below what is counted, and not far.
TEST_F(FitOfAModel, CountsTheWorkspace) {
  const Model model = *Model::load(folder_ / "model", {}, pool_);
  Sequence sequence = model.new_sequence();
  std::vector<int32_t> tokens(60, 65);
  Segment segment{&sequence, 60, 0};
  const int64_t last = 59;
  std::vector<float> logits(static_cast<size_t>(model.spec().vocabulary));
  Workspace ws;
  expect_ok(model.forward(tokens, {&segment, 1}, {&last, 1}, logits.data(), ws, pool_));
  int64_t floats = ws.input.scales.size() + ws.input.kept.size() + ws.input.dense.size();
  for (const auto* buffer : {&ws.embedded, &ws.hidden, &ws.q, &ws.k, &ws.v, &ws.mixed, &ws.gate, &ws.up, &ws.attention,
                             &ws.mlp, &ws.normed, &ws.head_rows})
    floats += buffer->size();
  const int64_t counted = workspace_bytes(model.spec(), 60, 1, 0);
  EXPECT_LE(4 * floats, counted);
  EXPECT_GT(6 * floats, counted);
}

}  // namespace
}  // namespace nibble::search
