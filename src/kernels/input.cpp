#include "kernels/input.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/checked.h"
#include "core/half.h"
#include "format/integer_levels.h"
#include "kernels/abi/linear.h"
#include "kernels/attention_plan.h"

namespace nibble {
namespace {

constexpr int64_t kTasksPerThread = 4;  // so that a slow core does not hold up the rest

constexpr int64_t kBlockOfHalves = 32;  // rows of bf16 input are padded to it (kernels/abi/linear.h)

// Bytes from token to token: an odd number of cache lines, so that the tokens of a register tile, which are read side
// by side, do not fall into the same sets of the cache.
int64_t spread(int64_t row_bytes) { return 64 * (ceil_div(row_bytes, 64) | 1); }

// Whether rows of floats can stay where they are: all columns are used, and there are few tokens or they do not fall
// into the same sets of the cache anyway.
bool stays(const InputPlan& plan, int64_t x_stride, int64_t m) {
  constexpr int64_t kFew = 12;
  return plan.activations.levels == Levels::f32 && plan.kept_count() == 0 && plan.rotation == 0 && plan.order.empty() &&
         (m <= kFew || x_stride % 64 != 0);
}

// The work on one token after the other; a thread has the rows from `room` on to itself.
struct Preparation {
  const InputPlan& plan;
  PreparedInput& out;
  const TokenKernels& kernels;
  RowSource rows;
  RoundArgs rounding = rounding_of(plan.activations);
  int shift = plan.in_records() ? *integer_shift(plan.activations) : 0;

  int64_t dense_begin() const { return round_up(plan.columns, 16); }
  int64_t halves_begin() const { return dense_begin() + round_up(plan.dense_count() + kSplitRoom, 16); }
  // Rows that are rounded, or multiplied, before they are put in order have a place for that.
  int64_t room_per_thread() const {
    return halves_begin() + (plan.order.empty() ? 0 : round_up(plan.inputs() + kBlockOfHalves, 16));
  }
  // Quantized input that single weights read too, as floats.
  bool is_kept_aside() const { return plan.sparse && plan.activations.is_integer(); }

  void reserve(int64_t m, int threads) {
    out.count = m;
    out.kept_stride = plan.kept_count();
    out.kept.reserve(m * out.kept_stride);
    if (plan.kept_halves) {
      out.kept_halves_stride = spread(round_up(plan.kept_count(), kBlockOfHalves) * 2) / 2;
      out.kept_halves.reserve(m * out.kept_halves_stride);
    }
    out.room.reserve(threads * room_per_thread());
    out.x = nullptr;
    if (plan.in_records()) {
      out.stride = spread(plan.groups * plan.group_stride);
      out.codes.reserve(m * out.stride);
      out.scales.reserve(m);
      return;
    }
    if (plan.activations.levels == Levels::bf16 || plan.activations.is_block()) {
      out.stride = spread(round_up(plan.inputs(), kBlockOfHalves) * 2);
      out.x_stride = out.stride / 2;
      out.halves.reserve(m * out.x_stride);
      return;
    }
    if (!plan.activations.is_integer()) {
      out.x_stride = spread((plan.inputs() + kSplitRoom) * 4) / 4;
      out.dense.reserve(m * out.x_stride);
      out.x = out.dense.data();
      return;
    }
    out.stride = spread(plan.groups * plan.group_stride);
    out.codes.reserve(m * out.stride);
    out.scales.reserve(m);
    out.zeros.reserve(m);
    out.sum_stride = round_up(m, 16);
    out.sums.reserve(plan.groups * out.sum_stride);
    if (!is_kept_aside()) return;
    out.x_stride = spread(plan.inputs() * 4) / 4;
    out.dense.reserve(m * out.x_stride);
  }

  void token(int64_t m, float* room) const {
    if (plan.activations.levels == Levels::f32) {
      float* const to = out.dense.data() + m * out.x_stride;
      if (plan.order.empty()) return keep(m, room, to);
      keep(m, room, room + dense_begin());
      return put_in_order(room + dense_begin(), to);
    }
    float* const dense = room + dense_begin();
    const float* x = rows(m, room);
    if (plan.kept_count() > 0) x = split(m, x, dense);
    if (plan.rotation > 0) x = rotate(x, dense);
    if (plan.activations.is_integer()) {
      if (is_kept_aside()) keep_aside(x, out.dense.data() + m * out.x_stride);
      if (!plan.exponents.empty()) x = multiply(x, dense);
      if (!plan.order.empty()) {
        put_in_order(x, room + halves_begin());
        x = room + halves_begin();
      }
      quantize(m, x);
    } else if (plan.in_records()) {
      encode(m, x);
    } else {
      uint16_t* const to = out.halves.data() + m * out.x_stride;
      uint16_t* const rounded = plan.order.empty() ? to : reinterpret_cast<uint16_t*>(room + halves_begin());
      if (plan.activations.is_block()) {
        round_blocks(x, rounded);
      } else {
        round(x, plan.dense_count(), rounded);
      }
      if (plan.order.empty()) return;
      put_in_order(rounded, to);
      std::fill(to + plan.inputs(), to + round_up(plan.inputs(), kBlockOfHalves), uint16_t{0});
    }
  }

  template <class T>
  void put_in_order(const T* dense, T* to) const {
    for (int32_t column : plan.order) *to++ = column < 0 ? T{0} : dense[column];
  }

  void keep_aside(const float* x, float* to) const {
    if (!plan.order.empty()) return put_in_order(x, to);
    std::memcpy(to, x, static_cast<size_t>(plan.dense_count()) * sizeof(float));
  }

