#include "eval/tasks/text_lines.h"

#include "core/text_lines.h"

namespace nibble {

Result<std::vector<Item>> read_json_lines(std::string_view text, const std::string& where,
                                          const std::function<Result<Item>(JsonReader&)>& read) {
  std::vector<Item> items;
  int64_t number = 0;
  for (std::string_view line : lines_of(text)) {
    ++number;
    if (is_blank(line)) continue;
    const std::string here = fmt::format("{}, line {}", where, number);
    NIBBLE_TRY(const Json value, parse_json(line, here));
    NIBBLE_TRY(JsonReader reader, JsonReader::open(value, here));
    NIBBLE_TRY(Item item, read(reader));
    item.line = number;
    NIBBLE_DO(check_item(item, here));
    items.push_back(std::move(item));
  }
  if (items.empty()) return fail(ErrorCode::corrupt, "{}: the file has no items", where);
  return items;
}

Result<Item> read_question(JsonReader& line) {
  Item item;
  NIBBLE_TRY(std::string query, line.string("query"));
  item.contexts.push_back(std::move(query));
  NIBBLE_TRY(item.choices, line.strings("choices"));
  const auto count = static_cast<int64_t>(item.choices.size());
  if (count < 2) return fail(ErrorCode::corrupt, "{}: choices has {} entries; expected 2 or more", line.where(), count);
  NIBBLE_TRY(item.gold, line.integer("gold", 0, count - 1));
  return item;
}

Result<std::string> without_prefix(JsonReader& line, std::string_view key, std::string text, std::string_view prefix) {
  if (!text.starts_with(prefix))
    return fail(ErrorCode::corrupt, "{}: {} does not start with \"{}\", as this task's questions do", line.where(), key,
                prefix);
  return text.substr(prefix.size());
}

Status check_item(const Item& item, std::string_view where) {
  for (const std::string& context : item.contexts)
    if (is_blank(context)) return fail(ErrorCode::corrupt, "{}: the context is blank", where);
  for (const std::string& choice : item.choices)
    if (choice.empty()) return fail(ErrorCode::corrupt, "{}: an answer is empty", where);
  if (item.gold < 0 || item.gold >= static_cast<int64_t>(item.answers()))
    return fail(ErrorCode::corrupt, "{}: the right answer is number {} of {}", where, item.gold, item.answers());
  return {};
}

}  // namespace nibble
