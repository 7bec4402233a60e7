// What is put around the ids of a text. For one text, every post-processor of tokenizer.json comes down to a template.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/result.h"

namespace nibble {

// Special ids and the places of the text.
struct TemplateItem {
  bool text = false;         // the ids of the text go here
  std::vector<int32_t> ids;  // else these
};
using Template = std::vector<TemplateItem>;

// Null gives the template that is the text alone. Every id must satisfy is_id (be in the vocabulary or an added token).
using IsId = std::function<bool(int64_t)>;
Result<Template> read_post_processor(const Json& value, const IsId& is_id, const std::string& where);
std::vector<int32_t> filled(const Template& items, const std::vector<int32_t>& ids);
// prefix, text, suffix
Template surround(std::vector<int32_t> prefix, std::vector<int32_t> suffix);

}  // namespace nibble
