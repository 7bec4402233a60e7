// For *_test.cpp files only: safetensors files made by hand, byte by byte, without the writer.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "checkpoint/tensor.h"
#include "core/testing.h"

namespace nibble::testing {

inline std::string little_endian_64(uint64_t value) {
  std::string text;
  for (int i = 0; i < 8; ++i) text += static_cast<char>(value >> (8 * i) & 0xFF);
  return text;
}

// Size, header and `data` as they are.
inline std::string safetensors(std::string_view header, std::string_view data = "") {
  return little_endian_64(header.size()) + std::string(header) + std::string(data);
}

// One header entry.
inline std::string entry(std::string_view name, std::string_view dtype, std::string_view shape,
                         std::string_view offsets) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, dtype, shape, offsets);
}

inline std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

inline std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace nibble::testing
