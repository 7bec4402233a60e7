// BoolQ: {"query": "Passage: TEXT\nQuestion: TEXT?", "choices": ["no", "yes"], "gold": i}; the harness asks
// "TEXT\nQuestion: TEXT?\nAnswer:", without the word Passage.
#include "eval/tasks/text_lines.h"

namespace nibble {

Result<std::vector<Item>> read_boolq(std::string_view text, const std::string& where) {
  return read_json_lines(text, where, [](JsonReader& line) -> Result<Item> {
    NIBBLE_TRY(Item item, read_question(line));
    NIBBLE_TRY(const std::string question, without_prefix(line, "query", std::move(item.contexts[0]), "Passage: "));
    item.contexts[0] = question + "\nAnswer:";
    return item;
  });
}

}  // namespace nibble
