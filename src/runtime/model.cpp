#include "runtime/model.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace nibble {
namespace {

// y = layer(x) for M rows of x.
void apply(const PackedLinear& layer, const float* x, int64_t m, float* y, Isa isa, Workspace& ws, ThreadPool& pool) {
  prepare(layer.plan(), x, layer.inputs(), m, isa, ws.input, pool);
  linear(layer, ws.input, y, layer.outputs(), pool);
}

bool all_finite(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
}

// A sequence that is in two segments would be written at the same positions twice.
Status check_distinct(std::span<const Segment> segments) {
  std::vector<const Sequence*> sequences;
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
  NIBBLE_DO(model.load_globals(source, pool));
  for (int64_t layer = 0; layer < model.spec_.layers; ++layer) NIBBLE_DO(model.load_block(source, layer, pool));
  return model;
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
  if (!options_.weights || weight.format.is_integer() || weight.format.levels == *options_.weights) return {};
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
  return {};
}

int64_t Model::packed_bytes() const {
  int64_t total = head_->bytes() + static_cast<int64_t>(globals_->embedding.codes.size());
  total += static_cast<int64_t>(globals_->position_rows.size() * sizeof(float));
  if (project_out_) total += project_out_->bytes();
  for (const PackedBlock& block : blocks_) total += block.bytes();
  return total;
}

Status Model::forward(std::span<const int32_t> tokens, std::span<Segment> segments, std::span<const int64_t> wanted,
                      float* logits, Workspace& ws, ThreadPool& pool) const {
  for (int64_t row : wanted) NIBBLE_CHECK(row >= 0 && row < static_cast<int64_t>(tokens.size()));
  NIBBLE_DO(run_blocks(tokens, segments, ws, pool));
  ws.final_rows.reserve(static_cast<int64_t>(wanted.size()) * spec_.hidden);
  for (size_t i = 0; i < wanted.size(); ++i)
    std::memcpy(ws.final_rows.data() + static_cast<int64_t>(i) * spec_.hidden,
                ws.hidden.data() + wanted[i] * spec_.hidden, static_cast<size_t>(spec_.hidden) * sizeof(float));
  Status done = logits_of(ws.final_rows.data(), static_cast<int64_t>(wanted.size()), logits, ws, pool);
  if (!done)
    for (const Segment& segment : segments) segment.sequence->truncate(segment.position);
  return done;
}

Status Model::run_blocks(std::span<const int32_t> tokens, std::span<Segment> segments, Workspace& ws,
                         ThreadPool& pool) const {
  NIBBLE_DO(check_distinct(segments));
  for (Segment& segment : segments) segment.position = segment.sequence->length();
  ws.hidden.reserve(static_cast<int64_t>(tokens.size()) * spec_.hidden);
  NIBBLE_DO(embedder_->embed(tokens, segments, ws.hidden.data(), ws, pool));
  for (int64_t layer = 0; layer < spec_.layers; ++layer)
    forward_block(spec_, block(layer), layer, segments, ws.hidden.data(), isa_, ws, pool);
  for (const Segment& segment : segments) segment.sequence->advance(segment.count);
  return {};
}

Status Model::logits_of(const float* hidden, int64_t m, float* logits, Workspace& ws, ThreadPool& pool) const {
  const float* x = hidden;
  if (spec_.final_norm) {
    ws.normed.reserve(m * spec_.hidden);
    normalize(spec_, globals_->final_norm, x, m, ws.normed.data(), pool);
    x = ws.normed.data();
  }
  if (project_out_) {
    ws.head_rows.reserve(m * spec_.embedding);
    apply(*project_out_, x, m, ws.head_rows.data(), isa_, ws, pool);
    x = ws.head_rows.data();
  }
  apply(*head_, x, m, logits, isa_, ws, pool);
  std::vector<uint8_t> finite(static_cast<size_t>(m));
  pool.run(m, [&](int64_t row) {
    finite[static_cast<size_t>(row)] =
        all_finite({logits + row * spec_.vocabulary, static_cast<size_t>(spec_.vocabulary)});
  });
  if (auto bad = std::find(finite.begin(), finite.end(), 0); bad != finite.end())
    return fail(ErrorCode::failure, "the logits of row {} are not finite: an activation overflowed or a weight is bad",
                bad - finite.begin());
  return {};
}

}  // namespace nibble
