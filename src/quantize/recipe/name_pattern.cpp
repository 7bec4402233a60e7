#include "quantize/recipe/name_pattern.h"

#include <regex>

namespace nibble {
namespace {

constexpr size_t kLongest = 256;
// libstdc++'s matcher that follows all alternatives at once; the usual one tries one after the other, and takes time
// exponential in the name's length for patterns such as (.*)*x. It refuses references to groups itself.
constexpr auto kSyntax = std::regex::ECMAScript | std::regex::nosubs | std::regex_constants::__polynomial;

Status check_supported(const std::string& pattern, std::string_view where) {
  if (pattern.size() > kLongest)
    return fail(ErrorCode::usage, "{}: a pattern of {} characters; at most {} are supported", where, pattern.size(),
                kLongest);
  for (const char* part : {"{", "(?=", "(?!"})
    if (pattern.find(part) != std::string::npos)
      return fail(ErrorCode::usage, "{}: \"{}\" contains {}; counted repetition and lookahead are not supported", where,
                  pattern, part);
  return {};
}

}  // namespace

struct NamePattern::Compiled {
  std::regex regex;
};

Result<NamePattern> NamePattern::compile(const std::string& pattern, std::string_view where) {
  NIBBLE_DO(check_supported(pattern, where));
  try {
    return NamePattern(std::make_shared<const Compiled>(Compiled{std::regex(pattern, kSyntax)}));
  } catch (const std::regex_error& error) {
    return fail(ErrorCode::usage, "{}: \"{}\" is not a regular expression that is supported: {}", where, pattern,
                error.what());
  }
}

bool NamePattern::matches(const std::string& name) const { return std::regex_match(name, compiled_->regex); }

}  // namespace nibble
