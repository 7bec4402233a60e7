#include "api/threads.h"

#include <charconv>
#include <cstdlib>
#include <string_view>

#include "core/threads.h"

namespace nibble {
namespace {

constexpr int kMostThreads = 1024;

Result<int> checked_count(int count, std::string_view where) {
  if (count >= 1 && count <= kMostThreads) return count;
  return fail(ErrorCode::usage, "{}: {} threads; expected 1 to {}", where, count, kMostThreads);
}

}  // namespace

Result<int> thread_count(int asked) {
  if (asked != 0) return checked_count(asked, "threads");
  const char* variable = std::getenv("NIBBLE_THREADS");
  if (variable == nullptr || *variable == 0) return usable_processors();
  const std::string_view text = variable;
  int count = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc() || end != text.data() + text.size())
    return fail(ErrorCode::usage, "NIBBLE_THREADS is \"{}\"; expected a number", text);
  return checked_count(count, "NIBBLE_THREADS");
}

}  // namespace nibble
