// A tensor as it lies in a file: name, type, shape and a view of its bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

enum class DType : uint8_t {
  boolean, f4, f6_e2m3, f6_e3m2, u8, i8, f8_e5m2, f8_e4m3, f8_e8m0, f8_e4m3fnuz, f8_e5m2fnuz,
  i16, u16, f16, bf16, i32, u32, f32, c64, f64, i64, u64,
};

// The safetensors spelling, e.g. "BF16", and its size in bits. nullopt for an unknown name.
std::string_view name_of(DType type);
std::optional<DType> dtype_named(std::string_view name);
int bits_of(DType type);

// Does not own its bytes: they live as long as the file or buffer they are in.
struct TensorView {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;  // row-major, outermost first
  std::span<const std::byte> bytes;

  int64_t elements() const {
    int64_t n = 1;
    for (int64_t extent : shape) n *= extent;
    return n;
  }
};

}  // namespace nibble
