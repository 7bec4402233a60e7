// Presets: how the evaluation code of the GPTQ papers turns a data set into one sequence of tokens.
//
//   wikitext2   WikiText-2 raw test, one row per line. Blank lines are empty rows, other rows keep their line break;
//               rows are joined by "\n\n".
//   ptb         Penn Treebank validation, one sentence per line, stripped, joined by "\n\n".
//   ptb-new     Penn Treebank test, stripped sentences joined by " ".
//   c4          C4 validation, JSON lines with "text". 256 times: a document is drawn by Python's random.seed(0), and
//               drawn again while it has no more tokens than a window; then a window of it is drawn. Special tokens
//               are around every document before it is cut.
//   c4-new      C4 validation, the first 1100 documents joined by " ", cut to 256 windows.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "core/result.h"

namespace nibble {

using Encode = std::function<std::vector<int32_t>(std::string_view)>;

// `file`: the bytes of the data set's file. `window` is that of the protocol `windows`, by which presets are scored.
// `usage` for an unknown preset, and for c4 when no document fills a window; `corrupt` for a line that is not a JSON
// object with a string "text" (names the line).
Result<std::vector<int32_t>> preset_ids(std::string_view preset, std::string_view file, int64_t window,
                                        const Encode& encode);

}  // namespace nibble
