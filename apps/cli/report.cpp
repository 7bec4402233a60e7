// nibble report: where quantization cost most, as a page to look at.
#include <nibble/report.h>

#include <memory>

#include "commands.h"
#include "options.h"
#include "progress_line.h"

namespace nibble::cli {
namespace {

constexpr const char* kFooter =
    "\nThe page is one file that opens offline in any browser: channel magnitudes with the kept outliers, errors "
    "along\n"
    "the depth, maps of bits and errors, the divergence over the text, and all numbers in tables that sort. With the\n"
    "original and a text it also holds the divergence; without, what was recorded while quantizing.\n"
    "A page that exists is replaced; any other file only with --force.\n"
    "\nExamples:\n"
    "  nibble report opt-125m-quik -o report.html\n"
    "  nibble report opt-125m-quik --against opt-125m --text test.txt -o report.html\n"
    "  nibble report opt-125m-quik --against opt-125m --text test.txt --window 512 --json > report.json\n";

struct Options {
  ReportRequest request;
  std::string text, output;
  bool force = false;
};

Status check(const Options& options, const Session& session) {
  if (options.output.empty() && !session.json)
    return failure(ErrorCode::usage,
                   "where should the page go? -o FILE writes it, -o - prints it, --json prints numbers");
  if (options.output == "-" && session.json)
    return failure(ErrorCode::usage, "-o - and --json both want standard output; give -o a file");
  if (!options.text.empty() && options.request.reference.empty())
    return failure(ErrorCode::usage, "--text measures the divergence from a reference; give it with --against");
  if (options.output.empty() || options.output == "-") return {};
  return may_write_page(options.output, options.force);
}

Result<ModelReport> make(const Options& options, const Session& session) {
  ReportRequest request = options.request;
  if (!options.text.empty()) {
    auto text = read_text(options.text);
    if (!text) return error_of(text);
    request.text = *std::move(text);
  }
  ProgressLine progress(session, 0.1);
  request.progress = progress.callback();
  return nibble::report(request);
}

Status run(const Options& options, const Session& session) {
  if (const Status status = check(options, session); !status) return status;
  const auto made = make(options, session);
  if (!made) return error_of(made);
  if (options.output == "-") return print(made->html);
  if (!options.output.empty())
    if (const Status written = write_page(*made, options.output, options.force); !written) return written;
  if (session.json) return print(made->json + "\n");
  return print(fmt::format("{}: report of {}, {}\n", options.output, options.request.model.string(),
                           human_bytes(static_cast<int64_t>(made->html.size()))));
}

}  // namespace

void add_report(CLI::App& program, Session& session) {
  CLI::App* command = program.add_subcommand("report", "Show what quantization did to a model, as a page to look at");
  auto options = std::make_shared<Options>();
  ReportRequest& request = options->request;
  command->add_option("model,-m,--model", request.model, "The quantized model's folder")
      ->required()
      ->type_name("MODEL");
  command->add_option("--against", request.reference, "The original's folder")->type_name("REFERENCE");
  command->add_option("--text,-f,--file", options->text, "Text to measure the divergence on, or - for standard input")
      ->type_name("FILE");
  add_protocol_options(*command, request.protocol);
  command->add_option("-o,--output", options->output, "HTML file to write, or - for standard output")
      ->type_name("FILE");
  command->add_flag("--force", options->force, "Replace FILE even when it is not a page");
  add_threads_option(*command, request.load.threads);
  add_output_options(*command, session);
  command->footer(kFooter);
  set_action(*command, session, [options, &session] { return run(*options, session); });
}

}  // namespace nibble::cli
