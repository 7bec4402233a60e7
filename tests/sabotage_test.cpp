// What `nibble verify` finds: a real quantized model is damaged in many ways, each tried with the manifest as it was
// (the hashes find it) and with the manifest's hashes recomputed (what is in the files must give it away), the latter
// without and with the original at hand. Prints the table of docs/evidence.md.
#include <gtest/gtest.h>
#include <nibble/quantize.h>
#include <nibble/verify.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <future>

#include "checkpoint/manifest.h"
#include "checkpoint/safetensors.h"
#include "core/file.h"
#include "core/hash.h"
#include "format/linear_weight.h"
#include "tiny_model.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

// Under a sanitizer a random model of a few thousand weights stands in for the trained one.
#if defined(__SANITIZE_ADDRESS__)
#define NIBBLE_SLOW 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define NIBBLE_SLOW 1
#endif
#endif
#ifdef NIBBLE_SLOW
constexpr bool kQuick = true;
#else
constexpr bool kQuick = false;
#endif

// A folder of this test program's own, removed at the end.
const fs::path& workplace() {
  static const struct Folder {
    fs::path path = fs::temp_directory_path() / ("nibble-sabotage-test-" + std::to_string(::getpid()));
    Folder() { fs::create_directories(path); }
    ~Folder() { fs::remove_all(path); }
  } folder;
  return folder.path;
}

template <class T>
T must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  return *std::move(result);
}
void must(const Status& status) {
  if (!status) throw std::runtime_error(status.error().message);
}

fs::path original() {
  if (!kQuick) return fs::path(NIBBLE_SOURCE_DIR) / "models/demo";
  const fs::path folder = workplace() / "original";
  if (!fs::exists(folder)) {
    testing::TinyShape shape;
    shape.hidden = 128;
    shape.layers = 5;
    shape.ffn = 256;
    must(testing::write_tiny_model(folder, shape));
  }
  return folder;
}

fs::path quantized(const std::string& name, const std::string& recipe, const std::vector<std::string>& overrides = {},
                   uint64_t seed = 0) {
  const fs::path folder = workplace() / name;
  if (fs::exists(folder)) return folder;
  QuantizeRequest request;
  request.model = original();
  request.output = folder;
  request.recipe = recipe;
  request.overrides = overrides;
  request.calibration = {fs::path(NIBBLE_SOURCE_DIR) / "models/demo/calibration.txt"};
  request.samples = 8;
  request.length = 64;
  request.seed = seed;
  must(quantize(request));
  return folder;
}

// Kept columns, 8-bit down projections, and in the first two blocks groups with offsets.
const std::vector<std::string> kOffsets = {R"(blocks\.[01]\..*=int4:g128:asym/int4:token:asym)"};
fs::path honest() { return quantized("honest", "quik-4b", kOffsets); }

// --- A folder that can be damaged -------------------------------------------------------------------------------

// One tensor's bytes, seen as numbers of some type.
struct Stored {
  TensorView view;  // name, type and shape
  Bytes bytes;
  int64_t rows() const { return view.shape[0]; }
  int64_t row_bytes() const { return static_cast<int64_t>(bytes.size()) / rows(); }
  std::byte* row(int64_t n) { return bytes.data() + n * row_bytes(); }
  template <class T>
  std::span<T> as() {
    return {reinterpret_cast<T*>(bytes.data()), bytes.size() / sizeof(T)};
  }
};

class Patient {
 public:
  // A copy of the folder. (Not links: what writes a file follows them, to the original.)
  explicit Patient(const fs::path& healthy) : path_(workplace() / ("patient" + std::to_string(count_++))) {
    fs::create_directories(path_);
    for (const auto& entry : fs::directory_iterator(healthy)) fs::copy(entry.path(), path_ / entry.path().filename());
  }
  ~Patient() { fs::remove_all(path_); }

  const fs::path& path() const { return path_; }
  Json json(const char* name) const { return must(read_json(path_ / name)); }
  void write(const char* name, const Json& value) const {
    must(write_durably(path_ / name, dump_json(value, 2) + "\n"));
  }
  void edit_json(const char* name, const std::function<void(Json&)>& edit) const {
    Json value = json(name);
    edit(value);
    write(name, value);
  }
  fs::path shard_of(const std::string& tensor) const {
    return path_ / json("model.safetensors.index.json")["weight_map"][tensor].get<std::string>();
  }

  // Rewrites the shards that hold these tensors; edit gets them in the order of the names.
  void edit_all(const std::vector<std::string>& names, const std::function<void(std::vector<Stored>&)>& edit) const {
    std::vector<Stored> chosen;
    for (const std::string& name : names) chosen.push_back(read(name));
    edit(chosen);
    for (const Stored& stored : chosen) replace(stored);
  }
  void edit(const std::string& name, const std::function<void(Stored&)>& edit) const {
    edit_all({name}, [&](std::vector<Stored>& all) { edit(all[0]); });
  }

  // Gives the manifest the sizes and hashes that the files have now.
  void forge_manifest() const {
    edit_json(kManifestName, [&](Json& manifest) {
      for (auto& item : manifest["files"].items()) {
        const fs::path file = path_ / item.key();
        if (!fs::exists(file)) continue;
        item.value() = {{"bytes", fs::file_size(file)}, {"sha256", must(sha256_file(file))}};
      }
    });
  }

