#include "eval/tasks/task.h"

namespace nibble {
namespace {

constexpr Task kTasks[] = {
    {"hellaswag", "hellaswag_val.txt", "which sentence goes on with a description", Scoring::choices, read_hellaswag,
     true},
    {"piqa", "piqa.jsonl", "which of two ways reaches a goal", Scoring::choices, read_piqa, true},
    {"arc_easy", "arc_easy.jsonl", "school questions about science", Scoring::choices, read_arc},
    {"arc_challenge", "arc_challenge.jsonl", "the harder ones", Scoring::choices, read_arc},
    {"winogrande", "winogrande.jsonl", "whom a pronoun means", Scoring::plain, read_winogrande, true},
    {"boolq", "boolq.jsonl", "yes or no, after a passage", Scoring::plain, read_boolq, true},
    {"openbookqa", "openbook_qa.jsonl", "school science with common sense", Scoring::choices, read_openbookqa},
    // The answer of this task has a space of its own, and the harness puts its separator before it all the same.
    {"lambada", "lambada_openai.jsonl", "the last word of a passage", Scoring::last_word, read_lambada, false, "  "},
};

}  // namespace

std::span<const Task> all_tasks() { return kTasks; }

Result<const Task*> task_named(std::string_view name) {
  std::string known;
  for (const Task& task : kTasks) {
    if (task.name == name) return &task;
    known += known.empty() ? "" : ", ";
    known += task.name;
  }
  return fail(ErrorCode::usage, "unknown task \"{}\"; known tasks: {}", name, known);
}

}  // namespace nibble
