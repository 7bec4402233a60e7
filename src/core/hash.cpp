#include "core/hash.h"

#include <openssl/evp.h>
#include <xxhash.h>

#include "core/file.h"

namespace nibble {

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  NIBBLE_CHECK(EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) == 1);
}
Sha256::~Sha256() = default;

Sha256& Sha256::add(std::span<const std::byte> bytes) {
  NIBBLE_CHECK(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1);
  return *this;
}

Sha256& Sha256::add(std::string_view text) { return add(std::as_bytes(std::span(text))); }

std::string Sha256::finish() {
  unsigned char digest[32];
  NIBBLE_CHECK(EVP_DigestFinal_ex(state_->context, digest, nullptr) == 1);
  std::string text;
  for (unsigned char byte : digest) text += fmt::format("{:02x}", byte);
  return text;
}

std::string sha256(std::string_view text) { return Sha256().add(text).finish(); }

Result<std::string> sha256_file(const std::filesystem::path& path) {
  NIBBLE_TRY(MappedFile file, MappedFile::open(path));
  Sha256 hash;
  constexpr size_t kChunk = size_t{16} << 20;  // released behind the reader, so that a large file stays out of memory
  for (std::span<const std::byte> rest = file.bytes(); !rest.empty();) {
    auto chunk = rest.first(std::min(kChunk, rest.size()));
    hash.add(chunk);
    file.release(chunk);
    rest = rest.subspan(chunk.size());
  }
  return hash.finish();
}

uint64_t xxh3(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

}  // namespace nibble
