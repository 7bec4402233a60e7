// What number formats cost and how closely they follow numbers.
#pragma once

#include <nibble/result.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace nibble {

struct FormatFiguresOptions {
  std::vector<std::string> formats = {};  // empty: the whole list
  std::filesystem::path model = {};       // with `linear`: whose weights are rounded, too; empty: none
  std::string linear = {};                // "blocks.0.down"; empty: the first quantizable one of the model
};

struct FormatFigures {
  std::string name;           // canonical
  std::string kind;           // "block floating point"
  double bits = 0;            // per element, with all shared fields; of `row` and `token` sharing over 4096 elements
  double memory_density = 0;  // 32 / bits
  // Signal to noise, 10 log10(sum x^2 / sum (rounded - x)^2), in decibels, of 98,304 numbers of scale 0.02, scales
  // chosen as for weights.
  double snr_normal = 0;              // normal distribution
  double snr_student = 0;             // Student's t with 4 degrees of freedom
  std::optional<double> snr_weights;  // of the model's linear
  // How many multiply-add units of the format fit the area of a float32 one, by a gate count (docs/formats.md). A
  // model, not a measurement of anything.
  double arithmetic_density = 0;
  std::optional<double> published_density;  // arXiv 2310.05079's ratio where its abstract gives one
};

// `usage` for an unknown format, or a linear that the model does not have; otherwise errors of opening the model.
Result<std::vector<FormatFigures>> format_figures(const FormatFiguresOptions& options = {});

}  // namespace nibble
