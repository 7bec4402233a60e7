// A decoder-only transformer as about a dozen knobs. A family file (families/) maps a Hugging Face config and its
// tensor names onto one Spec; after that nobody asks which family a model came from.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/result.h"

namespace nibble {

enum class Norm : uint8_t { rms, layer };
enum class Activation : uint8_t { silu, gelu, gelu_tanh, relu };
enum class Positions : uint8_t { rotary, learned, alibi, none };
enum class RopeScaling : uint8_t { none, linear, llama3 };

// The linears of a block by role, in the order in which the forward pass runs them.
enum class Role : uint8_t { q, k, v, o, gate, up, down };
inline constexpr int kRoles = 7;
inline constexpr std::array<Role, kRoles> kAllRoles = {Role::q,    Role::k,  Role::v,   Role::o,
                                                       Role::gate, Role::up, Role::down};
std::string_view name_of(Role role);  // "q", "k", ... "down"
Result<Role> role_named(std::string_view name);

// No dimension is larger, so that no product of a few of them overflows and no allocation is absurd.
inline constexpr int64_t kMaxHidden = 1'000'000, kMaxLayers = 10'000, kMaxVocabulary = 10'000'000, kMaxFfn = 10'000'000;
inline constexpr int64_t kMaxHeads = 100'000, kMaxHeadDim = 65'536, kMaxPositions = 1'000'000'000;

struct Rope {
  double theta = 10000;
  RopeScaling scaling = RopeScaling::none;
  double factor = 1;
  double low_frequency_factor = 1, high_frequency_factor = 4;  // llama3
  int64_t original_positions = 8192;                           // llama3
  bool operator==(const Rope&) const = default;
};

struct Spec {
  std::string family;  // "llama", "opt", "falcon", "mistral", "qwen2": names the row of families.cpp, for writing back
  int64_t vocabulary = 0;  // rows of the embedding
  int64_t hidden = 0;      // D
  int64_t embedding = 0;   // width of the embedding; != hidden: projected in and out (OPT-350m)
  int64_t layers = 0;
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t ffn = 0;  // width of the MLP
  int64_t max_positions = 0;
  Norm norm = Norm::rms;
  double norm_eps = 1e-5;
  bool final_norm = true;
  bool post_norm = false;    // norms after the residual add (OPT-350m)
  bool parallel = false;     // attention and MLP read the block's input and are added together (Falcon)
  bool shared_norm = false;  // parallel: one norm feeds both (Falcon 7b); sequential: never
  bool norm_affine = true;   // norms have a gain (and, LayerNorm, a bias)
  bool gated = false;        // down(act(gate) * up), else down(act(up))
  Activation activation = Activation::silu;
  Positions positions = Positions::rotary;
  int64_t position_offset = 0;  // learned positions: row = position + offset (OPT: 2)
  Rope rope;
  // ALiBi adds alibi_scale * a(h, j) to the scaled score of key position j, where with slope s_h
  //   a(h, j) = bf16(bf16(s_h) * bf16(j))
  // is rounded to bfloat16 whatever the model's type, as the checkpoints' own implementation does. Falcon divides
  // score + a by sqrt(head_dim) together: there alibi_scale is 1 / sqrt(head_dim).
  double alibi_scale = 1;
  bool tied_head = false;
  std::array<bool, kRoles> bias{};  // by role: the linear has a bias
};

// The Spec of a model whose output matrix may be stored on its own in another one, as quantizing the head alone does:
// untied where either is.
inline Spec untied_like(Spec spec, const Spec& stored) {
  spec.tied_head = spec.tied_head && stored.tied_head;
  return spec;
}

// Stored in quantization_config as "spec"; reading validates every number and refuses unknown keys.
Json to_json(const Spec& spec);
Result<Spec> spec_from_json(const Json& value, std::string where);
// Dimensions positive, within limits, divisible where they must be. `where` starts the message.
Status validate(const Spec& spec, std::string_view where);
// Parameters of all linears with their biases, norms and embeddings (a tied head once). The Spec must be valid.
int64_t parameter_count(const Spec& spec);

// N and K of a role; 0 and 0 for a gate that the Spec does not have.
struct Shape {
  int64_t rows = 0, columns = 0;
};
Shape shape_of(const Spec& spec, Role role);

// A site is the set of linears that read one tensor, so that its input is quantized once. In execution order.
struct Site {
  std::string name;  // "qkv", "o", "gate_up", "up", "down"; parallel with a shared norm: "qkv_up"
  std::vector<Role> roles;
};
const std::vector<Site>& sites_of(const Spec& spec);

}  // namespace nibble
