// nibble verify: may this model be used?
#include <nibble/verify.h>

#include <memory>

#include "commands.h"
#include "options.h"
#include "progress_line.h"

namespace nibble::cli {
namespace {

constexpr const char* kFooter =
    "\nThe first line is PASS, or FAIL and the reason; below it is one line per check. Exit codes: 0 passed, 3 the\n"
    "files are corrupt, 6 the model is not what it should be; other codes mean that there is no verdict.\n"
    "\nWithout --against only what needs no original is checked. Without --text the divergence is measured on text\n"
    "drawn from the reference. Limits depend on the bit widths (docs/evidence.md).\n"
    "\nExamples:\n"
    "  nibble verify opt-125m-quik\n"
    "  nibble verify opt-125m-quik --against opt-125m\n"
    "  nibble verify opt-125m-quik --against opt-125m --text test.txt --max-kl 0.05 --json\n";

struct Options {
  std::string candidate, reference, text;
  std::optional<double> max_kl, min_agreement, max_perplexity_ratio;
  int threads = 0;
};

Json divergence_json(const DivergenceFound& found) {
  return {{"text", found.text},
          {"tokens", found.tokens},
          {"mean_kl", found.mean_kl},
          {"mean_kl_standard_error", found.mean_kl_error},
          {"top1_agreement", found.top1_agreement},
          {"top1_agreement_standard_error", found.top1_agreement_error},
          {"perplexity_ratio", found.perplexity_ratio},
          {"perplexity_ratio_standard_error", found.perplexity_ratio_error},
          {"reference_perplexity", found.reference_perplexity},
          {"candidate_perplexity", found.candidate_perplexity},
          {"limits",
           {{"max_kl", found.max_kl},
            {"min_agreement", found.min_agreement},
            {"max_perplexity_ratio", found.max_perplexity_ratio}}}};
}

Json verdict_json(const Verdict& verdict) {
  Json checks = Json::array();
  for (const Check& check : verdict.checks)
    checks.push_back({{"name", check.name}, {"outcome", name_of(check.outcome)}, {"evidence", check.evidence}});
  return {{"passed", verdict.passed},
          {"code", verdict.passed ? 0 : static_cast<int>(verdict.code)},
          {"reason", verdict.passed ? Json() : Json(verdict.reason)},
          {"checks", checks},
          {"divergence", verdict.divergence ? divergence_json(*verdict.divergence) : Json()}};
}

std::string verdict_text(const Verdict& verdict) {
  std::string out = verdict.passed ? "PASS\n" : fmt::format("FAIL: {}\n", verdict.reason);
  for (const Check& check : verdict.checks)
    out += fmt::format("  {:<8} {:<12} {}\n", name_of(check.outcome), check.name, check.evidence);
  return out;
}

Result<Verdict> judge(const Options& options, const Session& session) {
  VerifyRequest request;
  request.candidate = options.candidate;
  request.reference = options.reference;
  request.max_kl = options.max_kl;
  request.min_agreement = options.min_agreement;
  request.max_perplexity_ratio = options.max_perplexity_ratio;
  request.load.threads = options.threads;
  if (!options.text.empty()) {
    auto text = read_file(options.text);
    if (!text) return error_of(text);
    if (text->empty()) return failure(ErrorCode::usage, fmt::format("{} is empty", options.text));
    request.text = std::move(*text);
  }
  ProgressLine progress(session, 0.1);
  request.progress = progress.callback();
  return verify(request);
}

Status run(const Options& options, Session& session) {
  const auto verdict = judge(options, session);
  if (!verdict) return error_of(verdict);
  if (!verdict->passed) session.exit_code = static_cast<int>(verdict->code);
  return session.json ? print_json(verdict_json(*verdict)) : print(verdict_text(*verdict));
}

}  // namespace

void add_verify(CLI::App& program, Session& session) {
  CLI::App* command = program.add_subcommand("verify", "Judge whether a model is fit to be used: PASS or FAIL");
  auto options = std::make_shared<Options>();
  command->add_option("candidate,-m,--model", options->candidate, "The model's folder")
      ->required()
      ->type_name("CANDIDATE");
  command->add_option("--against", options->reference, "The original's folder")->type_name("REFERENCE");
  command->add_option("--text,-f,--file", options->text, "Text to measure the divergence on, or - for standard input")
      ->type_name("FILE");
  command->add_option("--max-kl", options->max_kl, "Most mean KL divergence, nats per token")->type_name("X");
  command->add_option("--min-agreement", options->min_agreement, "Least share of equal most probable tokens, 0 to 1")
      ->type_name("Y");
  command->add_option("--max-perplexity-ratio", options->max_perplexity_ratio, "Most perplexity over the reference's")
      ->type_name("Z");
  add_threads_option(*command, options->threads);
  add_output_options(*command, session);
  command->footer(kFooter);
  set_action(*command, session, [options, &session] { return run(*options, session); });
}

}  // namespace nibble::cli
