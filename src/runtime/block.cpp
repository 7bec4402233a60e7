#include "runtime/block.h"

#include <algorithm>
#include <cstring>

#include "runtime/ops/ops.h"

namespace nibble {
namespace {

size_t index(Role role) { return static_cast<size_t>(role); }

// The parts of one block's pass, over the same M tokens.
struct BlockRun {
  const Spec& spec;
  const PackedBlock& block;
  int64_t layer;
  std::span<const Segment> segments;
  float* hidden;  // [M][D]
  Isa isa;
  Workspace& ws;
  ThreadPool& pool;
  const std::span<const int64_t>* wanted;
  int64_t m = 0;

  // The inputs of the sites, row by row: each is made by the thread that quantizes it.
  auto input(const NormWeight& norm) const {
    return [this, &norm](int64_t i, float* room) -> const float* {
      const float* const x = hidden + i * spec.hidden;
      if (spec.post_norm) return x;
      ops::norm_row(spec, norm, x, isa, room);
      return room;
    };
  }

  auto activated() const {
    return [this](int64_t i, float* room) -> const float* {
      const float* const up = ws.up.data() + i * spec.ffn;
      const float* const gate = spec.gated ? ws.gate.data() + i * spec.ffn : nullptr;
      ops::activate_row(spec.activation, spec.gated ? gate : up, spec.gated ? up : nullptr, spec.ffn, isa, room);
      return room;
    };
  }

  auto rows(const AlignedBuffer<float>& of, int64_t width) const {
    return [x = of.data(), width](int64_t i, float*) -> const float* { return x + i * width; };
  }

  // One stage after the other (block.h).
  //   x <- x + attention(norm(x))           or, post-norm:   x <- norm(x + attention(x))
  //   x <- x + mlp(norm(x))                                  x <- norm(x + mlp(x))
  // and in parallel:
  //   x <- x + attention(norm(x)) + mlp(norm'(x))            norm' = norm when it is shared: then one site reads it
  void all() {
    attention_in();
    attention_out();
    if (!spec.shared_norm) mlp_in();
    mlp_out(activated());
  }

  void stage(size_t i) {
    switch (sites_of(spec)[i].roles[0]) {
      case Role::q:
        attention_in();
        if (spec.shared_norm) activate();
        return;
      case Role::o: return attention_out();
      case Role::down: return mlp_out(rows(ws.up, spec.ffn));
      default: mlp_in(); return activate();
    }
  }

  void attention_in() {
    run_site(Role::q, input(block.attention_norm));
    attend();
  }

  void attention_out() {
    run_site(Role::o, rows(ws.mixed, attention_width()), spec.parallel ? nullptr : hidden);
    if (!spec.parallel) after(block.attention_norm);
  }

  void mlp_in() { run_site(spec.gated ? Role::gate : Role::up, input(block.mlp_norm)); }

  void mlp_out(RowSource x) {
    run_site(Role::down, x, hidden);
    if (spec.parallel) {
      ops::add(hidden, ws.attention.data(), m, spec.hidden, pool);
    } else {
      after(block.mlp_norm);
    }
  }

  // The input of the down projection, where the up projection's outputs were.
  void activate() {
    const auto row = activated();
    pool.run_ranges(m, 8, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) row(i, ws.up.data() + i * spec.ffn);
    });
  }

  void after(const NormWeight& norm) {
    if (spec.post_norm) ops::normalize(spec, norm, hidden, m, hidden, isa, pool);
  }

  // All linears of the site that `member` belongs to, on the same input; a single one's outputs are added to `sum`
  // where that is given. Linears that read the input in the same form run side by side.
  void run_site(Role member, RowSource x, float* sum = nullptr) {
    const Site& site = site_of(member);
    std::array<bool, kRoles> done{};
    for (Role first : site.roles) {
      if (done[index(first)]) continue;
      std::array<LinearOutput, kRoles> outputs;
      size_t count = 0;
      for (Role role : site.roles) {
        if (block.plan_of[index(role)] != block.plan_of[index(first)]) continue;
        outputs[count++] = output(role, sum);
        done[index(role)] = true;
      }
      prepare(block[first].plan(), x, m, isa, ws.input, pool);
      linear({outputs.data(), count}, ws.input, pool);
    }
  }

  const Site& site_of(Role role) const {
    const std::vector<Site>& sites = sites_of(spec);
    return *std::find_if(sites.begin(), sites.end(), [&](const Site& site) {
      return std::find(site.roles.begin(), site.roles.end(), role) != site.roles.end();
    });
  }

  LinearOutput output(Role role, float* sum) {
    AlignedBuffer<float>* const buffers[kRoles] = {&ws.q, &ws.k, &ws.v, &ws.attention, &ws.gate, &ws.up, &ws.mlp};
    AlignedBuffer<float>& y = *buffers[index(role)];
    const int64_t width = block[role].outputs();
    y.reserve(m * width);
    return {&block[role], y.data(), width, sum};
  }

  int64_t attention_width() const { return spec.heads * spec.head_dim; }

