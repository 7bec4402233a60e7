// The forward pass against other implementations: Hugging Face transformers on small random checkpoints of many
// configurations (golden/forward, in the repository), and a float64 implementation on tiny trained models (shared).
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <optional>

#include "checkpoint/safetensors.h"
#include "core/cpu.h"
#include "core/json.h"
#include "engine/generate.h"
#include "measure/likelihood.h"
#include "runtime/model.h"
#include "shared_material.h"
#include "tokenizer/tokenizer.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using Tokens = std::vector<int32_t>;

template <class T>
T value_or_throw(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  return std::move(*result);
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

std::vector<Isa> isas() {
  std::vector<Isa> out;
  for (Isa isa : kAllIsas)
    if (isa <= detected_isa()) out.push_back(isa);
  return out;
}

// Logits of the tokens at `positions`, of one sequence that is run in one piece.
std::vector<float> logits_at(const Model& model, const Tokens& tokens, const std::vector<int64_t>& positions,
                             ThreadPool& pool) {
  Sequence sequence = model.new_sequence();
  Segment segment{&sequence, static_cast<int64_t>(tokens.size()), 0};
  std::vector<float> logits(positions.size() * static_cast<size_t>(model.spec().vocabulary));
  Workspace workspace;
  const Status status = model.forward(tokens, {&segment, 1}, positions, logits.data(), workspace, pool);
  if (!status) throw std::runtime_error(status.error().message);
  return logits;
}

// Absolute, or relative to what is greater than `absolute_up_to`.
double largest_difference(std::span<const float> a, std::span<const float> b, double absolute_up_to = INFINITY) {
  if (a.size() != b.size()) return INFINITY;
  double out = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double size = std::fabs(static_cast<double>(b[i]));
    const double difference =
        std::fabs(static_cast<double>(a[i]) - b[i]) / (size > absolute_up_to ? size / absolute_up_to : 1);
    if (!(difference <= out)) out = difference;  // a NaN stays
  }
  return out;
}

Tokens greedy(const Model& model, const Tokens& prompt, size_t count, ThreadPool& pool) {
  Sequence sequence = model.new_sequence();
  Workspace workspace;
  std::vector<float> logits(static_cast<size_t>(model.spec().vocabulary));
  Tokens out, next = prompt;
  Sampler sampler{SamplingOptions{}};
  while (out.size() < count) {
    Segment segment{&sequence, static_cast<int64_t>(next.size()), 0};
    const int64_t last = segment.count - 1;
    const Status status = model.forward(next, {&segment, 1}, {&last, 1}, logits.data(), workspace, pool);
    if (!status) throw std::runtime_error(status.error().message);
    out.push_back(sampler.next(logits));
    next = {out.back()};
  }
  return out;
}

// --- Random checkpoints, by Hugging Face transformers ------------------------------------------------------

// tools/oracle_forward/README.md describes these files and the rule that makes the weights.
fs::path golden_folder() { return fs::path(NIBBLE_SOURCE_DIR) / "tests" / "golden" / "forward"; }

std::vector<std::string> golden_names() {
  std::vector<std::string> out;
  for (const auto& entry : fs::directory_iterator(golden_folder()))
    if (entry.path().extension() == ".json") out.push_back(entry.path().stem().string());
  std::sort(out.begin(), out.end());
  return out;
}

uint64_t fnv1a(std::string_view text) {
  uint64_t h = 0xCBF29CE484222325u;
  for (unsigned char c : text) h = (h ^ c) * 0x100000001B3u;
  return h;
}

uint64_t finalize(uint64_t z) {
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}

std::vector<float> golden_weights(const Json& tensor, int64_t count) {
  const uint64_t seed = fnv1a(tensor["name"].get<std::string>());
  const double scale = tensor["scale"], offset = tensor["offset"];
  std::vector<float> out(static_cast<size_t>(count));
  for (size_t i = 0; i < out.size(); ++i) {
    const double u = static_cast<double>(finalize(seed + i * 0x9E3779B97F4A7C15u) >> 40) / (1 << 24);
    out[i] = static_cast<float>(offset + (u - 0.5) * scale);
  }
  return out;
}

