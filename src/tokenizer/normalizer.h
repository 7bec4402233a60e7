// Normalizers: rewrite text before it is split. One class per type of tokenizer.json, in normalizer.cpp.
#pragma once

#include <memory>
#include <string>

#include "core/json.h"
#include "core/result.h"
#include "tokenizer/work.h"

namespace nibble {

struct NormalText {
  std::string text;
  bool at_start;  // its first character is (made from) the first character of the whole input
};

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual void apply(NormalText& text, Work& work) const = 0;
  // The text gets at most this many times longer. The loader refuses chains that multiply without measure.
  virtual double growth() const { return 1; }
};

// Null gives nullptr. `where` names file and key in errors; types that are not implemented are refused by name.
Result<std::unique_ptr<Normalizer>> read_normalizer(const Json& value, const std::string& where);
std::unique_ptr<Normalizer> make_nfc();

}  // namespace nibble
