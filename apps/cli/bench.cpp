// nibble bench: how fast a model runs, or this machine and the kernels on it.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <memory>

#include "commands.h"
#include "options.h"
#include "progress_line.h"
#include "roofline.h"

namespace nibble::cli {
namespace {

constexpr const char* kFooter =
    "\nPrefill reads the prompt in chunks of 512 tokens; decoding adds one token at a time, to one sequence or to "
    "several\n"
    "at once. One run is not counted; of the others the median is reported, and the quartiles between which half of\n"
    "them lie. The share is that of the roof: what the multipliers and the memory, probed between the passes, allow.\n"
    "\nWith --roofline: linear layers, causal attention, the quantization of a layer's input, and what a quantizer "
    "spends\n"
    "its time on, on kernels that fit GLOB. The whole takes some minutes; an estimate is printed first. --shapes and\n"
    "--tokens are those of linear layers; --kernels 'linear_*' leaves the rest out.\n"
    "\nExamples:\n"
    "  nibble bench opt-125m-quik\n"
    "  nibble bench opt-125m-quik --prefill 512,2048 --decode 64 --batch 1,8,32 -o markdown\n"
    "  NIBBLE_ISA=avx2 nibble bench opt-125m-quik --explain --threads 4 --json\n"
    "  nibble bench --roofline --threads 1 --svg roofline.svg\n"
    "  nibble bench --roofline --kernels '*w4_a8*' --shapes 4096x4096 --tokens 1,512\n"
    "  nibble bench --roofline --threads 2 --kernels 'attention*' -o markdown\n";

struct Options {
  RunOptions run;
  BenchOptions bench;
  std::string format = "table";
  bool roofline = false;
  RooflineOptions machine;
  std::string plot;
};

// --- A model -------------------------------------------------------------------------------------------------------

// A model's report, and what only the program knows: how long loading took.
struct Bench {
  BenchReport report;
  std::string model;
  double load_seconds = 0;
};

struct Row {
  std::string what;
  int64_t sequences, tokens, context;
  const Rate& rate;
};

std::vector<Row> rows_of(const BenchReport& report) {
  std::vector<Row> rows;
  for (const PrefillRate& one : report.prefill) rows.push_back({"prefill", 1, one.tokens, 0, one.rate});
  for (const DecodeRate& one : report.decode)
    rows.push_back({"decode", 1, report.generated_tokens, one.context, one.rate});
  for (const BatchRate& one : report.batched)
    rows.push_back({"batched decode", one.batch, report.generated_tokens, 0, one.rate});
  return rows;
}

std::string table(const Bench& bench) {
  const BenchReport& report = bench.report;
  std::string out = fmt::format("{:<15} {:>9} {:>7} {:>8} {:>11} {:>11} {:>11} {:>8}\n", "", "sequences", "tokens",
                                "context", "tokens/s", "quartile 1", "quartile 3", "roof");
  for (const Row& row : rows_of(report))
    out += fmt::format("{:<15} {:>9} {:>7} {:>8} {:>11.2f} {:>11.2f} {:>11.2f} {:>6.1f} %\n", row.what, row.sequences,
                       row.tokens, row.context, row.rate.median, row.rate.low, row.rate.high, 100 * row.rate.share);
  out += fmt::format("{} threads, {}, {} repetitions; peaks: int8 {:.0f}, bf16 {:.0f}, f32 {:.0f} GOP/s; {:.1f} GB/s\n",
                     report.threads, report.isa, report.repetitions, report.int8, report.bf16, report.f32,
                     report.bandwidth);
  return out + fmt::format(
                   "loaded in {:.2f} s, first token after {:.2f} s; {} of weights in own memory, {} mapped from "
                   "files; {} resident at most\n",
                   bench.load_seconds, bench.load_seconds + report.first_pass_seconds, human_bytes(report.packed_bytes),
                   human_bytes(report.mapped_bytes), human_bytes(report.peak_bytes));
}

std::string markdown(const Bench& bench) {
  std::string out =
      "| model | test | sequences | tokens | context | threads | ISA | tokens/s (median) | quartiles | roof |\n"
      "|---|---|---:|---:|---:|---:|---|---:|---:|---:|\n";
  for (const Row& row : rows_of(bench.report))
    out += fmt::format("| {} | {} | {} | {} | {} | {} | {} | {:.2f} | {:.2f} - {:.2f} | {:.1f} % |\n", bench.model,
                       row.what, row.sequences, row.tokens, row.context, bench.report.threads, bench.report.isa,
                       row.rate.median, row.rate.low, row.rate.high, 100 * row.rate.share);
  return out;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) out += c == '"' ? "\"\"" : std::string(1, c);
  return out + "\"";
}

std::string csv(const Bench& bench) {
  std::string out = "model,test,tokens,sequences,context,threads,isa,tokens_per_second,quartile_1,quartile_3,share\n";
  for (const Row& row : rows_of(bench.report))
    out += fmt::format("{},{},{},{},{},{},{},{:.4f},{:.4f},{:.4f},{:.4f}\n", quoted(bench.model), row.what, row.tokens,
                       row.sequences, row.context, bench.report.threads, bench.report.isa, row.rate.median,
                       row.rate.low, row.rate.high, row.rate.share);
  return out;
}

Json rate_json(std::string_view key, int64_t value, const Rate& rate) {
  return {{key, value},
          {"tokens_per_second", rate.median},
          {"share", rate.share},
          {"quartiles", {rate.low, rate.high}},
          {"measured", rate.measured}};
}

// The first prefill and the first decoding, under names of their own.
void add_first(std::string_view name, const Rate& rate, Json& out) {
  out[fmt::format("{}_tokens_per_second", name)] = rate.median;
  out[fmt::format("{}_quartiles", name)] = {rate.low, rate.high};
  out[fmt::format("{}_measured", name)] = rate.measured;
}

Json report_json(const Bench& bench) {
  const BenchReport& report = bench.report;
  Json prefill = Json::array(), decode = Json::array(), batched = Json::array();
  for (const PrefillRate& one : report.prefill) prefill.push_back(rate_json("tokens", one.tokens, one.rate));
  for (const DecodeRate& one : report.decode) decode.push_back(rate_json("context", one.context, one.rate));
  for (const BatchRate& one : report.batched) batched.push_back(rate_json("batch", one.batch, one.rate));
  Json out = {{"model", bench.model},
              {"generated_tokens", report.generated_tokens},
              {"repetitions", report.repetitions},
              {"threads", report.threads},
              {"isa", report.isa},
              {"packed_bytes", report.packed_bytes},
              {"mapped_bytes", report.mapped_bytes},
              {"peak_resident_bytes", report.peak_bytes},
              {"load_seconds", bench.load_seconds},
              {"first_token_seconds", bench.load_seconds + report.first_pass_seconds},
              {"peaks", peaks_json(report.int8, report.bf16, report.f32, report.bandwidth)}};
  if (!report.prefill.empty()) {
    out["prompt_tokens"] = report.prefill.front().tokens;
    add_first("prefill", report.prefill.front().rate, out);
  }
  if (!report.decode.empty()) add_first("decode", report.decode.front().rate, out);
  out["prefill"] = std::move(prefill);
  out["decode"] = std::move(decode);
  out["batched_decode"] = std::move(batched);
  return out;
}

Result<BenchReport> measure(const LanguageModel& model, const Options& options, const Session& session) {
  ProgressLine progress(session, 0.1);
  BenchOptions bench = options.bench;
  bench.progress = progress.callback();
  return model.bench(bench);
}

Status run_model(const Options& options, const Session& session) {
  if (options.run.model.empty())
    return failure(ErrorCode::usage, "bench: a MODEL is required, or --roofline for the machine and its kernels");
  const auto start = std::chrono::steady_clock::now();
  const auto model = load(options.run);
  if (!model) return error_of(model);
  const std::chrono::duration<double> loading = std::chrono::steady_clock::now() - start;
  Json explained;
  if (const Status status = explain_first(options.run, *model, session, explained); !status) return status;
  auto report = measure(*model, options, session);
  if (!report) return error_of(report);
  const Bench bench{*std::move(report), options.run.model, loading.count()};
  if (session.json) {
    Json out = report_json(bench);
    if (!explained.is_null()) out["explain"] = std::move(explained);
    return print_json(out);
  }
  if (options.format == "markdown") return print(markdown(bench));
  if (options.format == "csv") return print(csv(bench));
  return print(table(bench));
}

// --- The machine ---------------------------------------------------------------------------------------------------

Result<RooflineReport> measure_machine(const Options& options, const Session& session) {
  ProgressLine progress(session, 0.05);
  RooflineOptions wanted = options.machine;
  wanted.threads = options.run.threads;
  wanted.plot = options.plot;
  wanted.progress = progress.callback();
  return roofline(wanted);
}

Status print_in_form(const RooflineReport& report, const Options& options, const Session& session) {
  if (session.json) return print_json(roofline_json(report));
  if (options.format == "markdown") return print(roofline_markdown(report));
  if (options.format == "csv") return print(roofline_csv(report));
  return print(roofline_table(report));
}

// What took minutes to measure is printed although the plot failed.
Status run_roofline(const Options& options, Session& session) {
  const auto measured = measure_machine(options, session);
  if (!measured) return error_of(measured);
  const Status printed = print_in_form(*measured, options, session);
  if (printed && !measured->plot) session.exit_code = report(measured->plot.error(), false);
  return printed;
}

Status run(const Options& options, Session& session) {
  if (options.format == "json") session.json = true;
  return options.roofline ? run_roofline(options, session) : run_model(options, session);
}

// --- Options -------------------------------------------------------------------------------------------------------

Result<int64_t> parse_number(std::string_view text) {
  int64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error == std::errc() && stop == end) return number;
  return failure(ErrorCode::usage, fmt::format("\"{}\" is not a whole number", text));
}

