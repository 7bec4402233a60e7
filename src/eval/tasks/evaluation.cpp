#include "eval/tasks/evaluation.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "core/file.h"
#include "core/json.h"
#include "core/progress.h"
#include "eval/tasks/few_shot.h"

namespace nibble {
namespace {

using Clock = std::chrono::steady_clock;

// Every object of a file of samples begins so.
constexpr std::string_view kSampleBeginning = "{\"task\":";

Status check_samples(const std::filesystem::path& path) {
  if (path.empty()) return {};
  NIBBLE_DO(check_file_target(path));
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored) && !begins_with(path, kSampleBeginning))
    return fail(ErrorCode::usage, "{} exists and does not hold samples: it is not replaced", path.string());
  return {};
}

Status check_options(const EvaluationOptions& options) {
  const auto at_least = [](std::string_view name, int64_t value, int64_t least) -> Status {
    if (value >= least) return {};
    return fail(ErrorCode::usage, "{} is {}; expected {} or more", name, value, least);
  };
  NIBBLE_DO(at_least("limit", options.limit, 0));
  NIBBLE_DO(at_least("few-shot examples", options.few_shot, 0));
  return at_least("batch", options.batch_tokens, 1);
}

Result<std::vector<const Task*>> tasks_of(const EvaluationOptions& options) {
  std::vector<const Task*> tasks;
  for (const std::string& name : options.tasks) {
    NIBBLE_TRY(const Task* task, task_named(name));
    if (std::find(tasks.begin(), tasks.end(), task) == tasks.end()) tasks.push_back(task);
  }
  if (options.tasks.empty())
    for (const Task& task : all_tasks()) tasks.push_back(&task);
  return tasks;
}

Result<std::vector<Item>> read_items(const Task& task, const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / task.file;
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored))
    return fail(ErrorCode::io, "task {} needs the file {}, which the folder {} does not have", task.name, task.file,
                folder.string());
  NIBBLE_TRY(const std::string text, read_text(file));
  return task.read(text, file.string());
}

Result<Exam> read_exam(const Task& task, const EvaluationOptions& options) {
  Exam exam;
  exam.task = &task;
  exam.file = options.data / task.file;
  NIBBLE_TRY(std::vector<Item> all, read_items(task, options.data));
  const size_t count = options.limit > 0 ? std::min(all.size(), static_cast<size_t>(options.limit)) : all.size();
  exam.items.assign(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(count));
  const bool own = options.few_shot_data.empty();
  if (!own && options.few_shot > 0) {
    NIBBLE_TRY(all, read_items(task, options.few_shot_data));
  }
  NIBBLE_TRY(exam.examples, examples_for(task, exam.items, all, own, options.few_shot, options.seed));
  return exam;
}

// The ids of all answers of all items, on all threads.
Result<std::vector<Answers>> encode(const Exam& exam, const EvaluationOptions& options, int64_t positions,
                                    const Tokenizer& tokenizer, ThreadPool& pool) {
  std::vector<Answers> out(exam.items.size());
  std::vector<std::optional<Error>> errors(exam.items.size());
  pool.run(static_cast<int64_t>(exam.items.size()), [&](int64_t index) {
    const auto i = static_cast<size_t>(index);
    const Item& item = exam.items[i];
    for (size_t j = 0; j < item.answers() && !errors[i]; ++j) {
      auto answer = encode_continuation(tokenizer, exam.examples[i] + item.context(j), " " + item.choice(j),
                                        options.special_tokens, positions);
      if (answer) {
        out[i].push_back(*std::move(answer));
      } else {
        errors[i] = std::move(answer).error();
      }
    }
  });
  for (size_t i = 0; i < errors.size(); ++i)
    if (errors[i])
      return tl::unexpected(Error{errors[i]->code, fmt::format("{}, item at line {}: {}", exam.file.string(),
                                                               exam.items[i].line, errors[i]->message)});
  return out;
}

// One item of the dump: what was asked and what came out.
Json sample_of(const Exam& exam, size_t i, std::span<const AnswerScore> scores, std::span<const double> judged) {
  const Item& item = exam.items[i];
  Json contexts = Json::array(), likelihoods = Json::array(), tokens = Json::array(), greedy = Json::array();
  for (const std::string& context : item.contexts) contexts.push_back(exam.examples[i] + context);
  for (const AnswerScore& score : scores) {
    likelihoods.push_back(score.log_likelihood);
    tokens.push_back(score.tokens);
    greedy.push_back(score.greedy);
  }
  Json out = {{"task", exam.task->name},
              {"item", i},
              {"line", item.line},
              {"contexts", std::move(contexts)},
              {"choices", item.choices},
              {"gold", item.gold},
              {"log_likelihoods", std::move(likelihoods)},
              {"tokens", std::move(tokens)},
              {"greedy", std::move(greedy)}};
  const auto names = metric_names(exam.task->scoring);
  for (size_t m = 0; m < names.size(); ++m)
    if (names[m] != "perplexity") out[std::string(names[m])] = judged[m];
  return out;
}

