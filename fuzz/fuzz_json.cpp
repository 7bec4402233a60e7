// Any text as JSON. What is accepted must survive being written and read again, and a reader must get through any
// object without trusting it.
#include <cstdint>
#include <string>

#include "core/json.h"

namespace {

using namespace nibble;

void read_every_way(const Json& json, int depth) {
  auto reader = JsonReader::open(json, "fuzz");
  if (!reader) return;
  for (const auto& item : json.items()) {
    const std::string& key = item.key();
    const auto integer = reader->integer(key, -1000, 1000);
    NIBBLE_CHECK(!integer || (*integer >= -1000 && *integer <= 1000));
    const auto number = reader->number(key, 0, 1e300, 0.5);
    NIBBLE_CHECK(!number || (*number >= 0 && *number <= 1e300));
    (void)reader->boolean(key);
    (void)reader->string(key, "fallback");
    (void)reader->strings(key);
    (void)reader->object(key);
    NIBBLE_CHECK(reader->has(key) == !item.value().is_null());
    if (depth < 3) read_every_way(item.value(), depth + 1);
  }
  NIBBLE_CHECK(reader->refuse_unknown().has_value());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto json = parse_json({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!json) {
    NIBBLE_CHECK(json.error().code == ErrorCode::corrupt);
    return 0;
  }
  const std::string once = dump_json(*json);
  auto again = parse_json(once, "dumped");
  NIBBLE_CHECK(again.has_value());
  NIBBLE_CHECK(dump_json(*again) == once);
  read_every_way(*json, 0);
  return 0;
}
