#include "model/families.h"

#include <algorithm>

#include "checkpoint/file_name.h"
#include "model/families/rows.h"

namespace nibble {
namespace {

bool contains(const std::vector<std::string_view>& list, std::string_view name) {
  return std::find(list.begin(), list.end(), name) != list.end();
}

const Family* family_of_type(std::string_view model_type) {
  for (const Family& family : families())
    if (contains(family.model_types, model_type)) return &family;
  return nullptr;
}

const Family* family_of_architecture(std::string_view architecture) {
  for (const Family& family : families())
    if (contains(family.architectures, architecture)) return &family;
  return nullptr;
}

tl::unexpected<Error> unknown(const std::string& where, std::string_view key, std::string_view found) {
  std::string names;
  for (const Family& family : families())
    for (std::string_view architecture : family.architectures)
      names += (names.empty() ? "" : ", ") + std::string(architecture);
  return fail(ErrorCode::unsupported, "{}: \"{}\" is {}, which is not supported; supported architectures are {}", where,
              key, in_quotes(found), names);
}

Result<const Family*> find_family(JsonReader& config) {
  NIBBLE_TRY(const std::string type, config.string("model_type", ""));
  NIBBLE_TRY(const std::vector<std::string> architectures, config.strings("architectures", std::vector<std::string>()));
  if (type.empty() && architectures.empty())
    return fail(ErrorCode::corrupt, "{}: neither \"model_type\" nor \"architectures\" is there", config.where());
  const Family* family = type.empty() ? family_of_architecture(architectures[0]) : family_of_type(type);
  if (family == nullptr && type.empty()) return unknown(config.where(), "architectures", architectures[0]);
  if (family == nullptr) return unknown(config.where(), "model_type", type);
  // A classifier or an embedding model of a known family has the same keys but other tensors.
  if (!architectures.empty() && !contains(family->architectures, architectures[0]))
    return unknown(config.where(), "architectures", architectures[0]);
  return family;
}

}  // namespace

// Ordered: a config that two rows could read belongs to the first.
const std::vector<Family>& families() {
  static const std::vector<Family> rows = {
      {"llama", {"llama"}, {"LlamaForCausalLM", "LLaMAForCausalLM"}, read_llama},
      {"mistral", {"mistral"}, {"MistralForCausalLM"}, read_mistral},
      {"qwen2", {"qwen2"}, {"Qwen2ForCausalLM"}, read_qwen2},
      {"opt", {"opt"}, {"OPTForCausalLM"}, read_opt},
      {"falcon", {"falcon", "RefinedWeb", "RefinedWebModel"}, {"FalconForCausalLM", "RWForCausalLM"}, read_falcon},
  };
  return rows;
}

Result<Reading> read_family(const Json& config, const std::string& where) {
  NIBBLE_TRY(JsonReader reader, JsonReader::open(config, where));
  NIBBLE_TRY(const Family* family, find_family(reader));
  NIBBLE_TRY(Reading reading, family->read(reader));
  reading.spec.family = family->name;
  NIBBLE_DO(validate(reading.spec, where));
  return reading;
}

}  // namespace nibble