 private:
  Stored read(const std::string& name) const {
    const SafetensorsFile file = must(SafetensorsFile::open(shard_of(name)));
    const TensorView* view = file.find(name);
    if (view == nullptr) throw std::runtime_error("no tensor " + name);
    return {*view, Bytes(view->bytes.begin(), view->bytes.end())};
  }
  void replace(const Stored& stored) const {
    const fs::path shard = shard_of(stored.view.name);
    const SafetensorsFile file = must(SafetensorsFile::open(shard));
    std::vector<TensorView> tensors = file.tensors();
    for (TensorView& tensor : tensors)
      if (tensor.name == stored.view.name) tensor.bytes = stored.bytes;
    must(write_safetensors(shard, tensors));
  }

  static inline int count_ = 0;
  fs::path path_;
};

// --- The sabotages ----------------------------------------------------------------------------------------------

std::vector<uint8_t> codes_of(const Stored& codes, int64_t row, int64_t count) {
  std::vector<uint8_t> out(static_cast<size_t>(count));
  const auto each = codes.bytes.size() / static_cast<size_t>(codes.rows());
  unpack_codes(std::span(codes.bytes).subspan(static_cast<size_t>(row) * each, each), 4, out);
  return out;
}

void set_codes(Stored& codes, int64_t row, const std::vector<uint8_t>& values) {
  pack_codes(values, 4, {codes.row(row), static_cast<size_t>(codes.row_bytes())});
}

// Four-bit codes of a row, two a byte.
int64_t columns_of(const Stored& codes) { return 2 * codes.row_bytes(); }

void swap_tensors(Patient& patient) {
  patient.edit_all({"blocks.2.gate.codes", "blocks.2.up.codes"}, [](auto& t) { std::swap(t[0].bytes, t[1].bytes); });
}

void put_nan(Patient& patient) {
  patient.edit("blocks.3.mlp_norm.gain", [](Stored& t) { t.as<float>()[7] = std::nanf(""); });
}

void zero_scale(Patient& patient) {
  patient.edit("blocks.2.v.scales", [](Stored& t) { t.as<float>()[11] = 0; });
}

void negate_scales(Patient& patient) {
  patient.edit("blocks.2.o.scales", [](Stored& t) {
    for (float& scale : t.as<float>()) scale = -scale;
  });
}

// 8 + d becomes 8 - d: every weight changes its sign, only -8 has to stay.
void negate_codes(Patient& patient) {
  patient.edit("blocks.2.o.codes", [](Stored& t) {
    for (int64_t n = 0; n < t.rows(); ++n) {
      auto codes = codes_of(t, n, columns_of(t));
      for (uint8_t& code : codes) code = static_cast<uint8_t>(code == 0 ? 0 : 16 - code);
      set_codes(t, n, codes);
    }
  });
}

// Every index one further, as far as there is room.
void shift_kept(Stored& t, int64_t columns) {
  auto kept = t.as<int32_t>();
  for (size_t i = kept.size(); i-- > 0;) {
    const int64_t limit = i + 1 < kept.size() ? kept[i + 1] : columns;
    if (kept[i] + 1 < limit) ++kept[i];
  }
}

int64_t hidden_of(const Patient& patient) { return patient.json("config.json")["hidden_size"].get<int64_t>(); }

void shift_kept_of_one(Patient& patient) {
  patient.edit("blocks.2.k.kept_columns", [&](Stored& t) { shift_kept(t, hidden_of(patient)); });
}

void shift_kept_of_site(Patient& patient) {
  for (const char* role : {"q", "k", "v"})
    patient.edit(std::string("blocks.2.") + role + ".kept_columns",
                 [&](Stored& t) { shift_kept(t, hidden_of(patient)); });
}

void swap_kept_values(Patient& patient) {
  patient.edit("blocks.2.q.kept", [](Stored& t) {
    const auto kept = t.view.shape[1];
    for (int64_t n = 0; n < t.rows(); ++n) std::swap(t.as<uint16_t>()[n * kept], t.as<uint16_t>()[n * kept + 1]);
  });
}

void swap_vocabulary(Patient& patient) {
  patient.edit_json("tokenizer.json", [](Json& tokenizer) {
    Json& vocabulary = tokenizer["model"]["vocab"];
    std::swap(vocabulary["Q"], vocabulary["Z"]);
  });
}

void swap_tokenizer_family(Patient& patient) {
  patient.edit_json("tokenizer.json", [](Json& tokenizer) {
    const Json metaspace = {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "always"}, {"split", true}};
    tokenizer["pre_tokenizer"] = metaspace;
    tokenizer["decoder"] = metaspace;
  });
}

void drop_bos(Patient& patient) {
  patient.edit_json("tokenizer.json", [](Json& tokenizer) { tokenizer["post_processor"] = nullptr; });
}

void drop_eos(Patient& patient) {
  for (const char* name : {"config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"})
    if (fs::exists(patient.path() / name))
      patient.edit_json(name, [](Json& file) {
        file.erase("eos_token_id");
        file.erase("eos_token");
      });
}

