// ARC, easy and challenge: {"query": "Question: TEXT", "choices": [...], "gold": i}; the harness asks
// "Question: TEXT\nAnswer:".
#include "eval/tasks/text_lines.h"

namespace nibble {

Result<std::vector<Item>> read_arc(std::string_view text, const std::string& where) {
  return read_json_lines(text, where, [](JsonReader& line) -> Result<Item> {
    NIBBLE_TRY(Item item, read_question(line));
    NIBBLE_TRY(const std::string question, without_prefix(line, "query", std::move(item.contexts[0]), "Question: "));
    item.contexts[0] = "Question: " + question + "\nAnswer:";
    return item;
  });
}

}  // namespace nibble
