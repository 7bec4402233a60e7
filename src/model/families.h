// From a Hugging Face config.json to a Spec and to the places of its tensors in the checkpoint: pure data, so that one
// reader and one writer (checkpoint_source.cpp, write_checkpoint.cpp) serve all families.
//
// A new family inside the knobs of Spec is one file in families/ and one row in families.cpp.
#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "core/result.h"
#include "model/spec.h"

namespace nibble {

// The rows of a checkpoint tensor that belong to one linear: `count` runs of `run` rows, the first at row `first`, one
// every `stride` rows. Row n of the linear is row first + (n / run) * stride + n % run of the tensor.
struct RowRuns {
  int64_t first = 0, run = 0, stride = 0, count = 0;
  int64_t total = 0;  // rows of the whole tensor

  static RowRuns whole(int64_t rows) { return {0, rows, rows, 1, rows}; }
  int64_t rows() const { return run * count; }
  int64_t at(int64_t n) const { return first + n / run * stride + n % run; }
};

// Where one linear lies: "<stem>.weight" and, when the Spec says so, "<stem>.bias".
struct Slice {
  std::string_view stem;
  RowRuns rows;
};

// Tensor names of a checkpoint, without ".weight" and ".bias". Names in a block are preceded by a base, `blocks` and
// the index of the block, the others by the base; the output matrix is "lm_head" without a base. Empty: not there.
struct Layout {
  std::vector<std::string_view> bases;  // "model.", "": the first under which the embedding is found
  std::string_view blocks;              // "layers."
  std::array<Slice, kRoles> linears;
  std::string_view attention_norm, mlp_norm;
  std::string_view embedding, positions, project_in, project_out, final_norm;
};

struct Reading {
  Spec spec;
  Layout layout;
};

struct Family {
  std::string_view name;  // Spec::family
  std::vector<std::string_view> model_types;
  std::vector<std::string_view> architectures;
  Result<Reading> (*read)(JsonReader& config);
};

const std::vector<Family>& families();

// The row for "model_type" (or, without one, "architectures") reads the config. `unsupported` for an unknown
// architecture, with the list, and for anything that changes the function and is not implemented, by key; `corrupt`
// for keys that are missing, of the wrong type or out of range. Keys that Hugging Face ignores are ignored.
// `where` is the file's name.
Result<Reading> read_family(const Json& config, const std::string& where);

}  // namespace nibble