// Writes the checkpoint that a golden file describes.
void write_checkpoint_of(const Json& golden, const fs::path& folder) {
  fs::create_directories(folder);
  std::ofstream(folder / "config.json") << golden["config"].dump(2);
  std::vector<TensorView> views;
  std::vector<std::vector<float>> values;
  for (const Json& tensor : golden["tensors"]) {
    TensorView view;
    view.name = tensor["name"];
    view.dtype = DType::f32;
    view.shape = tensor["shape"].get<std::vector<int64_t>>();
    values.push_back(golden_weights(tensor, view.elements()));
    views.push_back(std::move(view));
  }
  for (size_t i = 0; i < views.size(); ++i) views[i].bytes = std::as_bytes(std::span(values[i]));
  const Status status = write_safetensors(folder / "model.safetensors", views);
  if (!status) throw std::runtime_error(status.error().message);
}

class Golden : public testing::TestWithParam<std::string> {};

// Changes that must not go unnoticed move the logits by 4.6e-5 (eps), 1.3e-3 (form of GELU) or more.
constexpr double kTolerance = 2e-5;

TEST_P(Golden, LogitsAreThoseOfTransformers) {
  const Json golden = value_or_throw(read_json(golden_folder() / (GetParam() + ".json")));
  const std::vector<float> probe = golden["probe"]["values"];
  ASSERT_EQ(golden["tensors"][0]["name"], golden["probe"]["name"]);
  ASSERT_EQ(golden_weights(golden["tensors"][0], 3), probe);

  const fs::path folder = fs::path(testing::TempDir()) / ("nibble_forward_" + GetParam());
  write_checkpoint_of(golden, folder);
  std::vector<float> expected;
  for (const Json& row : golden["logits"])
    for (const Json& value : row) expected.push_back(value.get<float>());
  ThreadPool pool(2);
  for (Isa isa : isas()) {
    const ForcedIsa forced(isa);
    const Model model = value_or_throw(Model::load(folder, {}, pool));
    ASSERT_EQ(model.isa(), isa);
    const std::vector<float> logits = logits_at(model, golden["input_ids"], golden["positions"], pool);
    EXPECT_LE(largest_difference(logits, expected), kTolerance) << to_string(isa);
    if (golden.contains("greedy")) {
      const Tokens ids = golden["greedy"]["ids"];
      EXPECT_EQ(greedy(model, golden["input_ids"], ids.size(), pool), ids) << to_string(isa);
    }
  }
  fs::remove_all(folder);
}

