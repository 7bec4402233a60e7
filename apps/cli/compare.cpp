// nibble compare: how far the predictions of quantized models are from the original's.
#include <nibble/compare.h>

#include <algorithm>
#include <memory>

#include "commands.h"
#include "options.h"
#include "progress_line.h"

namespace nibble::cli {
namespace {

constexpr const char* kFooter =
    "\nEvery model predicts the tokens of the text; per predicted token the Kullback-Leibler divergence of the\n"
    "candidate's probabilities from the reference's is measured (KL, in nats). A model compared with itself gives 0.\n"
    "REFERENCE and CANDIDATE are model folders or files that --save-logits wrote.\n"
    "\nExamples:\n"
    "  nibble compare opt-125m opt-125m-quik --text wikitext-test.txt\n"
    "  nibble compare opt-125m opt-125m-quik opt-125m-rtn --text book.txt --window 512 --json\n"
    "  nibble compare opt-125m --text book.txt --save-logits opt-125m.logits\n"
    "  nibble compare --logits opt-125m.logits opt-125m-quik\n";

struct Options {
  RunOptions run;
  std::vector<std::string> paths;
  std::string text, save_logits, logits;
  TextProtocol protocol;
  bool one_at_a_time = false;
};

// One line of the table and two keys of the JSON object.
struct Row {
  const char* title;
  const char* key;
  Measured Comparison::*value;
  double factor;  // percent are shown as such
};
constexpr Row kRows[] = {
    {"mean KL", "mean_kl", &Comparison::mean_kl, 1},
    {"median KL", "median_kl", &Comparison::median_kl, 1},
    {"99 % KL", "p99_kl", &Comparison::p99_kl, 1},
    {"99.9 % KL", "p999_kl", &Comparison::p999_kl, 1},
    {"same top 1, %", "top1_agreement", &Comparison::top1_agreement, 100},
    {"same top 5, %", "top5_agreement", &Comparison::top5_agreement, 100},
    {"true token, change in %", "probability_change", &Comparison::probability_change, 100},
    {"perplexity ratio", "perplexity_ratio", &Comparison::perplexity_ratio, 1},
};

Json candidate_json(const Comparison& found) {
  Json out = {{"model", found.candidate.string()}, {"tokens", found.tokens}};
  for (const Row& row : kRows) {
    out[row.key] = (found.*row.value).value;
    out[std::string(row.key) + "_standard_error"] = (found.*row.value).standard_error;
  }
  out["max_kl"] = found.max_kl;
  out["rms_probability_change"] = found.rms_probability_change;
  out["reference_perplexity"] = found.reference_perplexity;
  out["candidate_perplexity"] = found.candidate_perplexity;
  return out;
}

Json report_json(const CompareReport& report, const CompareRequest& request) {
  Json out = {{"reference", request.reference.string()},
              {"tokens", report.tokens},
              {"protocol", report.protocol},
              {"window", report.window},
              {"stride", nullptr},
              {"preset", nullptr},
              {"stored_reference", report.stored_reference},
              {"one_at_a_time", report.one_at_a_time},
              {"seconds", report.seconds},
              {"tokens_per_second", report.tokens_per_second},
              {"candidates", Json::array()}};
  if (report.stride > 0) out["stride"] = report.stride;
  if (!report.preset.empty()) out["preset"] = report.preset;
  if (!request.save_logits.empty()) out["saved_logits"] = request.save_logits.string();
  for (const Comparison& found : report.candidates) out["candidates"].push_back(candidate_json(found));
  if (report.candidates.size() == 1) out.update(candidate_json(report.candidates[0]));
  return out;
}

// The last part of a path, also when it ends in a slash.
std::string name_of(const std::filesystem::path& path) {
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

// Columns as wide as their widest cell, the first to the left and the others to the right.
std::string table_of(const std::vector<std::vector<std::string>>& columns) {
  std::string out;
  for (size_t row = 0; row < columns[0].size(); ++row) {
    for (size_t c = 0; c < columns.size(); ++c) {
      size_t width = 0;
      for (const std::string& cell : columns[c]) width = std::max(width, cell.size());
      out += c == 0 ? fmt::format("{:<{}}", columns[c][row], width) : fmt::format("  {:>{}}", columns[c][row], width);
    }
    out += "\n";
  }
  return out;
}

std::vector<std::string> titles() {
  std::vector<std::string> out = {""};
  for (const Row& row : kRows) out.emplace_back(row.title);
  out.insert(out.end(), {"largest KL", "perplexity", "perplexity of the reference"});
  return out;
}

std::vector<std::string> column_of(const Comparison& found) {
  std::vector<std::string> out = {name_of(found.candidate)};
  for (const Row& row : kRows) {
    const auto [value, error] = found.*row.value;
    const int digits = row.factor == 1 ? 6 : 3;
    out.push_back(fmt::format("{:.{}f} +- {:.{}f}", row.factor * value, digits, row.factor * error, digits));
  }
  out.push_back(fmt::format("{:.6f}", found.max_kl));
  out.push_back(fmt::format("{:.4f}", found.candidate_perplexity));
  out.push_back(fmt::format("{:.4f}", found.reference_perplexity));
  return out;
}

std::string report_text(const CompareReport& report, const CompareRequest& request) {
  std::string out;
  if (!report.candidates.empty()) {
    std::vector<std::vector<std::string>> columns = {titles()};
    for (const Comparison& found : report.candidates) columns.push_back(column_of(found));
    out = table_of(columns);
  }
  const TextProtocol protocol{report.protocol, report.window, report.stride, report.preset};
  out += fmt::format("{} tokens predicted ({}), {:.1f} tokens/s over all models\n", report.tokens,
                     report.protocol.empty() ? "protocol not stored" : describe(protocol), report.tokens_per_second);
  if (!request.save_logits.empty()) {
    std::error_code ignored;
    const auto bytes = std::filesystem::file_size(request.save_logits, ignored);
    out += fmt::format("stored the reference in {}, {}\n", request.save_logits.string(),
                       human_bytes(static_cast<int64_t>(bytes)));
  }
  return out;
}

Result<CompareRequest> request_of(const Options& options) {
  CompareRequest request;
  auto first = options.paths.begin();
  if (!options.logits.empty()) {
    request.reference = options.logits;
  } else {
    if (first == options.paths.end())
      return failure(ErrorCode::usage, "compare: a REFERENCE is needed, as the first argument or with --logits");
    request.reference = *first++;
  }
  request.candidates.assign(first, options.paths.end());
  if (request.candidates.empty() && options.save_logits.empty())
    return failure(ErrorCode::usage, "compare: a CANDIDATE is needed to compare with " + request.reference.string());
  if (!options.text.empty()) {
    auto text = read_text(options.text);
    if (!text) return error_of(text);
    request.text = std::move(*text);
  }
  const auto load = load_options(options.run);
  if (!load) return error_of(load);
  request.load = *load;
  request.protocol = options.protocol;
  request.save_logits = options.save_logits;
  request.one_at_a_time = options.one_at_a_time;
  return request;
}

Result<CompareReport> measure(CompareRequest request, const Session& session) {
  ProgressLine progress(session, 0.1);
  request.progress = progress.callback();
  return compare(request);
}

Status run(const Options& options, const Session& session) {
  const auto request = request_of(options);
  if (!request) return error_of(request);
  const auto report = measure(*request, session);
  if (!report) return error_of(report);
  if (report->one_at_a_time)
    session.note(fmt::format(
        "{}: the models ran one at a time, the reference's predictions went through {}",
        options.one_at_a_time ? "as asked for" : "to fit the available memory",
        request->save_logits.empty() ? "a temporary file (TMPDIR says where)" : request->save_logits.string()));
  if (report->stored_reference)
    session.note("the reference's log probabilities are rounded to 16 bits: a KL below 1e-7 means nothing");
  return session.json ? print_json(report_json(*report, *request)) : print(report_text(*report, *request));
}

}  // namespace

void add_compare(CLI::App& program, Session& session) {
  CLI::App* command = program.add_subcommand("compare", "Measure how far quantized models are from their original");
  auto options = std::make_shared<Options>();
  command->add_option("paths", options->paths, "The reference (unless --logits gives it) and the candidates")
      ->type_name("REFERENCE CANDIDATE");
  command->add_option("--text,-f,--file", options->text, "Text file, or - for standard input")->type_name("FILE");
  add_protocol_options(*command, options->protocol);
  command->add_option("--save-logits", options->save_logits, "Store the reference's predictions; candidates optional")
      ->type_name("FILE");
  command->add_option("--logits", options->logits, "The reference, stored by --save-logits; --text is optional")
      ->type_name("FILE");
  command->add_flag("--one-at-a-time", options->one_at_a_time,
                    "Hold one model in memory at a time, through a temporary file in $TMPDIR");
  add_threads_option(*command, options->run.threads);
  add_type_options(*command, options->run);
  add_output_options(*command, session);
  command->footer(kFooter);
  set_action(*command, session, [options, &session] { return run(*options, session); });
}

}  // namespace nibble::cli
