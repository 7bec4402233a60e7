// The public TextProtocol as the measuring layer knows it, and back.
#pragma once

#include <nibble/language_model.h>

#include "measure/text.h"

namespace nibble {

inline TextOptions text_options(const TextProtocol& protocol) {
  return {protocol.name, protocol.window, protocol.stride, protocol.preset};
}
inline TextProtocol protocol_of(const ScoredText& text) {
  return {text.protocol, text.window, text.stride, text.preset};
}

}  // namespace nibble
