#include "runtime/model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>

#include "core/half.h"
#include "model/channel_order.h"
#include "runtime/ops/ops.h"
#include "runtime/random_source.h"

namespace nibble {
namespace {

// The knobs of the families, each as a small random model; `quantized` ones run through integer kernels.
struct Case {
  const char* name;
  std::function<void(Spec&)> turn;
  const char* weights = nullptr;
  const char* activations = nullptr;
  int64_t kept = 0;
};

void opt(Spec& spec) {
  spec.norm = Norm::layer;
  spec.gated = false;
  spec.activation = Activation::relu;
  spec.positions = Positions::learned;
  spec.position_offset = 2;
  spec.kv_heads = spec.heads;
  spec.head_dim = 10;
  spec.tied_head = true;
  spec.bias = {true, true, true, true, false, true, true};
}

void opt_350m(Spec& spec) {
  opt(spec);
  spec.embedding = 24;
  spec.post_norm = true;
  spec.final_norm = false;
}

void falcon_7b(Spec& spec) {
  spec.norm = Norm::layer;
  spec.gated = false;
  spec.activation = Activation::gelu;
  spec.kv_heads = 1;
  spec.head_dim = 10;
  spec.parallel = spec.shared_norm = true;
  spec.tied_head = true;
}

void falcon_40b(Spec& spec) {
  falcon_7b(spec);
  spec.kv_heads = 2;
  spec.shared_norm = false;
}

void falcon_rw(Spec& spec) {
  falcon_7b(spec);
  spec.kv_heads = spec.heads;
  spec.parallel = spec.shared_norm = false;
  spec.positions = Positions::alibi;
  spec.alibi_scale = 1 / std::sqrt(10.0);
}

void llama(Spec&) {}

const Case kCases[] = {
    {"llama", llama},
    {"opt", opt},
    {"opt_350m", opt_350m},
    {"falcon_7b", falcon_7b},
    {"falcon_40b", falcon_40b},
    {"falcon_rw", falcon_rw},
    {"llama_w4a4", llama, "int4:row", "int4:token:asym", 1},
    {"llama_w4a8_groups", llama, "int4:g16", "int8:token:asym", 0},
    {"falcon_7b_w8a8", falcon_7b, "int8:row", "int8:token:asym", 2},
    {"opt_w4", opt, "int4:g16", "f32", 0},
};

RandomSource source_of(const Case& test) {
  Spec spec = small_spec();
  test.turn(spec);
  RandomSource source(spec);
  if (test.weights != nullptr)
    source.edit_block = [&test](const LinearWeight& w) {
      return rounded(w, test.weights, test.activations, test.kept);
    };
  return source;
}

Model load(const ModelSource& source, ThreadPool& pool, Model::Options options = {}) {
  auto model = Model::load(source, options, pool);
  if (!model) throw std::runtime_error(model.error().message);
  return std::move(*model);
}

// Runs the instruction set that NIBBLE_ISA names, for one scope.
class ForcedIsa {
 public:
  explicit ForcedIsa(Isa isa) {
    if (const char* before = std::getenv("NIBBLE_ISA")) before_ = before;
    setenv("NIBBLE_ISA", to_string(isa).c_str(), 1);
  }
  ~ForcedIsa() { before_.empty() ? unsetenv("NIBBLE_ISA") : setenv("NIBBLE_ISA", before_.c_str(), 1); }

 private:
  std::string before_;
};

using Tokens = std::vector<int32_t>;
using Logits = std::vector<float>;

Tokens tokens_for(int64_t sequence, int64_t count, int64_t vocabulary) {
  Random random(static_cast<uint64_t>(sequence) + 77);
  Tokens out;
  for (int64_t i = 0; i < count; ++i)
    out.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(vocabulary))));
  return out;
}