// "1,16,512": what stands between the commas, none of it empty.
template <class T>
void parse_list(const std::string& option, std::string_view text, Result<T> (*parse)(std::string_view),
                std::vector<T>& list) {
  list.clear();
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    if (begin == end) throw CLI::ValidationError(option, "nothing is given where a value is expected");
    const Result<T> value = parse(text.substr(begin, end - begin));
    if (!value) throw CLI::ValidationError(option, value.error().message);
    list.push_back(*value);
    begin = end + 1;
  }
}

// An option that fills `list`, which holds the defaults until it is given.
template <class T>
CLI::Option* add_list(CLI::App& command, const std::string& name, std::vector<T>& list,
                      Result<T> (*parse)(std::string_view), const char* help) {
  return command.add_option_function<std::string>(
      name, [name, parse, &list](const std::string& text) { parse_list(name, text, parse, list); }, help);
}

CLI::Option* add_numbers(CLI::App& command, const char* name, std::vector<int64_t>& numbers, const char* help) {
  return add_list(command, name, numbers, parse_number, help)
      ->type_name("N,..")
      ->default_str(fmt::format("{}", fmt::join(numbers, ",")));
}

// Options that only a model has; --roofline refuses them.
std::vector<CLI::Option*> add_model_options(CLI::App& command, Options& options) {
  add_run_options(command, options.run);
  return {
      command.get_option("--model")->required(false),
      command.get_option("--cache"),
      command.get_option("--weights"),
      command.get_option("--activations"),
      command.get_option("--packed-cache"),
      command.get_option("--explain"),
      add_numbers(command, "--prefill", options.bench.prompts, "Tokens of prompts, capped by the model's positions"),
      add_numbers(command, "--context", options.bench.contexts, "Tokens before the decoded ones"),
      add_numbers(command, "--batch", options.bench.batches, "Sequences that are decoded together"),
      command.add_option("-n,--decode", options.bench.generated_tokens, "Tokens to decode")
          ->type_name("N")
          ->capture_default_str(),
      command.add_option("--repetitions", options.bench.repetitions, "Runs that are counted")
          ->type_name("N")
          ->capture_default_str()};
}