INSTANTIATE_TEST_SUITE_P(Configurations, Golden, testing::ValuesIn(golden_names()), [](const auto& test) {
  std::string name = test.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(GoldenFiles, AreThere) { EXPECT_GE(golden_names().size(), 24u); }

// --- Tiny trained models, by a float64 implementation ------------------------------------------------------

struct Trained {
  const char* folder;
  const char* golden;  // of the model that computes the same function
};

void PrintTo(const Trained& trained, std::ostream* out) { *out << trained.folder; }

std::string trained_name(const testing::TestParamInfo<Trained>& test) {
  std::string name = test.param.folder;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

class TrainedModel : public testing::TestWithParam<Trained> {
 protected:
  void SetUp() override {
    NIBBLE_SKIP_WITHOUT_SHARED(folder());
    golden_ = value_or_throw(read_json(models() / "golden" / (std::string(GetParam().golden) + ".json")));
    model_.emplace(value_or_throw(Model::load(folder(), {}, pool_)));
  }
  static fs::path models() { return shared_material() / "models"; }
  static fs::path folder() { return models() / GetParam().folder; }

  ThreadPool pool_;
  Json golden_;
  std::optional<Model> model_;
};

std::vector<float> floats_of(const SafetensorsFile& file, const std::string& name) {
  const TensorView* tensor = file.find(name);
  if (tensor == nullptr) throw std::runtime_error("no tensor " + name);
  std::vector<float> out(static_cast<size_t>(tensor->elements()));
  if (!read_floats(*tensor, 0, out)) throw std::runtime_error("cannot read " + name);
  return out;
}

// The residual stream after the embedding and after each block, at some positions: [layers + 1][positions][hidden].
std::vector<float> hidden_states(const Model& model, const Tokens& tokens, const std::vector<int64_t>& positions,
                                 ThreadPool& pool) {
  Sequence sequence = model.new_sequence();
  const Segment segment{&sequence, static_cast<int64_t>(tokens.size()), 0};
  const int64_t width = model.spec().hidden;
  std::vector<float> hidden(tokens.size() * static_cast<size_t>(width)), out;
  Workspace workspace;
  const Status status = model.embedder().embed(tokens, {&segment, 1}, hidden.data(), workspace, pool);
  if (!status) throw std::runtime_error(status.error().message);
  for (int64_t layer = -1; layer < model.spec().layers; ++layer) {
    if (layer >= 0)
      forward_block(model.spec(), model.block(layer), layer, {&segment, 1}, hidden.data(), model.isa(), workspace,
                    pool);
    for (int64_t position : positions)
      out.insert(out.end(), hidden.begin() + position * width, hidden.begin() + (position + 1) * width);
  }
  return out;
}

TEST_P(TrainedModel, LogitsAndHiddenStates) {
  const auto file =
      value_or_throw(SafetensorsFile::open(models() / "golden" / (std::string(GetParam().golden) + ".safetensors")));
  for (const char* length : {"len1", "len37", "len256"}) {
    const Json& sequence = golden_["sequences"][length];
    const Tokens ids = sequence["ids"];
    const std::vector<int64_t> positions = sequence["positions"];
    const std::vector<float> logits = logits_at(*model_, ids, positions, pool_);
    EXPECT_LE(largest_difference(logits, floats_of(file, std::string("logits_") + length)), 1e-4) << length;
    // The first token's residual stream has entries of more than 1000, so the difference is relative there.
    EXPECT_LE(largest_difference(hidden_states(*model_, ids, positions, pool_),
                                 floats_of(file, std::string("hidden_") + length), 1.0),
              1e-4)
        << length;
  }
}

TEST_P(TrainedModel, GreedyTexts) {
  const Tokenizer tokenizer = value_or_throw(Tokenizer::load(folder()));
  for (const Json& sample : golden_["greedy"]) {
    const Tokens prompt = tokenizer.encode(sample["prompt"].get<std::string>());
    EXPECT_EQ(prompt, sample["prompt_ids"].get<Tokens>());
    GenerationOptions options;
    options.max_tokens = static_cast<int64_t>(sample["new_ids"].size());
    std::string streamed;
    const auto generation =
        value_or_throw(generate(*model_, tokenizer, prompt, options, pool_, [&](std::string_view text) {
          streamed += text;
          return true;
        }));
    EXPECT_EQ(generation.token_ids, sample["new_ids"].get<Tokens>());
    EXPECT_EQ(generation.text, sample["text"].get<std::string>());
    EXPECT_EQ(streamed, generation.text);
    EXPECT_EQ(generation.reason, StopReason::length);
  }
}

// Windows of 256, as the golden perplexities were computed.
ScoredText windows_of(Tokens ids) { return value_or_throw(scored_text(std::move(ids), {Protocol::windows, 256}, 256)); }

// The copies are the same function: one text is enough.
TEST_P(TrainedModel, Perplexities) {
  const Tokenizer tokenizer = value_or_throw(Tokenizer::load(folder()));
  std::vector<const char*> texts = {"tinystories_heldout.txt"};
  if (GetParam().folder == std::string(GetParam().golden)) texts.push_back("wikitext2_test_200k.txt");
  for (const char* name : texts) {
    const Json& expected = golden_["perplexity"][name];
    const Tokens ids = tokenizer.encode(value_or_throw(read_text(models() / "eval" / name)));
    EXPECT_EQ(static_cast<int64_t>(ids.size()), expected["tokens"].get<int64_t>()) << name;
    const Likelihood found = value_or_throw(score(*model_, windows_of(ids), pool_));
    EXPECT_EQ(found.windows, expected["windows"].get<int64_t>()) << name;
    EXPECT_EQ(found.tokens, expected["predicted"].get<int64_t>()) << name;
    RecordProperty(name, fmt::format("{:.6f} expected {:.6f}", found.perplexity(), expected["ppl"].get<double>()));
    EXPECT_NEAR(found.nll, expected["mean_nll"].get<double>(), 2e-6) << name;
    EXPECT_GT(found.standard_error, 0);
  }
}

// Weights and keys and values in 16 bits: the perplexity of the stories moves by less than its third digit.
TEST_P(TrainedModel, SixteenBits) {
  const Tokenizer tokenizer = value_or_throw(Tokenizer::load(folder()));
  Tokens ids = tokenizer.encode(value_or_throw(read_text(models() / "eval" / "tinystories_heldout.txt")));
  ids.resize(4096);
  const double exact = value_or_throw(score(*model_, windows_of(ids), pool_)).nll;
  const Model half = value_or_throw(Model::load(folder(), {"f16", Levels::f16}, pool_));
  const double nll = value_or_throw(score(half, windows_of(ids), pool_)).nll;
  EXPECT_NE(nll, exact);
  EXPECT_NEAR(nll, exact, 1e-3);
  EXPECT_LE(half.packed_bytes() + half.mapped_bytes(), model_->packed_bytes() + model_->mapped_bytes());
}

// The same logits, bit for bit, however the tokens reach the model.
TEST_P(TrainedModel, ChunksBatchesAndThreadsChangeNothing) {
  Tokens ids = golden_["sequences"]["len37"]["ids"];
  ids.resize(23);
  std::vector<int64_t> all(ids.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int64_t>(i);
  const std::vector<float> expected = logits_at(*model_, ids, all, pool_);
  const auto width = static_cast<size_t>(model_->spec().vocabulary);
  for (int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    for (size_t batch : {1, 3, 8}) {
      for (size_t chunk : {1, 5, 23}) {
        std::vector<Sequence> sequences;
        for (size_t i = 0; i < batch; ++i) sequences.push_back(model_->new_sequence());
        Workspace workspace;
        for (size_t at = 0; at < ids.size(); at += chunk) {
          const size_t count = std::min(chunk, ids.size() - at);
          std::vector<Segment> segments;
          Tokens tokens;  // the other sequences read other tokens
          for (size_t i = 0; i < batch; ++i) {
            segments.push_back({&sequences[i], static_cast<int64_t>(count), 0});
            for (size_t j = 0; j < count; ++j)
              tokens.push_back(ids[i == batch - 1 ? at + j : (at + j * i) % ids.size()]);
          }
          std::vector<int64_t> wanted(count);
          for (size_t j = 0; j < count; ++j) wanted[j] = static_cast<int64_t>((batch - 1) * count + j);
          std::vector<float> logits(count * width);
          ASSERT_TRUE(model_->forward(tokens, segments, wanted, logits.data(), workspace, pool));
          ASSERT_EQ(std::memcmp(logits.data(), expected.data() + at * width, logits.size() * sizeof(float)), 0)
              << threads << " threads, batch of " << batch << ", chunks of " << chunk << ", token " << at;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shared, TrainedModel,
                         testing::Values(Trained{"tiny-llama", "tiny-llama"}, Trained{"tiny-opt", "tiny-opt"},
                                         Trained{"tiny-falcon", "tiny-falcon"},
                                         Trained{"tiny-llama-outlier", "tiny-llama"},
                                         Trained{"tiny-opt-outlier", "tiny-opt"}),
                         trained_name);

// Public story models with their SentencePiece vocabularies: no golden numbers, but held-out stories are easy for them.
TEST(StoryModels, ReadStories) {
  const fs::path models = shared_material() / "models";
  NIBBLE_SKIP_WITHOUT_SHARED(models);
  const std::string text = value_or_throw(read_text(models / "eval" / "tinystories_heldout.txt")).substr(0, 20000);
  ThreadPool pool;
  for (const char* name : {"stories260k", "stories3m"}) {
    const Model model = value_or_throw(Model::load(models / name, {}, pool));
    const Tokenizer tokenizer = value_or_throw(Tokenizer::load(models / name));
    const Likelihood found = value_or_throw(score(model, windows_of(tokenizer.encode(text)), pool));
    EXPECT_GT(found.perplexity(), 2) << name;
    EXPECT_LT(found.perplexity(), 30) << name;
  }
}

}  // namespace
}  // namespace nibble
