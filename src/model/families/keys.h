// Keys of config.json that several families share, and what they may hold.
#pragma once

#include <initializer_list>
#include <optional>
#include <string_view>

#include "core/json.h"
#include "core/result.h"
#include "model/families.h"

namespace nibble {

// A positive dimension under the first of `keys` that is there (newer spelling first), at most `most`. Required when
// there is no fallback.
Result<int64_t> read_dimension(JsonReader& config, std::initializer_list<std::string_view> keys, int64_t most,
                               std::optional<int64_t> fallback = std::nullopt);

// An activation by its Hugging Face name; `unsupported` with the list otherwise.
Result<Activation> read_activation(JsonReader& config, std::string_view key, std::string_view fallback);

// Rotary positions, written the old way ("rope_theta", "rope_scaling") or the new ("rope_parameters"). Scalings
// other than none, linear and llama3 are `unsupported`.
Result<Rope> read_rope(JsonReader& config, int64_t max_positions);

// The head size: `head_dim`, or hidden / heads, which must then divide.
Result<int64_t> read_head_dim(JsonReader& config, int64_t hidden, int64_t heads);

// `unsupported` for a key that is set and changes the function of a model in a way that Spec has no knob for.
Status refuse_other_maths(JsonReader& config);

void set_bias(Spec& spec, std::initializer_list<Role> roles);

// A linear that is a tensor of its own.
Slice whole(const Spec& spec, Role role, std::string_view stem);

}  // namespace nibble