// Feeds several token lists to one batch, at most `chunk` tokens of each at a time; the logits of all tokens.
std::vector<Logits> run(const Model& model, const std::vector<Tokens>& texts, int64_t chunk, ThreadPool& pool) {
  const int64_t width = model.spec().vocabulary;
  std::vector<Sequence> sequences;
  for (size_t i = 0; i < texts.size(); ++i) sequences.push_back(model.new_sequence());
  std::vector<Logits> out(texts.size());
  Workspace workspace;
  for (;;) {
    std::vector<Segment> segments;
    std::vector<size_t> owners;
    Tokens tokens;
    for (size_t i = 0; i < texts.size(); ++i) {
      const int64_t done = sequences[i].length();
      const int64_t count = std::min(chunk, static_cast<int64_t>(texts[i].size()) - done);
      if (count == 0) continue;
      segments.push_back({&sequences[i], count, 0});
      tokens.insert(tokens.end(), texts[i].begin() + done, texts[i].begin() + done + count);
      owners.insert(owners.end(), static_cast<size_t>(count), i);
    }
    if (tokens.empty()) return out;
    std::vector<int64_t> wanted(tokens.size());
    for (size_t i = 0; i < wanted.size(); ++i) wanted[i] = static_cast<int64_t>(i);
    Logits logits(tokens.size() * static_cast<size_t>(width));
    const Status done = model.forward(tokens, segments, wanted, logits.data(), workspace, pool);
    if (!done) throw std::runtime_error(done.error().message);
    for (size_t i = 0; i < owners.size(); ++i)
      out[owners[i]].insert(out[owners[i]].end(), logits.begin() + static_cast<int64_t>(i) * width,
                            logits.begin() + static_cast<int64_t>(i + 1) * width);
  }
}

