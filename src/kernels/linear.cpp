#include "kernels/linear.h"

#include <algorithm>

#include "core/checked.h"
#include "kernels/list.h"

namespace nibble {
namespace {

constexpr int64_t kStripPanels = 4;         // the widest register tile
constexpr int64_t kTasksPerThread = 4;      // so that a slow core does not hold up the rest
constexpr int64_t kSmallestTask = 1 << 15;  // multiplications worth waking a thread for

// Copies the dense and the kept columns of a token apart, for float input.
void split_row(const InputPlan& plan, const float* x, float* dense, float* kept) {
  for (int32_t column : plan.dense_columns) *dense++ = x[column];
  for (int32_t column : plan.kept_columns) *kept++ = x[column];
}

// Bytes from token to token: an odd number of cache lines, so that the tokens of a register tile, which are read side
// by side, do not fall into the same sets of the cache.
int64_t spread(int64_t row_bytes) { return 64 * (ceil_div(row_bytes, 64) | 1); }

QuantizeArgs quantize_args(const InputPlan& plan, const float* x, int64_t x_stride, PreparedInput& out) {
  QuantizeArgs args{};
  args.x = x;
  args.x_stride = x_stride;
  args.dense_columns = plan.kept_columns.empty() ? nullptr : plan.dense_columns.data();
  args.dense_count = plan.columns - static_cast<int64_t>(plan.kept_columns.size());
  args.kept_columns = plan.kept_columns.data();
  args.kept_count = static_cast<int64_t>(plan.kept_columns.size());
  args.bits = plan.activations.bits;
  args.asymmetric = plan.activations.offset;
  args.group_size = plan.group_size;
  args.groups = plan.groups;
  args.group_stride = plan.group_stride;
  args.codes = out.codes.data();
  args.stride = out.stride;
  args.scales = out.scales.data();
  args.zeros = out.zeros.data();
  args.sums = out.sums.data();
  args.kept = out.kept.data();
  args.kept_stride = out.kept_stride;
  return args;
}

int64_t tokens_per_task(int64_t m, const ThreadPool& pool) { return ceil_div(m, pool.size() * kTasksPerThread); }

void prepare_codes(const InputPlan& plan, const float* x, int64_t x_stride, int64_t m, Isa isa, PreparedInput& out,
                   ThreadPool& pool) {
  out.x = nullptr;
  out.stride = spread(plan.groups * plan.group_stride);
  out.codes.reserve(m * out.stride);
  out.scales.reserve(m);
  out.zeros.reserve(m);
  out.sums.reserve(m * plan.groups);
  const QuantizeArgs args = quantize_args(plan, x, x_stride, out);
  const QuantizeKernel kernel = quantize_kernel(isa);
  pool.run_ranges(m, tokens_per_task(m, pool), [&](int64_t begin, int64_t end) {
    QuantizeArgs part = args;
    part.m_begin = begin;
    part.m_end = end;
    kernel(part);
  });
}

void prepare_floats(const InputPlan& plan, const float* x, int64_t x_stride, int64_t m, PreparedInput& out,
                    ThreadPool& pool) {
  out.x = x;
  out.x_stride = x_stride;
  if (plan.kept_columns.empty()) return;
  out.x_stride = static_cast<int64_t>(plan.dense_columns.size());
  out.dense.reserve(m * out.x_stride);
  out.x = out.dense.data();
  pool.run_ranges(m, tokens_per_task(m, pool), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      split_row(plan, x + i * x_stride, out.dense.data() + i * out.x_stride, out.kept.data() + i * out.kept_stride);
  });
}

// How the outputs of a layer are cut into tasks. Results do not depend on it: every output is computed by one kernel
// call, whichever tile it is in.
struct Tasks {
  int64_t panels, tokens;  // per task: whole strips, whole register tiles
  int64_t panel_tasks, token_tasks;

  static Tasks cut(int64_t panels, int64_t m, int64_t k, int64_t tile_m, int threads) {
    if (threads == 1 || panels * kLanes * m * k <= kSmallestTask) return {panels, m, 1, 1};
    const int64_t wanted = threads * kTasksPerThread;
    Tasks tasks{};
    tasks.panels = kStripPanels * std::max<int64_t>(1, panels / kStripPanels / wanted);
    tasks.panel_tasks = ceil_div(panels, tasks.panels);
    tasks.tokens = round_up(ceil_div(m, ceil_div(wanted, tasks.panel_tasks)), tile_m);
    tasks.token_tasks = ceil_div(m, tasks.tokens);
    return tasks;
  }
};

}  // namespace

void prepare(const InputPlan& plan, const float* x, int64_t x_stride, int64_t m, Isa isa, PreparedInput& out,
             ThreadPool& pool) {
  out.count = m;
  out.kept_stride = static_cast<int64_t>(plan.kept_columns.size());
  out.kept.reserve(m * out.kept_stride);
  if (plan.activations.is_integer()) return prepare_codes(plan, x, x_stride, m, isa, out, pool);
  prepare_floats(plan, x, x_stride, m, out, pool);
}

LinearArgs PackedLinear::arguments(const PreparedInput& input, float* y, int64_t y_stride) const {
  LinearArgs args{};
  args.dense = dense_;
  args.kept = kept_;
  args.bias = bias_.data();
  args.rows = {input.codes.data(), input.stride, input.scales.data(), input.zeros.data(), input.sums.data()};
  args.x = input.x;
  args.x_stride = input.x_stride;
  args.x_kept = input.kept.data();
  args.kept_stride = input.kept_stride;
  args.y = y;
  args.y_stride = y_stride;
  args.m_end = input.count;
  args.panel_end = ceil_div(n_, kLanes);
  return args;
}

void linear(const PackedLinear& layer, const PreparedInput& input, float* y, int64_t y_stride, ThreadPool& pool) {
  if (input.count == 0) return;
  const LinearRow& row = layer.row_for(input.count);
  const LinearArgs args = layer.arguments(input, y, y_stride);
  const Tasks tasks = Tasks::cut(args.panel_end, input.count, args.dense.k, row.tile_m, pool.size());
  pool.run(tasks.panel_tasks * tasks.token_tasks, [&](int64_t task) {
    LinearArgs part = args;
    part.panel_begin = task / tasks.token_tasks * tasks.panels;
    part.panel_end = std::min(args.panel_end, part.panel_begin + tasks.panels);
    part.m_begin = task % tasks.token_tasks * tasks.tokens;
    part.m_end = std::min(args.m_end, part.m_begin + tasks.tokens);
    row.kernel(part);
  });
}

}  // namespace nibble
