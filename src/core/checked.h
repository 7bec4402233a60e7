// Arithmetic on numbers that come from files: no result that wrapped is ever used.
#pragma once

#include <concepts>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>

namespace nibble {

template <std::integral T>
[[nodiscard]] std::optional<T> checked_add(T a, T b) {
  T out;
  if (__builtin_add_overflow(a, b, &out)) return std::nullopt;
  return out;
}

template <std::integral T>
[[nodiscard]] std::optional<T> checked_mul(T a, T b) {
  T out;
  if (__builtin_mul_overflow(a, b, &out)) return std::nullopt;
  return out;
}

// Product of a shape (1 for a scalar). A zero dimension does not hide an overflow in the others.
template <std::integral T>
[[nodiscard]] std::optional<T> checked_product(std::span<const T> shape) {
  T out = 1;
  bool empty = false;
  for (T extent : shape) {
    if (extent == 0) {
      empty = true;
      continue;
    }
    auto next = checked_mul(out, extent);
    if (!next) return std::nullopt;
    out = *next;
  }
  return empty ? T{0} : out;
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace nibble