// The manifest no longer names one, so that only the tokenizer says what it should be.
void wrong_end_token(Patient& patient) {
  for (const char* name : {"config.json", "generation_config.json"})
    if (fs::exists(patient.path() / name)) patient.edit_json(name, [](Json& file) { file["eos_token_id"] = 65; });
  patient.edit_json(kManifestName, [](Json& manifest) { manifest["tokenizer"]["end_tokens"] = Json::array(); });
}

void wrong_theta_in_config(Patient& patient) {
  patient.edit_json("config.json", [](Json& config) { config["rope_theta"] = 1e6; });
}

void wrong_theta_in_spec(Patient& patient) {
  patient.edit_json("config.json", [](Json& config) { config["quantization_config"]["spec"]["rope"]["theta"] = 1e6; });
}

void wrong_theta_in_both(Patient& patient) {
  wrong_theta_in_config(patient);
  wrong_theta_in_spec(patient);
}

void wrong_norm_epsilon(Patient& patient) {
  patient.edit_json("config.json", [](Json& config) {
    config["rms_norm_eps"] = 0.1;
    config["quantization_config"]["spec"]["norm_eps"] = 0.1;
  });
}

void truncate_shard(Patient& patient) {
  const fs::path shard = patient.shard_of("blocks.3.q.codes"), copy = patient.path() / "copy";
  fs::copy_file(shard, copy);
  fs::resize_file(copy, fs::file_size(copy) - 1000);
  fs::rename(copy, shard);
}

void lose_shard(Patient& patient) { fs::remove(patient.shard_of("blocks.3.q.codes")); }

void move_offsets(Patient& patient) {
  patient.edit("blocks.0.up.offsets", [](Stored& t) {
    for (uint8_t& offset : t.as<uint8_t>()) offset = static_cast<uint8_t>(offset < 15 ? offset + 1 : 14);
  });
}

// Of a token that the prompt of the fingerprint does not hold.
void flip_bit_of_embedding(Patient& patient) {
  patient.edit("embedding.weight", [](Stored& t) { t.row(200)[6] ^= std::byte{1}; });
}

void flip_bit_of_scale(Patient& patient) {
  patient.edit("blocks.2.up.scales", [](Stored& t) { t.bytes[4 * 9] ^= std::byte{1}; });
}

void flip_bit_of_code(Patient& patient) {
  patient.edit("blocks.3.up.codes", [](Stored& t) { t.row(5)[3] ^= std::byte{8}; });
}

// Codes stand in a matrix of N x dense columns; the largest square in it is transposed.
void transpose(Patient& patient) {
  patient.edit("blocks.2.q.codes", [](Stored& t) {
    const int64_t side = std::min(t.rows(), columns_of(t));
    std::vector<std::vector<uint8_t>> codes;
    for (int64_t n = 0; n < side; ++n) codes.push_back(codes_of(t, n, columns_of(t)));
    auto turned = codes;
    for (size_t n = 0; n < codes.size(); ++n)
      for (size_t k = 0; k < codes.size(); ++k) turned[n][k] = codes[k][n];
    for (int64_t n = 0; n < side; ++n) set_codes(t, n, turned[static_cast<size_t>(n)]);
  });
}

const std::vector<std::string> kQkv = {"blocks.3.q", "blocks.3.k", "blocks.3.v"}, kDown = {"blocks.3.down"};

void set_activations(Json& config, const std::vector<std::string>& names, const char* format) {
  for (const std::string& name : names) config["quantization_config"]["linears"][name]["activations"] = format;
}

// The recipe and the manifest's account are changed too, so that all agree.
void set_activations_everywhere(Patient& patient, const std::vector<std::string>& names, const char* format) {
  Json overrides = Json::array();
  for (const std::string& name : names) overrides.push_back({{"linears", name}, {"activations", format}});
  const auto change = [&](Json& recipe) {
    if (!recipe.contains("overrides")) recipe["overrides"] = Json::array();
    for (const Json& entry : overrides) recipe["overrides"].push_back(entry);
  };
  patient.edit_json("config.json", [&](Json& config) {
    set_activations(config, names, format);
    change(config["quantization_config"]["recipe"]);
  });
  patient.edit_json(kManifestName, [&](Json& manifest) {
    change(manifest["inputs"]["recipe"]);
    for (Json& linear : manifest["linears"])
      if (std::find(names.begin(), names.end(), linear["name"].get<std::string>()) != names.end())
        linear["activations"] = format;
  });
}

void wrong_activations(Patient& patient) {
  patient.edit_json("config.json", [](Json& config) { set_activations(config, kQkv, "int2:token:asym"); });
}

void wrong_activations_everywhere(Patient& patient) { set_activations_everywhere(patient, kQkv, "int2:token:asym"); }

void half_the_bits_of_activations(Patient& patient) { set_activations_everywhere(patient, kDown, "int4:token:asym"); }

template <class Edit>
void edit_rows(Patient& patient, const std::string& linear, const Edit& edit) {
  patient.edit_all({linear + ".codes", linear + ".scales", linear + ".kept"}, [&](std::vector<Stored>& parts) {
    for (Stored& part : parts) edit(part);
  });
}

