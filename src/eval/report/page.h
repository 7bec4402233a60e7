// A LayerReport as one self-contained HTML page: inline style, SVG plots and a few lines of script; opens offline.
#pragma once

#include <string>

#include "eval/report/layer_report.h"

namespace nibble {

std::string report_page(const LayerReport& report);

}  // namespace nibble
