// Runs the built program as a user would, on a tiny random model that the test writes itself.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "core/hash.h"
#include "shared_material.h"
#include "tiny_model.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using Arguments = std::vector<std::string>;
using Environment = std::map<std::string, std::string>;

struct Outcome {
  int code = -1;  // exit code, or 128 + the signal that ended it
  std::string out, err;
  Json json;  // of standard output, null when it is none
};

std::string contents(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

// A folder of this test program's own, removed at the end.
const fs::path& workplace() {
  static const struct Folder {
    fs::path path = fs::temp_directory_path() / ("nibble-cli-test-" + std::to_string(::getpid()));
    Folder() { fs::create_directories(path); }
    ~Folder() { fs::remove_all(path); }
  } folder;
  return folder.path;
}

void redirect(const char* path, int flags, int to) {
  const int descriptor = ::open(path, flags, 0600);
  if (descriptor < 0 || ::dup2(descriptor, to) < 0) ::_exit(126);
}

struct Streams {
  std::string in = "/dev/null", out = (workplace() / "stdout").string(), err = (workplace() / "stderr").string();
};

Outcome run_program(const std::string& program, const Arguments& arguments, const Environment& environment = {},
                    const Streams& streams = {}) {
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    redirect(streams.in.c_str(), O_RDONLY, 0);
    redirect(streams.out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 1);
    redirect(streams.err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 2);
    for (const auto& [name, value] : environment) ::setenv(name.c_str(), value.c_str(), 1);
    ::execv(program.c_str(), argv.data());
    ::_exit(127);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  Outcome outcome;
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (fs::is_regular_file(streams.out)) outcome.out = contents(streams.out);
  outcome.err = contents(streams.err);
  if (auto parsed = parse_json(outcome.out, "standard output")) outcome.json = *std::move(parsed);
  return outcome;
}

Outcome nibble_run(const Arguments& arguments, const Environment& environment = {}, const Streams& streams = {}) {
  return run_program(NIBBLE_PROGRAM, arguments, environment, streams);
}

// The model, a calibration text, and a name for an output that nobody else uses.
const std::string& model() {
  static const std::string folder = [] {
    const fs::path path = workplace() / "tiny";
    const Status written = testing::write_tiny_model(path);
    EXPECT_TRUE(written) << written.error().message;
    return path.string();
  }();
  return folder;
}

const std::string& text_file() {
  static const std::string file = [] {
    std::string text;
    Random random(3);
    const char* words[] = {"the ", "sea ", "was ", "calm", ", ", "and ", "nobody ", "spoke. ", "\n", "café "};
    while (text.size() < 6000) text += words[random.below(std::size(words))];
    const fs::path path = workplace() / "text.txt";
    std::ofstream(path, std::ios::binary) << text;
    return path.string();
  }();
  return file;
}

std::string fresh(const std::string& name) {
  static int count = 0;
  return (workplace() / (name + std::to_string(++count))).string();
}

std::string preload() { return NIBBLE_FAULT_INJECTION; }

Arguments quik(const std::string& out, const Arguments& more = {}) {
  Arguments arguments = {"quantize",  model(),     "-o", out,        "--recipe", "quik-4b", "--calibration",
                         text_file(), "--samples", "8",  "--length", "32",       "--json"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

// Every file of a folder by name, hashed.
std::map<std::string, std::string> hashes(const fs::path& folder) {
  std::map<std::string, std::string> out;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) out[fs::relative(entry.path(), folder).string()] = sha256_file(entry.path()).value();
  return out;
}

// A model quantized with quik-4b, made once.
const std::string& quantized() {
  static const std::string folder = [] {
    const std::string out = fresh("quantized");
    const Outcome made = nibble_run(quik(out));
    EXPECT_EQ(made.code, 0) << made.err << made.out;
    return out;
  }();
  return folder;
}

void expect_keys(const Json& object, const std::vector<std::string>& keys) {
  ASSERT_TRUE(object.is_object()) << object.dump();
  for (const std::string& key : keys) EXPECT_TRUE(object.contains(key)) << key << " is missing in " << object.dump();
}

// The run failed with this code, said so in JSON, and the message contains a word.
void expect_error(const Outcome& outcome, int code, const std::string& word) {
  EXPECT_EQ(outcome.code, code) << outcome.out << outcome.err;
  ASSERT_TRUE(outcome.json.is_object() && outcome.json.contains("error")) << outcome.out << outcome.err;
  const Json& error = outcome.json["error"];
  EXPECT_EQ(error["code"], code);
  EXPECT_NE(error["message"].get<std::string>().find(word), std::string::npos) << error.dump();
}

// --- What every subcommand reports -------------------------------------------------------------------------------

TEST(Cli, VersionAndHelp) {
  const Outcome version = nibble_run({"--version", "--json"});
  EXPECT_EQ(version.code, 0);
  expect_keys(version.json, {"version", "commit", "compiler", "isa"});
  EXPECT_NE(nibble_run({"--version"}).out.find("nibble "), std::string::npos);
  EXPECT_NE(nibble_run({"--help"}).out.find("Exit codes"), std::string::npos);
  // A palette is named where it serves.
  EXPECT_EQ(nibble_run({"search", "--help"}).out.find("channels"), std::string::npos);
  for (const char* command : {"quantize", "perplexity", "generate", "tokenize", "inspect", "dequantize", "bench"}) {
    const Outcome help = nibble_run({command, "--help"});
    EXPECT_EQ(help.code, 0) << command;
    EXPECT_NE(help.out.find("Examples:"), std::string::npos) << command;
    EXPECT_NE(help.out.find("--json"), std::string::npos) << command;
  }
}

TEST(Cli, QuantizeReportsWhatInspectFinds) {
  const std::string out = fresh("quik");
  const Outcome made = nibble_run(quik(out));
  ASSERT_EQ(made.code, 0) << made.err << made.out;
  expect_keys(made.json,
              {"output", "bits_per_weight", "quantized_bits_per_weight", "file_bytes", "seconds", "linears"});
  ASSERT_EQ(made.json["linears"].size(), 14u);
  for (const Json& linear : made.json["linears"])
    for (const char* key : {"output_error", "run_error", "run_cosine", "clip_mean", "clip_least"})
      EXPECT_TRUE(linear[key].is_number()) << key << ": " << linear.dump();
  const Outcome found = nibble_run({"inspect", out, "--json"});
  ASSERT_EQ(found.code, 0) << found.err << found.out;
  EXPECT_EQ(found.json["recipe"], "quik-4b");
  EXPECT_NEAR(found.json["bits_per_weight"], made.json["bits_per_weight"], 1e-9);
  EXPECT_NEAR(found.json["quantized_bits_per_weight"], made.json["quantized_bits_per_weight"], 1e-9);
  EXPECT_EQ(found.json["file_bytes"], made.json["file_bytes"]);
  int64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(out))
    if (entry.path().filename().string().starts_with("model-")) bytes += static_cast<int64_t>(entry.file_size());
  EXPECT_EQ(found.json["file_bytes"], bytes);
}

// Biases count among all bits, but not among those of the matrices.
TEST(Cli, QuantizeAndInspectCountBiasesAlike) {
  testing::TinyShape shape;
  shape.attention_bias = true;
  const std::string biased = fresh("biased"), out = fresh("quik");
  ASSERT_TRUE(testing::write_tiny_model(biased, shape));
  Arguments arguments = quik(out);
  arguments[1] = biased;
  const Outcome made = nibble_run(arguments), found = nibble_run({"inspect", out, "--json"});
  ASSERT_EQ(made.code, 0) << made.err << made.out;
  for (const char* key : {"bits_per_weight", "quantized_bits_per_weight"})
    EXPECT_DOUBLE_EQ(found.json[key], made.json[key]) << key;
  EXPECT_DOUBLE_EQ(made.json["estimate"]["bits_per_weight"], made.json["bits_per_weight"]);
  std::map<std::string, int64_t> bytes;
  for (const Json& tensor : found.json["tensors"]) bytes[tensor["name"]] = tensor["stored_bytes"];
  // 4-bit codes of 60 columns, a scale of 4 bytes, 4 kept values of 2 bytes by row; 4 indices of 4 bytes.
  EXPECT_EQ(bytes["blocks.0.q"], 64 * (30 + 4 + 8) + 16);
  for (const Json& linear : made.json["linears"]) EXPECT_EQ(linear["stored_bytes"], bytes[linear["name"]]) << linear;
}

// The recipe decides the type of the KV cache, unless the command line does.
TEST(Cli, TheCacheOfARecipeIsUsed) {
  const std::string out = fresh("cache");
  ASSERT_EQ(nibble_run({"quantize", model(), "-o", out, "-r", "rtn-w8a8", "--set", "cache=f16"}).code, 0);
  const auto nll = [&](const Arguments& more) {
    Arguments arguments = {"perplexity", out, "--text", text_file(), "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return nibble_run(arguments).json["nll"].get<double>();
  };
  EXPECT_EQ(nll({}), nll({"--cache", "f16"}));
  EXPECT_NE(nll({}), nll({"--cache", "f32"}));
}

TEST(Cli, AttentionOfARecipeIsStoredAndUsed) {
  const std::string out = fresh("attention");
  ASSERT_EQ(nibble_run({"quantize", model(), "-o", out, "-r", "bfp-w6a6", "--set", "attention.v=bfp4:b32"}).code, 0);
  const Outcome found = nibble_run({"inspect", out, "--json"});
  EXPECT_EQ(found.json["attention"], "q bfp6:b16, k bfp6:b16, p bfp6:b16, v bfp4:b32");
  EXPECT_EQ(nibble_run({"verify", out}).code, 0);
  const auto nll = [&](const Arguments& more) {
    Arguments arguments = {"perplexity", out, "--text", text_file(), "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return nibble_run(arguments).json["nll"].get<double>();
  };
  EXPECT_EQ(nll({}), nll({"--cache", "bfp6/bfp4:b32"}));
  EXPECT_NE(nll({}), nll({"--cache", "f32"}));
  const Outcome refused = nibble_run({"perplexity", out, "--text", text_file(), "--cache", "nvfp4:search"});
  EXPECT_EQ(refused.code, 2);
  EXPECT_NE(refused.err.find("its scale needs a search"), std::string::npos) << refused.err;
}

TEST(Cli, QuantizeDryRunWritesNothing) {
  const std::string out = fresh("dry");
  const Outcome planned = nibble_run(quik(out, {"--dry-run"}));
  ASSERT_EQ(planned.code, 0) << planned.err << planned.out;
  expect_keys(planned.json, {"peak_memory_bytes", "disk_bytes", "output_bytes", "bits_per_weight", "plan"});
  EXPECT_FALSE(fs::exists(out));
  EXPECT_FALSE(fs::exists(out + ".partial"));
  const Outcome made = nibble_run(quik(out));
  EXPECT_DOUBLE_EQ(planned.json["bits_per_weight"], made.json["bits_per_weight"]);
}

TEST(Cli, QuantizeIsTheSameForAnyThreads) {
  const std::string one = fresh("threads"), two = fresh("threads");
  ASSERT_EQ(nibble_run(quik(one, {"--threads", "1"})).code, 0);
  ASSERT_EQ(nibble_run(quik(two, {"--threads", "2"})).code, 0);
  EXPECT_EQ(hashes(one), hashes(two));
}

TEST(Cli, QuantizeValidationText) {
  const Outcome made = nibble_run(quik(fresh("validated"), {"--validation", text_file()}));
  ASSERT_EQ(made.code, 0) << made.err << made.out;
  for (const Json& linear : made.json["linears"]) EXPECT_TRUE(linear["validation_error"].is_number()) << linear.dump();
}

TEST(Cli, QuantizeSetsAndOverrides) {
  const std::string out = fresh("override");
  const Outcome made = nibble_run({"quantize", model(), "-o", out, "-r", "rtn-w4a16-g128", "--override",
                                   R"(blocks\.0\.down=int8:row)", "--json", "--memory-limit", "2G"});
  ASSERT_EQ(made.code, 0) << made.err << made.out;
  const Outcome found = nibble_run({"inspect", out, "--json"});
  std::map<std::string, std::string> formats;
  for (const Json& tensor : found.json["tensors"]) formats[tensor["name"]] = tensor["weights"];
  EXPECT_EQ(formats["blocks.0.down"], "int8:row");
  EXPECT_EQ(formats["blocks.1.down"], "int4:g128:asym");
}

TEST(Cli, Perplexity) {
  const Outcome found = nibble_run({"perplexity", model(), "--text", text_file(), "--window", "32", "--json"});
  ASSERT_EQ(found.code, 0) << found.err << found.out;
  expect_keys(found.json,
              {"perplexity", "nll", "standard_error", "tokens", "protocol", "window", "windows", "tokens_per_second"});
  const Json& json = found.json;
  EXPECT_EQ(json["tokens"], json["windows"].get<int64_t>() * 31);
  EXPECT_NEAR(std::log(json["perplexity"].get<double>()), json["nll"], 1e-9);
  const Outcome human = nibble_run({"perplexity", model(), "--text", text_file(), "--window", "32", "--explain"});
  EXPECT_NE(human.out.find("perplexity"), std::string::npos);
  EXPECT_NE(human.err.find("blocks."), std::string::npos);
  const Outcome quiet = nibble_run({"perplexity", model(), "--text", text_file(), "--window", "32", "-q"});
  EXPECT_EQ(quiet.err, "");
}

TEST(Cli, GenerateStreamsWhatItReports) {
  const Arguments arguments = {"generate", quantized(), "--prompt", "The sea", "--max-tokens", "12", "--ignore-eos"};
  Arguments with_json = arguments;
  with_json.push_back("--json");
  const Outcome found = nibble_run(with_json);
  ASSERT_EQ(found.code, 0) << found.err << found.out;
  expect_keys(found.json, {"text", "token_ids", "prompt_tokens", "generated_tokens", "stop_reason"});
  EXPECT_EQ(found.json["token_ids"].size(), 12u);
  EXPECT_EQ(found.json["prompt_tokens"], 8);
  EXPECT_EQ(nibble_run(arguments).out, found.json["text"].get<std::string>() + "\n");
  const Outcome decoded = nibble_run(
      {"tokenize", quantized(), found.json["token_ids"].dump(), "--decode", "--no-special-tokens", "--json"});
  EXPECT_EQ(decoded.json["text"], found.json["text"]);
}

TEST(Cli, GenerateReadsFilesAndStandardInput) {
  const fs::path prompt = workplace() / "prompt.txt";
  std::ofstream(prompt) << "The sea";
  Streams streams;
  streams.in = prompt.string();
  const Outcome typed = nibble_run({"generate", model(), "-p", "The sea", "-n", "8", "--json"});
  ASSERT_EQ(typed.code, 0) << typed.err << typed.out;
  for (const Arguments& source : {Arguments{"--file", prompt.string()}, {"-"}, {"--file", "-"}, {"--prompt", "-"}}) {
    Arguments arguments = {"generate", model(), "-n", "8", "--json"};
    arguments.insert(arguments.end(), source.begin(), source.end());
    const Outcome read = nibble_run(arguments, {}, streams);
    EXPECT_EQ(read.json["token_ids"], typed.json["token_ids"]) << source[0] << read.err << read.out;
  }
}

TEST(Cli, GenerateSamplesTheSameForTheSameSeed) {
  const auto ids = [](const char* seed) {
    return nibble_run({"generate", model(), "-p", "a", "-n", "16", "--temp", "1", "--top-k", "50", "--top-p", "0.95",
                       "--min-p", "0.001", "--ignore-eos", "--json", "--seed", seed})
        .json["token_ids"];
  };
  EXPECT_EQ(ids("1"), ids("1"));
  EXPECT_NE(ids("1"), ids("2"));
}

TEST(Cli, TokenizeThereAndBack) {
  const Outcome found = nibble_run({"tokenize", model(), "a café", "--json"});
  ASSERT_EQ(found.code, 0) << found.err << found.out;
  expect_keys(found.json, {"token_ids", "pieces"});
  EXPECT_EQ(found.json["token_ids"], Json({256, 'a', ' ', 'c', 'a', 'f', 0xC3, 0xA9}));
  const Outcome ids = nibble_run({"tokenize", model(), "a café", "--ids"});
  EXPECT_EQ(ids.out, "256 97 32 99 97 102 195 169\n");
  EXPECT_EQ(nibble_run({"tokenize", model(), "97 32,99", "--decode"}).out, "a c\n");
  EXPECT_EQ(nibble_run({"tokenize", model(), "ab"}).out, "256\t<s>\n97\ta\n98\tb\n");
}

TEST(Cli, InspectCountsParameters) {
  const Outcome found = nibble_run({"inspect", model(), "--json"});
  ASSERT_EQ(found.code, 0) << found.err << found.out;
  expect_keys(found.json, {"family", "parameters", "bits_per_weight", "quantized_bits_per_weight", "file_bytes",
                           "tensors", "layers", "hidden", "positions"});
  const int64_t block = 64 * 64 * 2 + 32 * 64 * 2 + 128 * 64 * 3 + 2 * 64;
  EXPECT_EQ(found.json["parameters"], 2 * 258 * 64 + 2 * block + 64);
  EXPECT_DOUBLE_EQ(found.json["bits_per_weight"], 16);
  EXPECT_DOUBLE_EQ(found.json["quantized_bits_per_weight"], 16);
  const Outcome explained = nibble_run({"inspect", quantized(), "--explain"});
  EXPECT_NE(explained.out.find("one token:"), std::string::npos) << explained.err;
}

// Parameter counts that the trainer of these models published: fused tensors, tied heads, biases, position rows.
TEST(Cli, InspectCountsParametersOfEveryFamily) {
  const fs::path models = shared_material() / "models";
  NIBBLE_SKIP_WITHOUT_SHARED(models);
  for (const auto& [name, parameters] :
       {std::pair("tiny-llama", 6819072), {"tiny-opt", 5129472}, {"tiny-falcon", 4410368}}) {
    const Outcome found = nibble_run({"inspect", (models / name).string(), "--json"});
    EXPECT_EQ(found.json["parameters"], parameters) << name << found.err << found.out;
  }
}

TEST(Cli, BenchForms) {
  const Arguments arguments = {"bench", quantized(), "--decode", "4", "--batch", "1,3", "--repetitions", "2", "-o"};
  const auto form = [&](const char* name) {
    Arguments with = arguments;
    with.push_back(name);
    return nibble_run(with);
  };
  const Outcome found = form("json");
  ASSERT_EQ(found.code, 0) << found.err << found.out;
  expect_keys(found.json,
              {"prefill_tokens_per_second", "decode_tokens_per_second", "prompt_tokens", "generated_tokens"});
  EXPECT_EQ(found.json["prompt_tokens"], 64);  // the model's positions
  EXPECT_EQ(found.json["generated_tokens"], 4);
  EXPECT_EQ(found.json["decode_measured"].size(), 2u);
  expect_keys(found.json, {"prefill", "decode", "batched_decode", "peaks", "load_seconds", "first_token_seconds",
                           "peak_resident_bytes", "packed_bytes", "mapped_bytes"});
  EXPECT_GT(found.json["packed_bytes"], 0);
  EXPECT_EQ(found.json["prefill"].size(), 1u);  // 512 and 2048, both capped to 64
  ASSERT_EQ(found.json["batched_decode"].size(), 2u);
  EXPECT_EQ(found.json["batched_decode"][1]["batch"], 3);
  EXPECT_GT(found.json["batched_decode"][1]["tokens_per_second"], 0);
  EXPECT_GT(found.json["batched_decode"][1]["share"], 0);
  EXPECT_NE(form("markdown").out.find("|---|"), std::string::npos);
  EXPECT_NE(form("csv").out.find("model,test,tokens"), std::string::npos);
  const std::string table = form("table").out;
  EXPECT_NE(table.find("prefill"), std::string::npos);
  EXPECT_NE(table.find(" mapped from files; "), std::string::npos) << table;
}

// The shortened benchmark of the machine: the form of what it says, and the plot.
TEST(Cli, RooflineQuick) {
  const std::string plot = fresh("roofline") + ".svg";
  const Outcome found = nibble_run({"bench", "--roofline", "--quick", "--tokens", "1,16", "--svg", plot, "--json"});
  ASSERT_EQ(found.code, 0) << found.err << found.out;
  for (const char* peak : {"int8", "f32", "bandwidth"}) EXPECT_GT(found.json["peaks"][peak], 0) << peak;
  ASSERT_FALSE(found.json["rows"].empty());
  std::set<std::string> weights;
  for (const Json& row : found.json["rows"]) {
    expect_keys(row, {"kernel", "m", "n", "k", "weights", "activations", "gops", "gbps", "share"});
    EXPECT_GT(row["share"], 0) << row;
    weights.insert(row["weights"]);
  }
  EXPECT_TRUE(weights.contains("int4:row") && weights.contains("int8:row") && weights.contains("f32"));
  ASSERT_FALSE(found.json["attention"].empty());
  for (const Json& row : found.json["attention"])
    expect_keys(row, {"kernel", "m", "context", "heads", "kv_heads", "head_dim", "cache", "gops", "gbps", "share"});
  ASSERT_FALSE(found.json["quantization"].empty());
  for (const Json& row : found.json["quantization"])
    expect_keys(row, {"kernel", "m", "k", "activations", "kept_columns", "gbps", "share", "gemm", "share_of_gemm"});
  EXPECT_EQ(found.json["solving"].size(), 3u);
  for (const Json& row : found.json["solving"]) expect_keys(row, {"kernel", "m", "n", "k", "gops", "share", "unit"});
  EXPECT_TRUE(contents(plot).starts_with("<svg "));
  EXPECT_NE(found.err.find("100 %"), std::string::npos) << found.err;
}

// A kernel that only AVX2 has; as many cells in every line.
TEST(Cli, RooflineOfOneKernelAsCsv) {
  const Outcome found = nibble_run({"bench", "--roofline", "--quick", "--kernels", "linear_coded_a4__avx2*", "--shapes",
                                    "64x128", "--tokens", "1,3", "-o", "csv"});
  if (found.err.find("no kernel that") != std::string::npos) GTEST_SKIP() << "this machine has no AVX2";
  ASSERT_EQ(found.code, 0) << found.err;
  std::istringstream lines(found.out);
  std::string line;
  std::getline(lines, line);
  const auto commas = std::count(line.begin(), line.end(), ',');
  EXPECT_TRUE(line.starts_with("kernel,weights,activations,kept_columns,kept_as,m,n,k,heads,"));
  std::vector<std::string> rows;
  while (std::getline(lines, line)) {
    EXPECT_EQ(std::count(line.begin(), line.end(), ','), commas) << line;
    rows.push_back(line);
  }
  ASSERT_EQ(rows.size(), 2u) << found.out;
  EXPECT_TRUE(rows[1].starts_with("linear_coded_a4__avx2_6x16,code3:row,int4:token:asym,0,,3,64,128,,,,,,")) << rows[1];
}

// Sensitivities are measured once; the recipe that comes of them makes the same model again.
TEST(Cli, FitsAModelIntoABudget) {
  const std::string out = fresh("fit"), again = fresh("fit"), kept = fresh("sensitivities"), plot = fresh("fit.svg");
  const Arguments common = {"--recipe",
                            "gptq-w4a16-g128",
                            "--palette",
                            "int2:g32:asym,int3:g32:asym,int5:g32",
                            "--calibration",
                            text_file(),
                            "--samples",
                            "4",
                            "--length",
                            "32",
                            "--json",
                            "--fit-samples",
                            "2",
                            "--fit-window",
                            "24",
                            "--sensitivities",
                            kept,
                            "--allow-slow"};
  const auto quantize = [&](const std::string& folder, Arguments more) {
    Arguments arguments = {"quantize", model(), "-o", folder};
    arguments.insert(arguments.end(), common.begin(), common.end());
    arguments.insert(arguments.end(), more.begin(), more.end());
    return nibble_run(arguments);
  };
  const Outcome made = quantize(out, {"--bits", "4.5", "--measure", "--plot", plot});
  ASSERT_EQ(made.code, 0) << made.err << made.out;
  const Json& fit = made.json["fit"];
  expect_keys(fit, {"base", "recipe_file", "chosen", "uniform", "curve", "operands", "sensitivities", "written_kl"});
  EXPECT_LE(fit["chosen"]["bits"].get<double>(), 4.5);
  EXPECT_NEAR(fit["chosen"]["sizes"]["file_bytes"].get<double>() / made.json["file_bytes"].get<double>(), 1, 0.01);
  EXPECT_GT(fit["written_kl"].get<double>(), 0);
  EXPECT_TRUE(contents(plot).starts_with("<svg "));

  const std::string recipe = fit["recipe_file"];
  EXPECT_EQ(recipe, out + ".recipe.json");
  ASSERT_EQ(nibble_run({"quantize", model(), "-o", again, "--recipe", recipe, "--calibration", text_file(), "--samples",
                        "4", "--length", "32"})
                .code,
            0);
  EXPECT_EQ(sha256_file(fs::path(out) / "model-00002-of-00003.safetensors").value(),
            sha256_file(fs::path(again) / "model-00002-of-00003.safetensors").value());

  const Outcome planned = quantize(fresh("fit"), {"--fit", "64M", "--context", "32", "--dry-run"});
  ASSERT_EQ(planned.code, 0) << planned.err << planned.out;
  EXPECT_LE(planned.json["fit"]["measured"].get<int>(), 4);  // caches only
  EXPECT_GT(planned.json["fit"]["left_bytes"].get<int64_t>(), 0);
  expect_error(quantize(fresh("fit"), {"--size", "10K"}), 2, "at least");
  expect_error(quantize(fresh("fit"), {"--size", "10M", "--bits", "4"}), 2, "exclude");
  expect_error(quantize(fresh("fit"), {"--fit", "1X"}), 2, "1X");
  expect_error(nibble_run({"quantize", model(), "-o", fresh("fit"), "--json"}), 2, "--recipe is required");
  Arguments slow = {"quantize",  model(),           "-o",        fresh("fit"),    "--bits", "4",
                    "--palette", "int3:g32",        "--dry-run", "--fit-samples", "1",      "--fit-window",
                    "8",         "--sensitivities", kept,        "--json"};
  expect_error(nibble_run(slow, {{"NIBBLE_ISA", "portable"}}), 4, "--allow-slow");
  slow.push_back("--allow-slow");
  EXPECT_EQ(nibble_run(slow, {{"NIBBLE_ISA", "portable"}}).code, 0);
  const Arguments no_budget = {"quantize",       model(),     "-o",       fresh("fit"), "--recipe",
                               "rtn-w4a16-g128", "--palette", "int3:g32", "--json"};
  expect_error(nibble_run(no_budget), 2, "--palette is part of a fit");
  for (const char* budget : {"--fit", "--size", "--bits", "--memory-limit"})
    expect_error(nibble_run({"quantize", "-m", model(), "-o", fresh("empty"), budget, "", "--json"}), 2, budget);
  for (const auto& [own, instead] :
       {std::pair("cmpq", "--recipe cmpq --palette channels"), {"slim-llm", "a fit takes formats with fixed bits"}}) {
    const Arguments measured = {"quantize", model(),  "-o", fresh("fit"), "--recipe",
                                own,        "--bits", "3",  "--measure",  "--json"};
    expect_error(nibble_run(measured), 2, instead);
  }
}

// The effective weights, run as an ordinary float model, must score like the weight-only quantized model itself.
TEST(Cli, DequantizedModelScoresTheSame) {
  const std::string small = fresh("w4a16"), plain = fresh("plain");
  // Rotated and reordered: what is written is in the original's terms.
  ASSERT_EQ(nibble_run({"quantize", model(), "-o", small, "--recipe", "rtn-w4a16-g128+hadamard+gather", "--set",
                        "rotate.block=32"})
                .code,
            0);
  const Outcome written = nibble_run({"dequantize", small, "-o", plain, "--json"});
  ASSERT_EQ(written.code, 0) << written.err << written.out;
  expect_keys(written.json, {"output", "type"});
  EXPECT_FALSE(parse_json(contents(fs::path(plain) / "config.json"), "config")->contains("quantization_config"));
  const auto nll = [](const std::string& folder) {
    return nibble_run({"perplexity", folder, "--text", text_file(), "--json"}).json["nll"].get<double>();
  };
  EXPECT_NEAR(nll(small), nll(plain), 1e-4);
  EXPECT_GT(std::abs(nll(small) - nll(model())), 1e-4);
  expect_error(nibble_run({"dequantize", small, "-o", plain, "--json"}), 2, "--force");
  EXPECT_EQ(nibble_run({"dequantize", small, "-o", plain, "--force", "--type", "bf16"}).code, 0);
}

TEST(Cli, Recipes) {
  const Outcome list = nibble_run({"recipe", "list", "--json"});
  std::set<std::string> names;
  for (const Json& recipe : list.json["recipes"]) names.insert(recipe["name"]);
  for (const char* name : {"rtn-w4a16-g128", "rtn-w8a8", "rtn-w4a4", "gptq-w4a16-g128", "quik-8b", "quik-4b",
                           "quik-4b-all4", "quik-4b-w4a8-down", "quik-4b-sparse24"}) {
    EXPECT_TRUE(names.contains(name)) << name;
    EXPECT_EQ(nibble_run({"recipe", "show", name}).json["name"], name);
  }
  EXPECT_EQ(list.json["modifiers"].size(), 3u);
  EXPECT_EQ(nibble_run({"recipe", "show", "mxfp4+gptq"}).json["name"], "mxfp4+gptq");
  expect_error(nibble_run({"recipe", "show", "mxfp4+gpqt", "--json"}), 2, "gather, gptq, hadamard");
  // A shown recipe is a recipe file.
  const std::string file = fresh("mine") + ".json";
  std::ofstream(file) << nibble_run({"recipe", "show", "rtn-w8a8"}).out;
  const std::string out = fresh("own");
  const Outcome made = nibble_run({"quantize", model(), "-o", out, "--recipe", file, "--json"});
  EXPECT_EQ(made.code, 0) << made.err << made.out;
}

// --- Errors ------------------------------------------------------------------------------------------------------

TEST(CliErrors, Usage) {
  expect_error(nibble_run({"perplexity", model(), "--texts", "x", "--json"}), 2, "--text");
  expect_error(nibble_run({"--json"}), 2, "no command");
  expect_error(nibble_run({"frobnicate", "--json"}), 2, "frobnicate");
  expect_error(nibble_run({"generate", model(), "--json"}), 2, "prompt");
  expect_error(nibble_run({"generate", model(), "-p", "a", "--top-p", "0", "--json"}), 2, "top_p");
  expect_error(nibble_run({"bench", model(), "--repetitions", "0", "--json"}), 2, "repetitions");
  expect_error(nibble_run({"bench", "--json"}), 2, "--roofline");
  expect_error(nibble_run({"bench", model(), "--quick", "--json"}), 2, "--roofline");
  expect_error(nibble_run({"bench", model(), "--batch", "0", "--json"}), 2, "batch");
  expect_error(nibble_run({"bench", model(), "--roofline", "--json"}), 2, "excludes");
  expect_error(nibble_run({"bench", "--roofline", "--activations", "bf16", "--json"}), 2, "excludes");
  expect_error(nibble_run({"bench", "--roofline", "--kernels", "no_such*", "--json"}), 2, "no_such");
  expect_error(nibble_run({"bench", "--roofline", "--shapes", "4096", "--json"}), 2, "4096");
  expect_error(nibble_run({"bench", "--roofline", "--quick", "--svg", fresh("no") + "/x.svg", "--json"}), 7, "x.svg");
  const Outcome unwritable = nibble_run({"bench", "--roofline", "--svg", "/proc/x.svg", "--json"});  // before measuring
  expect_error(unwritable, 7, "x.svg");
  EXPECT_EQ(unwritable.err.find(" %"), std::string::npos) << unwritable.err;
  for (const char* tokens : {"", ",", "1,,2", "1,2,", ",1"})
    expect_error(nibble_run({"bench", "--roofline", "--tokens", tokens, "--json"}), 2, "--tokens: nothing is given");
  expect_error(nibble_run({"bench", "--roofline", "--tokens", "1,2x", "--json"}), 2, "\"2x\" is not a whole number");
  expect_error(nibble_run({"bench", "--roofline", "--shapes", "16x16,", "--json"}), 2, "--shapes: nothing is given");
  expect_error(nibble_run({"bench", model(), "--prefill", "", "--json"}), 2, "--prefill: nothing is given");
  expect_error(nibble_run({"bench", model(), "--batch", "1,,2", "--json"}), 2, "--batch: nothing is given");
  expect_error(nibble_run({"tokenize", model(), "1 two", "--decode", "--json"}), 2, "two");
  expect_error(nibble_run({"quantize", model(), "-o", fresh("x"), "--recipe", "quik-5b", "--json"}), 2, "quik-4b");
  expect_error(nibble_run(quik(fresh("x"), {"--set", "solve.dampp=1"})), 2, "dampp");
  expect_error(nibble_run(quik(fresh("x"), {"--memory-limit", "3X"})), 2, "3X");
  expect_error(nibble_run(quik(fresh("x"), {"--seed", "-1"})), 2, "-1 is negative");
  expect_error(nibble_run({"random", "opt-125m", "-o", fresh("x"), "--seed", "-1", "--json"}), 2, "-1 is negative");
  expect_error(nibble_run({"generate", model(), "-p", "a", "--seed=-7", "--json"}), 2, "-7 is negative");
  expect_error(nibble_run({"perplexity", model(), "--text", text_file(), "--window", "65", "--json"}), 2, "64");
  expect_error(nibble_run({"perplexity", model(), "--text", text_file(), "--json"}, {{"NIBBLE_THREADS", "many"}}), 2,
               "NIBBLE_THREADS");
  const Outcome human = nibble_run({"quantize", model()});
  EXPECT_EQ(human.code, 2);
  EXPECT_NE(human.err.find("nibble quantize --help"), std::string::npos) << human.err;
}

TEST(CliErrors, ImpossibleMemoryLimit) {
  const std::string out = fresh("limit");
  expect_error(nibble_run(quik(out, {"--memory-limit", "100K"})), 2, "the memory limit of 102.4 kB (102400 bytes)");
  EXPECT_FALSE(fs::exists(out));
}

TEST(CliErrors, ExistingOutput) {
  const std::string before = contents(fs::path(quantized()) / "config.json");
  expect_error(nibble_run(quik(quantized())), 2, "--force");
  EXPECT_EQ(contents(fs::path(quantized()) / "config.json"), before);
  EXPECT_EQ(nibble_run(quik(quantized(), {"--force"})).code, 0);
}

TEST(CliErrors, OutputOverTheModel) {
  const fs::path copy = fresh("precious");
  fs::copy(model(), copy, fs::copy_options::recursive);
  const auto before = hashes(copy);
  const Arguments arguments = {"quantize", copy.string(), "-r", "rtn-w8a8", "--force", "--json", "-o"};
  const fs::path link = fresh("link");
  fs::create_directory_symlink(copy, link);
  for (const fs::path& out : {copy, copy / "", copy / ".", link}) {
    Arguments with = arguments;
    with.push_back(out.string());
    expect_error(nibble_run(with), 2, "overwrite the model");
    EXPECT_EQ(hashes(copy), before) << out;
  }
}

TEST(CliErrors, ShortTexts) {
  const fs::path file = workplace() / "short.txt";
  std::ofstream(file) << "too short";
  expect_error(nibble_run({"quantize", model(), "-o", fresh("x"), "-r", "quik-4b", "-c", file.string(), "--json"}), 2,
               "calibration text");
  expect_error(nibble_run({"perplexity", model(), "--text", file.string(), "--json"}), 2, "window");
  expect_error(nibble_run({"quantize", model(), "-o", fresh("x"), "-r", "quik-4b", "--json"}), 2, "calibration");
}

TEST(CliErrors, MissingAndDamagedModels) {
  const Outcome missing = nibble_run({"inspect", "/nowhere/model", "--json"});
  EXPECT_TRUE(missing.code == 7 || missing.code == 3) << missing.out;
  EXPECT_NE(missing.out.find("/nowhere/model"), std::string::npos);

  const fs::path damaged = fresh("damaged");
  fs::copy(model(), damaged, fs::copy_options::recursive);
  fs::resize_file(damaged / "model.safetensors", fs::file_size(damaged / "model.safetensors") - 1);
  expect_error(nibble_run({"perplexity", damaged.string(), "--text", text_file(), "--json"}), 3, "model.safetensors");
  expect_error(nibble_run({"inspect", damaged.string(), "--json"}), 3, "model.safetensors");
  const Outcome refused = nibble_run({"quantize", damaged.string(), "-o", fresh("x"), "-r", "rtn-w8a8", "--json"});
  expect_error(refused, 3, "model.safetensors");

  const fs::path pickle = fresh("pickle");
  fs::copy(model(), pickle, fs::copy_options::recursive);
  fs::rename(pickle / "model.safetensors", pickle / "pytorch_model.bin");
  expect_error(nibble_run({"perplexity", pickle.string(), "--text", text_file(), "--json"}), 4, "pytorch_model.bin");
}

TEST(CliErrors, UnwritableOutputs) {
  expect_error(nibble_run(quik(text_file() + "/out")), 7, "text.txt");
  expect_error(nibble_run(quik("/proc/nibble-out")), 7, "/proc");
  if (::geteuid() == 0) return;  // permissions do not bind root
  const fs::path folder = fresh("readonly");
  fs::create_directory(folder);
  fs::permissions(folder, fs::perms::owner_read | fs::perms::owner_exec);
  expect_error(nibble_run(quik((folder / "out").string())), 7, folder.string());
}

TEST(CliErrors, StandardOutputFull) {
  Streams streams;
  streams.out = "/dev/full";
  EXPECT_EQ(nibble_run({"inspect", model()}, {}, streams).code, 5);
  EXPECT_EQ(nibble_run({"inspect", model(), "--json"}, {}, streams).code, 5);
  EXPECT_EQ(nibble_run({"generate", model(), "-p", "a", "-n", "4"}, {}, streams).code, 5);
}

TEST(CliErrors, Isa) {
  expect_error(nibble_run({"perplexity", model(), "--text", text_file(), "--json"}, {{"NIBBLE_ISA", "vax"}}), 4, "vax");
  const auto run = [](const Environment& environment) {
    return nibble_run({"perplexity", quantized(), "--text", text_file(), "--json", "--explain"}, environment).json;
  };
  const Json forced = run({{"NIBBLE_ISA", "portable"}}), free = run({});
  EXPECT_NEAR(forced["nll"].get<double>(), free["nll"].get<double>(), 1e-3);
  EXPECT_TRUE(forced["explain"][0]["decode"].get<std::string>().starts_with("linear_w4_a8__reference"));
}

// --- Interruptions: the same point every time, by a preloaded library -----------------------------------------------

struct Work {
  int64_t calls = 0, bytes = 0;
};

// How many calls change the file system, and how many bytes are written, in an undisturbed run.
Work measure(const std::string& out) {
  const std::string counts = fresh("count");
  const Outcome whole = nibble_run(quik(out), {{"LD_PRELOAD", preload()}, {"NIBBLE_TEST_COUNT", counts}});
  EXPECT_EQ(whole.code, 0) << whole.err << whole.out;
  Work work;
  std::istringstream(contents(counts)) >> work.calls >> work.bytes;
  return work;
}

TEST(CliInterruptions, KilledAnywhereAndResumed) {
  const std::string whole = fresh("whole");
  const Work work = measure(whole);
  ASSERT_GT(work.calls, 40);
  // One point in each twentieth of the run, and all of the last calls, where files are removed and renamed.
  Random random(99);
  std::set<int64_t> points;
  for (int64_t i = 0; i < 20; ++i)
    points.insert(1 + (work.calls * i + static_cast<int64_t>(random.below(static_cast<uint64_t>(work.calls)))) / 20);
  for (int64_t at = work.calls - 19; at <= work.calls; ++at) points.insert(at);
  int resumed = 0;
  for (const int64_t at : points) {
    const std::string out = fresh("killed");
    const Environment kill = {{"LD_PRELOAD", preload()}, {"NIBBLE_TEST_KILL_AT", std::to_string(at)}};
    const Outcome killed = nibble_run(quik(out), kill);
    ASSERT_EQ(killed.code, 128 + SIGKILL) << "call " << at << killed.err;
    // The rename into place is among the last calls: a complete folder may be there already, a partial one never.
    if (fs::exists(out)) {
      EXPECT_EQ(hashes(out), hashes(whole)) << "killed at call " << at << " of " << work.calls;
      continue;
    }
    const Outcome again = nibble_run(quik(out, {"--resume"}));
    ASSERT_EQ(again.code, 0) << "call " << at << again.err << again.out;
    resumed += again.json["resumed"].get<bool>() ? 1 : 0;
    EXPECT_EQ(hashes(out), hashes(whole)) << "killed at call " << at << " of " << work.calls;
    EXPECT_FALSE(fs::exists(out + ".partial"));
  }
  EXPECT_GT(resumed, 8) << "most of the resumed runs should have found work that was done";
}

TEST(CliInterruptions, ResumeOfSomethingElseIsRefused) {
  const std::string out = fresh("other"), whole = fresh("whole");
  const Work work = measure(whole);
  const Environment kill = {{"LD_PRELOAD", preload()}, {"NIBBLE_TEST_KILL_AT", std::to_string(work.calls * 3 / 4)}};
  ASSERT_EQ(nibble_run(quik(out), kill).code, 128 + SIGKILL);
  expect_error(nibble_run(quik(out, {"--resume", "--seed", "5"})), 3, "seed");
  expect_error(nibble_run(quik(out, {"--resume", "--validation", text_file()})), 3, "validation");
  expect_error(nibble_run(quik(out, {"--resume", "--set", "solve.damp=0.5"})), 3, "recipe");
  // The refusals lost nothing.
  const Outcome again = nibble_run(quik(out, {"--resume"}));
  ASSERT_EQ(again.code, 0) << again.err << again.out;
  EXPECT_EQ(hashes(out), hashes(whole));
}

TEST(CliInterruptions, ThrownAwayWithoutResumeAndSaidSo) {
  const std::string out = fresh("again"), whole = fresh("whole");
  const Work work = measure(whole);
  const Environment kill = {{"LD_PRELOAD", preload()}, {"NIBBLE_TEST_KILL_AT", std::to_string(work.calls * 3 / 4)}};
  ASSERT_EQ(nibble_run(quik(out), kill).code, 128 + SIGKILL);
  const Outcome anew = nibble_run(quik(out));
  ASSERT_EQ(anew.code, 0) << anew.err << anew.out;
  EXPECT_NE(anew.err.find(out + ".partial"), std::string::npos) << anew.err;
  EXPECT_NE(anew.err.find("--resume"), std::string::npos) << anew.err;
  EXPECT_FALSE(anew.json["resumed"].get<bool>());
  EXPECT_EQ(hashes(out), hashes(whole));
  EXPECT_EQ(nibble_run(quik(fresh("first"))).err.find("thrown away"), std::string::npos);
}

TEST(CliInterruptions, FullDisk) {
  const std::string whole = fresh("whole");
  const Work work = measure(whole);
  ASSERT_GT(work.bytes, 1000);
  for (int i = 0; i < 8; ++i) {
    const std::string out = fresh("full");
    const Environment full = {{"LD_PRELOAD", preload()},
                              {"NIBBLE_TEST_DISK_BYTES", std::to_string(work.bytes * i / 8)}};
    expect_error(nibble_run(quik(out), full), 5, "");
    EXPECT_FALSE(fs::exists(out));
    const Outcome again = nibble_run(quik(out, {"--resume"}));
    ASSERT_EQ(again.code, 0) << again.err << again.out;
    EXPECT_EQ(hashes(out), hashes(whole));
  }
}

// --- nibble eval ---------------------------------------------------------------------------------------------------

void put(const fs::path& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

// A folder with three questions of OpenBookQA, two of HellaSwag, two words of LAMBADA.
const std::string& task_folder() {
  static const std::string folder = [] {
    const fs::path path = workplace() / "tasks";
    fs::create_directories(path);
    put(path / "openbook_qa.jsonl",
        "{\"query\": \"Ice is\", \"choices\": [\"cold\", \"hot\"], \"gold\": 0}\n"
        "{\"query\": \"Fire is\", \"choices\": [\"cold\", \"hot\", \"wet\"], \"gold\": 1}\n"
        "{\"query\": \"Rain is\", \"choices\": [\"dry\", \"wet\"], \"gold\": 1}\n");
    put(path / "hellaswag_val.txt",
        "Rest: He lies down. he\n1\nflies.\nsleeps.\nsings.\nruns.\n"
        "Rest: She sits. she\n0\nreads.\nflies.\nswims.\nmelts.\n");
    put(path / "lambada_openai.jsonl",
        "{\"context\": \"He rowed the\", \"continuation\": \"boat\"}\n"
        "{\"context\": \"She read a\", \"continuation\": \"book\"}\n");
    return path.string();
  }();
  return folder;
}

Arguments eval(const Arguments& more = {}) {
  Arguments arguments = {"eval", model(), "--data", task_folder(), "--tasks", "openbookqa,hellaswag,lambada"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

TEST(CliEval, ReportsEveryTask) {
  const Outcome found = nibble_run(eval({"--json"}));
  ASSERT_EQ(found.code, 0) << found.err << found.out;
  expect_keys(found.json, {"results", "fewshot", "seed", "limit", "tokens", "seconds", "tokens_per_second"});
  const Json& results = found.json["results"];
  ASSERT_EQ(results.size(), 3u);
  expect_keys(results["hellaswag"], {"acc", "acc_stderr", "acc_norm", "acc_bytes", "acc_tokens_stderr", "items",
                                     "truncated", "tokens", "tokens_alone", "seconds", "tokens_per_second"});
  expect_keys(results["lambada"], {"acc", "acc_stderr", "perplexity", "perplexity_stderr"});
  EXPECT_EQ(results["openbookqa"]["items"], 3);
  EXPECT_LT(results["hellaswag"]["tokens"], results["hellaswag"]["tokens_alone"]);
  EXPECT_NE(found.err.find("lambada 2 of 2 items"), std::string::npos) << found.err;
  const Outcome table = nibble_run(eval({"-q"}));
  EXPECT_EQ(table.err, "");
  for (const char* word : {"openbookqa", "acc_norm", "perplexity", "tokens/s"})
    EXPECT_NE(table.out.find(word), std::string::npos) << table.out;
}

TEST(CliEval, BatchAndThreadsChangeNothing) {
  const std::string first = fresh("samples"), second = fresh("samples");
  ASSERT_EQ(nibble_run(eval({"--samples-out", first, "--threads", "1", "--fewshot", "1"})).code, 0);
  ASSERT_EQ(nibble_run(eval({"--samples-out", second, "--threads", "3", "--fewshot", "1", "--batch", "5"})).code, 0);
  const std::string text = contents(first);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 7);
  EXPECT_EQ(text, contents(second));
  ASSERT_EQ(nibble_run(eval({"--samples-out", second, "--fewshot", "1", "--seed", "5"})).code, 0);
  EXPECT_NE(text, contents(second));
  ASSERT_EQ(nibble_run(eval({"--samples-out", second, "--limit", "1", "--no-special-tokens"})).code, 0);
  const std::string limited = contents(second);
  EXPECT_EQ(std::count(limited.begin(), limited.end(), '\n'), 3);
}

TEST(CliEval, WrongRequestsSayWhatIsThere) {
  expect_error(nibble_run({"eval", model(), "--data", task_folder(), "--tasks", "hellaswag,mmlu", "--json"}), 2,
               "piqa");
  expect_error(nibble_run({"eval", model(), "--data", task_folder(), "--tasks", "", "--json"}), 2, "unknown task");
  expect_error(nibble_run({"eval", model(), "--data", task_folder(), "--json"}), 7, "piqa.jsonl");
  expect_error(nibble_run({"eval", model(), "--json"}), 2, "--data");
  expect_error(nibble_run(eval({"--fewshot", "3", "--json"})), 2, "3 examples");
  expect_error(nibble_run(eval({"--limit", "-2", "--json"})), 2, "limit");
  expect_error(nibble_run(eval({"--samples-out", "/nowhere/samples", "--json"})), 7, "/nowhere/samples");
  // What is wrong with the files is said before the model is looked for.
  expect_error(nibble_run({"eval", "/nowhere", "--data", task_folder(), "--tasks", "mmlu", "--json"}), 2, "mmlu");
}

TEST(CliEval, DamagedFilesNameTheLine) {
  const fs::path folder = fresh("tasks");
  fs::create_directories(folder);
  const auto run_on = [&](const std::string& file, const std::string& task, const std::string& text) {
    put(folder / file, text);
    return nibble_run({"eval", model(), "--data", folder.string(), "--tasks", task, "--json"});
  };
  const std::string good = "{\"query\": \"Ice is\", \"choices\": [\"cold\", \"hot\"], \"gold\": 0}\n";
  expect_error(run_on("openbook_qa.jsonl", "openbookqa", good + "{\"query\": \"Ice"), 3, "openbook_qa.jsonl, line 2");
  expect_error(run_on("openbook_qa.jsonl", "openbookqa", good + "{\"query\": \"Ice\"}"), 3, "line 2");
  expect_error(run_on("openbook_qa.jsonl", "openbookqa", ""), 3, "no items");
  expect_error(run_on("hellaswag_val.txt", "hellaswag", "A: b\n0\nc\nd\ne\n"), 3, "5 lines");
  // Longer contexts lose their beginning; an answer alone must fit the model's 64 positions.
  const std::string many(80, 'x');
  const Outcome cut = run_on("openbook_qa.jsonl", "openbookqa",
                             "{\"query\": \"" + many + "\", \"choices\": [\"cold\", \"hot\"], \"gold\": 0}\n");
  ASSERT_EQ(cut.code, 0) << cut.out;
  EXPECT_EQ(cut.json["results"]["openbookqa"]["truncated"], 2);
  EXPECT_TRUE(cut.json["results"]["openbookqa"]["acc_stderr"].is_null());
  expect_error(run_on("openbook_qa.jsonl", "openbookqa",
                      "{\"query\": \"Ice is\", \"choices\": [\"" + many + "\", \"hot\"], \"gold\": 0}\n"),
               2, "64 positions");
}

// --- The examples of the public interface --------------------------------------------------------------------------

TEST(CliReport, PageAndNumbersAgree) {
  const std::string page = fresh("report.html");
  const Arguments measured = {"report", quantized(), "--against", model(), "--text", text_file(), "--window", "32"};
  Arguments file = measured, json = measured, printed = measured;
  file.insert(file.end(), {"-o", page});
  const Outcome made = nibble_run(file);
  EXPECT_EQ(made.code, 0) << made.err;
  EXPECT_NE(made.out.find(page), std::string::npos) << made.out;
  const std::string html = contents(page);
  EXPECT_TRUE(html.starts_with("<!doctype html>"));
  json.insert(json.end(), {"--json", "-o", page});  // a page is replaced by the next
  const Outcome numbers = nibble_run(json);
  EXPECT_EQ(numbers.code, 0) << numbers.err;
  expect_keys(numbers.json, {"model", "recipe", "bits_per_weight", "linears", "sites", "divergence"});
  EXPECT_EQ(contents(page), html);
  for (const Json& linear : numbers.json["linears"])
    EXPECT_NE(html.find(linear["name"].get<std::string>()), std::string::npos) << linear;
  printed.insert(printed.end(), {"-o", "-", "--threads", "1"});
  EXPECT_EQ(nibble_run(printed).out, html);
}

TEST(CliReport, WithoutReference) {
  const Outcome made = nibble_run({"report", quantized(), "-o", "-"});
  EXPECT_EQ(made.code, 0) << made.err;
  EXPECT_NE(made.out.find("no reference was given"), std::string::npos);
}

TEST(CliReport, Errors) {
  const std::string other = fresh("weights.bin");
  std::ofstream(other) << "precious";
  expect_error(nibble_run({"report", quantized(), "--json", "-o", other}), 2, "--force");
  EXPECT_EQ(contents(other), "precious");
  EXPECT_EQ(nibble_run({"report", quantized(), "-o", other, "--force"}).code, 0);
  EXPECT_TRUE(contents(other).starts_with("<!doctype html>"));
  EXPECT_EQ(nibble_run({"report", quantized()}).code, 2);
  expect_error(nibble_run({"report", quantized(), "--json", "-o", "-"}), 2, "standard output");
  expect_error(nibble_run({"report", quantized(), "--json", "--text", text_file()}), 2, "--against");
  expect_error(nibble_run({"report", quantized(), "--json", "-o", fresh("absent") + "/report.html"}), 7,
               "does not exist");
  expect_error(nibble_run({"report", fresh("absent"), "--json"}), 7, "absent");
}

// Limits that the random model passes whatever quantization did to it.
const Arguments kAnyDivergence = {"--max-kl", "100", "--min-agreement", "0", "--max-perplexity-ratio", "1e9"};

Arguments verifying(Arguments arguments, const Arguments& more = {}) {
  arguments.insert(arguments.begin(), "verify");
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

TEST(CliVerify, PassesWithAndWithoutReference) {
  const Outcome alone = nibble_run({"verify", quantized()});
  EXPECT_EQ(alone.code, 0) << alone.out << alone.err;
  EXPECT_EQ(alone.out.rfind("PASS\n", 0), 0u) << alone.out;
  const Outcome beside = nibble_run(verifying({quantized(), "--against", model(), "--json"}, kAnyDivergence));
  EXPECT_EQ(beside.code, 0) << beside.out << beside.err;
  EXPECT_EQ(beside.json["passed"], true);
  EXPECT_EQ(beside.json["code"], 0);
  EXPECT_TRUE(beside.json["reason"].is_null());
  EXPECT_EQ(beside.json["checks"].size(), 7u);
  for (const Json& check : beside.json["checks"]) EXPECT_EQ(check["outcome"], "passed") << check["evidence"];
  EXPECT_GT(beside.json["divergence"]["mean_kl"].get<double>(), 0);
  EXPECT_EQ(beside.json["divergence"]["limits"]["max_kl"], 100);
}

TEST(CliVerify, TextOfTheUser) {
  const Outcome found =
      nibble_run(verifying({quantized(), "--against", model(), "--text", text_file(), "--json"}, kAnyDivergence));
  EXPECT_EQ(found.code, 0) << found.out << found.err;
  EXPECT_NE(found.json["divergence"]["text"].get<std::string>().find("windows of 64"), std::string::npos) << found.out;
}

TEST(CliVerify, QualityIsExitCodeSix) {
  const Outcome found = nibble_run({"verify", quantized(), "--against", model(), "--max-kl", "1e-9"});
  EXPECT_EQ(found.code, 6) << found.out << found.err;
  EXPECT_EQ(found.out.rfind("FAIL: divergence: ", 0), 0u) << found.out;
  const Outcome json = nibble_run({"verify", quantized(), "--against", model(), "--max-kl", "1e-9", "--json"});
  EXPECT_EQ(json.code, 6);
  EXPECT_EQ(json.json["passed"], false);
  EXPECT_EQ(json.json["code"], 6);
  EXPECT_FALSE(json.json["reason"].get<std::string>().empty());
}

TEST(CliVerify, DamagedFilesAreExitCodeThree) {
  const std::string damaged = fresh("damaged");
  fs::copy(quantized(), damaged);
  std::ofstream(fs::path(damaged) / "config.json", std::ios::app) << "\n";
  const Outcome found = nibble_run({"verify", damaged});
  EXPECT_EQ(found.code, 3) << found.out << found.err;
  EXPECT_EQ(found.out.rfind("FAIL: files: ", 0), 0u) << found.out;
  EXPECT_NE(found.out.find("config.json"), std::string::npos) << found.out;
  fs::remove(fs::path(damaged) / "nibble.manifest.json");
  EXPECT_EQ(nibble_run({"verify", damaged}).code, 3) << "a quantized folder without a manifest is incomplete";
}

TEST(CliVerify, NoVerdict) {
  EXPECT_EQ(nibble_run({"verify", fresh("nowhere")}).code, 7);
  EXPECT_EQ(nibble_run({"verify", quantized(), "--against", fresh("nowhere")}).code, 7);
  EXPECT_EQ(nibble_run({"verify", quantized(), "--against", model(), "--text", fresh("nowhere")}).code, 7);
  EXPECT_EQ(nibble_run({"verify", quantized(), "--max-kl", "0.1"}).code, 2);
  EXPECT_EQ(nibble_run({"verify", quantized(), "--text", text_file()}).code, 2);
  EXPECT_EQ(nibble_run({"verify", quantized(), "--against", model(), "--min-agreement", "1.5"}).code, 2);
  EXPECT_EQ(nibble_run({"verify", quantized(), "--against", model(), "--max-kl", "-1"}).code, 2);
  EXPECT_EQ(nibble_run({"verify"}).code, 2);
}

TEST(Examples, Cpp) {
  const std::string out = fresh("example");
  const Outcome ran = run_program(NIBBLE_EXAMPLE_CPP, {model(), out, text_file()});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_NE(ran.out.find("bits per weight"), std::string::npos);
  EXPECT_NE(ran.out.find("perplexity of " + out), std::string::npos);
  EXPECT_EQ(run_program(NIBBLE_EXAMPLE_CPP, {"/nowhere", fresh("x"), text_file()}).code, 7);
}

TEST(Examples, C) {
  const Outcome ran = run_program(NIBBLE_EXAMPLE_C, {model(), "The sea was calm"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_NE(ran.out.find("perplexity"), std::string::npos);
  const Outcome failed = run_program(NIBBLE_EXAMPLE_C, {"/nowhere", "a"});
  EXPECT_EQ(failed.code, 7);
  EXPECT_NE(failed.err.find("/nowhere"), std::string::npos);
}

}  // namespace
}  // namespace nibble