void rotate_rows(Stored& t) {
  std::rotate(t.bytes.begin(), t.bytes.begin() + static_cast<std::ptrdiff_t>(t.row_bytes()), t.bytes.end());
}

void permute_rows(Patient& patient) { edit_rows(patient, "blocks.3.v", rotate_rows); }

void shift_embedding(Patient& patient) { patient.edit("embedding.weight", rotate_rows); }

void double_a_row(Patient& patient) {
  patient.edit("blocks.2.up.scales", [](Stored& t) { t.as<float>()[3] *= 2; });
}

void zero_row(Patient& patient) {
  patient.edit("blocks.2.down.codes", [](Stored& t) {
    std::fill_n(t.row(17), t.row_bytes(), std::byte{0x80});  // 8-bit codes: 128 stands for zero
  });
  patient.edit("blocks.2.down.kept", [](Stored& t) { std::fill_n(t.row(17), t.row_bytes(), std::byte{0}); });
}

void zero_codes(Patient& patient) {
  patient.edit("blocks.3.gate.codes", [](Stored& t) { std::fill(t.bytes.begin(), t.bytes.end(), std::byte{0}); });
}

void zero_gain(Patient& patient) {
  patient.edit("blocks.2.attention_norm.gain",
               [](Stored& t) { std::fill(t.bytes.begin(), t.bytes.end(), std::byte{0}); });
}

// All tensors of block `from` under the names of block `to`.
void copy_block(Patient& patient, int from, int to, const fs::path& source) {
  const auto stem = [](int block) { return "blocks." + std::to_string(block) + "."; };
  const Json index = patient.json("model.safetensors.index.json");
  const fs::path shard = patient.shard_of(stem(to) + "q.codes");
  const SafetensorsFile file =
      must(SafetensorsFile::open(source / index["weight_map"][stem(from) + "q.codes"].get<std::string>()));
  std::vector<TensorView> tensors = file.tensors();
  for (TensorView& tensor : tensors)
    if (tensor.name.rfind(stem(from), 0) == 0) tensor.name = stem(to) + tensor.name.substr(stem(from).size());
  must(write_safetensors(shard, tensors));
}

void duplicate_block(Patient& patient) { copy_block(patient, 2, 3, patient.path()); }

void swap_blocks(Patient& patient) {
  copy_block(patient, 2, 3, honest());
  copy_block(patient, 3, 2, honest());
}

void stale_shard(Patient& patient) { copy_block(patient, 2, 2, quantized("other", "quik-4b", kOffsets, 99)); }

// Who finds it when the hashes have been recomputed: the checks that fail and the exit code; "-" when all pass.
struct Sabotage {
  const char* name;
  void (*commit)(Patient&);
  const char *alone, *beside;  // without and with the original at hand
};
constexpr const char *kFingerprint = "fingerprint (6)", *kWeights = "weights, fingerprint (6)",
                     *kTensors = "tensors, fingerprint (6)", *kAllThree = "tensors, weights, fingerprint (6)",
                     *kTokenizer = "tokenizer (6)", *kFiles = "files (3)", *kUnreadable = "tensors (3)";
const Sabotage kSabotages[] = {
    {"two tensors swapped", swap_tensors, kFingerprint, kWeights},
    {"one NaN", put_nan, kUnreadable, kUnreadable},
    {"a scale is zero", zero_scale, kUnreadable, kUnreadable},
    {"scales change their sign", negate_scales, kTensors, kAllThree},
    {"weights change their sign", negate_codes, kFingerprint, kWeights},
    {"wrong outlier indices, one linear", shift_kept_of_one, kTensors, kAllThree},
    {"wrong outlier indices, whole site", shift_kept_of_site, kFingerprint, kWeights},
    {"values of two kept columns swapped", swap_kept_values, kFingerprint, kWeights},
    {"two vocabulary entries swapped", swap_vocabulary, kTokenizer, kTokenizer},
    {"tokenizer of another family", swap_tokenizer_family, kTokenizer, kTokenizer},
    {"no bos in front of a text", drop_bos, kTokenizer, kTokenizer},
    {"eos missing", drop_eos, kTokenizer, kTokenizer},
    {"another end token", wrong_end_token, kTokenizer, kTokenizer},
    {"rope theta wrong, original keys", wrong_theta_in_config, kFiles, kFiles},
    {"rope theta wrong, stored spec", wrong_theta_in_spec, kFiles, kFiles},
    {"rope theta wrong, both", wrong_theta_in_both, kFiles, kFiles},
    {"epsilon of the norms wrong, both", wrong_norm_epsilon, kFiles, kFiles},
    {"a shard is truncated", truncate_shard, kFiles, kFiles},
    {"a shard is lost", lose_shard, kFiles, kFiles},
    {"zero points off by one", move_offsets, kFingerprint, kWeights},
    {"a square of a matrix transposed", transpose, kFingerprint, kWeights},
    {"wrong activation format", wrong_activations, kFiles, kFiles},
    {"wrong activation format, recipe too", wrong_activations_everywhere, kFingerprint, kFingerprint},
    {"8-bit activations read as 4, recipe too", half_the_bits_of_activations, kFingerprint, kFingerprint},
    {"rows permuted", permute_rows, kFingerprint, kWeights},
    {"rows of the embedding shifted", shift_embedding, kFingerprint, "weights, fingerprint, divergence (6)"},
    {"a row's scale doubled", double_a_row, kFingerprint, kWeights},
    {"a row is dead", zero_row, kFingerprint, kWeights},
    {"codes of a linear are zero", zero_codes, kTensors, kAllThree},
    {"gain of a norm is zero", zero_gain, kTensors, kAllThree},
    {"a block stands twice", duplicate_block, kFingerprint, kWeights},
    {"two blocks swapped", swap_blocks, kFingerprint, kWeights},
    {"a shard of another run", stale_shard, kFingerprint, kWeights},
    {"high bit of a code flipped", flip_bit_of_code, kFingerprint, kWeights},
    {"low bit of an embedding flipped", flip_bit_of_embedding, "-", "weights (6)"},
    {"low bit of a scale flipped", flip_bit_of_scale, "-", "-"},
};

