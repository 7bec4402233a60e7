// OpenBookQA: {"query": question or beginning of a sentence, "choices": [...], "gold": i}; asked as it is.
#include "eval/tasks/text_lines.h"

namespace nibble {

Result<std::vector<Item>> read_openbookqa(std::string_view text, const std::string& where) {
  return read_json_lines(text, where, read_question);
}

}  // namespace nibble
