// nibble eval: zero-shot and few-shot tasks.
#include <nibble/evaluate.h>

#include <algorithm>
#include <memory>

#include "commands.h"
#include "options.h"
#include "progress_line.h"

namespace nibble::cli {
namespace {

struct Options {
  RunOptions run;
  std::string tasks = "all", data, few_shot_data, samples;
  int64_t limit = 0, few_shot = 0, batch = 2048;
  uint64_t seed = 1234;
  bool no_special_tokens = false;
};

std::string footer() {
  std::string text =
      "\nAn answer is scored by the likelihood that the model gives it after its question, with the prompts and the\n"
      "conventions of lm-evaluation-harness. Tasks, and the files that they read from the data folder:\n";
  for (const TaskDescription& task : evaluation_tasks())
    text += fmt::format("  {:<15}{:<22}{}\n", task.name, task.file, task.about);
  return text +
         "\nExamples:\n"
         "  nibble eval opt-125m --data eval --tasks hellaswag,piqa\n"
         "  nibble eval opt-125m-quik --data eval --limit 200 --json\n"
         "  nibble eval opt-125m --data eval --tasks arc_easy --fewshot 5 --samples-out arc.jsonl\n";
}

// "a,b" is a and b.
std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= list.size();) {
    const size_t end = std::min(list.find(',', at), list.size());
    parts.push_back(list.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

EvaluateRequest request_of(const Options& options) {
  EvaluateRequest request;
  if (options.tasks != "all") request.tasks = split(options.tasks);
  request.data = options.data;
  request.limit = options.limit;
  request.few_shot = options.few_shot;
  request.few_shot_data = options.few_shot_data;
  request.seed = options.seed;
  request.add_special_tokens = !options.no_special_tokens;
  request.batch_tokens = options.batch;
  request.samples = options.samples;
  return request;
}

double rate_of(int64_t tokens, double seconds) { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0; }

// "acc" and "acc_stderr" side by side, as the harness names them.
Json metrics_json(const TaskResult& task) {
  Json out = Json::object();
  for (const TaskMetric& metric : task.metrics) {
    out[metric.name] = metric.value;
    out[metric.name + "_stderr"] = metric.standard_error ? Json(*metric.standard_error) : Json();
  }
  out["items"] = task.items;
  out["truncated"] = task.truncated;
  out["tokens"] = task.tokens;
  out["tokens_alone"] = task.tokens_alone;
  out["seconds"] = task.seconds;
  out["tokens_per_second"] = rate_of(task.tokens, task.seconds);
  return out;
}

Json report_json(const EvaluateReport& report, const Options& options) {
  Json results = Json::object();
  for (const TaskResult& task : report.tasks) results[task.task] = metrics_json(task);
  return {{"results", std::move(results)},
          {"fewshot", options.few_shot},
          {"seed", options.seed},
          {"limit", options.limit},
          {"tokens", report.tokens},
          {"seconds", report.seconds},
          {"tokens_per_second", rate_of(report.tokens, report.seconds)}};
}

std::string metric_line(const TaskResult& task, const TaskMetric& metric, bool first) {
  const std::string error = metric.standard_error ? fmt::format("+- {:.4f}", *metric.standard_error) : "";
  return fmt::format("{:<15}{:>7}  {:<11}{:>10.4f}  {}\n", first ? task.task : "",
                     first ? std::to_string(task.items) : "", metric.name, metric.value, error);
}

std::string report_text(const EvaluateReport& report) {
  std::string text = fmt::format("{:<15}{:>7}  {:<11}{:>10}\n", "task", "items", "metric", "value");
  int64_t truncated = 0;
  for (const TaskResult& task : report.tasks) {
    truncated += task.truncated;
    for (const TaskMetric& metric : task.metrics) text += metric_line(task, metric, &metric == &task.metrics.front());
  }
  if (truncated > 0)
    text += fmt::format("{} contexts did not fit the model's positions and lost their beginning\n", truncated);
  return text + fmt::format("{} tokens in {}, {:.1f} tokens/s\n", report.tokens, human_seconds(report.seconds),
                            rate_of(report.tokens, report.seconds));
}

Result<EvaluateReport> measure(const LanguageModel& model, EvaluateRequest request, const Session& session) {
  ProgressLine progress(session, 0.05);
  request.progress = progress.callback();
  return model.evaluate(request);
}

Status run(const Options& options, const Session& session) {
  const EvaluateRequest request = request_of(options);
  if (const Status status = check_evaluation(request); !status) return status;
  const auto model = load(options.run);
  if (!model) return error_of(model);
  Json explained;
  if (const Status status = explain_first(options.run, *model, session, explained); !status) return status;
  const auto report = measure(*model, request, session);
  if (!report) return error_of(report);
  if (!session.json) return print(report_text(*report));
  Json out = report_json(*report, options);
  if (!explained.is_null()) out["explain"] = std::move(explained);
  return print_json(out);
}

}  // namespace

void add_eval(CLI::App& program, Session& session) {
  CLI::App* command = program.add_subcommand("eval", "Score a model on zero-shot and few-shot tasks");
  auto options = std::make_shared<Options>();
  add_run_options(*command, options->run);
  command->add_option("--tasks", options->tasks, "Names, separated by commas, or all")
      ->type_name("LIST")
      ->capture_default_str();
  command->add_option("--data", options->data, "Folder of the task files")->required()->type_name("DIR");
  command->add_option("--limit", options->limit, "Items of each task, from the beginning of its file; 0: all")
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--fewshot", options->few_shot, "Solved examples before each question")
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option("--fewshot-data", options->few_shot_data,
                   "Folder of files to draw them from (default: the data folder, never the item itself)")
      ->type_name("DIR");
  add_seed_option(*command, options->seed, "Of the draw of examples");
  command->add_option("-b,--batch", options->batch, "Tokens of one forward pass; changes no result")
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option("--samples-out", options->samples,
                   "Write one JSON object per item to this file; of files that exist, only one of samples is replaced")
      ->type_name("FILE");
  command->add_flag("--no-special-tokens", options->no_special_tokens, "Put nothing such as <s> before a text");
  add_output_options(*command, session);
  command->footer(footer());
  set_action(*command, session, [options, &session] { return run(*options, session); });
}

}  // namespace nibble::cli
