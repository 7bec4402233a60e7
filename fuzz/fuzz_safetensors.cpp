// Any bytes as a safetensors file. What is accepted must keep its promises: views inside the file, sizes that fit
// shapes, no byte unused, every value readable; and the writer, which checks itself by reading, takes them.
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>

#include "checkpoint/safetensors.h"
#include "core/result.h"

namespace {

using namespace nibble;

void check_views(const SafetensorsHeader& header, std::span<const std::byte> file) {
  const std::byte* expected = nullptr;
  size_t total = 0;
  for (const TensorView& tensor : header.tensors) {
    NIBBLE_CHECK(tensor.bytes.empty() || (tensor.bytes.data() >= file.data() + 8 &&
                                          tensor.bytes.data() + tensor.bytes.size() <= file.data() + file.size()));
    NIBBLE_CHECK(expected == nullptr || tensor.bytes.data() == expected);
    NIBBLE_CHECK(static_cast<size_t>(tensor.elements() * bits_of(tensor.dtype)) == tensor.bytes.size() * 8);
    NIBBLE_CHECK(!tensor.name.empty() && tensor.shape.size() <= 8);
    expected = tensor.bytes.data() + tensor.bytes.size();
    total += tensor.bytes.size();
  }
  NIBBLE_CHECK(header.tensors.empty() || expected == file.data() + file.size());
  NIBBLE_CHECK(total <= file.size());
}

void read_values(const TensorView& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  const bool finite = check_finite(tensor).has_value();
  const bool read = read_floats(tensor, 0, values).has_value();
  const bool weights = tensor.dtype == DType::f32 || tensor.dtype == DType::f16 || tensor.dtype == DType::bf16;
  NIBBLE_CHECK(read == (weights || values.empty()));
  if (!weights) return;
  bool all_finite = true;
  for (float value : values) all_finite = all_finite && value - value == 0.0f;
  NIBBLE_CHECK(finite == all_finite);
}

void write_again(const SafetensorsHeader& header) {
  static const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("nibble_fuzz_" + std::to_string(::getpid()));
  auto writer = SafetensorsWriter::create(path, header.tensors, header.metadata);
  if (!writer) return;  // a header near the limit may grow beyond it when it is composed anew
  for (const TensorView& tensor : writer->order()) NIBBLE_CHECK(writer->write(tensor.name, tensor.bytes).has_value());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  auto header = parse_safetensors(file, "fuzz");
  if (header) {
    check_views(*header, file);
    for (const TensorView& tensor : header->tensors) read_values(tensor);
    write_again(*header);
  } else {
    NIBBLE_CHECK(header.error().code == ErrorCode::corrupt && header.error().message.size() < 2000);
  }
  (void)parse_shard_index({reinterpret_cast<const char*>(data), size}, "fuzz");
  return 0;
}
