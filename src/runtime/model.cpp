#include "runtime/model.h"

#include <algorithm>
#include <atomic>
#include <bit>

#include "runtime/ops/ops.h"

namespace nibble {
namespace {

// Without an early end, so that the loop vectorizes.
bool all_finite(const float* values, int64_t count) {
  constexpr uint32_t kExponent = 0x7F800000;
  uint32_t bad = 0;
  for (int64_t i = 0; i < count; ++i) bad |= (std::bit_cast<uint32_t>(values[i]) & kExponent) == kExponent;
  return bad == 0;
}

// A sequence that is in two segments would be written at the same positions twice.
Status check_distinct(std::span<const Segment> segments, std::vector<const Sequence*>& sequences) {
  sequences.clear();
  for (const Segment& segment : segments) sequences.push_back(segment.sequence);
  std::sort(sequences.begin(), sequences.end());
  if (std::adjacent_find(sequences.begin(), sequences.end()) != sequences.end())
    return fail(ErrorCode::usage, "a batch holds two segments of the same sequence");
  return {};
}

}  // namespace

Result<Model> Model::load(const std::filesystem::path& folder, const Options& options, ThreadPool& pool) {
  NIBBLE_TRY(const std::unique_ptr<ModelSource> source, open_model(folder));
  return load(*source, options, pool);
}

Result<Model> Model::load(const ModelSource& source, const Options& options, ThreadPool& pool) {
  Model model;
  model.spec_ = source.spec();
  model.options_ = options;
  NIBBLE_TRY(model.isa_, selected_isa());
  NIBBLE_TRY(model.stored_attention_, attention_of(source));
  std::vector<AttentionFormats> formats = model.stored_attention_;
  for (AttentionFormats& layer : formats)
    if (options.cache) {
      NIBBLE_TRY(layer, with_cache(layer, *options.cache, "the KV cache"));
    }
  model.attention_ = plan_attention(model.spec_, formats);
  NIBBLE_DO(options.packed_cache ? model.load_cached(source, pool) : model.load_packing(source, pool));
  return model;
}

Status Model::load_packing(const ModelSource& source, ThreadPool& pool) {
  NIBBLE_DO(load_globals(source, pool));
  for (int64_t layer = 0; layer < spec_.layers; ++layer) NIBBLE_DO(load_block(source, layer, pool));
  return {};
}

Status Model::load_globals(const ModelSource& source, ThreadPool& pool) {
  NIBBLE_TRY(GlobalWeights globals, source.globals());
  globals_ = std::make_unique<GlobalWeights>(std::move(globals));
  NIBBLE_DO(convert(globals_->embedding, "embedding", pool));
  if (globals_->project_in) NIBBLE_DO(convert(*globals_->project_in, "project_in", pool));
  const bool tied = !globals_->head;
  NIBBLE_TRY(PackedLinear head, pack(tied ? globals_->embedding : *globals_->head, "head", pool));
  head_ = std::make_unique<const PackedLinear>(std::move(head));
  NIBBLE_TRY(embedder_, Embedder::make(spec_, *globals_, isa_, pool, tied ? head_.get() : nullptr));
  if (tied) globals_->embedding = {};
  if (globals_->project_out) {
    NIBBLE_TRY(project_out_, pack(*globals_->project_out, "project_out", pool));
  }
  globals_->head.reset();
  globals_->project_in.reset();
  globals_->project_out.reset();
  return {};
}

Status Model::load_block(const ModelSource& source, int64_t layer, ThreadPool& pool) {
  NIBBLE_TRY(BlockWeights weights, source.block(layer));
  for (Role role : kAllRoles)
    if (weights[role].rows > 0) NIBBLE_DO(convert(weights[role], linear_name(layer, role), pool));
  auto packed = pack_block(weights, isa_, pool);
  if (!packed) return fail(packed.error().code, "block {}, {}", layer, packed.error().message);
  blocks_.push_back(std::move(*packed));
  return {};
}

Result<PackedLinear> Model::pack(LinearWeight& weight, std::string_view name, ThreadPool& pool) const {
  NIBBLE_DO(convert(weight, name, pool));
  auto packed = PackedLinear::pack(weight, isa_, pool);
  if (!packed) return fail(packed.error().code, "{}: {}", name, packed.error().message);
  return packed;
}

Status Model::convert(LinearWeight& weight, std::string_view name, ThreadPool& pool) const {
  if (weight.format.has_codes()) return {};
  NumberFormat input{.levels = options_.activations};
  input.bits = input.levels == Levels::f32 ? 32 : 16;
  weight.activations = input;
  if (!options_.weights || weight.format.levels == *options_.weights) return {};
  const Levels levels = *options_.weights;
  const int64_t row_bytes = weight.columns * (levels == Levels::f32 ? 4 : 2);
  Bytes values(static_cast<size_t>(weight.rows * row_bytes));
  std::vector<uint8_t> fits(static_cast<size_t>(weight.rows));
  pool.run_ranges(weight.rows, 64, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(weight.columns));
    for (int64_t n = begin; n < end; ++n) {
      decode_row(weight, n, row);
      fits[static_cast<size_t>(n)] = !write_floats(row, levels, values.data() + n * row_bytes);
    }
  });
  if (auto bad = std::find(fits.begin(), fits.end(), 0); bad != fits.end())
    return fail(ErrorCode::unsupported, "{}: a weight of row {} is too large for {}", name, bad - fits.begin(),
                levels == Levels::f16 ? "f16 (bf16 has the range of f32)" : "bf16");
  weight = float_linear(weight.rows, weight.columns, levels, std::move(values), std::move(weight.bias));
  weight.activations = input;
  return {};
}

