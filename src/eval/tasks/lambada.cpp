// LAMBADA (the OpenAI form): {"context": a passage without its last word, "continuation": that word}.
#include "eval/tasks/text_lines.h"

namespace nibble {

Result<std::vector<Item>> read_lambada(std::string_view text, const std::string& where) {
  return read_json_lines(text, where, [](JsonReader& line) -> Result<Item> {
    Item item;
    NIBBLE_TRY(std::string passage, line.string("context"));
    NIBBLE_TRY(std::string word, line.string("continuation"));
    item.contexts.push_back(std::move(passage));
    item.choices.push_back(std::move(word));
    return item;
  });
}

}  // namespace nibble
