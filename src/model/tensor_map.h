// Which tensors a checkpoint of a family consists of, and which part of the model each holds: Layout with the names
// filled in. Reading and writing a checkpoint both walk this map.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/families.h"
#include "model/globals.h"

namespace nibble {

struct ExpectedTensor {
  std::string name;
  std::vector<int64_t> shape;
};

struct NormNames {
  NormWeight BlockWeights::*norm;
  std::string gain, bias;  // empty: not there
};

struct LinearNames {
  Role role;
  std::string weight, bias;  // empty bias: not there
  RowRuns rows;
};

struct BlockMap {
  std::vector<NormNames> norms;
  std::vector<LinearNames> linears;
  std::vector<ExpectedTensor> tensors;  // each once, fused ones too
};

struct GlobalNames {
  Global linear;
  std::string weight;
};

struct GlobalMap {
  std::vector<GlobalNames> linears;
  std::string positions, final_gain, final_bias;  // empty: not there
  std::vector<ExpectedTensor> tensors;
};

// The tensor of the output matrix, under every family.
inline constexpr std::string_view kHeadTensor = "lm_head.weight";

// `base` is one of layout.bases.
BlockMap block_map(const Spec& spec, const Layout& layout, std::string_view base, int64_t index);
GlobalMap global_map(const Spec& spec, const Layout& layout, std::string_view base);
std::string embedding_tensor(const Layout& layout, std::string_view base);

}  // namespace nibble
