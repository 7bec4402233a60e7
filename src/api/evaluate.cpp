#include <nibble/evaluate.h>

#include <chrono>

#include "api/guard.h"
#include "api/language_model_impl.h"
#include "eval/tasks/evaluation.h"

namespace nibble {
namespace {

EvaluationOptions options_of(const EvaluateRequest& request) {
  EvaluationOptions options;
  options.tasks = request.tasks;
  options.data = request.data;
  options.limit = request.limit;
  options.few_shot = request.few_shot;
  options.few_shot_data = request.few_shot_data;
  options.seed = request.seed;
  options.special_tokens = request.add_special_tokens;
  options.batch_tokens = request.batch_tokens;
  options.samples = request.samples;
  return options;
}

TaskResult result_of(const ExamResult& from) {
  TaskResult out;
  out.task = from.task->name;
  out.file = from.task->file;
  out.items = from.items;
  for (const Metric& metric : from.metrics)
    out.metrics.push_back({std::string(metric.name), metric.value, metric.standard_error});
  out.truncated = from.truncated;
  out.tokens = from.tokens;
  out.tokens_alone = from.tokens_alone;
  out.seconds = from.seconds;
  return out;
}

}  // namespace

std::vector<TaskDescription> evaluation_tasks() {
  std::vector<TaskDescription> out;
  for (const Task& task : all_tasks())
    out.push_back({std::string(task.name), std::string(task.file), std::string(task.about)});
  return out;
}

Status check_evaluation(const EvaluateRequest& request) {
  return guarded([&]() -> Status {
    NIBBLE_TRY(const auto exams, read_exams(options_of(request)));
    static_cast<void>(exams);
    return {};
  });
}

Result<EvaluateReport> LanguageModel::evaluate(const EvaluateRequest& request) const {
  return guarded([&]() -> Result<EvaluateReport> {
    const auto start = std::chrono::steady_clock::now();
    const EvaluationOptions options = options_of(request);
    NIBBLE_TRY(const std::vector<Exam> exams, read_exams(options));
    std::lock_guard guard(impl_->lock);
    NIBBLE_TRY(const auto results,
               run_exams(exams, options, impl_->model, *tokenizer().tokenizer_, *impl_->pool, request.progress));
    EvaluateReport report;
    for (const ExamResult& result : results) {
      report.tasks.push_back(result_of(result));
      report.tokens += result.tokens;
    }
    report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return report;
  });
}

}  // namespace nibble
