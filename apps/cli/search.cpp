// nibble search: which number format every linear, and attention, take within a budget.
#include <nibble/search.h>

#include <cmath>
#include <memory>

#include "commands.h"
#include "options.h"
#include "progress_line.h"

namespace nibble::cli {
namespace {

constexpr const char* kFooter =
    "\nThe result is a recipe: `nibble quantize MODEL -o OUT --recipe RECIPE.json` applies it.\n"
    "knapsack measures how far each operand alone, in each format, moves the model's predictions, and takes the exact\n"
    "optimum of the sum; tpe tries whole models. Either way, the model with the least KL that fits is chosen, be it "
    "one\n"
    "with the same format everywhere. Results go to the log as they come: after an interruption, or for another "
    "budget,\n"
    "--resume goes on with it.\n"
    "\nExamples:\n"
    "  nibble search llama -o llama-4.5.json --recipe bfp --bits 4.5 --text wiki.txt\n"
    "  nibble search llama -o mixed.json --formats int3:g32,int4:g32,int6:g32 --bits 4.5\n"
    "  nibble search llama -o a4.json --recipe bfp --bits 4.5 --activation-bits 4.5 --text wiki.txt --plot a4.svg\n"
    "  nibble search llama -o all.json --recipe bfp --bits 4.5 --activation-bits 4.5 --attention palette --text "
    "wiki.txt\n"
    "  nibble search llama -o fits.json --recipe int --memory 3.5G --budget all --length 4096 --text wiki.txt\n"
    "  nibble search llama -o tpe.json --recipe bfp --bits 4.5 --engine tpe --trials 200 --text wiki.txt\n";

struct Options {
  SearchRequest request;
  std::string model;
  double bits = NAN, activation_bits = NAN;
  std::string memory, budget = "weights", engine = "knapsack", accuracy = "kl";
};

Json point_json(const SearchPoint& point) {
  Json out = {{"study", point.study},
              {"weight_bits", point.weight_bits},
              {"activation_bits", point.activation_bits},
              {"budget_bits", point.budget_bits},
              {"kl", point.kl},
              {"nll", point.nll},
              {"fits", point.fits},
              {"pareto", point.front}};
  if (!point.label.empty()) out["formats"] = point.label;
  return out;
}

Json outcome_json(const SearchRequest& request, const SearchOutcome& outcome) {
  Json points = Json::array(), operands = Json::array(), sensitivities = Json::array();
  for (const SearchPoint& point : outcome.points) points.push_back(point_json(point));
  for (const SearchedOperand& operand : outcome.operands)
    operands.push_back({{"name", operand.name}, {"format", operand.format}, {"bits", operand.bits}});
  for (const Sensitivity& one : outcome.sensitivities)
    sensitivities.push_back({{"name", one.name}, {"format", one.format}, {"kl", one.kl}});
  return {{"recipe", request.output.string()},
          {"log", outcome.log.string()},
          {"chosen", point_json(outcome.chosen)},
          {"predicted_kl", outcome.predicted_kl ? Json(*outcome.predicted_kl) : Json()},
          {"reference_nll", outcome.reference_nll},
          {"tokens", outcome.tokens},
          {"measured", outcome.measured},
          {"reused", outcome.reused},
          {"seconds", outcome.seconds},
          {"points", std::move(points)},
          {"operands", std::move(operands)},
          {"sensitivities", std::move(sensitivities)}};
}

std::string line(const std::string& name, const SearchPoint& point) {
  return fmt::format("{:<32} {:>8.3f} {:>11.3f} {:>8.3f} {:>10.5f} {:>10.4f}\n", name, point.weight_bits,
                     point.activation_bits, point.budget_bits, point.kl, std::exp(point.nll));
}

std::string outcome_text(const SearchRequest& request, const SearchOutcome& outcome) {
  std::string out = fmt::format("{:<32} {:>8} {:>11} {:>8} {:>10} {:>10}\n", "", "weights", "activations", "budget",
                                "mean KL", "perplexity");
  for (const SearchPoint& point : outcome.points)
    if (point.study == "uniform") out += line("uniform " + point.label, point);
  out += line("chosen, of " + outcome.chosen.study, outcome.chosen);
  if (outcome.chosen.study == "knapsack" && outcome.predicted_kl)
    out += fmt::format("the sum of the operands' own KL, around the float model: {:.5f}\n", *outcome.predicted_kl);
  return out + fmt::format("{}: written; {} models measured on {} tokens, {} results reused, in {}\n",
                           request.output.string(), outcome.measured, outcome.tokens, outcome.reused,
                           human_seconds(outcome.seconds));
}

Status read_options(Options& options) {
  SearchRequest& request = options.request;
  request.model = options.model;
  if (!std::isnan(options.bits)) request.bits = options.bits;
  if (!std::isnan(options.activation_bits)) request.activation_bits = options.activation_bits;
  if (!options.memory.empty()) {
    const auto memory = parse_size(options.memory);
    if (!memory) return error_of(memory);
    request.memory = *memory;
  }
  request.all = options.budget == "all";
  request.engine = options.engine == "tpe" ? SearchEngine::tpe : SearchEngine::knapsack;
  request.likelihood = options.accuracy == "nll";
  return {};
}

Result<SearchOutcome> search_with_progress(const SearchRequest& asked, const Session& session) {
  ProgressLine progress(session, 0.02);
  SearchRequest request = asked;
  request.progress = progress.callback();
  return search_recipe(request);
}

Status run(Options& options, const Session& session) {
  if (const Status status = read_options(options); !status) return status;
  const auto outcome = search_with_progress(options.request, session);
  if (!outcome) return error_of(outcome);
  if (session.json) return print_json(outcome_json(options.request, *outcome));
  return print(outcome_text(options.request, *outcome));
}

std::string palette_help() {
  std::string names;
  for (const PaletteInfo& palette : palettes())
    if (!palette.by_channel) names += (names.empty() ? "" : ", ") + palette.name;
  return "Palette of formats to choose from: " + names;
}

void add_space_options(CLI::App& command, Options& options) {
  SearchRequest& request = options.request;
  command.add_option("-r,--recipe", request.palette, palette_help())->type_name("NAME");
  command.add_option("--formats", request.formats, "Formats of weights to choose from, with commas")
      ->type_name("F,F,...");
  command.add_option("--activations", request.activations, "Formats of activations (default: the palette's, or f32)")
      ->type_name("F,F,...");
  command
      .add_option("--attention", request.attention,
                  "Formats of attention's queries, keys, probabilities and values to choose from; palette: its own "
                  "(default: attention is not chosen)")
      ->type_name("F,F,...");
  command.add_option("--base", request.base, "Recipe whose steps the result takes (default: rounding)")
      ->type_name("NAME|FILE");
  command.add_option("--bits", options.bits, "Budget: average stored bits of what --budget counts")
      ->check(kNotEmpty)
      ->type_name("B");
  command.add_option("--memory", options.memory, "Budget: bytes of all that is stored, e.g. 3.5G")
      ->check(kNotEmpty)
      ->type_name("SIZE");
  command
      .add_option("--budget", options.budget,
                  "What the budget counts: weights, or also the products' inputs and the KV cache (all)")
      ->check(CLI::IsMember({"weights", "all"}))
      ->capture_default_str();
  command.add_option("--length", request.length, "Tokens that --budget all and the operands of attention count")
      ->type_name("N")
      ->capture_default_str();
  command
      .add_option("--activation-bits", options.activation_bits, "A second budget: average bits of the products' inputs")
      ->type_name("B");
}

void add_text_options(CLI::App& command, SearchRequest& request) {
  command.add_option("--text,-f,--file", request.text, "Text files to measure on (default: the model writes a text)")
      ->type_name("FILE");
  command.add_option("--samples", request.samples, "Samples of the text")->type_name("N")->capture_default_str();
  command.add_option("--window", request.window, "Tokens per sample; 0: min(256, the model's positions)")
      ->type_name("W")
      ->capture_default_str();
  add_seed_option(command, request.seed, "Seed of where the samples start, and of the trials");
}

void add_engine_options(CLI::App& command, Options& options) {
  SearchRequest& request = options.request;
  command.add_option("--engine", options.engine, "knapsack or tpe")
      ->check(CLI::IsMember({"knapsack", "tpe"}))
      ->capture_default_str();
  command.add_option("--rounds", request.rounds, "knapsack: further rounds measure around the model found before")
      ->type_name("N")
      ->capture_default_str();
  command.add_option("--trials", request.trials, "tpe: models to try")->type_name("N")->capture_default_str();
  command.add_option("--alpha", request.alpha, "tpe: objective = accuracy + ALPHA * 32 / bits")
      ->type_name("A")
      ->capture_default_str();
  command.add_option("--accuracy", options.accuracy, "tpe: accuracy is -kl or -nll")
      ->check(CLI::IsMember({"kl", "nll"}))
      ->capture_default_str();
}

void add_file_options(CLI::App& command, SearchRequest& request) {
  command.add_option("--log", request.log, "What was measured (default: RECIPE.search.jsonl)")->type_name("FILE");
  command.add_flag("--resume", request.resume, "Go on with an existing log");
  command.add_flag("--force", request.force, "Replace an existing recipe and log");
  command.add_option("--plot", request.plot, "Write bits against KL as SVG")->type_name("FILE");
}

}  // namespace

void add_search(CLI::App& program, Session& session) {
  CLI::App* command = program.add_subcommand("search", "Find which format every linear takes within a budget");
  auto options = std::make_shared<Options>();
  add_model_option(*command, options->model, "Hugging Face, not quantized");
  command->add_option("-o,--output", options->request.output, "Recipe file to write")->required()->type_name("RECIPE");
  add_space_options(*command, *options);
  add_text_options(*command, options->request);
  add_engine_options(*command, *options);
  add_file_options(*command, options->request);
  add_threads_option(*command, options->request.threads);
  add_output_options(*command, session);
  command->footer(kFooter);
  set_action(*command, session, [options, &session] { return run(*options, session); });
}

}  // namespace nibble::cli
