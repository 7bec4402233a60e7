// Regular expressions with Oniguruma, the engine of the reference tokenizers, so that patterns mean the same.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "core/result.h"
#include "tokenizer/work.h"

namespace nibble {

// A stretch [begin, end) of a text that matches, or one between matches. Consecutive spans cover the text.
struct Span {
  size_t begin, end;
  bool match;
};

// A compiled pattern. Immutable; one instance serves any number of threads.
class Regex {
 public:
  // `where` starts the message when the pattern does not compile.
  static Result<Regex> compile(std::string_view pattern, const std::string& where);

  // All matches and what is between them. An empty text is one empty span without a match. Backtracking is paid
  // from work.retries_left; when that is used up, the rest counts as not matching, here and in later searches, so
  // that a hostile pattern costs no more than a fixed multiple of the text.
  std::vector<Span> find(std::string_view text, Work& work) const;

 private:
  struct Program;
  explicit Regex(std::shared_ptr<const Program> program) : program_(std::move(program)) {}
  std::shared_ptr<const Program> program_;
};

// What tokenizer files call a pattern: {"String": ...} is looked for literally, {"Regex": ...} is a regular expression.
class Pattern {
 public:
  static Result<Pattern> read(const Json& value, const std::string& where);
  static Pattern literal(std::string text) { return Pattern(std::move(text), std::nullopt); }
  static Pattern regex(Regex regex) { return Pattern({}, std::move(regex)); }
  // As Regex::find.
  std::vector<Span> find(std::string_view text, Work& work) const;
  // How many times longer replacing every match by `content` can make a text.
  double growth(std::string_view content) const;
  // Every match replaced.
  std::string replace(std::string_view text, std::string_view content, Work& work) const;

 private:
  Pattern(std::string text, std::optional<Regex> regex) : text_(std::move(text)), regex_(std::move(regex)) {}
  std::string text_;  // not empty unless regex_ is set
  std::optional<Regex> regex_;
};

}  // namespace nibble
