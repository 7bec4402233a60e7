// Zero-shot and few-shot tasks: does a model still prefer the right answer?
#pragma once

#include <nibble/language_model.h>
#include <nibble/progress.h>
#include <nibble/result.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace nibble {

// A task that evaluate() knows, and the file in the data folder that it reads.
struct TaskDescription {
  std::string name, file, about;
};
std::vector<TaskDescription> evaluation_tasks();

struct EvaluateRequest {
  std::vector<std::string> tasks;       // names; empty: all
  std::filesystem::path data;           // folder of the task files
  int64_t limit = 0;                    // items of each task, from the beginning of its file; 0: all
  int64_t few_shot = 0;                 // solved examples before each question
  std::filesystem::path few_shot_data;  // folder of files to draw them from; empty: `data`, never the item itself
  uint64_t seed = 1234;                 // of that draw; 1234 is lm-evaluation-harness's
  bool add_special_tokens = true;       // before a text, as the model's own rule says
  int64_t batch_tokens = 2048;          // of one forward pass; changes no result
  // This file gets one JSON object per item; empty: none. An existing file is replaced only when it holds samples.
  std::filesystem::path samples;
  ProgressCallback progress;
};

struct TaskMetric {
  std::string name;  // "acc", "acc_norm", "acc_bytes", "acc_tokens", "perplexity" (docs/evidence.md)
  double value = 0;
  std::optional<double> standard_error;  // none for a single item
};

struct TaskResult {
  std::string task, file;
  int64_t items = 0;
  std::vector<TaskMetric> metrics;
  int64_t truncated = 0;     // answers whose context did not fit the model's positions and lost its beginning
  int64_t tokens = 0;        // run through the model
  int64_t tokens_alone = 0;  // that separate runs of every answer would have taken
  double seconds = 0;
};

struct EvaluateReport {
  std::vector<TaskResult> tasks;  // in the order of the request
  int64_t tokens = 0;
  double seconds = 0;  // of all tasks, reading and tokenising included
};

// Everything that can be wrong without a model, so that it is found before one is loaded. `usage`: an unknown task
// (lists the known), options out of range, more examples than items, samples that would replace another file; `io`: a
// file that is not there, or the folder of the samples; `corrupt`: a file that is damaged (names the line).
Status check_evaluation(const EvaluateRequest& request);

// The evaluation itself is LanguageModel::evaluate(request). Errors: those of check_evaluation; `usage` when an answer
// alone is longer than the model's positions; those of running the model and of writing the samples.

}  // namespace nibble