int64_t Model::linear_bytes() const {
  int64_t total = head_->bytes();
  if (project_out_) total += project_out_->bytes();
  for (const PackedBlock& block : blocks_) total += block.bytes();
  return total;
}

int64_t Model::mapped_bytes() const {
  const CodeBytes& embedding = globals_->embedding.codes;
  return (from_cache_ ? linear_bytes() : 0) + (embedding.is_borrowed() ? static_cast<int64_t>(embedding.size()) : 0);
}

int64_t Model::packed_bytes() const {
  const CodeBytes& embedding = globals_->embedding.codes;
  const int64_t total = linear_bytes() + static_cast<int64_t>(embedding.size()) +
                        static_cast<int64_t>(globals_->position_rows.size() * sizeof(float));
  return total - mapped_bytes();
}

Status Model::forward(std::span<const int32_t> tokens, std::span<Segment> segments, std::span<const int64_t> wanted,
                      float* logits, Workspace& ws, ThreadPool& pool) const {
  int64_t from = 0;
  for (int64_t row : wanted) {
    NIBBLE_CHECK(row >= from && row < static_cast<int64_t>(tokens.size()));
    from = row + 1;
  }
  NIBBLE_DO(run_blocks(tokens, segments, &wanted, ws, pool));
  Status done = logits_of(ws.hidden.data(), static_cast<int64_t>(wanted.size()), logits, ws, pool);
  if (!done)
    for (const Segment& segment : segments)
      NIBBLE_CHECK(segment.sequence->truncate(segment.position) == segment.position);
  return done;
}

Status Model::run_blocks(std::span<const int32_t> tokens, std::span<Segment> segments, Workspace& ws,
                         ThreadPool& pool) const {
  return run_blocks(tokens, segments, nullptr, ws, pool);
}

Status Model::run_blocks(std::span<const int32_t> tokens, std::span<Segment> segments,
                         const std::span<const int64_t>* wanted, Workspace& ws, ThreadPool& pool) const {
  NIBBLE_DO(check_distinct(segments, ws.sequences));
  for (Segment& segment : segments) segment.position = segment.sequence->length();
  ws.hidden.reserve(static_cast<int64_t>(tokens.size()) * spec_.hidden);
  NIBBLE_DO(embedder_->embed(tokens, segments, ws.hidden.data(), ws, pool));
  for (int64_t layer = 0; layer < spec_.layers; ++layer)
    forward_block(spec_, block(layer), layer, segments, ws.hidden.data(), isa_, ws, pool,
                  layer + 1 == spec_.layers ? wanted : nullptr);
  for (const Segment& segment : segments) segment.sequence->advance(segment.count);
  return {};
}

Status Model::logits_of(const float* hidden, int64_t m, float* logits, Workspace& ws, ThreadPool& pool) const {
  const auto final_row = [&](int64_t i, float* room) -> const float* {
    const float* const x = hidden + i * spec_.hidden;
    if (!spec_.final_norm) return x;
    ops::norm_row(spec_, globals_->final_norm, x, isa_, room);
    return room;
  };
  const auto apply = [&](const PackedLinear& layer, RowSource x, float* y) {
    prepare(layer.plan(), x, m, isa_, ws.input, pool);
    linear(layer, ws.input, y, layer.outputs(), pool);
  };
  if (project_out_) {
    ws.head_rows.reserve(m * spec_.embedding);
    apply(*project_out_, final_row, ws.head_rows.data());
    apply(
        *head_, [&](int64_t i, float*) { return ws.head_rows.data() + i * spec_.embedding; }, logits);
  } else {
    apply(*head_, final_row, logits);
  }
  return check_logits(logits, m, pool);
}

Status Model::check_logits(const float* logits, int64_t m, ThreadPool& pool) const {
  std::atomic<int64_t> first_bad{m};
  pool.run(m, [&](int64_t row) {
    if (all_finite(logits + row * spec_.vocabulary, spec_.vocabulary)) return;
    for (int64_t seen = first_bad.load(); row < seen && !first_bad.compare_exchange_weak(seen, row);) {
    }
  });
  if (first_bad.load() < m)
    return fail(ErrorCode::failure, "the logits of row {} are not finite: an activation overflowed or a weight is bad",
                first_bad.load());
  return {};
}

}  // namespace nibble
