// Tasks from file to result.
#pragma once

#include <nibble/progress.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "eval/tasks/metrics.h"
#include "eval/tasks/task.h"
#include "runtime/model.h"
#include "tokenizer/tokenizer.h"

namespace nibble {

struct EvaluationOptions {
  std::vector<std::string> tasks;       // names; empty: all of them. One that is named twice is run once
  std::filesystem::path data;           // the folder of the task files
  int64_t limit = 0;                    // items of each task, from the beginning of its file; 0: all
  int64_t few_shot = 0;                 // solved examples before each question
  std::filesystem::path few_shot_data;  // folder of the files they are drawn from; empty: `data`, less the item itself
  uint64_t seed = 1234;                 // of the draw
  bool special_tokens = true;           // before a text, as the tokenizer's own rule says
  int64_t batch_tokens = 2048;          // of one forward pass
  bool share = true;                    // of ScoreOptions
  // A file that gets one JSON object per item; empty: none. Of files that exist, only one of samples is replaced.
  std::filesystem::path samples;
};

// A task with what is asked.
struct Exam {
  const Task* task = nullptr;
  std::filesystem::path file;
  std::vector<Item> items;
  std::vector<std::string> examples;  // by item: what stands before its context
};

// Reads and checks everything that does not need the model. `usage` for options out of range, an unknown task, more
// examples than there are items, or samples that would replace another file; `io` for a file that is not there (names
// it, and the folder), also the folder of the samples; `corrupt` for a damaged one.
Result<std::vector<Exam>> read_exams(const EvaluationOptions& options);

struct ExamResult {
  const Task* task = nullptr;
  int64_t items = 0;
  std::vector<Metric> metrics;
  int64_t truncated = 0;     // answers whose context had to be cut
  int64_t tokens = 0;        // run through the model
  int64_t tokens_alone = 0;  // that would have been, had every answer been run with its own context
  double seconds = 0;
};

// In the order of `exams`. The file of samples appears when everything is done. Errors: those of encode_continuation
// and of the model, with the item's place in front; those of writing.
Result<std::vector<ExamResult>> run_exams(const std::vector<Exam>& exams, const EvaluationOptions& options,
                                          const Model& model, const Tokenizer& tokenizer, ThreadPool& pool,
                                          const ProgressCallback& progress = {});

}  // namespace nibble
