// What turns the pieces of a text into ids.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/work.h"

namespace nibble {

class TokenModel {
 public:
  virtual ~TokenModel() = default;
  // Appends the ids of the pieces, in order. Counts work.merge_steps.
  virtual void encode(std::span<const Piece> pieces, std::vector<int32_t>& ids, Work& work) const = 0;
};

}  // namespace nibble
