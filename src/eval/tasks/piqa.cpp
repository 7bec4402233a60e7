// PIQA: {"query": "Question: GOAL\n", "choices": [...], "gold": i}; the harness asks "Question: GOAL\nAnswer:".
#include "eval/tasks/text_lines.h"

namespace nibble {

Result<std::vector<Item>> read_piqa(std::string_view text, const std::string& where) {
  return read_json_lines(text, where, [](JsonReader& line) -> Result<Item> {
    NIBBLE_TRY(Item item, read_question(line));
    NIBBLE_TRY(std::string goal, without_prefix(line, "query", std::move(item.contexts[0]), "Question: "));
    if (goal.ends_with('\n')) goal.pop_back();
    item.contexts[0] = "Question: " + goal + "\nAnswer:";
    return item;
  });
}

}  // namespace nibble
