#include "runtime/block.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "core/checked.h"
#include "runtime/ops/ops.h"

namespace nibble {
namespace {

size_t index(Role role) { return static_cast<size_t>(role); }

// The parts of one block's pass, over the same M tokens.
struct BlockRun {
  const Spec& spec;
  const PackedBlock& block;
  int64_t layer;
  float* hidden;  // [M][D]
  Isa isa;
  Workspace& ws;
  ThreadPool& pool;
  const Tap* tap;
  int64_t m = 0;
  std::vector<Site> sites = sites_of(spec);

  //   x <- x + attention(norm(x))           or, post-norm:   x <- norm(x + attention(x))
  //   x <- x + mlp(norm(x))                                  x <- norm(x + mlp(x))
  void sequential() {
    if (!run_site(Role::q, before(block.attention_norm))) return;
    attend();
    if (!run_site(Role::o, ws.mixed.data())) return;
    residual(ws.attention);
    after(block.attention_norm);

    if (!run_site(spec.gated ? Role::gate : Role::up, before(block.mlp_norm))) return;
    activate();
    if (!run_site(Role::down, ws.up.data())) return;
    residual(ws.mlp);
    after(block.mlp_norm);
  }

  //   x <- x + attention(norm(x)) + mlp(norm'(x))            norm' = norm when it is shared: then one site reads it
  void parallel() {
    if (!run_site(Role::q, before(block.attention_norm))) return;
    attend();
    if (!run_site(Role::o, ws.mixed.data())) return;
    if (!spec.shared_norm && !run_site(spec.gated ? Role::gate : Role::up, before(block.mlp_norm))) return;
    activate();
    if (!run_site(Role::down, ws.up.data())) return;
    residual(ws.attention);
    residual(ws.mlp);
  }

  const float* before(const NormWeight& norm) {
    if (spec.post_norm) return hidden;
    ws.normed.reserve(m * spec.hidden);
    normalize(spec, norm, hidden, m, ws.normed.data(), pool);
    return ws.normed.data();
  }

  void after(const NormWeight& norm) {
    if (spec.post_norm) normalize(spec, norm, hidden, m, hidden, pool);
  }

  void residual(const AlignedBuffer<float>& part) { ops::add(hidden, part.data(), m * spec.hidden, pool); }

  // All linears of the site that `member` belongs to, on the same input x [M][K]. False: the tap ends the pass.
  [[nodiscard]] bool run_site(Role member, const float* x) {
    const Site& site = site_of(member);
    const int64_t width = block[member].inputs();
    if (tap != nullptr && !(*tap)(site, x, m, width)) return false;
    int prepared = -1;
    for (Role role : site.roles) {
      const PackedLinear& layer_weights = block[role];
      if (const int plan = block.plan_of[index(role)]; plan != prepared) {
        prepare(layer_weights.plan(), x, width, m, isa, ws.input, pool);
        prepared = plan;
      }
      AlignedBuffer<float>& y = output(role);
      y.reserve(m * layer_weights.outputs());
      linear(layer_weights, ws.input, y.data(), layer_weights.outputs(), pool);
    }
    return true;
  }

  const Site& site_of(Role role) const {
    return *std::find_if(sites.begin(), sites.end(), [&](const Site& site) {
      return std::find(site.roles.begin(), site.roles.end(), role) != site.roles.end();
    });
  }

  AlignedBuffer<float>& output(Role role) {
    AlignedBuffer<float>* const buffers[kRoles] = {&ws.q, &ws.k, &ws.v, &ws.attention, &ws.gate, &ws.up, &ws.mlp};
    return *buffers[index(role)];
  }

  void activate() {
    const int64_t count = m * spec.ffn;
    if (spec.gated) {
      ops::activate_gated(spec.activation, ws.gate.data(), ws.up.data(), ws.up.data(), count, pool);
    } else {
      ops::activate(spec.activation, ws.up.data(), count, pool);
    }
  }

