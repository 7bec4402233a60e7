// Which linears an override means: a regular expression over their canonical names.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "core/result.h"

namespace nibble {

// ECMAScript syntax without what makes the time to match more than linear in the length of the name, or the compiled
// pattern much longer than its text: references to groups, lookahead and counted repetition ({n}).
class NamePattern {
 public:
  // `usage` error for a pattern that is malformed, longer than 256 characters, or uses what is left out. `where` starts
  // the message.
  static Result<NamePattern> compile(const std::string& pattern, std::string_view where);
  bool matches(const std::string& name) const;  // the whole name

 private:
  struct Compiled;
  explicit NamePattern(std::shared_ptr<const Compiled> compiled) : compiled_(std::move(compiled)) {}
  std::shared_ptr<const Compiled> compiled_;  // shared by the copies of a recipe
};

}  // namespace nibble
