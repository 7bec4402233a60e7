#include "search/observer.h"

#include <algorithm>
#include <utility>

namespace nibble::search {
namespace {

constexpr int64_t kTokensAtOnce = 2048;  // through a block

}  // namespace

Observer::Observer(const Model& model, Samples text)
    : model_(&model), text_(std::move(text)), one_block_(model.spec()) {
  one_block_.layers = 1;
  const int64_t count = std::clamp<int64_t>(kTokensAtOnce / text_.length, 1, text_.count);
  for (int64_t i = 0; i < count; ++i) sequences_.emplace_back(one_block_, CacheType::f32);
}

Result<SiteStatistics> Observer::take(int64_t block, size_t site, std::span<const unsigned> wanted, ThreadPool& pool) {
  if (block != seen_ || statistics_[site].absmax.empty()) {
    if (states_.size() == 0 || block < next_) NIBBLE_DO(embed(pool));
    while (next_ < block) NIBBLE_DO(pass({}, pool));
    clear(wanted);
    NIBBLE_DO(pass(wanted, pool));
    seen_ = block;
  }
  return std::exchange(statistics_[site], {});
}

Status Observer::embed(ThreadPool& pool) {
  const int64_t each = text_.length * one_block_.hidden;
  states_.reserve(text_.count * each);
  next_ = 0;
  for (int64_t i = 0; i < text_.count; ++i) {
    sequences_[0].clear();
    const Segment segment{&sequences_[0], text_.length, 0};
    NIBBLE_DO(model_->embedder().embed(text_.sample(i), {&segment, 1}, states_.data() + i * each, workspace_, pool));
  }
  return {};
}

void Observer::clear(std::span<const unsigned> wanted) {
  statistics_.clear();
  for (size_t site = 0; site < wanted.size(); ++site) {
    const int64_t width = shape_of(one_block_, sites_of(one_block_)[site].roles[0]).columns;
    SiteStatistics& of = statistics_.emplace_back();
    of.absmax.assign(static_cast<size_t>(width), 0);
    if (wanted[site] & kGram) of.gram = Gram(width);
    if (wanted[site] & kSquares) of.squares.assign(static_cast<size_t>(width), 0);
  }
}

Status Observer::pass(std::span<const unsigned> wanted, ThreadPool& pool) {
  const PackedBlock& block = model_->block(next_);
  const auto at_once = static_cast<int64_t>(sequences_.size());
  for (int64_t first = 0; first < text_.count; first += at_once) {
    const int64_t count = std::min(at_once, text_.count - first);
    std::vector<Segment> segments;
    for (int64_t i = 0; i < count; ++i) {
      sequences_[static_cast<size_t>(i)].clear();
      segments.push_back({&sequences_[static_cast<size_t>(i)], text_.length, 0});
    }
    float* const hidden = states_.data() + first * text_.length * one_block_.hidden;
    if (wanted.empty()) forward_block(one_block_, block, 0, segments, hidden, model_->isa(), workspace_, pool);
    for (size_t site = 0; site < wanted.size(); ++site) {
      const float* const x =
          stage_input(one_block_, block, site, hidden, count * text_.length, model_->isa(), workspace_, pool);
      NIBBLE_DO(look(x, count, site, wanted[site], pool));
      forward_stage(one_block_, block, site, 0, segments, hidden, model_->isa(), workspace_, pool);
    }
  }
  ++next_;
  return {};
}

Status Observer::look(const float* x, int64_t samples, size_t site, unsigned wanted, ThreadPool& pool) {
  SiteStatistics& out = statistics_[site];
  const auto width = static_cast<int64_t>(out.absmax.size());
  for (int64_t i = 0; i < samples; ++i) {
    const float* const sample = x + i * text_.length * width;
    NIBBLE_DO(observe_absmax(sample, text_.length, out.absmax,
                             fmt::format("blocks.{}.{}", next_, sites_of(one_block_)[site].name), pool));
    if (wanted & kGram) out.gram.add(sample, text_.length, pool);
    if (wanted & kSquares) observe_squares(sample, text_.length, out.squares, pool);
  }
  return {};
}

}  // namespace nibble::search
