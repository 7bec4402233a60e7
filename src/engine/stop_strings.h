// Ends a text at the first of some stop strings, while it is being streamed.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace nibble {

// Keeps back what may still turn out to be the beginning of a stop string, so nothing of the one that ends the text is
// ever given out. The stop string that is complete first ends the text (of several, the longest).
class StopStrings {
 public:
  // Empty strings are left out: they would end every text at once.
  explicit StopStrings(const std::vector<std::string>& strings);

  // The part of the text so far, beyond what was returned before, that belongs to the output. `text`: whole code
  // points.
  std::string push(std::string_view text);
  // The text has ended: what was kept back.
  std::string finish();
  bool stopped() const { return stopped_; }

 private:
  size_t first_match() const;
  size_t possible_beginning() const;

  std::vector<std::string> strings_;
  std::string pending_;
  bool stopped_ = false;
};

}  // namespace nibble