// --- Verdicts ---------------------------------------------------------------------------------------------------

Verdict judged(const fs::path& candidate, const fs::path& reference = {}) {
  VerifyRequest request;
  request.candidate = candidate;
  request.reference = reference;
  request.load.threads = 1;
  if (kQuick && !reference.empty()) {  // random weights diverge further than trained ones
    request.max_kl = 100;
    request.min_agreement = 0;
    request.max_perplexity_ratio = 1e9;
  }
  const auto verdict = verify(request);
  EXPECT_TRUE(verdict) << verdict.error().message;
  return verdict ? *verdict : Verdict{};
}

// The checks that failed: "tensors, fingerprint (6)"; "-" for none.
std::string found_by(const Verdict& verdict) {
  std::string out;
  for (const Check& check : verdict.checks)
    if (check.outcome == nibble::Outcome::failed) out += (out.empty() ? "" : ", ") + check.name;
  return verdict.passed ? "-" : out + " (" + std::to_string(static_cast<int>(verdict.code)) + ")";
}

void print_row(const std::string& name, const std::string& hashes, const std::string& alone,
               const std::string& reference) {
  fmt::print("| {:<36} | {:<9} | {:<38} | {:<62} |\n", name, hashes, alone, reference);
  std::fflush(stdout);
}

// The stand-in for the trained model only tells whether anything is found.
void expect_finders(const Verdict& verdict, const std::string& expected) {
  if (kQuick) {
    EXPECT_EQ(verdict.passed, expected == "-") << verdict.reason;
  } else {
    EXPECT_EQ(found_by(verdict), expected) << verdict.reason;
  }
}

void expect_found(const Sabotage& sabotage) {
  SCOPED_TRACE(sabotage.name);
  Patient patient(honest());
  sabotage.commit(patient);
  const Verdict hashes = judged(patient.path());
  EXPECT_FALSE(hashes.passed);
  EXPECT_EQ(hashes.code, ErrorCode::corrupt) << hashes.reason;
  EXPECT_EQ(found_by(hashes), "files (3)");

  patient.forge_manifest();
  auto running = std::async(std::launch::async, [&] { return judged(patient.path()); });
  const Verdict beside = judged(patient.path(), original()), alone = running.get();
  print_row(sabotage.name, found_by(hashes), found_by(alone), found_by(beside));
  expect_finders(alone, sabotage.alone);
  expect_finders(beside, sabotage.beside);
}

TEST(Sabotage, IsFound) {
  if (!kQuick) {
    const Verdict verdict = judged(honest(), original());
    ASSERT_TRUE(verdict.passed) << verdict.reason;
  }
  print_row("sabotage", "hashes", "hashes forged, alone", "hashes forged, with the reference");
  print_row("---", "---", "---", "---");
  for (const Sabotage& sabotage : kSabotages) expect_found(sabotage);
}

// --- Honest models ----------------------------------------------------------------------------------------------

class Honest : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Recipes, Honest,
                         ::testing::Values("rtn-w8a8", "rtn-w4a16-g128", "quik-4b", "mxfp4+gptq+hadamard+gather"));

TEST_P(Honest, Passes) {
  if (kQuick) GTEST_SKIP() << "needs a trained model, which is slow under a sanitizer";
  const std::string recipe = GetParam();
  const fs::path folder = recipe == "quik-4b" ? honest() : quantized(recipe, recipe);
  const Verdict alone = judged(folder), beside = judged(folder, original());
  EXPECT_TRUE(alone.passed) << alone.reason;
  EXPECT_TRUE(beside.passed) << beside.reason;
  ASSERT_TRUE(beside.divergence);
  EXPECT_GT(beside.divergence->mean_kl, 0);
  EXPECT_LT(beside.divergence->mean_kl, beside.divergence->max_kl);
  for (const Check& check : beside.checks) EXPECT_EQ(check.outcome, nibble::Outcome::passed) << check.name;
}