bool same_bits(const Logits& a, const Logits& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// A token's logits are the same bits alone and in any batch, on any number of threads, however its prompt was cut.
void expect_invariance(const ModelSource& source, int64_t length, const Model::Options& options = {}) {
  ThreadPool one(1);
  const Model model = load(source, one, options);
  std::vector<Tokens> texts;
  std::vector<Logits> alone;
  for (int64_t i = 0; i < 8; ++i) {
    texts.push_back(tokens_for(i, length + i % 3, model.spec().vocabulary));
    alone.push_back(run(model, {texts.back()}, 1000, one)[0]);
  }
  EXPECT_FALSE(same_bits(alone[0], alone[3]));
  for (int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    const Model again = load(source, pool, options);
    for (size_t batch : {1, 3, 8}) {
      for (int64_t chunk : {1, 7, 1000}) {
        const auto logits = run(again, {texts.begin(), texts.begin() + static_cast<int64_t>(batch)}, chunk, pool);
        for (size_t i = 0; i < batch; ++i)
          ASSERT_TRUE(same_bits(logits[i], alone[i]))
              << threads << " threads, batch of " << batch << ", chunks of " << chunk << ", sequence " << i;
      }
    }
  }
}

std::string name_of_case(const testing::TestParamInfo<Case>& test) { return test.param.name; }

class EveryFamily : public testing::TestWithParam<Case> {};

TEST_P(EveryFamily, ThreadsBatchesAndChunksChangeNothing) { expect_invariance(source_of(GetParam()), 29); }

std::vector<int32_t> shuffled(Random& random, int64_t count, int64_t begin = 0) {
  std::vector<int32_t> order;
  for (int64_t i = 0; i < count; ++i) order.push_back(static_cast<int32_t>(begin + i));
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  return order;
}

ChannelOrder random_order(const Spec& spec) {
  Random random(5);
  ChannelOrder order;
  order.residual = shuffled(random, spec.hidden);
  for (int64_t i = 0; i < spec.layers; ++i) {
    ChannelOrder::Block block{shuffled(random, spec.ffn), {}};
    for (int64_t head = 0; head < spec.kv_heads; ++head)
      for (int32_t channel : shuffled(random, spec.head_dim, head * spec.head_dim)) block.values.push_back(channel);
    order.blocks.push_back(std::move(block));
  }
  return order;
}

double largest_difference(const Logits& a, const Logits& b) {
  double most = a.size() == b.size() ? 0 : INFINITY;
  for (size_t i = 0; i < a.size() && i < b.size(); ++i)
    most = std::max(most, std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  return most;
}

// Channels in another order, and inputs that are rotated, leave the function as it is, where inputs are not rounded.
TEST_P(EveryFamily, OrdersAndRotationsChangeNothing) {
  const Case test = GetParam();
  if (test.activations != nullptr && std::string_view(test.activations) != "f32") return;
  ThreadPool pool(2);
  const RandomSource source = source_of(test);
  const Tokens text = tokens_for(1, 23, source.spec().vocabulary);
  const auto logits_of = [&](const ModelSource& from) { return run(load(from, pool), {text}, 1000, pool)[0]; };
  const Logits expected = logits_of(source);
  const ChannelOrder order = random_order(source.spec());
  auto moved = reordered(std::make_unique<RandomSource>(source), order);
  EXPECT_FALSE(same_bits(logits_of(*moved), expected));
  EXPECT_LT(largest_difference(logits_of(*moved), expected), 2e-5);
  const auto back = reordered(std::move(moved), inverse(order));
  EXPECT_EQ(back->block(1)->linears[0].bias, source.block(1)->linears[0].bias);
  if (test.weights == nullptr) {
    EXPECT_TRUE(same_bits(logits_of(*back), expected));
    RandomSource rotated = source;
    rotated.edit_block = [](LinearWeight weight) {
      std::vector<float> row(static_cast<size_t>(weight.columns));
      const LinearWeight original = weight;
      for (int64_t n = 0; n < weight.rows; ++n) {
        decode_row(original, n, row);
        rotate_dense(row, 32);
        std::memcpy(weight.codes.data() + static_cast<size_t>(n) * row.size() * 4, row.data(), row.size() * 4);
      }
      weight.rotation = 32;
      return weight;
    };
    EXPECT_FALSE(same_bits(logits_of(rotated), expected));
    EXPECT_LT(largest_difference(logits_of(rotated), expected), 2e-5);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, EveryFamily, testing::ValuesIn(kCases), name_of_case);

// Wide enough for the widest register tiles: each kernel of each instruction set has work.
void wide(Spec& spec) {
  spec.vocabulary = 128;
  spec.hidden = spec.embedding = spec.ffn = 128;
  spec.head_dim = 32;
  spec.layers = 1;
}

const Case kFormats[] = {
    {"f32", wide},
    {"w8a8", wide, "int8:row", "int8:token:asym", 0},
    {"w4a8_groups", wide, "int4:g64", "int8:token:asym", 0},
    {"w4a4_kept", wide, "int4:row", "int4:token:asym", 4},
};

class EveryIsa : public testing::TestWithParam<Case> {};

TEST_P(EveryIsa, ThreadsBatchesAndChunksChangeNothing) {
  for (Isa isa : kAllIsas) {
    if (isa > detected_isa()) continue;
    SCOPED_TRACE(to_string(isa));
    const ForcedIsa forced(isa);
    Case test = GetParam();
    if (isa == Isa::portable) test.turn = llama;  // it has no tiles and is slow
    expect_invariance(source_of(test), 13);
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, EveryIsa, testing::ValuesIn(kFormats), name_of_case);

// Wide enough that the linears of every site are cut into four tasks or more at a single token: threads have something
// to share out in decoding too.
void very_wide(Spec& spec) {
  spec.vocabulary = 600;
  spec.hidden = spec.embedding = spec.ffn = 512;
  spec.heads = 8;
  spec.kv_heads = 4;
  spec.head_dim = 64;
  spec.layers = 1;
}

const Case kWideFormats[] = {
    {"f32", very_wide},
    {"w4a8_groups_kept", very_wide, "int4:g64", "int8:token:asym", 1},
    {"blocks_kept", very_wide, "bfp4:b16", "bfp4:b16", 1},
};

class WideLayers : public testing::TestWithParam<Case> {};

TEST_P(WideLayers, ThreadsBatchesAndChunksChangeNothing) { expect_invariance(source_of(GetParam()), 5); }

TEST(Model, WideLayersInBfloat16ChangeNothingBetweenThreadsBatchesAndChunks) {
  expect_invariance(source_of({"bf16", very_wide}), 5, {"bf16", Levels::bf16, Levels::bf16});
}

INSTANTIATE_TEST_SUITE_P(Formats, WideLayers, testing::ValuesIn(kWideFormats), name_of_case);

// Every operand of attention in blocks, of another size in each of the two layers.
RandomSource source_in_blocks() {
  RandomSource source(small_spec());
  source.stored = {{"attention",
                    {{{"q", "bfp6:b16"}, {"k", "bfp4:b16"}, {"p", "bfp6:b16"}, {"v", "bfp4:b16"}},
                     {{"q", "f32"}, {"k", "mxfp4:b32"}, {"p", "e4m3"}, {"v", "mxfp8:b8"}}}}};
  return source;
}

TEST(Model, AttentionInBlocksChangesNothingBetweenThreadsBatchesAndChunks) {
  expect_invariance(source_in_blocks(), 45);
  expect_invariance(RandomSource(small_spec()), 45, {"bfp6:b32/bl8:b64", std::nullopt});
}

TEST(Model, AttentionInBlocksSeesNoLaterToken) {
  ThreadPool pool(2);
  const Model model = load(source_in_blocks(), pool), exact = load(RandomSource(small_spec()), pool);
  const int64_t width = model.spec().vocabulary;
  const Tokens text = tokens_for(0, 40, width);
  const Logits logits = run(model, {text}, 1000, pool)[0];
  EXPECT_FALSE(same_bits(logits, run(exact, {text}, 1000, pool)[0]));
  for (size_t t : {0, 7, 15, 16, 23, 30, 38}) {
    Tokens other = text;
    other[t + 1] = (other[t + 1] + 1) % static_cast<int32_t>(width);
    const Logits changed = run(model, {other}, 1000, pool)[0];
    const auto seen = static_cast<int64_t>(t + 1) * width;
    EXPECT_TRUE(same_bits({changed.begin(), changed.begin() + seen}, {logits.begin(), logits.begin() + seen})) << t;
    EXPECT_FALSE(same_bits(changed, logits));
  }
}

TEST(Model, TruncatedSequenceGoesOnAsIfNothingHadFollowed) {
  ThreadPool pool(1);
  for (const RandomSource& source : {RandomSource(small_spec()), source_in_blocks()}) {
    const Model model = load(source, pool);
    const int64_t width = model.spec().vocabulary;
    const bool blocks = source.quantization() != nullptr;
    const Tokens text = tokens_for(0, 40, width), other = tokens_for(1, 40, width);
    const Logits whole = run(model, {text}, 1000, pool)[0];
    Sequence sequence = model.new_sequence();
    Workspace workspace;
    Logits logits(static_cast<size_t>(width));
    auto feed = [&](const Tokens& tokens, int64_t end) {
      Segment segment{&sequence, end - sequence.length(), 0};
      const int64_t last = segment.count - 1;
      const std::span part(tokens.data() + sequence.length(), static_cast<size_t>(segment.count));
      ASSERT_TRUE(model.forward(part, {&segment, 1}, {&last, 1}, logits.data(), workspace, pool));
    };
    auto expect_whole = [&](int64_t end) {
      feed(text, end);
      EXPECT_TRUE(same_bits(logits, Logits(whole.begin() + (end - 1) * width, whole.begin() + end * width))) << end;
    };
    feed(text, 22);
    feed(other, 38);
    EXPECT_EQ(sequence.truncate(50), 38);
    EXPECT_EQ(sequence.truncate(22), 22);  // to before the last pass, into a block that was complete
    expect_whole(29);
    EXPECT_EQ(sequence.truncate(27), 27);  // inside the open block
    feed(other, 31);
    EXPECT_EQ(sequence.truncate(29), 29);
    EXPECT_EQ(sequence.truncate(27), 27);
    expect_whole(36);
    expect_whole(40);
    // The numbers that blocks of 16 positions were made of are gone.
    EXPECT_EQ(sequence.truncate(21), blocks ? 16 : 21);
    expect_whole(40);
    EXPECT_EQ(sequence.truncate(33), 33);
    expect_whole(40);
    sequence.clear();
    expect_whole(17);
  }
}

// 8.5 and 4.25 bits, and the values of an open block twice in 16 bits.
TEST(Model, CacheInBlocksIsSmall) {
  ThreadPool pool(1);
  Spec spec = small_spec();
  spec.head_dim = 32;
  Sequence floats = load(RandomSource(spec), pool).new_sequence(),
           blocks = load(RandomSource(spec), pool, {"bfp8:b16/mxfp4:b32", std::nullopt}).new_sequence();
  floats.reserve(64), blocks.reserve(64);
  const int64_t values = spec.layers * spec.kv_heads * spec.head_dim * 64;
  EXPECT_EQ(floats.bytes(), 2 * values * 4);
  EXPECT_EQ(blocks.bytes(), values * 17 / 16 + values * 17 / 32 + 2 * 2 * values / 64 * 32);
  const auto refused = Model::load(RandomSource(spec), {"nvfp4:4over6", std::nullopt}, pool);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::usage);
}

TEST(Model, WantedRowsOnly) {
  ThreadPool pool(1);
  const Model model = load(RandomSource(small_spec()), pool);
  const int64_t width = model.spec().vocabulary;
  const Tokens text = tokens_for(0, 9, width);
  const Logits all = run(model, {text}, 1000, pool)[0];
  Sequence sequence = model.new_sequence();
  Segment segment{&sequence, 9, 0};
  const std::vector<int64_t> wanted = {0, 5, 8};
  Logits some(static_cast<size_t>(3 * width));
  Workspace workspace;
  ASSERT_TRUE(model.forward(text, {&segment, 1}, wanted, some.data(), workspace, pool));
  for (size_t i = 0; i < 3; ++i)
    EXPECT_TRUE(same_bits(
        Logits(some.begin() + static_cast<int64_t>(i) * width, some.begin() + static_cast<int64_t>(i + 1) * width),
        Logits(all.begin() + wanted[i] * width, all.begin() + (wanted[i] + 1) * width)));
}

TEST(Model, NothingToDoAndNothingWanted) {
  ThreadPool pool(1);
  const Model model = load(RandomSource(small_spec()), pool);
  const int64_t width = model.spec().vocabulary;
  const Tokens text = tokens_for(0, 5, width);
  const Logits all = run(model, {text}, 1000, pool)[0];
  Sequence sequence = model.new_sequence(), idle = model.new_sequence();
  Workspace workspace;
  EXPECT_TRUE(model.forward({}, {}, {}, nullptr, workspace, pool));
  std::vector<Segment> segments = {{&idle, 0, 0}, {&sequence, 5, 0}};
  EXPECT_TRUE(model.forward({}, {segments.data(), 1}, {}, nullptr, workspace, pool));
  segments[1].count = 4;
  ASSERT_TRUE(model.forward({text.data(), 4}, segments, {}, nullptr, workspace, pool));
  EXPECT_EQ(sequence.length(), 4);
  EXPECT_EQ(idle.length(), 0);
  segments[1].count = 1;
  const std::vector<int64_t> wanted = {0};
  Logits some(static_cast<size_t>(width));
  ASSERT_TRUE(model.forward({text.data() + 4, 1}, segments, wanted, some.data(), workspace, pool));
  EXPECT_TRUE(same_bits(some, Logits(all.end() - width, all.end())));
  segments[1].count = 5;
  for (const std::vector<int64_t>& nowhere : {std::vector<int64_t>{-1}, {5}, {2, 2}, {3, 1}}) {
    EXPECT_DEATH((void)model.forward(text, {&segments[1], 1}, nowhere, some.data(), workspace, pool), "invariant");
  }
}

// Half floats in the cache lose a little, and only a little.
TEST(Model, HalfFloatCache) {
  ThreadPool pool(1);
  const RandomSource source(small_spec());
  const Model exact = load(source, pool), half = load(source, pool, {"f16", std::nullopt});
  const Tokens text = tokens_for(0, 40, exact.spec().vocabulary);
  const Logits a = run(exact, {text}, 1000, pool)[0], b = run(half, {text}, 1000, pool)[0];
  float difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference = std::max(difference, std::fabs(a[i] - b[i]));
  EXPECT_GT(difference, 0);
  EXPECT_LT(difference, 0.02f);
  Sequence full = exact.new_sequence(), small = half.new_sequence();
  full.reserve(10), small.reserve(10);
  EXPECT_EQ(full.bytes(), 2 * small.bytes());
}

// Converting at load is the same as storing rounded weights.
TEST(Model, ConvertsFloatWeightsWhenLoading) {
  ThreadPool pool(2);
  for (Levels levels : {Levels::f16, Levels::bf16}) {
    RandomSource source(small_spec()), rounded_source(small_spec());
    rounded_source.edit_value = [levels](float x) {
      return levels == Levels::f16 ? f16_to_f32(f32_to_f16(x)) : bf16_to_f32(f32_to_bf16(x));
    };
    const Model plain = load(source, pool), converted = load(source, pool, {"f32", levels});
    const Model oracle = load(rounded_source, pool);
    const Tokens text = tokens_for(0, 12, plain.spec().vocabulary);
    const Logits expected = run(oracle, {text}, 1000, pool)[0];
    EXPECT_TRUE(same_bits(run(converted, {text}, 1000, pool)[0], expected));
    EXPECT_FALSE(same_bits(run(plain, {text}, 1000, pool)[0], expected));
    EXPECT_LT(converted.packed_bytes(), plain.packed_bytes() * 6 / 10);
  }
}

// The same function as a tied model, but with a head of its own that happens to be the embedding.
class Untied : public RandomSource {
 public:
  explicit Untied(const RandomSource& tied) : RandomSource(tied) { spec_.tied_head = false; }
  Result<GlobalWeights> globals() const override {
    Spec spec = spec_;
    spec.tied_head = true;
    NIBBLE_TRY(GlobalWeights out, RandomSource(spec).globals());
    out.head = out.embedding;
    return out;
  }
};

TEST(Model, ATiedEmbeddingIsInMemoryOnce) {
  ThreadPool pool(2);
  for (void (*turn)(Spec&) : {opt, opt_350m, falcon_7b}) {
    for (std::optional<Levels> levels : {std::optional<Levels>(), std::optional(Levels::f16)}) {
      Spec spec = small_spec();
      turn(spec);
      const RandomSource source(spec);
      const Model tied = load(source, pool, {"f32", levels});
      const Model untied = load(Untied(source), pool, {"f32", levels});
      const int64_t embedding = spec.vocabulary * spec.embedding * (levels ? 2 : 4);
      EXPECT_EQ(untied.packed_bytes() - tied.packed_bytes(), embedding);
      const Tokens text = tokens_for(0, 12, spec.vocabulary);
      EXPECT_TRUE(same_bits(run(tied, {text}, 5, pool)[0], run(untied, {text}, 5, pool)[0]));
    }
  }
}

TEST(Model, RefusesWeightsBeyondTheRangeOfTheTypeAskedFor) {
  ThreadPool pool(1);
  RandomSource source(small_spec());
  int count = 0;
  source.edit_value = [&count](float x) { return ++count == 5000 ? 70000.0f : x; };
  const auto model = Model::load(source, {"f32", Levels::f16}, pool);
  ASSERT_FALSE(model);
  EXPECT_EQ(model.error().code, ErrorCode::unsupported);
  EXPECT_NE(model.error().message.find("too large for f16"), std::string::npos) << model.error().message;
}

TEST(Model, RefusesLogitsThatAreNotFinite) {
  ThreadPool pool(1);
  RandomSource source(small_spec());
  int count = 0;
  source.edit_value = [&count](float x) { return ++count == 3000 ? NAN : x; };  // in the head
  const Model model = load(source, pool);
  Sequence sequence = model.new_sequence();
  Workspace workspace;
  Logits logits(static_cast<size_t>(2 * model.spec().vocabulary));
  const Tokens text = {1, 2, 3};
  Segment segment{&sequence, 3, 0};
  const std::vector<int64_t> wanted = {1, 2};
  const Status status = model.forward(text, {&segment, 1}, wanted, logits.data(), workspace, pool);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::failure);
  EXPECT_NE(status.error().message.find("row 0"), std::string::npos) << status.error().message;
  EXPECT_EQ(sequence.length(), 0);
}

TEST(Model, RefusesTokensAndPositionsThatDoNotExist) {
  ThreadPool pool(1);
  const Model model = load(RandomSource(small_spec()), pool);
  Workspace workspace;
  Sequence sequence = model.new_sequence();
  auto feed = [&](const Tokens& tokens) {
    Segment segment{&sequence, static_cast<int64_t>(tokens.size()), 0};
    return model.forward(tokens, {&segment, 1}, {}, nullptr, workspace, pool);
  };
  for (int32_t id : {-1, 61, 1 << 30}) {
    const Status status = feed({0, id});
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, ErrorCode::usage);
    EXPECT_NE(status.error().message.find(std::to_string(id)), std::string::npos);
  }
  EXPECT_TRUE(feed(tokens_for(0, 96, 61)));
  EXPECT_EQ(sequence.length(), 96);
  const Status full = feed({1});
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, ErrorCode::usage);
  EXPECT_EQ(sequence.length(), 96);
}

