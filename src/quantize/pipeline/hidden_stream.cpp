#include "quantize/pipeline/hidden_stream.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "core/file.h"

namespace nibble {

HiddenStream::HiddenStream(std::filesystem::path folder, std::string name, const Spec& spec, const Samples& samples,
                           int64_t chunk, Isa isa)
    : folder_(std::move(folder)),
      name_(std::move(name)),
      spec_(spec),
      samples_(&samples),
      chunk_(std::clamp<int64_t>(chunk, 1, samples.count)),
      isa_(isa) {
  spec_.layers = 1;
  for (int64_t i = 0; i < chunk_; ++i) sequences_.emplace_back(spec_, CacheType::f32);
}

std::filesystem::path HiddenStream::path(int64_t index) const {
  return folder_ / fmt::format("{}.{}.f32", name_, index);
}

template <class Work>
Status HiddenStream::for_chunks(const Work& work) {
  for (int64_t first = 0; first < samples_->count; first += chunk_) {
    const int64_t count = std::min(chunk_, samples_->count - first);
    std::vector<Segment> segments;
    for (int64_t i = 0; i < count; ++i) {
      sequences_[static_cast<size_t>(i)].clear();
      segments.push_back({&sequences_[static_cast<size_t>(i)], samples_->length, 0});
    }
    NIBBLE_DO(work(first, count, segments));
  }
  return {};
}

Status HiddenStream::embed(const Embedder& embedder, ThreadPool& pool) {
  NIBBLE_TRY(DurableFile file, DurableFile::create(path(0)));
  AlignedBuffer<float> hidden(chunk_ * sample_floats());
  const Status embedded = for_chunks([&](int64_t first, int64_t count, std::span<const Segment> segments) -> Status {
    const auto tokens =
        std::span(samples_->tokens)
            .subspan(static_cast<size_t>(first * samples_->length), static_cast<size_t>(count * samples_->length));
    NIBBLE_DO(embedder.embed(tokens, segments, hidden.data(), workspace_, pool));
    return file.write(std::as_bytes(std::span(hidden.data(), static_cast<size_t>(count * sample_floats()))));
  });
  NIBBLE_DO(embedded);
  return file.commit();
}

Status HiddenStream::observe(int64_t index, const PackedBlock& block, const SampleTap& tap, ThreadPool& pool) {
  return run(index, block, &tap, false, pool);
}

Status HiddenStream::advance(int64_t index, const PackedBlock& block, ThreadPool& pool) {
  return run(index, block, nullptr, true, pool);
}

Status HiddenStream::run(int64_t index, const PackedBlock& block, const SampleTap* tap, bool write, ThreadPool& pool) {
  NIBBLE_TRY(const MappedFile states, MappedFile::open(path(index)));
  if (static_cast<int64_t>(states.bytes().size()) != bytes())
    return fail(ErrorCode::corrupt, "{} has {} bytes, expected {}", path(index).string(), states.bytes().size(),
                bytes());
  std::optional<DurableFile> next;
  if (write) {
    NIBBLE_TRY(DurableFile file, DurableFile::create(path(index + 1)));
    next.emplace(std::move(file));
  }
  const Tap split = [&](const Site& site, const float* x, int64_t m, int64_t width) {
    bool more = true;
    for (int64_t row = 0; row < m; row += samples_->length)
      more = (*tap)(site, x + row * width, samples_->length, width);
    return more;
  };
  AlignedBuffer<float> hidden(chunk_ * sample_floats());
  const Status ran = for_chunks([&](int64_t first, int64_t count, std::span<const Segment> segments) -> Status {
    const auto part = states.bytes().subspan(static_cast<size_t>(first * sample_floats()) * sizeof(float),
                                             static_cast<size_t>(count * sample_floats()) * sizeof(float));
    std::memcpy(hidden.data(), part.data(), part.size());
    states.release(part);
    forward_block(spec_, block, 0, segments, hidden.data(), isa_, workspace_, pool, tap == nullptr ? nullptr : &split);
    if (!next) return {};
    return next->write(std::as_bytes(std::span(hidden.data(), static_cast<size_t>(count * sample_floats()))));
  });
  NIBBLE_DO(ran);
  return next ? next->commit() : Status();
}

Result<std::vector<float>> HiddenStream::read(int64_t index) const {
  NIBBLE_TRY(const MappedFile states, MappedFile::open(path(index)));
  std::vector<float> out(states.bytes().size() / sizeof(float));
  std::memcpy(out.data(), states.bytes().data(), out.size() * sizeof(float));
  return out;
}

void HiddenStream::remove(int64_t index) const {
  std::error_code ignored;
  std::filesystem::remove(path(index), ignored);
}

}  // namespace nibble
