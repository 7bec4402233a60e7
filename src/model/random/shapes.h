// Known models as shapes: their config.json as Hugging Face has it, without weights.
#pragma once

#include <span>
#include <string_view>

namespace nibble {

struct KnownShape {
  std::string_view name;         // "llama-2-7b"
  std::string_view config;       // a JSON object; its "torch_dtype" is the type that the weights were published in
  std::string_view description;  // one line: "4096 wide, 32 layers, ..."
};

// One row per model: adding one is adding a row.
std::span<const KnownShape> known_shapes();
// nullptr for an unknown name.
const KnownShape* find_known_shape(std::string_view name);

}  // namespace nibble
