// A tensor as it lies in a file: name, type, shape and a view of its bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"

namespace nibble {

// In the order of the safetensors reference, ascending in the alignment of an element: its writer sorts by it.
enum class DType : uint8_t {
  boolean,
  f4,
  f6_e2m3,
  f6_e3m2,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  c64,
  f64,
  i64,
  u64,
};

// The safetensors spelling, e.g. "BF16", and its size in bits. nullopt for an unknown name.
std::string_view name_of(DType type);
std::optional<DType> dtype_named(std::string_view name);
int bits_of(DType type);

// Does not own its bytes: they live as long as the file or buffer they are in, and need not be aligned.
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

// The tensor's values as float32: out.size() elements from element `first`, which must be inside the tensor.
// F32, F16 and BF16 are read, any other type is an `unsupported` error that names the tensor and its type.
Status read_floats(const TensorView& tensor, int64_t first, std::span<float> out);

// A `corrupt` error when a value is NaN or infinite, naming the tensor, the index and the value. Looks at F32, F16,
// BF16 and F64; the other types are never read as weights and pass. Costs one pass at memory speed.
Status check_finite(const TensorView& tensor);

}  // namespace nibble
