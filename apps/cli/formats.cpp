// nibble formats: what number formats cost and how closely they follow numbers.
#include <nibble/formats.h>

#include <cmath>
#include <memory>
#include <optional>

#include "commands.h"
#include "options.h"

namespace nibble::cli {
namespace {

constexpr const char* kFooter =
    "\nbits: per element with all shared fields. density: 32 / bits. SNR in decibels, scales chosen as for weights, "
    "of\n"
    "98,304 numbers of a normal distribution, of Student's t with 4 degrees of freedom, and with --model of a linear.\n"
    "area: multiply-adds on the area of a float32 one by a gate count; a model with its assumptions in "
    "docs/formats.md,\n"
    "no measurement. published: the same ratio in arXiv 2310.05079.\n"
    "\nExamples:\n"
    "  nibble formats\n"
    "  nibble formats bfp4:b16 bfp4:b16:search mxfp4:b32:floor nvfp4:b16:4over6\n"
    "  nibble formats --model MODEL --linear blocks.0.down --json\n";

std::string decibels(std::optional<double> value) {
  if (!value) return "-";
  return std::isinf(*value) ? "exact" : fmt::format("{:.1f}", *value);
}

std::string ratio(std::optional<double> value) { return value ? fmt::format("{:.1f}", *value) : "-"; }

std::string table(const std::vector<FormatFigures>& all) {
  std::string out = fmt::format("{:<22} {:<24} {:>7} {:>8} {:>7} {:>7} {:>7} {:>6} {:>9}\n", "format", "kind", "bits",
                                "density", "normal", "t4", "weights", "area", "published");
  for (const FormatFigures& f : all)
    out += fmt::format("{:<22} {:<24} {:>7.3f} {:>8.2f} {:>7} {:>7} {:>7} {:>6.1f} {:>9}\n", f.name, f.kind, f.bits,
                       f.memory_density, decibels(f.snr_normal), decibels(f.snr_student), decibels(f.snr_weights),
                       f.arithmetic_density, ratio(f.published_density));
  return out;
}

Json number(std::optional<double> value) { return value && std::isfinite(*value) ? Json(*value) : Json(); }

Json to_json(const std::vector<FormatFigures>& all) {
  Json list = Json::array();
  for (const FormatFigures& f : all)
    list.push_back({{"format", f.name},
                    {"kind", f.kind},
                    {"bits", f.bits},
                    {"memory_density", f.memory_density},
                    {"snr_normal", number(f.snr_normal)},
                    {"snr_student", number(f.snr_student)},
                    {"snr_weights", number(f.snr_weights)},
                    {"arithmetic_density", f.arithmetic_density},
                    {"published_density", number(f.published_density)}});
  return {{"formats", std::move(list)}};
}

Status run(const FormatFiguresOptions& options, const Session& session) {
  const auto figures = format_figures(options);
  if (!figures) return error_of(figures);
  return session.json ? print_json(to_json(*figures)) : print(table(*figures));
}

}  // namespace

void add_formats(CLI::App& program, Session& session) {
  CLI::App* command = program.add_subcommand("formats", "List number formats: bits, densities, signal to noise");
  auto options = std::make_shared<FormatFiguresOptions>();
  command->add_option("FORMAT", options->formats, "Formats to look at; default: the whole list");
  CLI::Option* model = command->add_option("--model", options->model, "Also round a linear of this model folder");
  command->add_option("--linear", options->linear, "Which one, e.g. blocks.0.down; default: the first")->needs(model);
  add_output_options(*command, session);
  command->footer(kFooter);
  set_action(*command, session, [options, &session] { return run(*options, session); });
}

}  // namespace nibble::cli