  // ws.mixed [M][heads * head_dim] from q, k and v and what the sequences hold already.
  void attend() {
    if (spec.positions == Positions::rotary) {
      rotate(ws.q, spec.heads);
      rotate(ws.k, spec.kv_heads);
    }
    store();
    mix();
  }

  void rotate(AlignedBuffer<float>& x, int64_t heads) {
    ops::rotary(x.data(), m, heads * spec.head_dim, heads, spec.head_dim, ws.row_positions, ws.positions.cosines(),
                ws.positions.sines(), pool);
  }

  void store() {
    const int64_t width = spec.kv_heads * spec.head_dim;
    pool.run_ranges(m, 8, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        ws.row_sequences[static_cast<size_t>(row)]->store(layer, ws.row_positions[static_cast<size_t>(row)],
                                                          ws.k.data() + row * width, ws.v.data() + row * width);
    });
  }

  // Threads take one (token, head) after the other, each with its own scratch.
  void mix() {
    const int64_t width = spec.heads * spec.head_dim, tasks = m * spec.heads,
                  slots = std::min<int64_t>(pool.size(), tasks);
    const int64_t stride = round_up(1 + *std::max_element(ws.row_positions.begin(), ws.row_positions.end()), kLanes);
    ws.mixed.reserve(m * width);
    ws.scores.reserve(slots * stride);
    std::atomic<int64_t> next{0};
    pool.run(slots, [&](int64_t slot) {
      for (int64_t task = next.fetch_add(1); task < tasks; task = next.fetch_add(1))
        mix_head(task / spec.heads, task % spec.heads, ws.scores.data() + slot * stride);
    });
  }

  void mix_head(int64_t row, int64_t head, float* scores) {
    const Sequence& sequence = *ws.row_sequences[static_cast<size_t>(row)];
    const int64_t kv_head = head / (spec.heads / spec.kv_heads);
    const int64_t at = (row * spec.heads + head) * spec.head_dim;
    AttentionArgs args{};
    args.type = sequence.type();
    args.q = ws.q.data() + at;
    args.keys = sequence.keys(layer, kv_head);
    args.values = sequence.values(layer, kv_head);
    args.head_dim = spec.head_dim;
    args.position = ws.row_positions[static_cast<size_t>(row)];
    args.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(spec.head_dim)));
    args.bias = ws.positions.bias(head);
    args.scores = scores;
    args.y = ws.mixed.data() + at;
    attention_kernel(args.type, isa)(args);
  }
};

// Where each token of the batch belongs, room for it in its sequence, and tables up to the last position.
void place_tokens(const Spec& spec, std::span<const Segment> segments, Workspace& ws) {
  ws.row_positions.clear();
  ws.row_sequences.clear();
  int64_t end = 0;
  for (const Segment& segment : segments) {
    segment.sequence->reserve(segment.position + segment.count);
    end = std::max(end, segment.position + segment.count);
    for (int64_t i = 0; i < segment.count; ++i) {
      ws.row_positions.push_back(segment.position + i);
      ws.row_sequences.push_back(segment.sequence);
    }
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
    out.plan_of[index(role)] = first_with_plan(out, index(role));
  }
  return out;
}

void normalize(const Spec& spec, const NormWeight& norm, const float* x, int64_t m, float* y, ThreadPool& pool) {
  if (spec.norm == Norm::rms) {
    ops::rms_norm(x, m, spec.hidden, norm.gain, spec.norm_eps, y, pool);
  } else {
    ops::layer_norm(x, m, spec.hidden, norm.gain, norm.bias, spec.norm_eps, y, pool);
  }
}

void forward_block(const Spec& spec, const PackedBlock& block, int64_t layer, std::span<const Segment> segments,
                   float* hidden, Isa isa, Workspace& workspace, ThreadPool& pool, const Tap* tap) {
  const int64_t m = tokens_of(segments);
  if (m == 0) return;
  place_tokens(spec, segments, workspace);
  BlockRun run{spec, block, layer, hidden, isa, workspace, pool, tap, m};
  if (spec.parallel) {
    run.parallel();
  } else {
    run.sequential();
  }
}

}  // namespace nibble
