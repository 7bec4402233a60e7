// What a model takes: bytes of its weight files, and of memory while it runs.
//
// In memory weights are packed for the kernels of this machine, which is not what they take on disk: integers of two
// and three bits are kept in four, those of five and six in a byte.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "core/cpu.h"
#include "core/threads.h"
#include "format/attention_formats.h"
#include "model/model.h"
#include "quantize/recipe/plan.h"
#include "quantize/recipe/recipe.h"

namespace nibble::search {

// A linear as it is packed.
struct PackedFacts {
  int64_t bytes = 0;
  bool slow = false;        // only the reference multiplies it here
  std::string explanation;  // of its kernels
};

// Finds out by packing a few rows, once for every shape and pair of formats.
class Packing {
 public:
  Packing(Isa isa, ThreadPool& pool) : isa_(isa), pool_(&pool) {}
  // `kept` columns of the site's input stay in 16 bits. Single weights that are kept apart are in it. `widths`: of the
  // others, in any order, where they have their own.
  Result<PackedFacts> of(const Spec& spec, const LinearPlan& plan, int64_t kept, std::span<const uint8_t> widths = {});
  // Of the output matrix and others outside the blocks.
  Result<int64_t> bytes(const Shape& shape, const NumberFormat& weights, const NumberFormat& activations);

 private:
  struct Layer {
    Shape shape;
    NumberFormat weights, activations;
    int64_t kept = 0;
    bool bias = false;
    std::vector<uint8_t> widths{};
  };
  Result<PackedFacts> facts(const Layer& layer);
  Result<PackedFacts> pack(const Layer& layer);

  Isa isa_;
  ThreadPool* pool_;
  std::map<std::string, PackedFacts> known_;
};

// Of a site whose linears leave it open how many bits a column has, as far as shapes tell, with `kept` columns in 16
// bits: the least average of stored bits that it can do with, in hundredths, and the widths of the other columns if all
// were alike.
double least_average(const SitePlan& plan, const Spec& spec, int64_t kept);
std::vector<uint8_t> even_widths(const SitePlan& plan, const Spec& spec, int64_t kept);

// Everything but the matrices of the blocks' linears: bytes of tensors in the files, and packed in memory. The head is
// as the recipe says.
struct Beside {
  int64_t stored = 0, resident = 0;
};
Result<Beside> beside_linears(const ModelSource& source, const Recipe& recipe, Packing& packing);

// Bytes of the headers of the files that `nibble quantize` writes, within a few percent. `tensors`: of all matrices of
// the blocks' linears.
int64_t header_bytes(const Spec& spec, int64_t tensors);
// Single weights that are kept apart, at most.
int64_t sparse_of(const LinearPlan& plan, const Shape& shape, int64_t kept);
// How many a linear's matrix is stored in.
int64_t tensors_of(const LinearPlan& plan, int64_t kept);

// Keys and values of `batch` sequences of `context` tokens; `attention` by block.
int64_t cache_bytes(const Spec& spec, std::span<const AttentionFormats> attention, int64_t context, int64_t batch);

// Scratch of a forward pass over as many tokens as a prompt is read at a time, or as there are sequences, and the
// logits: an upper bound, near to what runtime/block.h's Workspace grows to.
int64_t workspace_bytes(const Spec& spec, int64_t context, int64_t batch, int threads);

}  // namespace nibble::search
