// HellaSwag as six lines per item: "activity: context", index of the right ending, four endings.
//
// The original item has the context in two parts, a and b, where b is the beginning of the sentence to be finished. The
// harness joins them as a + " " + capitalized b; the file has a + " " + b. Part b exists in the items about videos,
// whose contexts stop in the middle of a sentence, and is empty in those from wikiHow, which end with a full stop. So a
// context that does not end a sentence gets a capital letter after its last sentence end.
#include "core/text_lines.h"
#include "eval/tasks/text_lines.h"

namespace nibble {
namespace {

constexpr size_t kLines = 6, kEndings = 4;

bool ends_sentence(char c) { return c == '.' || c == '!' || c == '?'; }

// Where the text after the last sentence end, an optional quote or bracket and a space begins; 0 when there is none.
size_t last_fragment(std::string_view text) {
  for (size_t at = text.size(); at-- > 1;) {
    if (text[at] != ' ') continue;
    size_t before = at - 1;
    if (before > 0 && (text[before] == '"' || text[before] == '\'' || text[before] == ')')) --before;
    if (ends_sentence(text[before])) return at + 1;
  }
  return 0;
}

char upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

// First letter upper case, the others lower case, as the harness does; other alphabets do not occur there.
std::string capitalized_end(std::string_view text) {
  std::string out(text);
  if (out.empty() || ends_sentence(out.back())) return out;
  const size_t fragment = last_fragment(out);
  if (fragment == 0 || fragment >= out.size()) return out;
  for (size_t i = fragment; i < out.size(); ++i) out[i] = i == fragment ? upper(out[i]) : lower(out[i]);
  return out;
}

}  // namespace

Result<std::vector<Item>> read_hellaswag(std::string_view text, const std::string& where) {
  const std::vector<std::string_view> lines = lines_of(text);
  if (lines.empty()) return fail(ErrorCode::corrupt, "{}: the file has no items", where);
  if (lines.size() % kLines != 0)
    return fail(ErrorCode::corrupt,
                "{}: {} lines, which is not a multiple of six: context, index of the right ending, four endings", where,
                lines.size());
  std::vector<Item> items;
  for (size_t first = 0; first < lines.size(); first += kLines) {
    const std::string_view gold = lines[first + 1];
    if (gold.size() != 1 || gold[0] < '0' || gold[0] > '3')
      return fail(ErrorCode::corrupt, "{}, line {}: \"{}\"; expected the index of the right ending, 0 to {}", where,
                  first + 2, gold.substr(0, 40), kEndings - 1);
    Item item;
    item.contexts = {capitalized_end(lines[first])};
    for (size_t i = 0; i < kEndings; ++i) item.choices.emplace_back(lines[first + 2 + i]);
    item.gold = gold[0] - '0';
    item.line = static_cast<int64_t>(first + 1);
    NIBBLE_DO(check_item(item, fmt::format("{}, item at line {}", where, item.line)));
    items.push_back(std::move(item));
  }
  return items;
}

}  // namespace nibble
