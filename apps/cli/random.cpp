// nibble random: a model with random weights in the shape of a known one.
#include <nibble/random_model.h>

#include <memory>

#include "commands.h"
#include "options.h"
#include "progress_line.h"

namespace nibble::cli {
namespace {

constexpr const char* kFooter =
    "\nSpeed and memory depend on a model's shape, not on its weights: with such a folder `nibble bench`, `nibble\n"
    "quantize` and any other software can be measured without downloading anything. What the model says means\n"
    "nothing. A few layers are often enough: blocks are alike. The same options give the same bytes.\n"
    "\nExamples:\n"
    "  nibble random llama-2-7b -o l7b                       # 13.5 GB\n"
    "  nibble random llama-2-7b --layers 4 -o l7b4           # 2.1 GB: the first 4 of 32 layers\n"
    "  nibble random llama-3-8b --layers 4 --type f32 --shard-size 1G --seed 7 -o l8b4\n"
    "  nibble quantize l7b4 -o l7b4-w4 --recipe rtn-w4a16-g128 && nibble bench l7b4-w4\n";

struct Options {
  RandomModelRequest request;
  std::string type, shard_size = "2G";
};

std::string shapes_text() {
  std::string text = "\nSHAPE is one of:\n";
  for (const ShapeInfo& shape : known_model_shapes())
    text += fmt::format("  {:<15} {:>6.2f} billion parameters; {}\n", shape.name,
                        static_cast<double>(shape.parameters) / 1e9, shape.description);
  return text;
}

Result<RandomModelOutcome> make_with_progress(const RandomModelRequest& request, const Session& session) {
  ProgressLine progress(session, 0.1);
  RandomModelRequest shown = request;
  shown.progress = progress.callback();
  return make_random_model(shown);
}

Status run(const Options& options, const Session& session) {
  RandomModelRequest request = options.request;
  const auto shard_bytes = parse_size(options.shard_size);
  if (!shard_bytes) return error_of(shard_bytes);
  request.shard_bytes = *shard_bytes;
  if (!options.type.empty()) {
    const auto type = float_type_named(options.type);
    if (!type) return error_of(type);
    request.type = *type;
  }
  const auto made = make_with_progress(request, session);
  if (!made) return error_of(made);
  const std::string type(name_of(made->type));
  if (session.json)
    return print_json({{"output", request.output.string()},
                       {"shape", request.shape},
                       {"layers", made->layers},
                       {"type", type},
                       {"seed", request.seed},
                       {"parameters", made->parameters},
                       {"tensor_bytes", made->tensor_bytes},
                       {"shards", made->shards},
                       {"seconds", made->seconds}});
  return print(fmt::format("{}: {} layers, {:.3f} billion parameters in {}, {} in {} file{}\ntook {}\n",
                           request.output.string(), made->layers, static_cast<double>(made->parameters) / 1e9, type,
                           human_bytes(made->tensor_bytes), made->shards, made->shards == 1 ? "" : "s",
                           human_seconds(made->seconds)));
}

}  // namespace

void add_random(CLI::App& program, Session& session) {
  CLI::App* command =
      program.add_subcommand("random", "Make a model with random weights in the shape of a known one, to measure with");
  auto options = std::make_shared<Options>();
  RandomModelRequest& request = options->request;
  command->add_option("shape,--shape", request.shape, "The model whose shape it has")->required()->type_name("SHAPE");
  command->add_option("-o,--output", request.output, "Folder to create")->required()->type_name("OUT");
  command->add_option("--layers", request.layers, "Layers; 0: as many as the model has")
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--type", options->type, "Type of the weights: f32, f16 or bf16 (default: as published)")
      ->type_name("TYPE");
  command->add_option("--shard-size", options->shard_size, "Most bytes of a file, where a block allows")
      ->type_name("SIZE")
      ->capture_default_str();
  add_seed_option(*command, request.seed, "Of the random numbers");
  add_threads_option(*command, request.threads);
  command->add_flag("--force", request.force, "Replace OUT when it exists");
  add_output_options(*command, session);
  command->footer([] { return shapes_text() + kFooter; });
  set_action(*command, session, [options, &session] { return run(*options, session); });
}

}  // namespace nibble::cli
