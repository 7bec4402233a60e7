// Zero-shot tasks: a local file becomes items, each a question with answers of which a model should prefer the right
// one.
//
// The prompts and the scoring are those of lm-evaluation-harness (docs/evidence.md says per task how a prompt is
// rebuilt from the file, and what the file has lost). A task is one file here and one row of the list in tasks.cpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"

namespace nibble {

// What is scored is the likelihood of " " + choice after its context. Either there is one context and several choices,
// or several contexts and one choice (winogrande), or one of each (lambada).
struct Item {
  std::vector<std::string> contexts;
  std::vector<std::string> choices;
  int64_t gold = 0;  // index of the right context or choice
  int64_t line = 0;  // of the file, from 1, where it begins

  size_t answers() const { return std::max(contexts.size(), choices.size()); }
  const std::string& context(size_t answer) const { return contexts[contexts.size() == 1 ? 0 : answer]; }
  const std::string& choice(size_t answer) const { return choices[choices.size() == 1 ? 0 : answer]; }
  // Whether the two ask the same, wherever they stand in the file.
  bool same_as(const Item& other) const {
    return contexts == other.contexts && choices == other.choices && gold == other.gold;
  }
};

enum class Scoring : uint8_t {
  choices,    // the most likely answer; also with the likelihood divided by the answer's length
  plain,      // the most likely answer only: where answers are alike in length, or are the same text
  last_word,  // whether the answer is what greedy decoding gives, and its perplexity
};

struct Task {
  std::string_view name;  // "hellaswag"
  std::string_view file;  // in the data folder: "hellaswag_val.txt"
  std::string_view about;
  Scoring scoring;
  // The items of a file's text, at least one; `where` names the file in errors, which are `corrupt` and name the line.
  Result<std::vector<Item>> (*read)(std::string_view text, const std::string& where);
  // The harness draws a few-shot example more than it needs where the data set has no test split with answers.
  bool draws_one_more = false;
  // Between the context and the answer of a few-shot example.
  std::string_view example_separator = " ";
};

std::span<const Task> all_tasks();
// `usage` for an unknown name; the message lists the known ones.
Result<const Task*> task_named(std::string_view name);

// One per task file, for the list.
Result<std::vector<Item>> read_hellaswag(std::string_view text, const std::string& where);
Result<std::vector<Item>> read_piqa(std::string_view text, const std::string& where);
Result<std::vector<Item>> read_arc(std::string_view text, const std::string& where);
Result<std::vector<Item>> read_winogrande(std::string_view text, const std::string& where);
Result<std::vector<Item>> read_boolq(std::string_view text, const std::string& where);
Result<std::vector<Item>> read_openbookqa(std::string_view text, const std::string& where);
Result<std::vector<Item>> read_lambada(std::string_view text, const std::string& where);

}  // namespace nibble
