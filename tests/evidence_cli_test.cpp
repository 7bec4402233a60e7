// `nibble perplexity` and `nibble compare` as a user runs them, on tiny random models that the test writes itself.
#include <gtest/gtest.h>

#include <cmath>

#include "checkpoint/manifest.h"
#include "checkpoint/safetensors.h"
#include "core/testing.h"
#include "run_program.h"
#include "shared_material.h"
#include "tiny_model.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using testing::Arguments;
using testing::Environment;
using testing::Outcome;

// Two models that differ, a text, and one program run after the other in a folder that goes away at the end.
class Evidence : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new testing::TemporaryFolder;
    testing::expect_ok(testing::write_tiny_model(folder("one")));
    const Outcome made = nibble({"quantize", folder("one"), "-o", folder("two"), "--recipe", "rtn-w4a16-g128"});
    ASSERT_EQ(made.code, 0) << made.err;
    std::string text;
    Random random(3);
    const char* words[] = {"the ", "sea ", "was ", "calm", ", ", "and ", "nobody ", "spoke. ", "\n", "café "};
    while (text.size() < 4000) text += words[random.below(std::size(words))];
    testing::put(folder("text"), text);
    fs::create_directory(folder("tmp"));
  }
  static void TearDownTestSuite() { delete folder_; }
  void TearDown() override { EXPECT_EQ(testing::entries_in(folder("tmp")), 0) << "temporary files are left"; }

  static std::string folder(const std::string& name) { return (*folder_ / name).string(); }
  static Outcome nibble(Arguments arguments, Environment environment = {}) {
    environment.emplace("TMPDIR", folder("tmp"));
    return testing::run_program(NIBBLE_PROGRAM, arguments, folder_->path(), environment);
  }
  static Outcome json(Arguments arguments, const Environment& environment = {}) {
    arguments.push_back("--json");
    return nibble(std::move(arguments), environment);
  }
  static Outcome compare(Arguments more, const Environment& environment = {}) {
    more.insert(more.begin(), "compare");
    return json(std::move(more), environment);
  }
  static Outcome perplexity(Arguments more) {
    Arguments arguments = {"perplexity", folder("one"), "--text", folder("text")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return json(std::move(arguments));
  }
  static void expect_error(const Outcome& outcome, int code, const std::string& part) {
    EXPECT_EQ(outcome.code, code) << outcome.out << outcome.err;
    ASSERT_TRUE(outcome.json.is_object() && outcome.json.contains("error")) << outcome.out << outcome.err;
    const std::string message = outcome.json["error"]["message"];
    EXPECT_NE(message.find(part), std::string::npos) << message;
  }
  // Of two runs, all numbers but those about time.
  static Json timeless(Json report) {
    report.erase("seconds");
    report.erase("tokens_per_second");
    return report;
  }

  static testing::TemporaryFolder* folder_;
};
testing::TemporaryFolder* Evidence::folder_ = nullptr;

constexpr const char* kMeasures[] = {
    "mean_kl",        "median_kl",          "p99_kl",          "p999_kl", "top1_agreement",
    "top5_agreement", "probability_change", "perplexity_ratio"};

// --- perplexity --------------------------------------------------------------------------------------------------

