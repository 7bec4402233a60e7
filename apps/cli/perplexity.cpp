// nibble perplexity: how well a model predicts a text.
#include <memory>

#include "commands.h"
#include "options.h"
#include "progress_line.h"

namespace nibble::cli {
namespace {

constexpr const char* kFooter =
    "\nProtocols; the text is tokenised once with the tokenizer's own special tokens:\n"
    "  windows      windows that do not overlap, the incomplete last one dropped; every token of a window but the\n"
    "               first is predicted (the GPTQ papers)\n"
    "  strided      windows begin every --stride tokens; every token of the text but the first is predicted once\n"
    "               (Hugging Face)\n"
    "  second-half  as windows, with the bos in place of the first token of each, if the tokenizer adds one; only\n"
    "               the second half is predicted (llama.cpp)\n"
    "The perplexity is exp of the mean negative log-likelihood (nll, in nats per predicted token).\n"
    "\nExamples:\n"
    "  nibble perplexity opt-125m --text wikitext-test.txt\n"
    "  nibble perplexity opt-125m-quik --text wiki.test.raw --preset wikitext2 --json\n"
    "  nibble perplexity opt-125m --text book.txt --protocol strided --window 1024 --stride 512\n"
    "  cat book.txt | nibble perplexity opt-125m --text -\n";

struct Options {
  RunOptions run;
  std::string text;
  TextProtocol protocol;
};

Json report_json(const PerplexityReport& report) {
  Json out = {{"perplexity", report.perplexity},
              {"nll", report.nll},
              {"standard_error", report.standard_error},
              {"perplexity_standard_error", report.perplexity * report.standard_error},
              {"tokens", report.tokens},
              {"protocol", report.protocol.name},
              {"window", report.protocol.window},
              {"stride", nullptr},
              {"preset", nullptr},
              {"windows", report.windows},
              {"seconds", report.seconds},
              {"tokens_per_second", report.tokens_per_second}};
  if (report.protocol.stride > 0) out["stride"] = report.protocol.stride;
  if (!report.protocol.preset.empty()) out["preset"] = report.protocol.preset;
  return out;
}

std::string report_text(const PerplexityReport& report) {
  return fmt::format(
      "perplexity {:.4f} +- {:.4f}   nll {:.5f} +- {:.5f} nats per token\n"
      "{} tokens predicted in {} windows ({}), {:.1f} tokens/s\n",
      report.perplexity, report.perplexity * report.standard_error, report.nll, report.standard_error, report.tokens,
      report.windows, describe(report.protocol), report.tokens_per_second);
}

Result<PerplexityReport> measure(const LanguageModel& model, const std::string& text, const Options& options,
                                 const Session& session) {
  ProgressLine progress(session, 0.1);
  return model.perplexity(text, {options.protocol, progress.callback()});
}

Status run(const Options& options, const Session& session) {
  const auto text = read_text(options.text);
  if (!text) return error_of(text);
  const auto model = load(options.run);
  if (!model) return error_of(model);
  Json explained;
  if (const Status status = explain_first(options.run, *model, session, explained); !status) return status;
  const auto report = measure(*model, *text, options, session);
  if (!report) return error_of(report);
  if (!session.json) return print(report_text(*report));
  Json out = report_json(*report);
  if (!explained.is_null()) out["explain"] = std::move(explained);
  return print_json(out);
}

}  // namespace

void add_perplexity(CLI::App& program, Session& session) {
  CLI::App* command = program.add_subcommand("perplexity", "Measure how well a model predicts a text");
  auto options = std::make_shared<Options>();
  add_run_options(*command, options->run);
  command->add_option("--text,-f,--file", options->text, "Text file, or - for standard input")
      ->required()
      ->type_name("FILE");
  add_protocol_options(*command, options->protocol);
  add_output_options(*command, session);
  command->footer(kFooter);
  set_action(*command, session, [options, &session] { return run(*options, session); });
}

}  // namespace nibble::cli