TEST(Verify, APlainFolderPassesAndIsItself) {
  const Verdict verdict = judged(original(), original());
  EXPECT_TRUE(verdict.passed) << verdict.reason;
  ASSERT_TRUE(verdict.divergence);
  EXPECT_EQ(verdict.divergence->mean_kl, 0);
  EXPECT_EQ(verdict.divergence->top1_agreement, 1);
  EXPECT_EQ(verdict.divergence->perplexity_ratio, 1);
}

TEST(Verify, RoundingOfFourBitActivationsWithoutCareFails) {
  if (kQuick) GTEST_SKIP() << "needs a trained model, which is slow under a sanitizer";
  const Verdict verdict = judged(quantized("careless", "rtn-w4a4"), original());
  EXPECT_FALSE(verdict.passed);
  EXPECT_EQ(verdict.code, ErrorCode::verification);
  EXPECT_EQ(verdict.reason.rfind("divergence: the mean KL divergence is ", 0), 0u) << verdict.reason;
}

TEST(Verify, AnOlderManifestCanBeRead) {
  Patient patient(honest());
  patient.edit_json(kManifestName, [](Json& manifest) {
    Json examples = Json::array();
    for (const Json& example : manifest["tokenizer"]["examples"])
      examples.push_back({{"text", example["text"]}, {"ids", example["ids"]}});
    manifest["tokenizer"] = examples;
    for (const char* key : {"entropy", "positions", "nll"}) manifest["logits"].erase(key);
  });
  const Verdict verdict = judged(patient.path());
  EXPECT_TRUE(verdict.passed) << verdict.reason;
}

// The head alone in 8 bits, also where it was the embedding, in a folder that reads the same without this program.
TEST(Verify, AHeadOfItsOwnIsWhatTheRecipeSays) {
  for (const bool tied : {false, true}) {
    const fs::path plain = workplace() / (tied ? "tied" : "untied"),
                   folder = workplace() / (tied ? "tied-8" : "untied-8");
    must(testing::write_tiny_model(plain, {.tied_head = tied}));
    const fs::path recipe = workplace() / "head.json";
    std::ofstream(recipe) << R"({"name": "head", "weights": "int4:g16", "activations": "f32",
      "head": {"weights": "int8:row"}, "steps": [{"id": "solve", "round": {}}]})";
    QuantizeRequest request;
    request.model = plain;
    request.output = folder;
    request.recipe = recipe.string();
    must(quantize(request));
    const Verdict honest = judged(folder, plain);
    EXPECT_TRUE(honest.passed) << honest.reason;
    EXPECT_EQ(must(read_json(folder / "config.json"))["tie_word_embeddings"], false);

    const Patient patient(folder);
    patient.edit_json("config.json", [](Json& config) { config["quantization_config"]["recipe"].erase("head"); });
    patient.forge_manifest();
    const Verdict verdict = judged(patient.path());
    EXPECT_EQ(found_by(verdict), "files (3)");
    EXPECT_NE(verdict.reason.find("head is stored as int8:row"), std::string::npos) << verdict.reason;
  }
}

// The recipe leaves fractions open, of inputs and of attention; what was found for them is no difference, all else is.
TEST(Verify, FractionsThatWereFoundAreWhatTheRecipeSays) {
  const fs::path plain = workplace() / "plain", folder = workplace() / "fractions";
  must(testing::write_tiny_model(plain));
  QuantizeRequest request;
  request.model = plain;
  request.output = folder;
  request.recipe = "fixed-w8a8";
  request.sets = {"attention.k=fixed8", "activations=fixed8"};
  request.calibration = {fs::path(NIBBLE_SOURCE_DIR) / "models/demo/calibration.txt"};
  request.samples = 4;
  request.length = 32;
  must(quantize(request));
  const Verdict honest = judged(folder);
  EXPECT_TRUE(honest.passed) << honest.reason;

  // Six bits for eight, with the fraction as it is.
  const auto fewer_bits = [](Json& format) {
    const auto found = format.get<std::string>();
    EXPECT_TRUE(found.starts_with("fixed8:f")) << found;
    format = "fixed6" + found.substr(6);
  };
  const auto expect_named = [&](const std::function<void(Json&)>& edit, const std::string& named) {
    const Patient patient(folder);
    patient.edit_json("config.json", [&](Json& config) { edit(config["quantization_config"]); });
    patient.forge_manifest();
    const Verdict verdict = judged(patient.path());
    EXPECT_EQ(found_by(verdict), "files (3)");
    EXPECT_NE(verdict.reason.find(named), std::string::npos) << verdict.reason;
  };
  expect_named(
      [&](Json& quantization) {
        Json& attention = quantization["attention"];
        fewer_bits((attention.is_array() ? attention[0] : attention)["k"]);
      },
      "attention of block 0 is ");
  expect_named(
      [&](Json& quantization) {
        for (const char* role : {"q", "k", "v"})
          fewer_bits(quantization["linears"][std::string("blocks.1.") + role]["activations"]);
      },
      "blocks.1.k is stored as fixed8:f");
}

