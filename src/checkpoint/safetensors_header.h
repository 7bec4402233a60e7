// The JSON header of a safetensors file, and the rules that make it trustworthy. Shared by reader and writer: what
// the writer writes has passed the reader's checks.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/tensor.h"
#include "core/result.h"

namespace nibble {

// Limits. The first is the reference implementation's, the others are ours.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxTensors = 1'000'000;
constexpr size_t kMaxNameBytes = 1024;
constexpr size_t kMaxRank = 8;

// One entry of the header. Offsets count from the end of the header.
struct TensorEntry {
  std::string name;
  DType dtype = DType::f32;
  std::vector<uint64_t> shape;
  uint64_t begin = 0, end = 0;
};

struct ParsedHeader {
  std::vector<TensorEntry> entries;  // in the order of the header
  std::map<std::string, std::string> metadata;
};

// Rules 4 and 5: UTF-8, JSON of exactly the expected form, every name once. `where` starts every message.
// Memory is proportional to the text; no tree of the document is built.
Result<ParsedHeader> parse_header(std::string_view text, std::string_view where);

// Rules 6 to 10: sorts the entries by offset and proves that they fill `data_bytes` exactly, each with the size that
// its shape and type ask for.
Status sort_and_validate(std::vector<TensorEntry>& entries, uint64_t data_bytes, std::string_view where);

}  // namespace nibble
