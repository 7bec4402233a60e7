// SHA-256 (OpenSSL), as lower-case hexadecimal text, and a fast checksum (xxHash).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/result.h"

namespace nibble {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256& add(std::span<const std::byte> bytes);
  Sha256& add(std::string_view text);
  std::string finish();  // once

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string sha256(std::string_view text);
Result<std::string> sha256_file(const std::filesystem::path& path);

// XXH3 with 64 bits and seed 0 (Yann Collet's xxHash): finds damage at the speed of memory, stops no forger.
uint64_t xxh3(std::span<const std::byte> bytes);

}  // namespace nibble
