// nibble dequantize: the effective weights as an ordinary float folder.
#include <nibble/inspect.h>

#include <memory>

#include "commands.h"
#include "options.h"

namespace nibble::cli {
namespace {

constexpr const char* kFooter =
    "\nThe folder can be read by any software that reads Hugging Face models: use it to check a quantized model\n"
    "elsewhere. f32 holds the effective weights exactly. Activations are not quantized there: a model with quantized\n"
    "activations behaves a little better elsewhere than here.\n"
    "\nExamples:\n"
    "  nibble dequantize opt-125m-quik -o opt-125m-check\n"
    "  nibble dequantize opt-125m-quik -o opt-125m-check --type f16 --force\n";

struct Options {
  std::string model, output, type = "f32";
  bool force = false;
};

Status run(const Options& options, const Session& session) {
  const auto type = float_type_named(options.type);
  if (!type) return error_of(type);
  const Status written = dequantize(options.model, options.output, {*type, options.force});
  if (!written) return written;
  if (session.json) return print_json({{"output", options.output}, {"type", options.type}});
  return print(fmt::format("{}: effective weights in {}\n", options.output, options.type));
}

}  // namespace

void add_dequantize(CLI::App& program, Session& session) {
  CLI::App* command = program.add_subcommand("dequantize", "Write the effective weights as an ordinary float folder");
  auto options = std::make_shared<Options>();
  add_model_option(*command, options->model);
  command->add_option("-o,--output", options->output, "Folder to create")->required()->type_name("OUT");
  command->add_option("--type", options->type, "Type of the floats: f32, f16 or bf16")
      ->type_name("TYPE")
      ->capture_default_str();
  command->add_flag("--force", options->force, "Replace OUT when it exists");
  add_output_options(*command, session);
  command->footer(kFooter);
  set_action(*command, session, [options, &session] { return run(*options, session); });
}

}  // namespace nibble::cli
