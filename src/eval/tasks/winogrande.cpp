// WinoGrande: {"context_options": [text up to and with one filler, with the other], "continuation": the rest, "gold":
// i}. Partial scoring: the likelihood of the same rest after each filler.
#include "eval/tasks/text_lines.h"

namespace nibble {

Result<std::vector<Item>> read_winogrande(std::string_view text, const std::string& where) {
  return read_json_lines(text, where, [](JsonReader& line) -> Result<Item> {
    Item item;
    NIBBLE_TRY(item.contexts, line.strings("context_options"));
    const auto count = static_cast<int64_t>(item.contexts.size());
    if (count < 2)
      return fail(ErrorCode::corrupt, "{}: context_options has {} entries; expected 2", line.where(), count);
    NIBBLE_TRY(std::string rest, line.string("continuation"));
    item.choices.push_back(std::move(rest));
    NIBBLE_TRY(item.gold, line.integer("gold", 0, count - 1));
    return item;
  });
}

}  // namespace nibble
