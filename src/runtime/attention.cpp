#include "runtime/attention.h"

#include <algorithm>
#include <cmath>

#include "core/checked.h"
#include "kernels/linear.h"

namespace nibble {
namespace {

// Queries come in tiles of 12 at most; their scores should stay in the second-level cache.
constexpr int64_t kTile = 12, kScores = 768 * 1024 / sizeof(float);

using Part = AttentionScratch::Part;

struct AttentionRun {
  const Spec& spec;
  int64_t layer;
  std::span<const Segment> segments;
  const Projections& from;
  const PositionTables& positions;
  Isa isa;
  AttentionScratch& scratch;
  float* y;
  ThreadPool& pool;
  int64_t group = spec.heads / spec.kv_heads;
  int64_t tasks = 0, pages = 0, floats = 0;

  void run() {
    cut();
    // A sequence that adds few tokens is stored by the task that attends to them.
    const bool separately = tasks > spec.kv_heads * static_cast<int64_t>(segments.size());
    if (scratch.floats.size() < floats * pool.size()) scratch.floats.reserve(2 * floats * pool.size());
    if (separately) pool.run_by_thread(pages, [&](int64_t task, int thread) { store_page(task, floats_of(thread)); });
    pool.run_by_thread(tasks, [&](int64_t task, int thread) {
      const Part& part = part_of(task, &Part::first_task);
      const int64_t kv_head = (task - part.first_task) / part.chunks, chunk = (task - part.first_task) % part.chunks;
      if (!separately) store(part, kv_head, 0, segment_of(part).count, floats_of(thread));
      // The last queries see most: they come first, so that no thread is left with a long task at the end.
      mix(part, kv_head, part.chunks - 1 - chunk, floats_of(thread));
    });
  }

  float* floats_of(int thread) const { return scratch.floats.data() + thread * floats; }

  void cut() {
    int64_t all = 0, row = 0;
    for (const Segment& segment : segments) all += segment.count * spec.heads;
    // At least three tasks to a thread, if there are tiles enough.
    const int64_t share = round_up(ceil_div(all, 3 * pool.size()), kTile);
    scratch.parts.clear();
    for (const Segment& segment : segments) {
      const int64_t end = segment.position + segment.count, queries = segment.count * group;
      const int64_t fitting = kScores / round_up(std::max<int64_t>(end, 1), kPagePositions) / kTile * kTile;
      const int64_t most = std::min(kMostQueries, share);
      const int64_t rows = std::clamp(fitting, kTile, std::max(most, kTile));
      const int64_t chunks = ceil_div(queries, rows), blocks = pages_of(segment);
      scratch.parts.push_back({row, rows, chunks, tasks, pages});
      row += segment.count;
      tasks += chunks * spec.kv_heads;
      pages += blocks * spec.kv_heads;
      floats = std::max(floats, floats_for(std::min(rows, queries), end));
    }
  }

  // As kernels/abi/attention.h asks.
  int64_t floats_for(int64_t rows, int64_t seen) const {
    const int64_t stride = round_up(spec.head_dim, kKeyPanel);
    return 97 * stride + round_up(rows, kTile) * (2 * stride + 16 + round_up(seen, kPagePositions));
  }

  static int64_t pages_of(const Segment& segment) {
    return ceil_div(segment.position + segment.count, kPagePositions) - segment.position / kPagePositions;
  }

  // The part that `task` belongs to, counted by first_task or first_page.
  const Part& part_of(int64_t task, int64_t Part::*first) const {
    const auto after = std::upper_bound(scratch.parts.begin(), scratch.parts.end(), task,
                                        [&](int64_t wanted, const Part& part) { return wanted < part.*first; });
    return *std::prev(after);
  }

  const Segment& segment_of(const Part& part) const {
    return segments[static_cast<size_t>(&part - scratch.parts.data())];
  }

  RotaryTables angles() const {
    if (spec.positions != Positions::rotary) return {};
    return {positions.cosines(), positions.sines()};
  }

  void store_page(int64_t task, float* floats_of_thread) const {
    const Part& part = part_of(task, &Part::first_page);
    const Segment& segment = segment_of(part);
    const int64_t blocks = pages_of(segment), kv_head = (task - part.first_page) / blocks,
                  page = segment.position / kPagePositions + (task - part.first_page) % blocks;
    store(part, kv_head, std::max<int64_t>(0, page * kPagePositions - segment.position),
          std::min(segment.count, (page + 1) * kPagePositions - segment.position), floats_of_thread);
  }

  // Tokens [begin, end) of a segment.
  void store(const Part& part, int64_t kv_head, int64_t begin, int64_t end, float* floats_of_thread) const {
    const Segment& segment = segment_of(part);
    const int64_t row = part.first_row + begin;
    CacheStoreArgs args{};
    args.cache = segment.sequence->head(layer, kv_head);
    args.angles = angles();
    args.keys = from.k + row * from.k_stride + kv_head * spec.head_dim;
    args.values = from.v + row * from.v_stride + kv_head * spec.head_dim;
    args.key_stride = from.k_stride;
    args.value_stride = from.v_stride;
    args.position = segment.position + begin;
    args.count = end - begin;
    args.scratch = floats_of_thread;
    attention_row(args.cache.type, isa).store(args);
  }

  // One run of queries: (token, head of the group) pairs, the heads of a token side by side.
  void mix(const Part& part, int64_t kv_head, int64_t chunk, float* floats_of_thread) const {
    const Segment& segment = segment_of(part);
    const int64_t begin = chunk * part.rows, end = std::min(segment.count * group, begin + part.rows);
    AttentionQuery queries[kMostQueries];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t token = i / group, row = part.first_row + token, head = kv_head * group + i % group;
      queries[i - begin] = {from.q + row * from.q_stride + head * spec.head_dim,
                            y + (row * spec.heads + head) * spec.head_dim, positions.bias(head),
                            segment.position + token};
    }
    AttentionArgs args{};
    args.cache = segment.sequence->head(layer, kv_head);
    args.angles = angles();
    args.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(spec.head_dim)));
    args.queries = queries;
    args.count = end - begin;
    args.scratch = floats_of_thread;
    args.added = from.v + part.first_row * from.v_stride + kv_head * spec.head_dim;
    args.added_stride = from.v_stride;
    args.added_position = segment.position;
    args.added_count = segment.count;
    attention_row(args.cache.type, isa).kernel(args);
  }
};

}  // namespace

void attend(const Spec& spec, int64_t layer, std::span<const Segment> segments, const Projections& from,
            const PositionTables& positions, Isa isa, AttentionScratch& scratch, float* y, ThreadPool& pool) {
  AttentionRun{spec, layer, segments, from, positions, isa, scratch, y, pool}.run();
}

}  // namespace nibble