TEST(Verify, LimitsOfTheCallerDecide) {
  VerifyRequest request;
  request.candidate = honest();
  request.reference = original();
  request.max_kl = 1e-9;
  const auto strict = verify(request);
  ASSERT_TRUE(strict) << strict.error().message;
  EXPECT_FALSE(strict->passed);
  EXPECT_EQ(strict->code, ErrorCode::verification);
  ASSERT_TRUE(strict->divergence);
  EXPECT_EQ(strict->divergence->max_kl, 1e-9);
}

ErrorCode refusal(const VerifyRequest& request) {
  const auto verdict = verify(request);
  EXPECT_FALSE(verdict);
  return verdict ? ErrorCode::failure : verdict.error().code;
}

TEST(Verify, WhatStopsTheCheckingIsAnError) {
  VerifyRequest request;
  request.candidate = workplace() / "nowhere";
  EXPECT_EQ(refusal(request), ErrorCode::io);
  request.candidate = original();
  request.max_kl = 0.1;  // without a reference
  EXPECT_EQ(refusal(request), ErrorCode::usage);
  request.reference = original();
  request.max_kl = -1;
  EXPECT_EQ(refusal(request), ErrorCode::usage);
  request.max_kl.reset();
  request.min_agreement = 1.5;
  EXPECT_EQ(refusal(request), ErrorCode::usage);
  request.min_agreement.reset();
  request.text = "short";
  EXPECT_EQ(refusal(request), ErrorCode::usage);
  request.text.clear();
  request.reference = workplace() / "nowhere";
  EXPECT_EQ(refusal(request), ErrorCode::io);
}

TEST(Verify, ADamagedReferenceIsNotTheCandidatesFault) {
  const Patient reference(original());
  const SafetensorsFile file = must(SafetensorsFile::open(reference.path() / "model.safetensors"));
  std::vector<TensorView> tensors = file.tensors();
  const Bytes damaged(tensors[3].bytes.size(), std::byte{0xFF});  // NaN in every float type
  tensors[3].bytes = damaged;
  must(write_safetensors(reference.path() / "model.safetensors", tensors));
  VerifyRequest request;
  request.candidate = honest();
  request.reference = reference.path();
  EXPECT_EQ(refusal(request), ErrorCode::corrupt);
}

// Scales of 3e38 are finite; what they stand for is not.
TEST(Verify, ReferenceWeightsThatOverflowAreNotTheCandidatesFault) {
  const Patient candidate(honest()), reference(honest());
  // The stored weights as their own reference have no error.
  candidate.edit_json(kManifestName, [](Json& manifest) {
    for (Json& linear : manifest["linears"]) linear["weight_error"] = 0;
  });
  reference.edit("blocks.2.o.scales", [](Stored& t) {
    for (float& scale : t.as<float>()) scale = 3e38f;
  });
  VerifyRequest request;
  request.candidate = candidate.path();
  request.reference = reference.path();
  const auto verdict = verify(request);
  ASSERT_FALSE(verdict);
  EXPECT_EQ(verdict.error().message.rfind("the reference: weights of blocks.2.o: ", 0), 0u) << verdict.error().message;
}

// Too few positions for a text to be drawn, so that the divergence is the first to run the reference.
TEST(Verify, ReferenceLogitsThatOverflowAreNotTheCandidatesFault) {
  testing::TinyShape shape;
  shape.positions = 7;
  const fs::path good = workplace() / "seven positions", bad = workplace() / "overflow";
  for (const fs::path& folder : {good, bad}) must(testing::write_tiny_model(folder, shape));
  const fs::path file = bad / "model.safetensors";
  const SafetensorsFile whole = must(SafetensorsFile::open(file));
  std::vector<TensorView> tensors = whole.tensors();
  const std::vector<float> head(static_cast<size_t>(shape.vocabulary * shape.hidden), 3e38f);
  for (TensorView& tensor : tensors)
    if (tensor.name == "lm_head.weight") {
      tensor.dtype = DType::f32;
      tensor.bytes = std::as_bytes(std::span(head));
    }
  must(write_safetensors(file, tensors));
  VerifyRequest request;
  request.candidate = good;
  request.reference = good;
  request.text = std::string(100, 'a');
  const auto itself = verify(request);
  ASSERT_TRUE(itself) << itself.error().message;
  EXPECT_TRUE(itself->passed) << itself->reason;
  ASSERT_TRUE(itself->divergence);
  EXPECT_EQ(itself->divergence->text, "the text, windows of 7");
  request.reference = bad;
  const auto verdict = verify(request);
  ASSERT_FALSE(verdict);
  EXPECT_EQ(verdict.error().message.rfind("the reference: the logits ", 0), 0u) << verdict.error().message;
}

TEST(Verify, AReferenceWithAnUnknownCacheIsRefused) {
  const Patient reference(honest());
  reference.edit_json("config.json", [](Json& config) { config["quantization_config"]["recipe"]["cache"] = "f8"; });
  VerifyRequest request;
  request.candidate = honest();
  request.reference = reference.path();
  EXPECT_EQ(refusal(request), ErrorCode::corrupt);
}

TEST(Verify, AShortTextIsRefusedBeforeAnythingIsChecked) {
  VerifyRequest request;
  request.candidate = request.reference = original();
  request.text = "short";
  bool began = false;
  request.progress = [&](const Progress&) { began = true; };
  EXPECT_EQ(refusal(request), ErrorCode::usage);
  EXPECT_FALSE(began);
}

