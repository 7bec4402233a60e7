// nibble inspect: what is in a model folder.
#include <nibble/inspect.h>

#include <memory>

#include "commands.h"
#include "options.h"

namespace nibble::cli {
namespace {

constexpr const char* kFooter =
    "\nBits per weight count everything that is stored: codes, scales, offsets, patterns, kept columns and their\n"
    "indices. Every tensor is read, so damaged files are found.\n"
    "\nExamples:\n"
    "  nibble inspect opt-125m-quik\n"
    "  nibble inspect opt-125m-quik --explain\n"
    "  nibble inspect opt-125m-quik --json | jq .bits_per_weight\n";

Json matrix_json(const WeightInfo& info) {
  return {{"name", info.name},
          {"shape", {info.rows, info.columns}},
          {"weights", info.weights},
          {"activations", info.activations},
          {"sparse24", info.sparse24},
          {"kept_columns", info.kept_columns},
          {"rotation", info.rotation},
          {"stored_bytes", info.stored_bytes},
          {"bits_per_weight", info.bits_per_weight}};
}

Json inspection_json(const Inspection& found) {
  Json tensors = Json::array();
  for (const WeightInfo& info : found.matrices) tensors.push_back(matrix_json(info));
  return {{"family", found.family},
          {"quantized", found.quantized},
          {"recipe", found.quantized ? Json(found.recipe) : Json()},
          {"parameters", found.parameters},
          {"bits_per_weight", found.bits_per_weight},
          {"quantized_bits_per_weight", found.quantized_bits_per_weight},
          {"file_bytes", found.file_bytes},
          {"tensor_bytes", found.tensor_bytes},
          {"vocabulary", found.vocabulary},
          {"hidden", found.hidden},
          {"layers", found.layers},
          {"heads", found.heads},
          {"kv_heads", found.kv_heads},
          {"head_dim", found.head_dim},
          {"ffn", found.ffn},
          {"positions", found.positions},
          {"tied_head", found.tied_head},
          {"attention", found.attention},
          {"cache_bits", found.cache_bits},
          {"tensors", tensors},
          {"other_bytes", found.other_bytes}};
}

// A name from a file, which must not steer the terminal: control characters, also those of two bytes, become '?'.
std::string printable(const std::string& name) {
  std::string out;
  for (size_t i = 0; i < name.size(); ++i) {
    const auto byte = static_cast<unsigned char>(name[i]);
    const auto next = static_cast<unsigned char>(i + 1 < name.size() ? name[i + 1] : 0);
    const bool two = byte == 0xC2 && next >= 0x80 && next < 0xA0;
    out += two || byte < 0x20 || byte == 0x7F ? '?' : name[i];
    if (two) ++i;
  }
  return out;
}

std::string summary(const Inspection& found) {
  return fmt::format(
      "family      {}{}\n"
      "shape       {} layers, hidden {}, {} heads ({} for keys and values) of {}, feed-forward {}\n"
      "vocabulary  {}{}\n"
      "positions   {}\n"
      "attention   {}; {:.3f} bits per cached number\n"
      "parameters  {}\n"
      "files       {} ({} bytes), {:.3f} bits per weight, {:.3f} in the {} layers\n",
      found.family, found.quantized ? fmt::format(", quantized with {}", printable(found.recipe)) : "", found.layers,
      found.hidden, found.heads, found.kv_heads, found.head_dim, found.ffn, found.vocabulary,
      found.tied_head ? " (head tied to the embedding)" : "", found.positions, found.attention, found.cache_bits,
      found.parameters, human_bytes(found.file_bytes), found.file_bytes, found.bits_per_weight,
      found.quantized_bits_per_weight, found.quantized ? "quantized" : "linear");
}

std::string table(const Inspection& found) {
  std::string out = fmt::format("\n{:<24} {:>14} {:<16} {:<18} {:>6} {:>14} {:>8}\n", "tensor", "shape", "weights",
                                "activations", "kept", "bytes", "bits");
  for (const WeightInfo& info : found.matrices)
    out += fmt::format("{:<24} {:>14} {:<16} {:<18} {:>6} {:>14} {:>8.3f}\n", info.name,
                       fmt::format("{} x {}", info.rows, info.columns), info.weights + (info.sparse24 ? " 2:4" : ""),
                       info.rotation > 0 ? fmt::format("{} rotated", info.activations) : info.activations,
                       info.kept_columns, info.stored_bytes, info.bits_per_weight);
  return out + fmt::format("{:<24} {:>14} {:<16} {:<18} {:>6} {:>14}\n", "norms, biases, positions", "", "", "", "",
                           found.other_bytes);
}

Status run(const RunOptions& options, const Session& session) {
  const auto found = inspect(options.model);
  if (!found) return error_of(found);
  if (!options.explain)
    return session.json ? print_json(inspection_json(*found)) : print(summary(*found) + table(*found));
  const auto model = load(options);
  if (!model) return error_of(model);
  if (session.json) {
    const auto explained = explanation_json(*model);
    if (!explained) return error_of(explained);
    Json out = inspection_json(*found);
    out["explain"] = *explained;
    return print_json(out);
  }
  const auto explained = explanation(*model);
  if (!explained) return error_of(explained);
  return print(summary(*found) + table(*found) + "\n" + *explained);
}

}  // namespace

void add_inspect(CLI::App& program, Session& session) {
  CLI::App* command = program.add_subcommand("inspect", "Show family, shapes, formats and stored bits of a model");
  auto options = std::make_shared<RunOptions>();
  add_run_options(*command, *options);
  add_output_options(*command, session);
  command->footer(kFooter);
  set_action(*command, session, [options, &session] { return run(*options, session); });
}

}  // namespace nibble::cli
