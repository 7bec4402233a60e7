// The edge where exceptions end. Nothing of ours throws, but allocation and the libraries beneath may.
#pragma once

#include <cerrno>
#include <exception>
#include <filesystem>
#include <new>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "core/result.h"

namespace nibble {

inline Error error_of(const std::system_error& thrown) {
  const int number = thrown.code().value();
  const bool full = number == ENOSPC || number == EDQUOT || number == ENOMEM || number == EAGAIN;
  return {full ? ErrorCode::resources : ErrorCode::io, thrown.what()};
}

// Runs `body`, which returns a Result, and turns whatever it throws into an Error.
template <class Body>
auto guarded(Body&& body) -> decltype(body()) {
  try {
    return std::forward<Body>(body)();
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::resources, "out of memory");
  } catch (const std::length_error&) {
    return fail(ErrorCode::resources, "out of memory: a size exceeds what this machine can address");
  } catch (const std::system_error& thrown) {
    return tl::unexpected(error_of(thrown));
  } catch (const std::exception& thrown) {
    return fail(ErrorCode::failure, "unexpected exception: {}", thrown.what());
  } catch (...) {
    return fail(ErrorCode::failure, "unexpected exception of an unknown type");
  }
}

}  // namespace nibble
