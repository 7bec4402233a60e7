// The tile instructions, with the register's number as a template argument. In assembly, because the macros of the
// compiler's header do not say which memory they read, so that stores before them may be dropped.
#pragma once

#include <cstdint>

namespace nibble::amx {
namespace {

// The shape of every tile register: rows x bytes.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

inline void load_shapes(const TileShapes& shapes) { asm volatile("ldtilecfg %0" ::"m"(shapes)); }
inline void release_tiles() { asm volatile("tilerelease"); }

template <int T>
[[gnu::always_inline]] inline void clear_tile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(T));
}

template <int T>
[[gnu::always_inline]] inline void load_tile(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(T) : "memory");
}

template <int T>
[[gnu::always_inline]] inline void store_tile(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(T) : "memory");
}

// sums += bytes x weights: 16 rows of unsigned bytes times four signed bytes for every int32 of the sums.
template <int Sums, int Bytes, int Weights>
[[gnu::always_inline]] inline void dot_tiles() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sums), "i"(Bytes), "i"(Weights));
}

// sums += inputs x weights: 16 rows of 32 bfloat16 inputs with 16 pairs of rows of weights.
template <int Sums, int Inputs, int Weights>
[[gnu::always_inline]] inline void multiply_tiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sums), "i"(Inputs), "i"(Weights));
}

}  // namespace
}  // namespace nibble::amx
