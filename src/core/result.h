// Errors as values. Functions that touch files, configs, the network or the public API return Result<T>; kernels
// return nothing because shapes were proved at load. A message names the file, the key or offset, what was found
// and what is supported.
#pragma once

#include <fmt/format.h>
#include <nibble/result.h>

#include <utility>

namespace nibble {

template <class... Args>
[[nodiscard]] tl::unexpected<Error> fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  return tl::unexpected(Error{code, fmt::format(format, std::forward<Args>(args)...)});
}

// Ends the program with a message: for broken invariants that no input may reach.
[[noreturn]] void broken_invariant(const char* condition, const char* file, int line);

}  // namespace nibble

#define NIBBLE_CHECK(condition) \
  (static_cast<bool>(condition) ? void() : ::nibble::broken_invariant(#condition, __FILE__, __LINE__))

#define NIBBLE_CONCAT_(a, b) a##b
#define NIBBLE_CONCAT(a, b) NIBBLE_CONCAT_(a, b)
#define NIBBLE_TRY_(temporary, declaration, expression)                                   \
  auto temporary = (expression);                                                          \
  if (!temporary) return ::tl::unexpected<::nibble::Error>(std::move(temporary).error()); \
  declaration = *std::move(temporary)

// NIBBLE_TRY(auto file, open(path));   declares `file`, or returns the error.
#define NIBBLE_TRY(declaration, expression) NIBBLE_TRY_(NIBBLE_CONCAT(try_, __LINE__), declaration, expression)
// NIBBLE_DO(write(path));   for a Status.
#define NIBBLE_DO(expression)                                                     \
  do {                                                                            \
    if (auto nibble_status = (expression); !nibble_status)                        \
      return ::tl::unexpected<::nibble::Error>(std::move(nibble_status).error()); \
  } while (false)
