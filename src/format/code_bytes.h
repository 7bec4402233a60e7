// The codes of a weight: bytes that it owns, or a part of a mapped file that it borrows.
//
// Behaves like a vector of bytes. Reading a borrowed one reads the file's pages, of which no copy is made; changing it
// makes it owned first. When the last copy of a borrowed one goes, the pages stop counting as resident.
#pragma once

#include <algorithm>
#include <memory>
#include <span>

#include "core/buffer.h"

namespace nibble {

class CodeBytes {
 public:
  using value_type = std::byte;
  using iterator = std::byte*;
  using const_iterator = const std::byte*;

  CodeBytes() = default;
  CodeBytes(Bytes owned) : owned_(std::move(owned)) {}
  // `hold` keeps `part` alive (MappedFile::borrow).
  static CodeBytes borrowed(std::span<const std::byte> part, std::shared_ptr<const std::byte> hold) {
    CodeBytes out;
    out.part_ = part;
    out.hold_ = std::move(hold);
    return out;
  }

  const std::byte* data() const { return hold_ ? part_.data() : owned_.data(); }
  size_t size() const { return hold_ ? part_.size() : owned_.size(); }
  bool empty() const { return size() == 0; }
  const std::byte* begin() const { return data(); }
  const std::byte* end() const { return data() + size(); }
  std::byte operator[](size_t i) const { return data()[i]; }
  bool is_borrowed() const { return hold_ != nullptr; }

  std::byte* data() { return own().data(); }
  std::byte* begin() { return data(); }
  std::byte* end() { return data() + size(); }
  std::byte& operator[](size_t i) { return data()[i]; }
  void resize(size_t size) { own().resize(size); }
  void assign(size_t size, std::byte value) { *this = Bytes(size, value); }
  void append(std::span<const std::byte> bytes) { own().insert(owned_.end(), bytes.begin(), bytes.end()); }

  friend bool operator==(const CodeBytes& a, const CodeBytes& b) {
    return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin());
  }

 private:
  Bytes& own() {
    if (hold_) {
      owned_.assign(part_.begin(), part_.end());
      part_ = {};
      hold_.reset();
    }
    return owned_;
  }

  Bytes owned_;
  std::span<const std::byte> part_;
  std::shared_ptr<const std::byte> hold_;
};

}  // namespace nibble
