#include "kernels/linear.h"

#include <algorithm>
#include <cmath>

#include "core/checked.h"
#include "core/half.h"
#include "kernels/list.h"

namespace nibble {
namespace {

constexpr int64_t kStripPanels = 4;         // the widest register tile
constexpr int64_t kTasksPerThread = 8;      // so that a slow core does not hold up the rest
constexpr int64_t kSmallestTask = 1 << 16;  // multiplications worth a thread's attention

// Multiplications of a task: what the others may wait for. Rows with tiles of 32 tokens do some eight times as many in
// the same time; those that read their input in blocks read a block again for every task.
int64_t largest_task(const LinearRow& row) {
  return int64_t{1} << (row.tile_m < 32 && row.traits.block_k == 0 ? 27 : 29);
}

int64_t panels_of(const LinearOutput& output) { return ceil_div(output.layer->outputs(), kLanes); }

const LinearRow& row_of(const LinearOutput& output, int64_t m) {
  return output.row != nullptr ? *output.row : output.layer->row_for(m);
}

// Of a token's input, what a row has in the cache together.
int64_t bytes_at_a_time(const LinearRow& row, const PreparedInput& input, int64_t k) {
  const int64_t bytes = input.x == nullptr ? input.stride : input.x_stride * static_cast<int64_t>(sizeof(float));
  return row.traits.block_k == 0 || row.traits.block_k >= k ? bytes : bytes * row.traits.block_k / k;
}

// How the outputs of a site's layers, side by side, are cut into tasks: whole strips of panels of one layer, times
// whole register tiles of tokens. The tokens of a task are as many as fit the cache, for they are read once for every
// strip; its panels lie one after the other in memory, so that a single token streams them. Tasks of the same tokens
// follow each other. Results do not depend on the cut: every output is computed by one kernel call, whichever tile it
// is in.
struct Tasks {
  int64_t panels = 0, tokens = 0;  // per task
  int64_t panel_tasks = 0, token_tasks = 0;

  static Tasks cut(std::span<const LinearOutput> outputs, const PreparedInput& input, int threads) {
    const int64_t m = input.count, k = outputs[0].layer->inputs();
    const LinearRow& row = row_of(outputs[0], m);
    Tasks tasks;
    tasks.tokens = round_up(ceil_div(m, ceil_div(m * bytes_at_a_time(row, input, k), kTaskInputBytes)), row.tile_m);
    tasks.token_tasks = ceil_div(m, tasks.tokens);
    int64_t panels = 0;
    for (const LinearOutput& output : outputs) panels += panels_of(output);
    const int64_t panel_work = kLanes * k * std::min(m, tasks.tokens);
    const int64_t even = panels * tasks.token_tasks / (threads * kTasksPerThread);
    tasks.panels = std::max(std::min(even, largest_task(row) / panel_work), ceil_div(kSmallestTask, panel_work));
    tasks.panels = kStripPanels * std::max<int64_t>(1, tasks.panels / kStripPanels);
    for (const LinearOutput& output : outputs) tasks.panel_tasks += tasks.of(output);
    return tasks;
  }

  int64_t of(const LinearOutput& output) const { return ceil_div(panels_of(output), panels); }

