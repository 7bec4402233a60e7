// The hidden states of many samples between two blocks, in a file, so that memory holds a few samples at a time.
//
// Before block b the states lie in FOLDER/NAME.b.f32: float32 [samples][length][hidden], written durably. A block is
// run in stages (runtime/block.h): what a stage leaves to the later ones lies meanwhile in NAME.b.PART.f32, which is of
// no use after a crash. Passes read and write in chunks of whole samples. A sample's states depend on nothing but the
// sample, so the size of the chunks does not matter.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "core/threads.h"
#include "quantize/pipeline/samples.h"
#include "runtime/block.h"
#include "runtime/embedder.h"

namespace nibble {

// Sees what each sample brings to a site: x [length][width], samples in order.
using SampleTap = std::function<void(const float* x, int64_t length, int64_t width)>;

// Sees what the projections of `samples` samples of `length` tokens bring to attention.
using ProjectionTap =
    std::function<void(const Projections& from, const PositionTables& positions, int64_t samples, int64_t length)>;

class HiddenStream {
 public:
  // `samples` must outlive the stream. `chunk`: samples in memory at a time.
  HiddenStream(std::filesystem::path folder, std::string name, const Spec& spec, const Samples& samples, int64_t chunk,
               Isa isa);

  // Writes the states before block 0.
  Status embed(const Embedder& embedder, ThreadPool& pool);
  // Runs all samples to the input of site `site` of sites_of(spec), whose turn it is: through the linears of the site
  // before it, as they are in `block` by now. With as many as there are sites: to the end of the block. `tap` may be
  // null, and `projected`, which is called where the site before holds the queries.
  Status reach(int64_t index, const PackedBlock& block, size_t site, const SampleTap* tap, ThreadPool& pool,
               const ProjectionTap* projected = nullptr);
  // The whole block at once, with attention in these formats.
  Status advance(int64_t index, const PackedBlock& block, const AttentionFormats& attention, ThreadPool& pool);
  // The states before block `index`, of all samples. For short streams.
  Result<std::vector<float>> read(int64_t index) const;
  void remove(int64_t index) const;

  std::filesystem::path path(int64_t index) const;
  int64_t tokens() const { return samples_->count * samples_->length; }

 private:
  struct Part;
  static const Part kParts[];
  class Files;

  int64_t width(unsigned part) const;
  float* buffer(unsigned part);  // in memory, of a chunk
  std::filesystem::path path(int64_t index, const char* part) const;
  // Where a part of the block lies now: the residual stream begins as the states before the block.
  std::filesystem::path current(int64_t index, const Part& part) const;
  void remove_parts(int64_t index, unsigned parts) const;
  // Calls work(first sample, count, segments) for each chunk.
  template <class Work>
  Status for_chunks(const Work& work, const AttentionFormats& attention = {});

  std::filesystem::path folder_;
  std::string name_;
  Spec spec_;  // with one layer: each block runs with a cache of its own
  const Samples* samples_;
  int64_t chunk_;
  Isa isa_;
  std::vector<Sequence> sequences_;
  Workspace workspace_;
  bool inside_ = false;  // the residual stream has left path(index) for a file of its own
};

}  // namespace nibble
