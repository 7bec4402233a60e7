#include "engine/stop_strings.h"

#include <algorithm>
#include <utility>

namespace nibble {

StopStrings::StopStrings(const std::vector<std::string>& strings) : strings_(strings) { std::erase(strings_, ""); }

std::string StopStrings::push(std::string_view text) {
  if (stopped_) return {};
  pending_ += text;
  size_t end = first_match();
  stopped_ = end != std::string::npos;
  if (!stopped_) end = possible_beginning();
  std::string out = pending_.substr(0, end);
  pending_.erase(0, stopped_ ? std::string::npos : end);
  return out;
}

std::string StopStrings::finish() { return std::exchange(pending_, {}); }

// Where the match that is complete first starts (of several, the longest): what a reader of single bytes would find.
size_t StopStrings::first_match() const {
  size_t first = std::string::npos, first_end = std::string::npos;
  for (const std::string& stop : strings_) {
    const size_t start = pending_.find(stop);
    if (start == std::string::npos) continue;
    const size_t end = start + stop.size();
    if (end < first_end || (end == first_end && start < first)) first = start, first_end = end;
  }
  return first;
}

// Where the longest end of the text starts that a stop string begins with; the size of the text if there is none.
size_t StopStrings::possible_beginning() const {
  size_t first = pending_.size();
  for (const std::string& stop : strings_) {
    for (size_t length = std::min(stop.size() - 1, pending_.size()); length > pending_.size() - first; --length) {
      if (std::string_view(pending_).ends_with(std::string_view(stop).substr(0, length)))
        first = pending_.size() - length;
    }
  }
  return first;
}

}  // namespace nibble
