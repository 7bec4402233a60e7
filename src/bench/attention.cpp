#include "bench/attention.h"

#include <algorithm>

#include "bench/clock.h"
#include "bench/layers.h"
#include "core/checked.h"

namespace nibble::bench {
namespace {

int64_t cache_bytes(const AttentionTask& task, const AttentionFormats& formats) {
  const auto values = static_cast<double>(2 * (task.context + task.tokens) * task.kv_heads * task.head_dim);
  return static_cast<int64_t>(values * cache_bits(formats, task.head_dim) / 8);
}

int64_t projected_width(const AttentionTask& task) { return (task.heads + 2 * task.kv_heads) * task.head_dim; }

Spec spec_of(const AttentionTask& task, const AttentionFormats& formats, const Plan& plan) {
  Spec spec;
  spec.heads = task.heads;
  spec.kv_heads = task.kv_heads;
  spec.head_dim = task.head_dim;
  spec.max_positions = task.context + task.tokens;
  spec.layers = ceil_div(plan.rotation_bytes, cache_bytes(task, formats));
  if (task.context == 0) spec.layers = 1;  // what is read was stored just before
  return spec;
}

}  // namespace

Work work_of(const AttentionTask& task, const AttentionFormats& formats) {
  const auto tokens = static_cast<double>(task.tokens), context = static_cast<double>(task.context);
  const double pairs = tokens * context + tokens * (tokens + 1) / 2;
  const int64_t floats = task.tokens * (projected_width(task) + task.heads * task.head_dim);
  return {4 * pairs * static_cast<double>(task.heads * task.head_dim),
          static_cast<double>(cache_bytes(task, formats) + floats * static_cast<int64_t>(sizeof(float)))};
}

AttentionLayers::AttentionLayers(const AttentionTask& task, const AttentionKernelRow& kernel, const Plan& plan,
                                 ThreadPool& pool)
    : task_(task),
      isa_(kernel.isa),
      pool_(pool),
      spec_(spec_of(task, kernel.formats, plan)),
      sequence_(spec_, plan_attention(spec_, std::vector(static_cast<size_t>(spec_.layers), kernel.formats))),
      projected_(random_input(task.tokens, projected_width(task))),
      y_(static_cast<size_t>(task.tokens * task.heads * task.head_dim)) {
  sequence_.reserve(spec_.max_positions);
  positions_.reserve(spec_, spec_.max_positions);
  fill(*kernel.row);
}

// Every layer and head gets the same keys and values: only where they lie matters.
void AttentionLayers::fill(const AttentionRow& row) {
  const std::vector<float> values = random_input(task_.context, task_.head_dim);
  const int64_t room = 80 * round_up(task_.head_dim, kKeyPanel);
  AlignedBuffer<float> scratch(room * pool_.size());
  pool_.run_by_thread(task_.context > 0 ? spec_.layers * spec_.kv_heads : 0, [&](int64_t i, int thread) {
    CacheStoreArgs args{};
    args.cache = sequence_.head(i / spec_.kv_heads, i % spec_.kv_heads);
    args.keys = args.values = values.data();
    args.key_stride = args.value_stride = task_.head_dim;
    args.count = task_.context;
    args.scratch = scratch.data() + thread * room;
    row.store(args);
  });
  sequence_.advance(task_.context);
}

Projections AttentionLayers::projections() const {
  const int64_t stride = projected_width(task_), keys = task_.heads * task_.head_dim,
                values = keys + task_.kv_heads * task_.head_dim;
  const float* const q = projected_.data();
  return {q, q + keys, q + values, stride, stride, stride};
}

CallTime AttentionLayers::call() {
  const Segment segment{&sequence_, task_.tokens, task_.context};
  const Stopwatch watch;
  attend(spec_, next_++ % spec_.layers, {&segment, 1}, projections(), positions_, isa_, scratch_, y_.data(), pool_);
  return {watch.seconds()};
}

bool runs(const AttentionKernelRow& kernel) { return &attention_row(kernel.row->type, kernel.isa) == kernel.row; }

Measurement measure_attention(Machine& machine, const AttentionTask& task, const AttentionKernelRow& kernel,
                              const Plan& plan) {
  AttentionLayers layers(task, kernel, plan, machine.pool());
  Unit& unit = machine.unit_for(kernel.isa, Arithmetic::f32);
  return measure(machine, {work_of(task, kernel.formats), &unit, true}, plan, [&] { return layers.call(); });
}

}  // namespace nibble::bench