TEST(Verify, ProgressOnlyGoesOn) {
  VerifyRequest request;
  request.candidate = honest();
  request.reference = original();
  std::vector<double> told;
  int drawn = 0;
  request.progress = [&](const Progress& progress) {
    told.push_back(progress.done);
    drawn += progress.what == "drawing text" ? 1 : 0;
  };
  const auto verdict = verify(request);
  ASSERT_TRUE(verdict) << verdict.error().message;
  EXPECT_GT(drawn, 64);  // two texts
  EXPECT_TRUE(std::is_sorted(told.begin(), told.end()));
  ASSERT_FALSE(told.empty());
  EXPECT_GE(told.front(), 0);
  EXPECT_DOUBLE_EQ(told.back(), 1);
}

TEST(Verify, NoiseIsFound) {
  const fs::path noisy = workplace() / "noisy";
  must(testing::write_tiny_model(noisy));
  const fs::path file = noisy / "model.safetensors";
  const SafetensorsFile whole = must(SafetensorsFile::open(file));
  std::vector<TensorView> tensors = whole.tensors();
  Bytes head;
  for (TensorView& tensor : tensors)
    if (tensor.name == "lm_head.weight") {
      head.assign(tensor.bytes.begin(), tensor.bytes.end());
      for (size_t i = 1; i < head.size(); i += 2) head[i] &= std::byte{0x83};  // at most 2^-14
      tensor.bytes = head;
    }
  must(write_safetensors(file, tensors));
  const Verdict verdict = judged(noisy);
  EXPECT_EQ(found_by(verdict), "generation (6)");
  EXPECT_EQ(verdict.reason.rfind("generation: predictions have 1.000 of the entropy of noise", 0), 0u)
      << verdict.reason;
}

TEST(Verify, ALinearThatStandsTwiceInTheManifestIsFound) {
  const Patient patient(honest());
  patient.edit_json(kManifestName, [](Json& manifest) { manifest["linears"][3] = manifest["linears"][4]; });
  const Verdict verdict = judged(patient.path());
  EXPECT_EQ(found_by(verdict), "files (3)");
  EXPECT_NE(verdict.reason.find("stands twice among the manifest's linears"), std::string::npos) << verdict.reason;
}

TEST(Verify, ALinearMissingInTheManifestIsFound) {
  const Patient patient(honest());
  patient.edit_json(kManifestName, [](Json& manifest) { manifest["linears"].erase(3); });
  const Verdict verdict = judged(patient.path());
  EXPECT_EQ(found_by(verdict), "files (3)");
  EXPECT_NE(verdict.reason.find("is in config.json, but not in the manifest"), std::string::npos) << verdict.reason;
}

// Hashes can be recomputed; what the manifest knows besides cannot be left out.
TEST(Verify, APartTakenOutOfTheManifestIsFound) {
  for (const char* part : {"inputs", "linears", "logits", "tokenizer", "files"}) {
    const Patient patient(honest());
    patient.edit_json(kManifestName, [&](Json& manifest) {
      if (part == std::string("files")) {
        manifest["files"].erase("config.json");
      } else {
        manifest.erase(part);
      }
    });
    const Verdict verdict = judged(patient.path());
    EXPECT_EQ(found_by(verdict), "files (3)") << part;
    EXPECT_NE(verdict.reason.find(part), std::string::npos) << verdict.reason;
  }
}

// Whatever the manifest holds in the place of "inputs", there is a verdict.
TEST(Verify, InputsOfAnyShape) {
  const Patient patient(honest());
  for (const Json& inputs : {Json::array(), Json("text"), Json(7), Json(), Json{{"recipe", nullptr}}}) {
    patient.edit_json(kManifestName, [&](Json& manifest) { manifest["inputs"] = inputs; });
    VerifyRequest request;
    request.candidate = patient.path();
    const auto verdict = verify(request);
    EXPECT_TRUE(verdict) << dump_json(inputs) << ": " << verdict.error().message;
  }
}

TEST(Verify, AnEndTokenThatNeitherManifestNorTokenizerNamesIsFound) {
  Patient patient(honest());
  wrong_end_token(patient);
  patient.forge_manifest();
  const Verdict verdict = judged(patient.path());
  EXPECT_EQ(found_by(verdict), "tokenizer (6)");
  EXPECT_NE(verdict.reason.find("the tokens that end a text are [65], the manifest says []"), std::string::npos)
      << verdict.reason;
}

TEST(Verify, AReferenceWithAnotherVocabularyIsNamed) {
  testing::TinyShape shape;
  shape.vocabulary = 300;
  const fs::path other = workplace() / "another vocabulary";
  must(testing::write_tiny_model(other, shape));
  const Verdict verdict = judged(original(), other);
  EXPECT_FALSE(verdict.passed);
  EXPECT_EQ(verdict.code, ErrorCode::corrupt);
  EXPECT_NE(verdict.reason.find("vocabulary"), std::string::npos) << verdict.reason;
}

}  // namespace
}  // namespace nibble