  const float* multiply(const float* x, float* to) const {
    constexpr int32_t kBias = 127, kMantissaBits = 23;
    for (int64_t k = 0; k < plan.dense_count(); ++k)
      to[k] = x[k] * std::bit_cast<float>((plan.exponents[static_cast<size_t>(k)] + kBias) << kMantissaBits);
    return to;
  }

  // The dense columns as floats.
  void keep(int64_t m, float* room, float* to) const {
    const float* const x = plan.kept_count() > 0 ? split(m, rows(m, room), to) : rows(m, to);
    if (plan.rotation > 0) {
      rotate(x, to);
    } else if (x != to) {
      std::memcpy(to, x, static_cast<size_t>(plan.columns) * sizeof(float));
    }
  }

  const float* rotate(const float* x, float* to) const {
    kernels.rotate({x, plan.dense_count(), plan.rotation, to});
    return to;
  }

  // To bf16, zeros up to a whole block.
  static void round(const float* x, int64_t count, uint16_t* to) {
    for (int64_t i = 0; i < count; ++i) to[i] = f32_to_bf16(x[i]);
    std::fill(to + count, to + round_up(count, kBlockOfHalves), uint16_t{0});
  }

  void round_blocks(const float* x, uint16_t* to) const {
    RoundArgs args = rounding;
    args.x = x;
    args.count = plan.dense_count();
    args.y = to;
    kernels.round(args);
    std::fill(to + args.count, to + round_up(args.count, kBlockOfHalves), uint16_t{0});
  }

  void encode(int64_t m, const float* x) const {
    EncodeArgs args{rounding, shift, out.codes.data() + m * out.stride, out.scales.data() + m};
    args.rounding.x = x;
    args.rounding.count = plan.dense_count();
    kernels.encode(args);
  }

  const float* split(int64_t m, const float* x, float* dense) const {
    kernels.split({.x = x,
                   .columns = plan.columns,
                   .kept_columns = plan.kept_columns.data(),
                   .kept_count = plan.kept_count(),
                   .dense = dense,
                   .kept = out.kept.data() + m * out.kept_stride});
    if (plan.kept_halves)
      round(out.kept.data() + m * out.kept_stride, plan.kept_count(),
            out.kept_halves.data() + m * out.kept_halves_stride);
    return dense;
  }

  void quantize(int64_t m, const float* x) const {
    kernels.quantize({.x = x,
                      .x_stride = 0,
                      .m_begin = m,
                      .m_end = m + 1,
                      .columns = plan.inputs(),
                      .bits = plan.activations.bits,
                      .asymmetric = plan.activations.offset,
                      .group_size = plan.group_size,
                      .groups = plan.groups,
                      .group_stride = plan.group_stride,
                      .codes = out.codes.data(),
                      .stride = out.stride,
                      .scales = out.scales.data(),
                      .zeros = out.zeros.data(),
                      .sums = out.sums.data(),
                      .sum_stride = out.sum_stride});
  }
};

// Tokens side by side, for single weights.
void fill_columns(const InputPlan& plan, PreparedInput& out, ThreadPool& pool) {
  const int64_t k_end = plan.inputs(), m_end = out.count;
  const float* const rows = plan.activations.is_integer() ? out.dense.data() : out.x;
  const auto value = [&](int64_t m, int64_t k) {
    return rows != nullptr ? rows[m * out.x_stride + k] : bf16_to_f32(out.halves.data()[m * out.x_stride + k]);
  };
  if (m_end == 1) {
    out.columns.reserve(k_end);
    for (int64_t k = 0; k < k_end; ++k) out.columns.data()[k] = value(0, k);
    return;
  }
  constexpr int64_t kRun = 16;  // inputs: lines of sixteen tokens stay in the first cache
  const int64_t groups = ceil_div(m_end, kLanes);
  out.columns.reserve(groups * k_end * kLanes);
  pool.run(groups, [&](int64_t g) {
    float* const to = out.columns.data() + g * k_end * kLanes;
    const int64_t count = std::min(kLanes, m_end - g * kLanes);
    if (count < kLanes) std::fill(to, to + k_end * kLanes, 0.0f);
    for (int64_t begin = 0; begin < k_end; begin += kRun)
      for (int64_t i = 0; i < count; ++i)
        for (int64_t k = begin; k < std::min(k_end, begin + kRun); ++k) to[k * kLanes + i] = value(g * kLanes + i, k);
  });
}

}  // namespace

void prepare(const InputPlan& plan, RowSource rows, int64_t m, Isa isa, PreparedInput& out, ThreadPool& pool) {
  Preparation work{plan, out, token_kernels(isa), rows};
  work.reserve(m, pool.size());
  if (m == 0) return;
  const int64_t grain = ceil_div(m, pool.size() * kTasksPerThread);
  pool.run_by_thread(ceil_div(m, grain), [&](int64_t task, int thread) {
    float* const room = out.room.data() + thread * work.room_per_thread();
    for (int64_t i = task * grain; i < std::min(m, (task + 1) * grain); ++i) work.token(i, room);
  });
  if (plan.sparse) fill_columns(plan, out, pool);
}

void prepare(const InputPlan& plan, const float* x, int64_t x_stride, int64_t m, Isa isa, PreparedInput& out,
             ThreadPool& pool) {
  if (!stays(plan, x_stride, m))
    return prepare(
        plan, [=](int64_t i, float*) { return x + i * x_stride; }, m, isa, out, pool);
  out.count = m;
  out.x = x;
  out.x_stride = x_stride;
  if (plan.sparse && m > 0) fill_columns(plan, out, pool);
}

}  // namespace nibble
