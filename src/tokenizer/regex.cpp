#include "tokenizer/regex.h"

#include <oniguruma.h>

#include <algorithm>
#include <limits>
#include <mutex>

#include "tokenizer/known_characters.h"
#include "tokenizer/unicode.h"

namespace nibble {
namespace {

constexpr size_t kMaxPattern = 64 << 10;
// A search starts with few retries and is repeated with twice as many while it fails for lack of them: the library
// does not tell how many it used, this way at most twice as many are paid as needed.
constexpr int64_t kFirstRetries = 1024;
constexpr size_t kStackEntries = 1'000'000, kStackEntriesPerByte = 16;

const OnigUChar* bytes(const char* text) { return reinterpret_cast<const OnigUChar*>(text); }

void initialize_library() {
  static std::once_flag once;
  std::call_once(once, [] {
    OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
    onig_initialize(encodings, 1);
    onig_set_parse_depth_limit(250);
  });
}

std::string message_of(int code, OnigErrorInfo* info) {
  OnigUChar text[ONIG_MAX_ERROR_MESSAGE_LEN];
  int length = info ? onig_error_code_to_str(text, code, info) : onig_error_code_to_str(text, code);
  return std::string(reinterpret_cast<const char*>(text), static_cast<size_t>(std::max(length, 0)));
}

struct FreeParam {
  void operator()(OnigMatchParam* p) const { onig_free_match_param(p); }
};
struct FreeRegion {
  void operator()(OnigRegion* r) const { onig_region_free(r, 1); }
};

using MatchParam = std::unique_ptr<OnigMatchParam, FreeParam>;
using Region = std::unique_ptr<OnigRegion, FreeRegion>;

MatchParam stack_limit_for(size_t length) {
  MatchParam param(onig_new_match_param());
  NIBBLE_CHECK(param != nullptr);
  onig_initialize_match_param(param.get());
  size_t stack = std::min<size_t>(kStackEntries + kStackEntriesPerByte * length, std::numeric_limits<int>::max());
  onig_set_match_stack_limit_size_of_match_param(param.get(), static_cast<unsigned int>(stack));
  return param;
}

bool lacks_retries(int code) {
  return code == ONIGERR_RETRY_LIMIT_IN_MATCH_OVER || code == ONIGERR_RETRY_LIMIT_IN_SEARCH_OVER;
}

// The first match at or behind `from`: its position, ONIG_MISMATCH, or an error code.
int search(OnigRegex regex, std::string_view text, size_t from, OnigRegion* region, OnigMatchParam* param, Work& work) {
  const OnigUChar *begin = bytes(text.data()), *end = begin + text.size();
  for (int64_t retries = kFirstRetries;; retries *= 2) {
    retries = std::min(retries, work.retries_left);
    if (retries <= 0) return ONIGERR_RETRY_LIMIT_IN_SEARCH_OVER;
    onig_set_retry_limit_in_match_of_match_param(param, static_cast<unsigned long>(retries));
    onig_set_retry_limit_in_search_of_match_param(param, static_cast<unsigned long>(retries));
    int at = onig_search_with_param(regex, begin, end, begin + from, end, region, ONIG_OPTION_NONE, param);
    if (!lacks_retries(at)) return at;
    work.retries_left -= retries;
  }
}

}  // namespace

struct Regex::Program {
  OnigRegex regex = nullptr;
  Program() = default;
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program() {
    if (regex != nullptr) onig_free(regex);
  }
};

Result<Regex> Regex::compile(std::string_view pattern, const std::string& where) {
  initialize_library();
  if (pattern.size() > kMaxPattern)
    return fail(ErrorCode::unsupported, "{}: a pattern of {} bytes, supported are {}", where, pattern.size(),
                kMaxPattern);
  auto program = std::make_shared<Program>();
  OnigErrorInfo info;
  const OnigUChar* begin = bytes(pattern.data());
  int code = onig_new(&program->regex, begin, begin + pattern.size(), ONIG_OPTION_NONE, ONIG_ENCODING_UTF8,
                      ONIG_SYNTAX_DEFAULT, &info);
  if (code != ONIG_NORMAL) {
    program->regex = nullptr;
    return fail(ErrorCode::corrupt, "{}: the pattern does not compile: {}", where, message_of(code, &info));
  }
  return Regex(std::move(program));
}

std::vector<Span> Regex::find(std::string_view original, Work& work) const {
  if (original.empty()) return {{0, 0, false}};
  std::string store;
  std::string_view text = with_known_characters(original, store);
  std::vector<Span> spans;
  MatchParam param = stack_limit_for(text.size());
  Region region(onig_region_new());
  NIBBLE_CHECK(region != nullptr);
  size_t from = 0, covered = 0;
  bool matched_before = false;
  while (from <= text.size()) {
    int at = search(program_->regex, text, from, region.get(), param.get(), work);
    if (at < 0) {
      if (at != ONIG_MISMATCH) work.retries_left = 0;
      break;
    }
    size_t first = static_cast<size_t>(region->beg[0]), last = static_cast<size_t>(region->end[0]);
    if (first == last && matched_before && last == covered) {
      // An empty match right behind a match does not count.
      if (from >= text.size()) break;
      next_code_point(text, from);
      continue;
    }
    if (first > covered) spans.push_back({covered, first, false});
    spans.push_back({std::max(first, covered), last, true});
    from = covered = last;
    matched_before = true;
  }
  if (covered < text.size()) spans.push_back({covered, text.size(), false});
  return spans;
}

Result<Pattern> Pattern::read(const Json& value, const std::string& where) {
  NIBBLE_TRY(JsonReader reader, JsonReader::open(value, where));
  bool is_regex = reader.has("Regex");
  NIBBLE_TRY(std::string text, reader.string(is_regex ? "Regex" : "String"));
  NIBBLE_DO(reader.refuse_unknown());
  // The empty string is found between all characters; the engine knows how.
  if (!is_regex && !text.empty()) return Pattern(std::move(text), std::nullopt);
  NIBBLE_TRY(Regex regex, Regex::compile(text, where));
  return Pattern(std::move(text), std::move(regex));
}

std::vector<Span> Pattern::find(std::string_view text, Work& work) const {
  if (regex_) return regex_->find(text, work);
  if (text.empty()) return {{0, 0, false}};
  std::vector<Span> spans;
  size_t covered = 0;
  for (size_t at; (at = text.find(text_, covered)) != std::string_view::npos; covered = at + text_.size()) {
    if (at > covered) spans.push_back({covered, at, false});
    spans.push_back({at, at + text_.size(), true});
  }
  if (covered < text.size()) spans.push_back({covered, text.size(), false});
  return spans;
}

double Pattern::growth(std::string_view content) const {
  auto longer = static_cast<double>(content.size());
  // A regular expression may match nothing before every byte.
  return regex_ ? 2 + 2 * longer : std::max(1.0, longer / static_cast<double>(text_.size()));
}

std::string Pattern::replace(std::string_view text, std::string_view content, Work& work) const {
  std::string out;
  out.reserve(text.size());
  for (const Span& span : find(text, work))
    out += span.match ? content : text.substr(span.begin, span.end - span.begin);
  return out;
}

}  // namespace nibble
