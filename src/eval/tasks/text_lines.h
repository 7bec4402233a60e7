// What the readers of task files share: questions of the common JSON form, and checks of what came out.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "eval/tasks/task.h"

namespace nibble {

// One item per line that is not blank. `read` gets the line's object, whose where() is "FILE, line N"; keys that it
// does not read are ignored. `corrupt` for a file without items, a line that is no JSON object, and an item that cannot
// be asked (check_item).
Result<std::vector<Item>> read_json_lines(std::string_view text, const std::string& where,
                                          const std::function<Result<Item>(JsonReader&)>& read);

// {"query": text, "choices": [text, ...], "gold": index}: one context, the query, and at least two choices.
Result<Item> read_question(JsonReader& line);

// "corrupt" when the text does not start with `prefix`; else the text without it.
Result<std::string> without_prefix(JsonReader& line, std::string_view key, std::string text, std::string_view prefix);

// Contexts that are not blank, choices that are not empty, and a right one among them.
Status check_item(const Item& item, std::string_view where);

}  // namespace nibble
