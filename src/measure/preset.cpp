#include "measure/preset.h"

#include <algorithm>
#include <limits>
#include <string>

#include "core/json.h"
#include "core/python_random.h"
#include "core/text_lines.h"

namespace nibble {
namespace {

constexpr int64_t kC4Windows = 256;
constexpr size_t kC4NewDocuments = 1100;

std::string_view stripped(std::string_view line) {
  const size_t begin = line.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return line.substr(begin, line.find_last_not_of(kBlanks) + 1 - begin);
}

std::string joined(const std::vector<std::string>& parts, std::string_view between) {
  return fmt::format("{}", fmt::join(parts, between));
}

std::vector<std::string> wikitext_rows(std::string_view file) {
  std::vector<std::string> rows;
  const auto lines = lines_of(file);
  for (std::string_view line : lines) rows.push_back(is_blank(line) ? "" : std::string(line) + "\n");
  if (!rows.empty() && !rows.back().empty() && file.back() != '\n') rows.back().pop_back();
  return rows;
}

std::vector<std::string> sentences(std::string_view file) {
  std::vector<std::string> out;
  for (std::string_view line : lines_of(file)) out.emplace_back(stripped(line));
  return out;
}

// The first `most` documents of JSON lines; blank lines hold none.
Result<std::vector<std::string>> documents(std::string_view file, size_t most) {
  std::vector<std::string> out;
  size_t number = 0;
  for (std::string_view line : lines_of(file)) {
    ++number;
    if (is_blank(line)) continue;
    if (out.size() == most) break;
    NIBBLE_TRY(const Json document, parse_json(line, fmt::format("line {} of the text", number)));
    const auto text = document.is_object() ? document.find("text") : document.end();
    if (text == document.end() || !text->is_string())
      return fail(ErrorCode::corrupt, "line {} of the text is not a JSON object with a string \"text\"", number);
    out.push_back(text->get<std::string>());
  }
  return out;
}

// Windows of documents that are drawn at random. Those that were too short are remembered: when all are, no draw ends.
class Drawing {
 public:
  Drawing(const std::vector<std::string>& texts, int64_t window, const Encode& encode)
      : texts_(texts), short_(texts.size()), window_(window), encode_(encode) {}

  Result<std::vector<int32_t>> draw() {
    std::vector<int32_t> out;
    for (int64_t i = 0; i < kC4Windows; ++i) {
      NIBBLE_TRY(const std::vector<int32_t> ids, long_document());
      const auto begin = ids.begin() + static_cast<int64_t>(random_.below(ids.size() - static_cast<size_t>(window_)));
      out.insert(out.end(), begin, begin + window_);
    }
    return out;
  }

 private:
  Result<std::vector<int32_t>> long_document() {
    while (known_short_ < texts_.size()) {
      const auto i = static_cast<size_t>(random_.below(texts_.size()));
      if (short_[i]) continue;
      std::vector<int32_t> ids = encode_(texts_[i]);
      if (static_cast<int64_t>(ids.size()) > window_) return ids;
      short_[i] = true;
      ++known_short_;
    }
    return fail(ErrorCode::usage,
                "none of the {} documents has more than {} tokens, which preset c4 draws windows from", texts_.size(),
                window_);
  }

  const std::vector<std::string>& texts_;
  std::vector<bool> short_;
  size_t known_short_ = 0;
  int64_t window_;
  const Encode& encode_;
  PythonRandom random_{0};
};

using Reader = Result<std::vector<int32_t>> (*)(std::string_view file, int64_t window, const Encode& encode);
struct Preset {
  std::string_view name;
  Reader read;
};

constexpr Preset kPresets[] = {
    {"wikitext2",
     [](std::string_view file, int64_t, const Encode& encode) -> Result<std::vector<int32_t>> {
       return encode(joined(wikitext_rows(file), "\n\n"));
     }},
    {"ptb",
     [](std::string_view file, int64_t, const Encode& encode) -> Result<std::vector<int32_t>> {
       return encode(joined(sentences(file), "\n\n"));
     }},
    {"ptb-new",
     [](std::string_view file, int64_t, const Encode& encode) -> Result<std::vector<int32_t>> {
       return encode(joined(sentences(file), " "));
     }},
    {"c4",
     [](std::string_view file, int64_t window, const Encode& encode) -> Result<std::vector<int32_t>> {
       NIBBLE_TRY(const auto texts, documents(file, std::numeric_limits<size_t>::max()));
       return Drawing(texts, window, encode).draw();
     }},
    {"c4-new",
     [](std::string_view file, int64_t window, const Encode& encode) -> Result<std::vector<int32_t>> {
       NIBBLE_TRY(const auto texts, documents(file, kC4NewDocuments));
       std::vector<int32_t> ids = encode(joined(texts, " "));
       ids.resize(std::min(ids.size(), static_cast<size_t>(kC4Windows * window)));
       return ids;
     }},
};

}  // namespace

Result<std::vector<int32_t>> preset_ids(std::string_view preset, std::string_view file, int64_t window,
                                        const Encode& encode) {
  for (const Preset& known : kPresets)
    if (known.name == preset) return known.read(file, window, encode);
  return fail(ErrorCode::usage, "there is no preset \"{}\"; expected wikitext2, ptb, ptb-new, c4 or c4-new", preset);
}

}  // namespace nibble
