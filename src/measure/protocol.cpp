#include "measure/protocol.h"

#include <algorithm>

namespace nibble {
namespace {

struct Named {
  Protocol protocol;
  std::string_view name;
};
constexpr Named kProtocols[] = {
    {Protocol::windows, "windows"}, {Protocol::strided, "strided"}, {Protocol::second_half, "second-half"}};

// What a protocol needs at least of a window: one that predicts something.
int64_t least_window(Protocol protocol) { return protocol == Protocol::second_half ? 3 : 2; }

Status check_length(int64_t ids, const ProtocolOptions& options) {
  if (options.protocol == Protocol::strided) {
    if (ids < 2) return fail(ErrorCode::usage, "the text has {} tokens; predicting one takes at least 2", ids);
  } else if (ids < options.window) {
    return fail(ErrorCode::usage, "the text has {} tokens, which do not fill one window of {}", ids, options.window);
  }
  return {};
}

std::vector<Passage> separate_windows(int64_t ids, int64_t window, int64_t first) {
  std::vector<Passage> passages;
  for (int64_t begin = 0; begin + window <= ids; begin += window) passages.push_back({begin, window, first});
  return passages;
}

std::vector<Passage> strided_windows(int64_t ids, int64_t window, int64_t stride) {
  std::vector<Passage> passages;
  for (int64_t begin = 0, done = 0; done < ids; begin += stride) {
    const int64_t end = std::min(begin + window, ids);
    const Passage passage{begin, end - begin, std::max<int64_t>(1, done - begin)};
    if (passage.predictions() > 0) passages.push_back(passage);
    done = end;
  }
  return passages;
}

}  // namespace

std::string_view name_of(Protocol protocol) {
  for (const Named& known : kProtocols)
    if (known.protocol == protocol) return known.name;
  return "windows";
}

Result<Protocol> protocol_named(std::string_view name) {
  for (const Named& known : kProtocols)
    if (known.name == name) return known.protocol;
  return fail(ErrorCode::usage, "there is no protocol \"{}\"; expected windows, strided or second-half", name);
}

int64_t ScoredText::predictions() const {
  int64_t count = 0;
  for (const Passage& passage : passages) count += passage.predictions();
  return count;
}

int64_t ScoredText::tokens_run() const {
  int64_t count = 0;
  for (const Passage& passage : passages) count += passage.count;
  return count;
}

std::vector<int32_t> ScoredText::targets() const {
  std::vector<int32_t> out;
  out.reserve(static_cast<size_t>(predictions()));
  for (const Passage& passage : passages)
    out.insert(out.end(), ids.begin() + passage.begin + passage.first, ids.begin() + passage.begin + passage.count);
  return out;
}

std::optional<std::string> difference_of(const ScoredText& a, const ScoredText& b) {
  if (a.ids.size() != b.ids.size()) return fmt::format("{} and {} tokens", a.ids.size(), b.ids.size());
  const auto [x, y] = std::mismatch(a.ids.begin(), a.ids.end(), b.ids.begin());
  if (x != a.ids.end()) return fmt::format("token {} is {} and {}", x - a.ids.begin(), *x, *y);
  if (a.passages.size() != b.passages.size())
    return fmt::format("{} and {} windows", a.passages.size(), b.passages.size());
  const auto [p, q] = std::mismatch(a.passages.begin(), a.passages.end(), b.passages.begin());
  if (p != a.passages.end())
    return fmt::format("window {} predicts tokens {}..{} of {} from {}, and {}..{} of {} from {}",
                       p - a.passages.begin(), p->first, p->count - 1, p->count, p->begin, q->first, q->count - 1,
                       q->count, q->begin);
  return std::nullopt;
}

Status check_protocol(const ProtocolOptions& options, int64_t max_positions) {
  const int64_t least = least_window(options.protocol);
  if (options.window < least)
    return fail(ErrorCode::usage, "a window of {} tokens predicts nothing; protocol {} takes at least {}",
                options.window, name_of(options.protocol), least);
  if (options.window > max_positions)
    return fail(ErrorCode::usage, "a window of {} tokens does not fit the model's {} positions", options.window,
                max_positions);
  if (options.protocol == Protocol::strided && (options.stride < 1 || options.stride > options.window))
    return fail(ErrorCode::usage, "a stride of {} tokens; expected 1 to the window's {}", options.stride,
                options.window);
  return {};
}

Result<ScoredText> scored_text(std::vector<int32_t> ids, const ProtocolOptions& options, int64_t max_positions) {
  const auto count = static_cast<int64_t>(ids.size());
  NIBBLE_DO(check_protocol(options, max_positions));
  NIBBLE_DO(check_length(count, options));
  ScoredText text{std::move(ids), {}, std::string(name_of(options.protocol)), options.window, options.stride, {}};
  switch (options.protocol) {
    case Protocol::windows: text.passages = separate_windows(count, options.window, 1); break;
    case Protocol::strided: text.passages = strided_windows(count, options.window, options.stride); break;
    case Protocol::second_half:
      text.passages = separate_windows(count, options.window, options.window / 2 + 1);
      if (options.bos)
        for (const Passage& passage : text.passages) text.ids[static_cast<size_t>(passage.begin)] = *options.bos;
      break;
  }
  return text;
}

}  // namespace nibble
