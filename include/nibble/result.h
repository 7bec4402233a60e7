// Errors as values: the vocabulary of the whole project, public and internal.
#pragma once

#include <string>
#include <tl/expected.hpp>

namespace nibble {

// The values are the program's exit codes: do not change them.
enum class ErrorCode {
  failure = 1,       // failure at run time
  usage = 2,         // command line, recipe, or impossible budget
  corrupt = 3,       // corrupt or mismatching files
  unsupported = 4,   // model, format or machine that is not supported
  resources = 5,     // out of memory or disk
  verification = 6,  // a quality check failed
  io = 7,            // any other input or output error
};

// A message names the file, the key or offset, what was found and what is supported.
struct Error {
  ErrorCode code = ErrorCode::failure;
  std::string message;
};

template <class T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

}  // namespace nibble