  LinearArgs part(LinearArgs args, int64_t panel_task, int64_t token_task) const {
    args.panel_begin = panel_task * panels;
    args.panel_end = std::min(args.panel_end, args.panel_begin + panels);
    args.m_begin = token_task * tokens;
    args.m_end = std::min(args.m_end, args.m_begin + tokens);
    return args;
  }
};

// sum += y for the outputs of one task, which are still in the cache.
void add_outputs(const LinearArgs& part, float* sum) {
  const int64_t begin = part.panel_begin * kLanes, end = std::min(part.dense.n, part.panel_end * kLanes);
  for (int64_t m = part.m_begin; m < part.m_end; ++m) {
    const float* const y = part.y + m * part.y_stride;
    float* const to = sum + m * part.y_stride;
    for (int64_t n = begin; n < end; ++n) to[n] += y[n];
  }
}

// y = outer * y + bias for the outputs of one task.
void scale_outputs(const LinearArgs& part, float outer, const float* bias) {
  const int64_t begin = part.panel_begin * kLanes, end = std::min(part.dense.n, part.panel_end * kLanes);
  for (int64_t m = part.m_begin; m < part.m_end; ++m) {
    float* const y = part.y + m * part.y_stride;
    for (int64_t n = begin; n < end; ++n) y[n] = outer * y[n] + (bias != nullptr ? bias[n] : 0.0f);
  }
}

// A task of a layer with an outer scale: the dense part, scaled, then the kept columns on top of it.
void run_scaled(const LinearOutput& output, const PreparedInput& input, const Tasks& tasks, int64_t panel_task,
                int64_t token_task) {
  const PackedLinear& layer = *output.layer;
  LinearArgs part = tasks.part(layer.arguments(input, output.y, output.y_stride), panel_task, token_task);
  part.bias = nullptr;
  part.begun = false;
  run(row_of(output, input.count), part);
  scale_outputs(part, layer.outer(), layer.bias());
  if (const LinearRow* kept_row = layer.kept_row_for(input.count)) {
    LinearArgs kept = tasks.part(layer.kept_arguments(input, output.y, output.y_stride), panel_task, token_task);
    kept.begun = true;
    kept_row->kernel(kept);
  }
  if (output.sum != nullptr) add_outputs(part, output.sum);
}

void run_task(const LinearOutput& output, const PreparedInput& input, const Tasks& tasks, int64_t panel_task,
              int64_t token_task) {
  const PackedLinear& layer = *output.layer;
  if (layer.outer() != 1) return run_scaled(output, input, tasks, panel_task, token_task);
  if (const LinearRow* kept_row = layer.kept_row_for(input.count))
    kept_row->kernel(tasks.part(layer.kept_arguments(input, output.y, output.y_stride), panel_task, token_task));
  const LinearArgs part = tasks.part(layer.arguments(input, output.y, output.y_stride), panel_task, token_task);
  if (layer.has_sparse()) layer.run_sparse(part, input);
  run(row_of(output, input.count), part);
  if (output.sum != nullptr) add_outputs(part, output.sum);
}

}  // namespace

// Panels are opened into memory that a thread keeps: as many as stay in its second-level cache beside the input.
void run(const LinearRow& row, const LinearArgs& args) {
  if (!row.traits.opened) return row.kernel(args);
  constexpr int64_t kOpenedBytes = 1 << 17, kPair = 2;
  thread_local AlignedBuffer<int8_t> opened;
  const PackedDense& dense = args.dense;
  const int64_t panel_bytes = dense.groups * dense.group_steps * 64;
  const int64_t step =
      kPair * std::clamp<int64_t>(kOpenedBytes / kPair / std::max<int64_t>(1, panel_bytes), 1, kStripPanels);
  opened.reserve(step * panel_bytes);
  for (int64_t begin = args.panel_begin; begin < args.panel_end; begin += step) {
    const int64_t end = std::min(args.panel_end, begin + step);
    // A pair may lack its second panel, which kernels read all the same.
    for (int64_t panel = begin; panel < round_up(end, kPair); ++panel)
      args.open_levels(dense, panel, opened.data() + (panel - begin) * panel_bytes);
    LinearArgs part = args;
    part.dense.type = PackedType::int8;
    part.dense.codes = opened.data();
    part.dense.n = dense.n - begin * kLanes;
    part.dense.scales = static_cast<const float*>(dense.scales) + begin * dense.groups * kLanes;
    part.dense.sums = static_cast<const int32_t*>(dense.sums) + begin * dense.groups * kLanes;
    if (args.bias != nullptr) part.bias = args.bias + begin * kLanes;
    part.y = args.y + begin * kLanes;
    part.panel_begin = 0;
    part.panel_end = end - begin;
    row.kernel(part);
  }
}

LinearArgs PackedLinear::arguments(const PreparedInput& input, float* y, int64_t y_stride) const {
  LinearArgs args{};
  args.dense = dense_;
  args.open = open_codes(isa_);
  args.open_levels = open_levels(isa_);
  args.bias = bias_;
  args.begun = kept_.k > 0 || sparse_count_ > 0;
  args.rows = {input.codes.data(), input.stride,      input.scales.data(),
               input.zeros.data(), input.sums.data(), input.sum_stride};
  args.x = input.x;
  args.x_stride = input.x_stride;
  args.halves = input.halves.data();
  args.y = y;
  args.y_stride = y_stride;
  args.m_end = input.count;
  args.panel_end = ceil_div(n_, kLanes);
  return args;
}

void PackedLinear::run_sparse(const LinearArgs& part, const PreparedInput& input) const {
  const SparseKernel kernel = sparse_kernel(isa_);
  SparseArgs args{};
  args.row_ends = sparse_.row_ends;
  args.columns = sparse_.columns;
  args.values = sparse_.values;
  args.bias = bias_;
  args.begun = kept_.k > 0;
  args.alone = input.count == 1;
  args.y_stride = part.y_stride;
  args.n_begin = part.panel_begin * kLanes;
  args.n_end = std::min(n_, part.panel_end * kLanes);
  for (int64_t begin = part.m_begin / kLanes * kLanes; begin < part.m_end; begin += kLanes) {
    args.x = input.columns.data() + begin * plan_.inputs();
    args.y = part.y + begin * part.y_stride;
    args.token_begin = std::max<int64_t>(0, part.m_begin - begin);
    args.token_end = std::min(kLanes, part.m_end - begin);
    kernel(args);
  }
}

LinearArgs PackedLinear::kept_arguments(const PreparedInput& input, float* y, int64_t y_stride) const {
  LinearArgs args = arguments(input, y, y_stride);
  args.dense = kept_;
  args.begun = false;
  args.rows = {};
  args.x = input.kept.data();
  args.x_stride = input.kept_stride;
  if (plan_.kept_halves) {
    args.halves = input.kept_halves.data();
    args.x_stride = input.kept_halves_stride;
  }
  return args;
}

void linear(std::span<const LinearOutput> outputs, const PreparedInput& input, ThreadPool& pool) {
  if (input.count == 0 || outputs.empty()) return;
  const Tasks tasks = Tasks::cut(outputs, input, pool.size());
  pool.run(tasks.panel_tasks * tasks.token_tasks, [&](int64_t task) {
    int64_t panel_task = task % tasks.panel_tasks;
    const LinearOutput* output = outputs.data();
    for (; panel_task >= tasks.of(*output); ++output) panel_task -= tasks.of(*output);
    run_task(*output, input, tasks, panel_task, task / tasks.panel_tasks);
  });
}

void linear(const PackedLinear& layer, const PreparedInput& input, float* y, int64_t y_stride, ThreadPool& pool) {
  const LinearOutput output{&layer, y, y_stride};
  linear({&output, 1}, input, pool);
}

}  // namespace nibble