TEST(Model, RefusesTheSameSequenceTwiceInABatch) {
  ThreadPool pool(1);
  const Model model = load(RandomSource(small_spec()), pool);
  Workspace workspace;
  Sequence sequence = model.new_sequence();
  std::vector<Segment> segments = {{&sequence, 1, 0}, {&sequence, 1, 0}};
  const Status status = model.forward(Tokens{1, 2}, segments, {}, nullptr, workspace, pool);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::usage);
}

// Calibration runs a block in stages, and stops between any two of them: what a stage names must be all that the later
// ones need.
TEST(Stages, TogetherAreTheBlock) {
  ThreadPool pool(2);
  constexpr int64_t kTokens = 5;
  for (const Case& test : kCases) {
    SCOPED_TRACE(test.name);
    const RandomSource source = source_of(test);
    const Spec& spec = source.spec();
    const PackedBlock block = *pack_block(*source.block(0), Isa::portable, pool);
    Random random(5);
    std::vector<float> input;
    for (int64_t i = 0; i < kTokens * spec.hidden; ++i) input.push_back(random.normal());
    Sequence whole(spec, CacheType::f32), staged(spec, CacheType::f32);
    Workspace workspace;
    std::vector<float> expected = input;
    const Segment at_once{&whole, kTokens, 0}, in_stages{&staged, kTokens, 0};
    forward_block(spec, block, 0, {&at_once, 1}, expected.data(), Isa::portable, workspace, pool);

    std::map<unsigned, std::vector<float>> parts = {{kHiddenPart, input}};
    const auto buffer_of = [&](unsigned part, Workspace& of, std::vector<float>& hidden) {
      const int64_t heads = spec.heads * spec.head_dim;
      const int64_t width = part == kMixedPart ? heads : part == kActivatedPart ? spec.ffn : spec.hidden;
      AlignedBuffer<float>& buffer = part == kMixedPart ? of.mixed : part == kActivatedPart ? of.up : of.attention;
      if (part != kHiddenPart) buffer.reserve(kTokens * width);
      float* const data = part == kHiddenPart ? hidden.data() : buffer.data();
      return std::span(data, static_cast<size_t>(kTokens * width));
    };
    for (size_t stage = 0; stage < sites_of(spec).size(); ++stage) {
      const StageParts need = parts_of_stage(spec, stage);
      Workspace fresh;
      std::vector<float> hidden(input.size(), NAN);
      for (const auto& [part, values] : parts)
        if ((need.input | need.reads) & part) {
          const auto to = buffer_of(part, fresh, hidden);
          std::copy(values.begin(), values.end(), to.begin());
        }
      const float* const x = stage_input(spec, block, stage, hidden.data(), kTokens, Isa::portable, fresh, pool);
      const int64_t width = shape_of(spec, sites_of(spec)[stage].roles[0]).columns;
      for (int64_t i = 0; i < kTokens * width; ++i) ASSERT_TRUE(std::isfinite(x[i])) << stage;
      if (stage == 0 && !spec.post_norm) {
        std::vector<float> normed(input.size());
        ops::normalize(spec, block.attention_norm, input.data(), kTokens, normed.data(), Isa::portable, pool);
        EXPECT_EQ(std::memcmp(x, normed.data(), normed.size() * sizeof(float)), 0);
      }
      forward_stage(spec, block, stage, 0, {&in_stages, 1}, hidden.data(), Isa::portable, fresh, pool);
      for (const unsigned part : {kHiddenPart, kMixedPart, kActivatedPart, kAttentionPart})
        if (need.writes & part) {
          const auto from = buffer_of(part, fresh, hidden);
          parts[part].assign(from.begin(), from.end());
        }
    }
    EXPECT_EQ(std::memcmp(parts[kHiddenPart].data(), expected.data(), expected.size() * sizeof(float)), 0);
  }
}

