// The hidden states of many samples between two blocks, in a file, so that memory holds a few samples at a time.
//
// Before block b the states lie in FOLDER/NAME.b.f32: float32 [samples][length][hidden]. A pass reads them in chunks of
// whole samples and may write those after the block, durably, to NAME.(b+1).f32. A sample's states depend on nothing
// but the sample, so the size of the chunks does not matter.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "core/threads.h"
#include "quantize/pipeline/samples.h"
#include "runtime/block.h"
#include "runtime/embedder.h"

namespace nibble {

// Sees what each sample brings to a site: x [length][width], samples in order. False: the sites after this one are not
// wanted.
using SampleTap = std::function<bool(const Site& site, const float* x, int64_t length, int64_t width)>;

class HiddenStream {
 public:
  // `samples` must outlive the stream. `chunk`: samples in memory at a time.
  HiddenStream(std::filesystem::path folder, std::string name, const Spec& spec, const Samples& samples, int64_t chunk,
               Isa isa);

  // Writes the states before block 0.
  Status embed(const Embedder& embedder, ThreadPool& pool);
  // Runs all samples through a block.
  Status observe(int64_t index, const PackedBlock& block, const SampleTap& tap, ThreadPool& pool);
  Status advance(int64_t index, const PackedBlock& block, ThreadPool& pool);
  // The states before block `index`, of all samples. For short streams.
  Result<std::vector<float>> read(int64_t index) const;
  void remove(int64_t index) const;

  std::filesystem::path path(int64_t index) const;
  int64_t tokens() const { return samples_->count * samples_->length; }
  int64_t bytes() const { return samples_->count * sample_floats() * static_cast<int64_t>(sizeof(float)); }

 private:
  int64_t sample_floats() const { return samples_->length * spec_.hidden; }
  // Calls work(first sample, count, segments) for each chunk.
  template <class Work>
  Status for_chunks(const Work& work);
  Status run(int64_t index, const PackedBlock& block, const SampleTap* tap, bool write, ThreadPool& pool);

  std::filesystem::path folder_;
  std::string name_;
  Spec spec_;  // with one layer: each block runs with a cache of its own
  const Samples* samples_;
  int64_t chunk_;
  Isa isa_;
  std::vector<Sequence> sequences_;
  Workspace workspace_;
};

}  // namespace nibble
