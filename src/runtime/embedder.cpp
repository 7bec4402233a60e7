#include "runtime/embedder.h"

namespace nibble {

Result<Embedder> Embedder::make(const Spec& spec, const GlobalWeights& globals, Isa isa, ThreadPool& pool,
                                const PackedLinear* tied_head) {
  Embedder out;
  out.spec_ = spec;
  out.globals_ = &globals;
  out.tied_head_ = tied_head;
  out.isa_ = isa;
  if (globals.project_in) {
    NIBBLE_TRY(out.project_in_, PackedLinear::pack(*globals.project_in, isa, pool));
  }
  return out;
}

Status Embedder::embed(std::span<const int32_t> tokens, std::span<const Segment> segments, float* out,
                       Workspace& workspace, ThreadPool& pool) const {
  NIBBLE_DO(check(tokens, segments));
  const auto m = static_cast<int64_t>(tokens.size()), width = spec_.embedding;
  float* rows = out;
  if (project_in_) {
    workspace.embedded.reserve(m * width);
    rows = workspace.embedded.data();
  }
  pool.run_ranges(m, 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      read_row(tokens[static_cast<size_t>(i)], {rows + i * width, static_cast<size_t>(width)});
  });
  if (project_in_) {
    prepare(project_in_->plan(), rows, width, m, isa_, workspace.input, pool);
    linear(*project_in_, workspace.input, out, spec_.hidden, pool);
  }
  if (spec_.positions == Positions::learned) add_positions(segments, out);
  return {};
}

void Embedder::read_row(int32_t id, std::span<float> out) const {
  if (tied_head_ != nullptr) return tied_head_->read_row(id, out);
  decode_row(globals_->embedding, id, out);
}

Status Embedder::check(std::span<const int32_t> tokens, std::span<const Segment> segments) const {
  NIBBLE_CHECK(tokens_of(segments) == static_cast<int64_t>(tokens.size()));
  for (int32_t id : tokens)
    if (id < 0 || id >= spec_.vocabulary)
      return fail(ErrorCode::usage, "token id {} is outside the model's vocabulary of {}", id, spec_.vocabulary);
  for (const Segment& segment : segments)
    if (segment.position < 0 || segment.position + segment.count > spec_.max_positions)
      return fail(ErrorCode::usage, "a sequence of {} tokens does not fit the model's {} positions",
                  segment.position + segment.count, spec_.max_positions);
  return {};
}

void Embedder::add_positions(std::span<const Segment> segments, float* out) const {
  for (const Segment& segment : segments) {
    const float* row = globals_->position_rows.data() + (segment.position + spec_.position_offset) * spec_.hidden;
    for (int64_t i = 0; i < segment.count * spec_.hidden; ++i) out[i] += row[i];
    out += segment.count * spec_.hidden;
  }
}

}  // namespace nibble