// Linears of one site may differ in format: then the input is prepared for each.
TEST(Block, LinearsOfASiteMayReadDifferentFormats) {
  ThreadPool pool(1);
  const RandomSource plain(small_spec());
  BlockWeights weights = *plain.block(0);
  const std::vector<float> input = [] {
    std::vector<float> out;
    Random random(3);
    for (int i = 0; i < 40; ++i) out.push_back(random.normal());
    return out;
  }();
  auto run_with = [&](const BlockWeights& block_weights) {
    const PackedBlock block = *pack_block(block_weights, Isa::portable, pool);
    Sequence sequence(plain.spec(), CacheType::f32);
    const Segment segment{&sequence, 1, 0};
    std::vector<float> hidden = input;
    Workspace workspace;
    forward_block(plain.spec(), block, 0, {&segment, 1}, hidden.data(), Isa::portable, workspace, pool);
    return hidden;
  };
  const std::vector<float> exact = run_with(weights);
  weights[Role::k] = rounded(weights[Role::k], "int8:row", "int8:token:asym", 0);
  weights[Role::up] = rounded(weights[Role::up], "int8:row", "int8:token:asym", 1);
  const std::vector<float> mixed = run_with(weights);
  double difference = 0, size = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    difference += std::pow(mixed[i] - exact[i], 2);
    size += std::pow(exact[i], 2);
  }
  EXPECT_GT(difference, 0);
  EXPECT_LT(std::sqrt(difference / size), 0.02);
}

}  // namespace
}  // namespace nibble