  // ws.mixed [M][heads * head_dim] from q, k and v and what the sequences hold already. From here on tokens do not see
  // each other: those that nobody wants are dropped.
  void attend() {
    ws.mixed.reserve(m * attention_width());
    nibble::attend(spec, layer, segments, projections_of(spec, ws), ws.positions, isa, ws.attention_scratch,
                   ws.mixed.data(), pool);
    if (wanted == nullptr) return;
    keep_wanted(hidden, spec.hidden);
    keep_wanted(ws.mixed.data(), attention_width());
    if (spec.shared_norm) {
      keep_wanted(ws.up.data(), spec.ffn);
      if (spec.gated) keep_wanted(ws.gate.data(), spec.ffn);
    }
    m = static_cast<int64_t>(wanted->size());
  }

  // Rows move up to the front, in order.
  void keep_wanted(float* x, int64_t width) const {
    for (size_t i = 0; i < wanted->size(); ++i)
      std::memmove(x + static_cast<int64_t>(i) * width, x + (*wanted)[i] * width,
                   static_cast<size_t>(width) * sizeof(float));
  }
};

// Room for each token in its sequence, and tables up to the last position.
void place_tokens(const Spec& spec, std::span<const Segment> segments, Workspace& ws) {
  int64_t end = 0;
  for (const Segment& segment : segments) {
    segment.sequence->reserve(segment.position + segment.count);
    end = std::max(end, segment.position + segment.count);
  }
  ws.positions.reserve(spec, end);
}

int first_with_plan(const PackedBlock& block, size_t role) {
  for (size_t i = 0; i < role; ++i)
    if (block.linears[i] && block.linears[i]->plan() == block.linears[role]->plan()) return static_cast<int>(i);
  return static_cast<int>(role);
}

}  // namespace

int64_t PackedBlock::bytes() const {
  int64_t total = 0;
  for (const NormWeight* norm : {&attention_norm, &mlp_norm})
    total += static_cast<int64_t>((norm->gain.size() + norm->bias.size()) * sizeof(float));
  for (const auto& linear : linears) total += linear ? linear->bytes() : 0;
  return total;
}

Result<PackedBlock> pack_block(const BlockWeights& weights, Isa isa, ThreadPool& pool) {
  PackedBlock out;
  out.attention_norm = weights.attention_norm;
  out.mlp_norm = weights.mlp_norm;
  for (Role role : kAllRoles) {
    if (weights[role].rows == 0) continue;
    auto packed = PackedLinear::pack(weights[role], isa, pool);
    if (!packed) return fail(packed.error().code, "{}: {}", name_of(role), packed.error().message);
    out.linears[index(role)] = std::move(*packed);
  }
  find_plans(out);
  return out;
}

void find_plans(PackedBlock& block) {
  for (Role role : kAllRoles)
    if (block.linears[index(role)]) block.plan_of[index(role)] = first_with_plan(block, index(role));
}

void forward_block(const Spec& spec, const PackedBlock& block, int64_t layer, std::span<const Segment> segments,
                   float* hidden, Isa isa, Workspace& workspace, ThreadPool& pool,
                   const std::span<const int64_t>* wanted) {
  const int64_t m = tokens_of(segments);
  if (m == 0) return;
  place_tokens(spec, segments, workspace);
  BlockRun{spec, block, layer, segments, hidden, isa, workspace, pool, wanted, m}.all();
}

StageParts parts_of_stage(const Spec& spec, size_t stage) {
  const unsigned hidden = kHiddenPart, none = 0, carried = spec.parallel ? kAttentionPart : kHiddenPart;
  switch (sites_of(spec)[stage].roles[0]) {
    case Role::q: return {hidden, none, kMixedPart | (spec.shared_norm ? kActivatedPart : none)};
    case Role::o: return {kMixedPart, spec.parallel ? none : hidden, carried};
    case Role::down: return {kActivatedPart, hidden | carried, hidden};
    default: return {hidden, none, kActivatedPart};
  }
}

void forward_stage(const Spec& spec, const PackedBlock& block, size_t stage, int64_t layer,
                   std::span<const Segment> segments, float* hidden, Isa isa, Workspace& workspace, ThreadPool& pool) {
  const int64_t m = tokens_of(segments);
  if (m == 0) return;
  place_tokens(spec, segments, workspace);
  BlockRun{spec, block, layer, segments, hidden, isa, workspace, pool, nullptr, m}.stage(stage);
}

Projections projections_of(const Spec& spec, const Workspace& workspace) {
  const int64_t q_width = spec.heads * spec.head_dim, kv_width = spec.kv_heads * spec.head_dim;
  return {workspace.q.data(), workspace.k.data(), workspace.v.data(), q_width, kv_width, kv_width};
}

const float* stage_input(const Spec& spec, const PackedBlock& block, size_t stage, const float* hidden, int64_t m,
                         Isa isa, Workspace& workspace, ThreadPool& pool) {
  const unsigned part = parts_of_stage(spec, stage).input;
  if (part == kMixedPart) return workspace.mixed.data();
  if (part == kActivatedPart) return workspace.up.data();
  if (spec.post_norm) return hidden;
  const bool first = sites_of(spec)[stage].roles[0] == Role::q;
  workspace.normed.reserve(m * spec.hidden);
  ops::normalize(spec, first ? block.attention_norm : block.mlp_norm, hidden, m, workspace.normed.data(), isa, pool);
  return workspace.normed.data();
}

}  // namespace nibble