// The file of samples, or nothing.
class SampleFile {
 public:
  static Result<SampleFile> create(const std::filesystem::path& path) {
    SampleFile out;
    if (path.empty()) return out;
    NIBBLE_TRY(DurableFile file, DurableFile::create(path));
    out.file_.emplace(std::move(file));
    return out;
  }
  Status add(const Exam& exam, const std::vector<std::vector<AnswerScore>>& scores,
             const std::vector<std::vector<double>>& judged) {
    if (!file_) return {};
    for (size_t i = 0; i < scores.size(); ++i)
      NIBBLE_DO(file_->write(dump_json(sample_of(exam, i, scores[i], judged[i])) + "\n"));
    return {};
  }
  Status commit() { return file_ ? file_->commit() : Status(); }

 private:
  std::optional<DurableFile> file_;
};

// Runs exams one after the other and tells the progress of all of them together.
class ExamRun {
 public:
  ExamRun(const EvaluationOptions& options, const Model& model, const Tokenizer& tokenizer, ThreadPool& pool)
      : options_(options), model_(model), tokenizer_(tokenizer), pool_(pool) {}

  Result<std::vector<ExamResult>> run(const std::vector<Exam>& exams, const ProgressCallback& progress) {
    NIBBLE_TRY(SampleFile samples, SampleFile::create(options_.samples));
    std::vector<std::vector<Answers>> encoded;
    double total = 0;
    for (const Exam& exam : exams) {
      NIBBLE_TRY(auto answers, encode(exam, options_, model_.spec().max_positions, tokenizer_, pool_));
      for (const Answers& item : answers) total += static_cast<double>(tokens_to_run(item, options_.share));
      encoded.push_back(std::move(answers));
    }
    ProgressMeter meter(total, progress);
    std::vector<ExamResult> results;
    for (size_t i = 0; i < exams.size(); ++i) {
      NIBBLE_TRY(ExamResult result, run_one(exams[i], encoded[i], samples, meter));
      results.push_back(std::move(result));
    }
    NIBBLE_DO(samples.commit());
    return results;
  }

 private:
  Result<ExamResult> run_one(const Exam& exam, const std::vector<Answers>& answers, SampleFile& samples,
                             ProgressMeter& meter) {
    const auto start = Clock::now();
    ExamResult out;
    out.task = exam.task;
    out.items = static_cast<int64_t>(exam.items.size());
    int64_t done = 0;
    ScoreOptions scoring{options_.batch_tokens, options_.share, [&](int64_t tokens, int64_t items) {
                           done += items;
                           meter.advance(static_cast<double>(tokens),
                                         fmt::format("{} {} of {} items", exam.task->name, done, out.items));
                         }};
    const auto found = score_answers(model_, answers, scoring, pool_);
    if (!found) return fail(found.error().code, "{}, {}", exam.file.string(), found.error().message);
    const auto& scores = *found;
    std::vector<std::vector<double>> judged;
    for (size_t i = 0; i < scores.size(); ++i) judged.push_back(judge(exam.task->scoring, exam.items[i], scores[i]));
    NIBBLE_DO(samples.add(exam, scores, judged));
    for (const Answers& item : answers) {
      out.tokens += tokens_to_run(item, options_.share);
      out.tokens_alone += tokens_to_run(item, false);
      out.truncated += std::count_if(item.begin(), item.end(), [](const Continuation& c) { return c.truncated; });
    }
    out.metrics = metrics_of(exam.task->scoring, judged, pool_);
    out.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    return out;
  }

  const EvaluationOptions& options_;
  const Model& model_;
  const Tokenizer& tokenizer_;
  ThreadPool& pool_;
};

}  // namespace

Result<std::vector<Exam>> read_exams(const EvaluationOptions& options) {
  NIBBLE_DO(check_options(options));
  NIBBLE_DO(check_samples(options.samples));
  NIBBLE_TRY(const std::vector<const Task*> tasks, tasks_of(options));
  std::vector<Exam> exams;
  for (const Task* task : tasks) {
    NIBBLE_TRY(Exam exam, read_exam(*task, options));
    exams.push_back(std::move(exam));
  }
  return exams;
}

Result<std::vector<ExamResult>> run_exams(const std::vector<Exam>& exams, const EvaluationOptions& options,
                                          const Model& model, const Tokenizer& tokenizer, ThreadPool& pool,
                                          const ProgressCallback& progress) {
  return ExamRun(options, model, tokenizer, pool).run(exams, progress);
}

}  // namespace nibble
