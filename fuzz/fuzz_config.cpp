// Any JSON as the config.json of a model. What is accepted gives a valid Spec that survives being stored.
#include <cstdint>
#include <string>

#include "core/json.h"
#include "model/families.h"
#include "model/spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nibble;
  const auto config = parse_json({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!config) return 0;
  (void)spec_from_json(*config, "fuzz");
  const auto family = read_family(*config, "fuzz");
  if (!family) return 0;
  NIBBLE_CHECK(validate(family->spec, "fuzz").has_value());
  const auto again = spec_from_json(to_json(family->spec), "stored");
  NIBBLE_CHECK(again.has_value());
  NIBBLE_CHECK(dump_json(to_json(*again)) == dump_json(to_json(family->spec)));
  NIBBLE_CHECK(parameter_count(*again) > 0);
  return 0;
}
