#include "quantize/pipeline/samples.h"

#include "core/file.h"
#include "core/hash.h"
#include "core/random.h"

namespace nibble {

Result<Samples> draw_samples(std::span<const std::filesystem::path> files, const Tokenizer& tokenizer, int64_t count,
                             int64_t length, uint64_t seed, std::string_view what) {
  std::string text;
  for (const std::filesystem::path& file : files) {
    NIBBLE_TRY(const std::string part, read_text(file));
    text += part;
  }
  return draw_samples(tokenizer.encode(text), count, length, seed, what);
}

Result<Samples> draw_samples(std::span<const int32_t> ids, int64_t count, int64_t length, uint64_t seed,
                             std::string_view what) {
  const auto available = static_cast<int64_t>(ids.size());
  if (available < length)
    return fail(ErrorCode::usage,
                "the {} text has {} tokens, fewer than one sample of {}; give more text or a smaller length", what,
                available, length);
  Samples samples{count, length, {}, {}};
  Random random(seed);
  for (int64_t i = 0; i < count; ++i) {
    const auto start = static_cast<size_t>(random.below(static_cast<uint64_t>(available - length + 1)));
    const auto slice = ids.subspan(start, static_cast<size_t>(length));
    samples.tokens.insert(samples.tokens.end(), slice.begin(), slice.end());
  }
  samples.hash = Sha256().add(std::as_bytes(std::span(samples.tokens))).finish();
  return samples;
}

}  // namespace nibble
