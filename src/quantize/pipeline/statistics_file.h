// What calibration text showed of every channel, kept beside a quantized model for whoever wants to look at it: no
// weights, and nothing reads it to run the model.
//
//   nibble.statistics.safetensors    "<site>.absmax"  F32 [K]   largest |x| of each input channel of blocks.3.qkv, ...
//
// While a run is on there is one file for each finished block, statistics.B.f32: the same arrays in execution order.
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/result.h"
#include "quantize/recipe/plan.h"

namespace nibble {

inline constexpr const char* kStatisticsName = "nibble.statistics.safetensors";

// Durable: written before the record that counts the block as done. `absmax`: of all sites, one after the other.
Status write_statistics_piece(const std::filesystem::path& folder, int64_t block, std::span<const float> absmax);
// The final file, from the pieces of all blocks. `plans`: by block.
Status join_statistics(const std::filesystem::path& folder, const std::vector<std::vector<SitePlan>>& plans);

// [K] by site. Empty when the folder has no such file; `corrupt` when it is damaged.
Result<std::map<std::string, std::vector<float>>> read_statistics(const std::filesystem::path& folder);

}  // namespace nibble