// Options that need --roofline.
std::vector<CLI::Option*> add_roofline_options(CLI::App& command, Options& options) {
  return {
      command.add_flag("--quick", options.machine.quick, "One small shape, to see that it works"),
      command.add_option("--kernels", options.machine.kernels, "Only kernels whose names fit")->type_name("GLOB"),
      add_list(command, "--shapes", options.machine.shapes, parse_shape, "Outputs x inputs of linear layers")
          ->type_name("NxK,.."),
      add_list(command, "--tokens", options.machine.tokens, parse_number, "Their numbers of tokens")->type_name("M,.."),
      command.add_option("--svg", options.plot, "Write a plot to this file")->type_name("FILE")};
}

}  // namespace

void add_bench(CLI::App& program, Session& session) {
  CLI::App* command = program.add_subcommand("bench", "Measure the speed of a model, or of this machine's kernels");
  auto options = std::make_shared<Options>();
  const auto model_options = add_model_options(*command, *options);
  CLI::Option* const roofline_flag =
      command->add_flag("--roofline", options->roofline, "Measure this machine and its kernels instead of a model");
  for (CLI::Option* option : model_options) roofline_flag->excludes(option);
  for (CLI::Option* option : add_roofline_options(*command, *options)) {
    option->needs(roofline_flag);
    option->group("With --roofline");
  }
  command->add_option("-o,--output", options->format, "Form of the result")
      ->check(CLI::IsMember({"table", "markdown", "csv", "json"}))
      ->type_name("FORM")
      ->capture_default_str();
  add_output_options(*command, session);
  command->footer(kFooter);
  set_action(*command, session, [options, &session] { return run(*options, session); });
}

}  // namespace nibble::cli
