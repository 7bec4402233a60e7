// The sections of the page, each from a LayerReport to HTML. A section whose data is absent says so in one line.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "eval/report/layer_report.h"

namespace nibble::page {

std::string headline(const LayerReport& report);
std::string findings_section(const LayerReport& report);  // what stands out, in sentences
std::string channels_section(const LayerReport& report);
std::string depth_section(const LayerReport& report);  // errors, block by block
std::string maps_section(const LayerReport& report);   // bits and errors over blocks x roles
std::string text_section(const LayerReport& report);   // divergence over the text
std::string tables_section(const LayerReport& report);

// --- what sections share ---

// `guide` says what a good and a bad picture look like; HTML, like `body`. No guide where there is no picture.
std::string section(std::string_view id, std::string_view title, std::string_view guide, std::string_view body);
std::string absent(std::string_view why);

// "q, k, v" for "qkv"; escaped.
std::string site_title(std::string_view site);
// Whether the linears that read the site quantize what they read; kept channels matter only there.
bool quantizes_input(const LayerReport& report, const SiteRow& site);
// One more than the largest number of a block, whatever the report says; bounded by kMostBlocks.
int64_t block_count(const LayerReport& report);

// The roles that occur, in the order of the forward pass, strange ones last.
std::vector<std::string> roles_of(const LayerReport& report);
// "role-q"; "role-other" for a name that is none of the known ones.
std::string role_class(std::string_view role);

// A kind of error that linears have, and the words for it.
struct ErrorKind {
  std::string_view id, title, of;
  std::optional<double> LayerRow::*value;
};
inline constexpr ErrorKind kOutputError = {"output", "Output error", "of the output's energy", &LayerRow::output_error};
inline constexpr ErrorKind kWeightError = {"weight", "Weight error", "of the weights' energy", &LayerRow::weight_error};
// Those that were measured in some linear: output before weight.
std::vector<ErrorKind> measured_errors(const LayerReport& report);

}  // namespace nibble::page
