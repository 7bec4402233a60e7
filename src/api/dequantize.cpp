#include <nibble/inspect.h>

#include "api/float_type.h"
#include "api/guard.h"
#include "model/channel_order.h"

namespace nibble {

Status dequantize(const std::filesystem::path& folder, const std::filesystem::path& out,
                  const DequantizeOptions& options) {
  return guarded([&]() -> Status {
    NIBBLE_TRY(auto source, open_model(folder));
    NIBBLE_TRY(const ChannelOrder order, order_of(*source));
    // Channels go back to where the original has them.
    if (!order.empty()) source = reordered(std::move(source), inverse(order));
    CheckpointOptions writing;
    writing.force = options.force;
    return write_checkpoint(*source, out, levels_of(options.type), writing);
  });
}

}  // namespace nibble