TEST_F(Evidence, PerplexityPrintsItsProtocol) {
  const Outcome windows = perplexity({});
  ASSERT_EQ(windows.code, 0) << windows.err << windows.out;
  const int64_t tokens = 1 + static_cast<int64_t>(testing::get(folder("text")).size());  // one per byte, and <s>
  EXPECT_EQ(windows.json["protocol"], "windows");
  EXPECT_EQ(windows.json["window"], 64);
  EXPECT_EQ(windows.json["stride"], nullptr);
  EXPECT_EQ(windows.json["preset"], nullptr);
  EXPECT_EQ(windows.json["windows"], tokens / 64);
  EXPECT_EQ(windows.json["tokens"], tokens / 64 * 63);
  EXPECT_NEAR(windows.json["perplexity"].get<double>(), std::exp(windows.json["nll"].get<double>()), 1e-9);
  EXPECT_GT(windows.json["standard_error"].get<double>(), 0);
  EXPECT_GT(windows.json["tokens_per_second"].get<double>(), 0);

  const Outcome strided = perplexity({"--protocol", "strided", "--window", "32"});
  ASSERT_EQ(strided.code, 0) << strided.err << strided.out;
  EXPECT_EQ(strided.json["stride"], 16);
  EXPECT_EQ(strided.json["tokens"], tokens - 1);

  const Outcome halves = perplexity({"--protocol", "second-half", "--window", "32"});
  ASSERT_EQ(halves.code, 0) << halves.err << halves.out;
  EXPECT_EQ(halves.json["tokens"], tokens / 32 * 15);
  EXPECT_NE(halves.json["nll"], strided.json["nll"]);

  const Outcome text = nibble({"perplexity", folder("one"), "--text", folder("text"), "--preset", "ptb", "-w", "32"});
  ASSERT_EQ(text.code, 0) << text.err;
  EXPECT_NE(text.out.find("protocol windows, windows of 32, preset ptb"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("tokens/s"), std::string::npos) << text.out;
}

TEST_F(Evidence, PerplexityReadsJsonLines) {
  const std::string word(100, 'x');
  testing::put(folder("c4"), "{\"text\":\"" + word + "\"}\n{\"text\":\"no\"}\n");
  const auto preset = [&](const std::string& file, const std::string& name) {
    return json({"perplexity", folder("one"), "--text", folder(file), "--preset", name, "-w", "16"});
  };
  const Outcome drawn = preset("c4", "c4");
  ASSERT_EQ(drawn.code, 0) << drawn.out;
  EXPECT_EQ(drawn.json["windows"], 256);
  EXPECT_EQ(drawn.json["preset"], "c4");
  EXPECT_EQ(preset("c4", "c4-new").json["windows"], (1 + 100 + 1 + 2) / 16);
  testing::put(folder("broken"), "{\"text\":\"" + word + "\"}\n{\"text\":\"no\"\n");
  expect_error(preset("broken", "c4"), 3, "line 2");
}

TEST_F(Evidence, PerplexityRefusesWhatContradictsItself) {
  expect_error(perplexity({"--protocol", "halves"}), 2, "windows, strided or second-half");
  expect_error(perplexity({"--stride", "4"}), 2, "only strided");
  expect_error(perplexity({"--protocol", "strided", "--window", "8", "--stride", "9"}), 2, "stride of 9");
  expect_error(perplexity({"--preset", "c5"}), 2, "wikitext2, ptb, ptb-new, c4 or c4-new");
  expect_error(perplexity({"--preset", "ptb", "--protocol", "strided"}), 2, "preset ptb");
  expect_error(perplexity({"--window", "65"}), 2, "65");
  testing::put(folder("short"), "abc");
  expect_error(json({"perplexity", folder("one"), "--text", folder("short")}), 2, "do not fill one window of 64");
  testing::put(folder("empty"), "");
  expect_error(json({"perplexity", folder("one"), "--text", folder("empty")}), 2, "empty is empty");
}

// --- compare -----------------------------------------------------------------------------------------------------

TEST_F(Evidence, CompareWithItselfIsExactlyNothing) {
  const Outcome found = compare({folder("one"), folder("one"), "--text", folder("text"), "-t", "3"});
  ASSERT_EQ(found.code, 0) << found.err << found.out;
  for (const char* key : {"mean_kl", "median_kl", "p99_kl", "p999_kl", "max_kl", "probability_change"})
    EXPECT_EQ(found.json[key], 0.0) << key;
  for (const char* key : {"top1_agreement", "top5_agreement", "perplexity_ratio"}) EXPECT_EQ(found.json[key], 1.0);
  for (const char* key : kMeasures) EXPECT_EQ(found.json[std::string(key) + "_standard_error"], 0.0) << key;
  EXPECT_EQ(found.json["one_at_a_time"], false);
  EXPECT_EQ(found.json["stored_reference"], false);
}

TEST_F(Evidence, CompareAgreesWithPerplexityAndMakesOneTable) {
  const Outcome found = compare({folder("one"), folder("two"), folder("one"), "--text", folder("text")});
  ASSERT_EQ(found.code, 0) << found.err << found.out;
  ASSERT_EQ(found.json["candidates"].size(), 2u);
  EXPECT_FALSE(found.json.contains("mean_kl"));  // only for a single candidate
  const Json& two = found.json["candidates"][0];
  EXPECT_EQ(two["model"], folder("two"));
  EXPECT_GT(two["mean_kl"].get<double>(), 0);
  EXPECT_GT(two["mean_kl_standard_error"].get<double>(), 0);
  EXPECT_EQ(found.json["candidates"][1]["mean_kl"], 0.0);
  const Outcome one = perplexity({});
  EXPECT_DOUBLE_EQ(two["reference_perplexity"].get<double>(), one.json["perplexity"].get<double>());
  EXPECT_EQ(found.json["tokens"], one.json["tokens"]);
  const Outcome text = nibble({"compare", folder("one"), folder("two"), folder("one"), "--text", folder("text")});
  for (const char* part : {"mean KL", "99.9 % KL", "two", "100.000 +- 0.000", "protocol windows, windows of 64"})
    EXPECT_NE(text.out.find(part), std::string::npos) << part << "\n" << text.out;
}

TEST_F(Evidence, CompareDoesNotDependOnThreadsOrInstructions) {
  const Arguments stored = {folder("one"), "--text", folder("text"), "--save-logits", folder("any.logits")};
  ASSERT_EQ(compare(stored).code, 0);
  Arguments second = stored;
  second[0] = folder("two"), second.back() = folder("any2.logits");
  ASSERT_EQ(compare(second).code, 0);
  const Arguments files = {folder("any.logits"), folder("any2.logits")};
  const Json expected = timeless(compare(files).json);
  EXPECT_EQ(expected["candidates"].size(), 1u);
  EXPECT_EQ(timeless(compare(files, {{"NIBBLE_ISA", "portable"}, {"NIBBLE_THREADS", "1"}}).json), expected);
  EXPECT_EQ(timeless(compare(files, {{"NIBBLE_THREADS", "5"}}).json), expected);
}

TEST_F(Evidence, CompareThroughStoredLogitsIsNearlyTheSame) {
  const Arguments all = {folder("one"), folder("two"), "--text", folder("text"), "--window", "32"};
  const Outcome direct = compare(all);
  Arguments more = all;
  more.insert(more.end(), {"--save-logits", folder("one.logits"), "--one-at-a-time"});
  const Outcome saved = compare(more);
  ASSERT_EQ(saved.code, 0) << saved.out << saved.err;
  EXPECT_EQ(saved.json["stored_reference"], true);
  EXPECT_EQ(saved.json["one_at_a_time"], true);
  EXPECT_NE(saved.err.find("one at a time"), std::string::npos) << saved.err;
  more = all;
  more.push_back("--one-at-a-time");  // through a temporary file
  const Outcome temporary = compare(more);
  const Outcome later = compare({"--logits", folder("one.logits"), folder("two")});
  const Outcome checked = compare({folder("one.logits"), folder("two"), "--text", folder("text"), "--window", "32"});
  for (const Outcome& other : {saved, temporary, later, checked}) {
    ASSERT_EQ(other.code, 0) << other.out << other.err;
    EXPECT_EQ(other.json["tokens"], direct.json["tokens"]);
    EXPECT_EQ(other.json["window"], 32);
    EXPECT_EQ(other.json["protocol"], "windows");
    EXPECT_NEAR(other.json["mean_kl"].get<double>(), direct.json["mean_kl"].get<double>(), 1e-6);
    EXPECT_NEAR(other.json["p99_kl"].get<double>(), direct.json["p99_kl"].get<double>(), 1e-4);
    EXPECT_NEAR(other.json["perplexity_ratio"].get<double>(), direct.json["perplexity_ratio"].get<double>(), 1e-4);
    EXPECT_EQ(other.json["mean_kl"], saved.json["mean_kl"]);
  }
}

// Two files written by hand. Three tokens are predicted; log 2 is 1420 steps of 32 / 65535 (1419.55 rounded).
void write_logits(const fs::path& path, const std::vector<uint16_t>& rows, std::vector<int32_t> ids = {0, 1, 0, 1}) {
  const std::vector<int64_t> passages = {0, 4, 1};
  testing::expect_ok(write_safetensors(path,
                                       {{"passages", DType::i64, {1, 3}, std::as_bytes(std::span(passages))},
                                        {"ids", DType::i32, {4}, std::as_bytes(std::span(ids))},
                                        {"log_probabilities", DType::u16, {3, 2}, std::as_bytes(std::span(rows))}},
                                       {{"nibble_logits", "1"}, {"model", "hand"}}));
}

TEST_F(Evidence, CompareOfStoredFilesMatchesHandComputedValues) {
  // Probabilities, up to the step: (1/2 1/2), (1/2 1/2), (1/2 1/2) and (1/2 1/2), (1/3 2/3), (2/3 1/3).
  write_logits(folder("p"), {1420, 1420, 1420, 1420, 1420, 1420});
  write_logits(folder("q"), {1420, 1420, 2250, 830, 830, 2250});
  const Outcome found = compare({folder("p"), folder("q")});
  ASSERT_EQ(found.code, 0) << found.out << found.err;
  // log q differs by 1420 steps, so q = (1, e^d) / (1 + e^d) with d = 1420 * 32 / 65535, whose KL from (1/2, 1/2) is
  // log((1 + e^d) / 2) - d / 2.
  const double d = 1420 * 32.0 / 65535, kl = std::log((1 + std::exp(d)) / 2) - d / 2;
  EXPECT_NEAR(found.json["mean_kl"].get<double>(), 2 * kl / 3, 1e-7);
  EXPECT_NEAR(found.json["median_kl"].get<double>(), kl, 1e-7);
  EXPECT_NEAR(found.json["p99_kl"].get<double>(), kl, 1e-7);
  EXPECT_NEAR(found.json["mean_kl_standard_error"].get<double>(), kl / 3, 1e-7);
  // The first is the same in the first row and, as ties go to the lower id, in the third.
  EXPECT_NEAR(found.json["top1_agreement"].get<double>(), 2.0 / 3, 1e-12);
  EXPECT_EQ(found.json["top5_agreement"], 1.0);
  // True tokens 1, 0, 1: their probabilities are 1/2, 1 / (1 + e^d), 1 / (1 + e^d).
  const double worse = std::log(0.5) - std::log(1 / (1 + std::exp(d)));
  EXPECT_NEAR(found.json["perplexity_ratio"].get<double>(), std::exp(2 * worse / 3), 1e-7);
  EXPECT_NEAR(found.json["reference_perplexity"].get<double>(), 2, 1e-7);
  EXPECT_NEAR(found.json["probability_change"].get<double>(), (2 / (1 + std::exp(d)) - 1) / 3, 1e-7);
  EXPECT_EQ(found.json["protocol"], "");
}

TEST_F(Evidence, CompareRefusesWhatDoesNotBelongTogether) {
  const std::string one = folder("one"), text = folder("text");
  expect_error(compare({one, folder("two")}), 2, "a text is needed");
  expect_error(compare({one, "--text", text}), 2, "a CANDIDATE is needed");
  expect_error(compare({"--text", text}), 2, "a REFERENCE is needed");
  expect_error(compare({one, folder("none"), "--text", text}), 7, "none");
  testing::put(folder("short"), "abc");
  expect_error(compare({one, one, "--text", folder("short")}), 2, "do not fill one window");

  testing::TinyShape wide;
  wide.vocabulary = 300;
  testing::expect_ok(testing::write_tiny_model(folder("wide"), wide));
  expect_error(compare({one, folder("wide"), "--text", text}), 3, "wide has a vocabulary of 300 tokens");

  write_logits(folder("a"), {1, 1, 1, 1, 1, 1});
  write_logits(folder("b"), {1, 1, 1, 1, 1, 1}, {0, 1, 1, 1});
  expect_error(compare({folder("a"), folder("b")}), 3, "token 2 is 0 and 1");
  expect_error(compare({folder("a"), one}), 3, "has a vocabulary of 258");

  ASSERT_EQ(compare({one, "--text", text, "--window", "16", "--save-logits", folder("one16")}).code, 0);
  testing::put(folder("other"), testing::get(text) + "!");
  expect_error(compare({"--logits", folder("one16"), one, "--text", folder("other")}), 3,
               "do not have the same tokens");
  expect_error(compare({"--logits", folder("one16"), one, "--window", "32"}), 2, "window 16");
  EXPECT_EQ(compare({"--logits", folder("one16"), one, "--text", text, "--window", "16"}).code, 0);
  expect_error(compare({folder("one16"), one, "--save-logits", folder("again")}), 2, "nothing to save");
  expect_error(compare({one, "--text", text, "--save-logits", text}), 2, "not replaced");

  const std::string whole = testing::get(folder("one16"));
  testing::put(folder("cut"), whole.substr(0, whole.size() - 7));
  expect_error(compare({"--logits", folder("cut"), one}), 3, "cut");
  expect_error(compare({"--logits", text, one}), 3, "text");
}

TEST_F(Evidence, CompareOnAFullDiskLeavesNothing) {
  const Environment full = {{"LD_PRELOAD", NIBBLE_FAULT_INJECTION}, {"NIBBLE_TEST_DISK_BYTES", "100000"}};
  fs::create_directory(folder("disk"));
  const Arguments arguments = {folder("one"), "--text", folder("text"), "--save-logits", folder("disk/one.logits")};
  expect_error(compare(arguments, full), 5, "one.logits");
  EXPECT_EQ(testing::entries_in(folder("disk")), 0);
  expect_error(compare({folder("one"), folder("two"), "--text", folder("text"), "--one-at-a-time"}, full), 5,
               "reference");
}

// 4000 characters and <s> make 62 windows of 64, of which 63 tokens each are predicted, 2 bytes per word of 258.
TEST_F(Evidence, CompareAsksForRoomBeforeItRuns) {
  const auto free = [](int64_t bytes) {
    return Environment{{"LD_PRELOAD", NIBBLE_FAULT_INJECTION}, {"NIBBLE_TEST_FREE_BYTES", std::to_string(bytes)}};
  };
  const auto tokens = static_cast<int64_t>(testing::get(folder("text")).size() + 1) / 64 * 63;
  const int64_t needed = tokens * 258 * 2;
  const Arguments both = {folder("one"), folder("two"), "--text", folder("text")};
  Arguments one = both;
  one.push_back("--one-at-a-time");
  expect_error(compare(one, free(needed - 1)), 5, "TMPDIR");
  EXPECT_EQ(compare(one, free(needed)).code, 0);
  Arguments saved = both;
  saved.insert(saved.end(), {"--save-logits", folder("room.logits")});
  expect_error(compare(saved, free(needed - 1)), 5, "free on its disk");
  EXPECT_FALSE(fs::exists(folder("room.logits")));
  EXPECT_EQ(compare(both, free(0)).code, 0);  // nothing is stored
  expect_error(compare({folder("one"), "--text", folder("text"), "--save-logits", folder("none/x")}), 7, "none");
}

// A folder like "two" with another config.json or manifest.
class Damaged : public Evidence {
 protected:
  static std::string copy(const std::string& name, const std::string& file, const std::function<void(Json&)>& edit) {
    fs::remove_all(folder(name));
    fs::copy(folder("two"), folder(name), fs::copy_options::recursive);
    Json json = *read_json(folder(name) + "/" + file);
    edit(json);
    testing::put(folder(name) + "/" + file, dump_json(json));
    return folder(name);
  }
};

TEST_F(Damaged, StoredIdsNeedNoTokenizer) {
  ASSERT_EQ(compare({folder("one"), "--text", folder("text"), "--save-logits", folder("ids.logits")}).code, 0);
  const std::string bare = copy("bare", "config.json", [](Json&) {});
  ASSERT_TRUE(fs::remove(bare + "/tokenizer.json"));
  const Outcome found = compare({"--logits", folder("ids.logits"), bare});
  EXPECT_EQ(found.code, 0) << found.out << found.err;
  expect_error(compare({"--logits", folder("ids.logits"), bare, "--text", folder("text")}), 7, "tokenizer");
}

// Values of another kind on the way to a key are a damaged file or an unknown name, never an exception.
TEST_F(Damaged, ArraysWhereObjectsBelong) {
  for (const char* text : {"[]", "[1]", "3", "\"x\"", "null"}) {
    const Json wrong = Json::parse(text);
    const std::string inputs = copy("inputs", kManifestName, [&](Json& manifest) { manifest["inputs"] = wrong; });
    EXPECT_EQ(json({"report", inputs}).code, 0) << text;
    const std::string recipe =
        copy("recipe", "config.json", [&](Json& config) { config["quantization_config"]["recipe"] = wrong; });
    for (const Arguments& arguments :
         {Arguments{"inspect", recipe}, {"report", recipe}, {"perplexity", recipe, "--text", folder("text")}}) {
      const Outcome found = json(arguments);
      EXPECT_TRUE(found.code == 0 || found.code == 3) << arguments[0] << " " << text << " " << found.out;
    }
  }
}

TEST_F(Damaged, NamesDoNotSteerTheTerminal) {
  const std::string model = copy("named", "config.json", [](Json& config) {
    config["quantization_config"]["recipe"]["name"] = "a\x1b[31mb\r\n\x7f\u009bc\u00e9";
  });
  const Outcome found = nibble({"inspect", model});
  ASSERT_EQ(found.code, 0) << found.err;
  EXPECT_NE(found.out.find("quantized with a?[31mb????c\u00e9\n"), std::string::npos) << found.out;
  EXPECT_EQ(found.out.find('\x1b'), std::string::npos);
}

// --- trained models ----------------------------------------------------------------------------------------------

// transformers 5 in float32, on the first 20,000 bytes of the stories: tools like it define these numbers.
TEST_F(Evidence, ProtocolsOfATrainedModelMatchTransformers) {
  const fs::path models = shared_material() / "models";
  NIBBLE_SKIP_WITHOUT_SHARED(models);
  testing::put(folder("stories"), testing::get(models / "eval" / "tinystories_heldout.txt").substr(0, 20000));
  const auto expect = [&](Arguments more, double nll, double standard_error) {
    Arguments arguments = {"perplexity", models / "tiny-llama", "--text", folder("stories"), "--window", "256"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Outcome found = json(arguments);
    ASSERT_EQ(found.code, 0) << found.err << found.out;
    EXPECT_NEAR(found.json["nll"].get<double>(), nll, 2e-6);
    EXPECT_NEAR(found.json["standard_error"].get<double>(), standard_error, 2e-6);
  };
  expect({}, 2.8038879, 0.0348964);
  expect({"--protocol", "strided", "--stride", "128"}, 2.7679774, 0.0345816);
  expect({"--protocol", "second-half"}, 2.7322869, 0.0493807);
}

}  // namespace
}  // namespace nibble
