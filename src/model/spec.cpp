#include "model/spec.h"

#include <cmath>

#include "core/checked.h"

namespace nibble {
namespace {

constexpr std::array<std::string_view, kRoles> kRoleNames = {"q", "k", "v", "o", "gate", "up", "down"};

struct Dimension {
  std::string_view name;
  int64_t value, least, most;
};

Status check_dimensions(const Spec& spec, std::string_view where) {
  const Dimension dimensions[] = {
      {"vocabulary", spec.vocabulary, 1, kMaxVocabulary},
      {"hidden", spec.hidden, 1, kMaxHidden},
      {"embedding", spec.embedding, 1, kMaxHidden},
      {"layers", spec.layers, 1, kMaxLayers},
      {"heads", spec.heads, 1, kMaxHeads},
      {"kv_heads", spec.kv_heads, 1, kMaxHeads},
      {"head_dim", spec.head_dim, 1, kMaxHeadDim},
      {"ffn", spec.ffn, 1, kMaxFfn},
      {"max_positions", spec.max_positions, 1, kMaxPositions},
      {"position_offset", spec.position_offset, 0, kMaxPositions},
      {"rope original_positions", spec.rope.original_positions, 1, kMaxPositions},
  };
  for (const Dimension& d : dimensions)
    if (d.value < d.least || d.value > d.most)
      return fail(ErrorCode::corrupt, "{}: {} is {}, expected {} to {}", where, d.name, d.value, d.least, d.most);
  return {};
}

Status check_heads(const Spec& spec, std::string_view where) {
  if (spec.heads % spec.kv_heads != 0)
    return fail(ErrorCode::corrupt, "{}: {} heads cannot share {} key-value heads evenly", where, spec.heads,
                spec.kv_heads);
  auto width = checked_mul(spec.heads, spec.head_dim);
  if (!width || *width > kMaxFfn)
    return fail(ErrorCode::corrupt, "{}: {} heads of {} are wider than {}", where, spec.heads, spec.head_dim, kMaxFfn);
  if (spec.positions == Positions::rotary && spec.head_dim % 2 != 0)
    return fail(ErrorCode::corrupt, "{}: rotary positions need an even head size, found {}", where, spec.head_dim);
  return {};
}

Status check_positive(double value, std::string_view what, std::string_view where) {
  if (std::isfinite(value) && value > 0) return {};
  return fail(ErrorCode::corrupt, "{}: {} is {}, expected a positive number", where, what, value);
}

Status check_numbers(const Spec& spec, std::string_view where) {
  NIBBLE_DO(check_positive(spec.norm_eps, "norm_eps", where));
  NIBBLE_DO(check_positive(spec.alibi_scale, "alibi_scale", where));
  NIBBLE_DO(check_positive(spec.rope.theta, "rope theta", where));
  NIBBLE_DO(check_positive(spec.rope.factor, "rope factor", where));
  NIBBLE_DO(check_positive(spec.rope.low_frequency_factor, "rope low_frequency_factor", where));
  if (!std::isfinite(spec.rope.high_frequency_factor) ||
      spec.rope.high_frequency_factor <= spec.rope.low_frequency_factor)
    return fail(ErrorCode::corrupt, "{}: rope high_frequency_factor {} is not above low_frequency_factor {}", where,
                spec.rope.high_frequency_factor, spec.rope.low_frequency_factor);
  return {};
}

Status check_order_of_norms(const Spec& spec, std::string_view where) {
  if (spec.post_norm && spec.parallel)
    return fail(ErrorCode::unsupported, "{}: norms after the residual in a parallel block are not supported", where);
  if (spec.shared_norm && !spec.parallel)
    return fail(ErrorCode::corrupt, "{}: a shared norm needs a parallel block", where);
  if (spec.bias[static_cast<size_t>(Role::gate)] && !spec.gated)
    return fail(ErrorCode::corrupt, "{}: a bias for a gate that is not there", where);
  return {};
}

int64_t norm_parameters(const Spec& spec) {
  if (!spec.norm_affine) return 0;
  return spec.norm == Norm::layer ? 2 * spec.hidden : spec.hidden;
}

int64_t block_parameters(const Spec& spec) {
  int64_t count = norm_parameters(spec) * (spec.shared_norm ? 1 : 2);
  for (Role role : kAllRoles) {
    const Shape shape = shape_of(spec, role);
    count += shape.rows * shape.columns + (spec.bias[static_cast<size_t>(role)] ? shape.rows : 0);
  }
  return count;
}

}  // namespace

std::string_view name_of(Role role) { return kRoleNames[static_cast<size_t>(role)]; }

Result<Role> role_named(std::string_view name) {
  for (Role role : kAllRoles)
    if (name_of(role) == name) return role;
  return fail(ErrorCode::usage, "\"{}\" is no role of a linear; expected q, k, v, o, gate, up or down", name);
}

Status validate(const Spec& spec, std::string_view where) {
  NIBBLE_DO(check_dimensions(spec, where));
  NIBBLE_DO(check_heads(spec, where));
  NIBBLE_DO(check_numbers(spec, where));
  return check_order_of_norms(spec, where);
}

int64_t parameter_count(const Spec& spec) {
  // With the limits of validate() the sum stays below 10^18.
  int64_t count = spec.layers * block_parameters(spec);
  count += spec.vocabulary * spec.embedding * (spec.tied_head ? 1 : 2);
  if (spec.embedding != spec.hidden) count += 2 * spec.embedding * spec.hidden;
  if (spec.positions == Positions::learned) count += (spec.max_positions + spec.position_offset) * spec.hidden;
  return count + (spec.final_norm ? norm_parameters(spec) : 0);
}

Shape shape_of(const Spec& spec, Role role) {
  const int64_t queries = spec.heads * spec.head_dim, keys = spec.kv_heads * spec.head_dim;
  switch (role) {
    case Role::q: return {queries, spec.hidden};
    case Role::k: return {keys, spec.hidden};
    case Role::v: return {keys, spec.hidden};
    case Role::o: return {spec.hidden, queries};
    case Role::gate: return spec.gated ? Shape{spec.ffn, spec.hidden} : Shape{};
    case Role::up: return {spec.ffn, spec.hidden};
    case Role::down: return {spec.hidden, spec.ffn};
  }
  return {};
}

namespace {

std::vector<Site> make_sites(bool gated, bool shared_norm) {
  Site first = {"qkv", {Role::q, Role::k, Role::v}};
  Site mlp = gated ? Site{"gate_up", {Role::gate, Role::up}} : Site{"up", {Role::up}};
  const Site o = {"o", {Role::o}}, down = {"down", {Role::down}};
  if (!shared_norm) return {first, o, mlp, down};
  first.name += "_" + mlp.name;
  first.roles.insert(first.roles.end(), mlp.roles.begin(), mlp.roles.end());
  return {first, o, down};
}

}  // namespace

const std::vector<Site>& sites_of(const Spec& spec) {
  static const std::vector<Site> kinds[2][2] = {{make_sites(false, false), make_sites(false, true)},
                                                {make_sites(true, false), make_sites(true, true)}};
  return kinds[spec.gated][spec.shared_norm];
}

}  // namespace nibble
