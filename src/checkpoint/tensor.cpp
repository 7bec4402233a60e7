#include "checkpoint/tensor.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "core/half.h"

namespace nibble {
namespace {

struct DTypeRow {
  std::string_view name;
  int bits;
};

// Indexed by DType.
constexpr std::array<DTypeRow, 22> kDTypes{{
    {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
    {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
    {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
    {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64},
}};
static_assert(kDTypes.size() == static_cast<size_t>(DType::u64) + 1);

// Bytes in files have no alignment: every element is copied out, which compiles to a plain load.
template <class T>
T element(const std::byte* bytes, size_t index) {
  T value;
  std::memcpy(&value, bytes + index * sizeof(T), sizeof(T));
  return value;
}

template <class T, class Convert>
void convert(const std::byte* bytes, std::span<float> out, Convert to_float) {
  for (size_t i = 0; i < out.size(); ++i) out[i] = to_float(element<T>(bytes, i));
}

// Index of the first element whose exponent bits are all ones (NaN or infinity), or `count`. The inner loop has no
// exit, so that it runs in vectors; the exact index is looked for only in the block that has one.
template <class Bits>
size_t first_not_finite(const std::byte* bytes, size_t count, Bits exponent) {
  constexpr size_t kBlock = 4096;
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t end = std::min(count, begin + kBlock);
    Bits found = 0;
    for (size_t i = begin; i < end; ++i)
      found |= static_cast<Bits>((element<Bits>(bytes, i) & exponent) == exponent ? 1 : 0);
    if (found == 0) continue;
    for (size_t i = begin; i < end; ++i)
      if ((element<Bits>(bytes, i) & exponent) == exponent) return i;
  }
  return count;
}

size_t first_not_finite(const TensorView& tensor) {
  const std::byte* bytes = tensor.bytes.data();
  const size_t count = static_cast<size_t>(tensor.elements());
  switch (tensor.dtype) {
    case DType::f32: return first_not_finite<uint32_t>(bytes, count, 0x7F800000u);
    case DType::f16: return first_not_finite<uint16_t>(bytes, count, 0x7C00u);
    case DType::bf16: return first_not_finite<uint16_t>(bytes, count, 0x7F80u);
    case DType::f64: return first_not_finite<uint64_t>(bytes, count, 0x7FF0000000000000u);
    default: return count;
  }
}

double value_at(const TensorView& tensor, size_t index) {
  const std::byte* bytes = tensor.bytes.data();
  switch (tensor.dtype) {
    case DType::f16: return f16_to_f32(element<uint16_t>(bytes, index));
    case DType::bf16: return bf16_to_f32(element<uint16_t>(bytes, index));
    case DType::f64: return element<double>(bytes, index);
    default: return element<float>(bytes, index);
  }
}

// "[3, 17]" for element 3 x columns + 17.
std::string position_of(const TensorView& tensor, size_t index) {
  std::string text;
  for (size_t axis = tensor.shape.size(); axis-- > 0;) {
    const size_t extent = static_cast<size_t>(tensor.shape[axis]);
    text = fmt::format("{}{}{}", index % extent, text.empty() ? "" : ", ", text);
    index /= extent;
  }
  return "[" + text + "]";
}

}  // namespace

std::string_view name_of(DType type) { return kDTypes[static_cast<size_t>(type)].name; }

std::optional<DType> dtype_named(std::string_view name) {
  for (size_t i = 0; i < kDTypes.size(); ++i)
    if (kDTypes[i].name == name) return static_cast<DType>(i);
  return std::nullopt;
}

int bits_of(DType type) { return kDTypes[static_cast<size_t>(type)].bits; }

Status read_floats(const TensorView& tensor, int64_t first, std::span<float> out) {
  const int64_t elements = tensor.elements(), count = static_cast<int64_t>(out.size());
  NIBBLE_CHECK(first >= 0 && first <= elements && count <= elements - first);
  if (count == 0) return {};
  const std::byte* bytes = tensor.bytes.data() + first * (bits_of(tensor.dtype) / 8);
  switch (tensor.dtype) {
    case DType::f32: std::memcpy(out.data(), bytes, out.size_bytes()); return {};
    case DType::f16: convert<uint16_t>(bytes, out, f16_to_f32); return {};
    case DType::bf16: convert<uint16_t>(bytes, out, bf16_to_f32); return {};
    default:
      return fail(ErrorCode::unsupported, "tensor {} has type {}; weights are read from F32, F16 and BF16", tensor.name,
                  name_of(tensor.dtype));
  }
}

Status check_finite(const TensorView& tensor) {
  const size_t index = first_not_finite(tensor);
  if (index == static_cast<size_t>(tensor.elements())) return {};
  return fail(ErrorCode::corrupt, "tensor {} holds {} at {}; every weight must be a finite number", tensor.name,
              value_at(tensor, index), position_of(tensor, index));
}

}  // namespace nibble
