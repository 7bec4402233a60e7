#include <nibble/inspect.h>

#include "api/float_type.h"
#include "api/guard.h"
#include "model/model.h"

namespace nibble {

Status dequantize(const std::filesystem::path& folder, const std::filesystem::path& out,
                  const DequantizeOptions& options) {
  return guarded([&]() -> Status {
    NIBBLE_TRY(const auto source, open_model(folder));
    CheckpointOptions writing;
    writing.force = options.force;
    return write_checkpoint(*source, out, levels_of(options.type), writing);
  });
}

}  // namespace nibble
