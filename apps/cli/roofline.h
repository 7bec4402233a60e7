// `nibble bench --roofline`: the machine and its kernels, as text and as JSON.
#pragma once

#include <nibble/bench.h>

#include <string>
#include <string_view>
#include <vector>

#include "session.h"

namespace nibble::cli {

// "4096x11008": N outputs by K inputs.
Result<LayerShape> parse_shape(std::string_view text);

// {"int8", "bf16", "f32", "bandwidth"}, 10^9 per second; null where there is no such unit.
Json peaks_json(double int8, double bf16, double f32, double bandwidth);
// {"peaks": {"int8", "bf16", "f32", "bandwidth", ...}, "rows": [{"kernel", "m", "n", "k", ...}], ...}
Json roofline_json(const RooflineReport& report);
std::string roofline_table(const RooflineReport& report);
std::string roofline_markdown(const RooflineReport& report);
std::string roofline_csv(const RooflineReport& report);

}  // namespace nibble::cli
