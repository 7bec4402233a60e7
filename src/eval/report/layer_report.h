// What is known about every linear and every site of a quantized model: from the manifest that quantizing left, from
// the stored tensors, and from the original model where there is one. The page (page.h) draws it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "measure/divergence.h"

namespace nibble {

struct LayerRow {
  std::string name;  // "blocks.3.down"
  int64_t block = 0;
  std::string role;                  // "down"
  std::string weights, activations;  // formats
  int64_t rows = 0, columns = 0, kept = 0, stored_bytes = 0;
  double bits_per_weight = 0;
  // Absent where it was not measured.
  std::optional<double> weight_error;   // |W - W'|^2 / |W|^2
  std::optional<double> output_error;   // |y - y'|^2 / |y|^2 on calibration tokens, activations quantized as run
  std::optional<double> output_cosine;  // y . y' / (|y| |y'|) on the same tokens
  std::optional<double> solver_error;   // as output_error, but of weights only and over all calibration tokens
  std::optional<double> rounding_solver_error;  // the same of rounding to nearest on the same grid
  std::optional<double> clip_mean, clip_least;  // scale of a grid over the one that clips nothing, <= 1 (solve/clip.h)
};

struct SiteRow {
  std::string name;  // "blocks.3.qkv"
  int64_t block = 0;
  std::string site;           // "qkv"
  int64_t inputs = 0;         // channels
  std::vector<int32_t> kept;  // outlier channels in 16 bits
  std::vector<float> absmax;  // [inputs] largest |x| per channel on calibration text; empty: not recorded
  std::optional<double> maximum, median, kurtosis;  // of absmax over channels; kurtosis of all values (normal: 3)
};

struct LayerReport {
  std::string model, reference;  // names of the folders; no reference: empty
  std::string family, recipe, tool;
  std::string attention;  // formats of its operands, summary_of(); empty: floats
  int64_t parameters = 0, file_bytes = 0, blocks = 0;
  double bits_per_weight = 0, quantized_bits_per_weight = 0;
  std::vector<LayerRow> linears;  // block by block, in execution order
  std::vector<SiteRow> sites;
  std::optional<Divergence> divergence;  // from the reference over a text
  std::string protocol;                  // of it: "windows of 512"
};

Json to_json(const LayerReport& report);

}  // namespace nibble
