#include "engine/generate.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "engine/stop_strings.h"

namespace nibble {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// One sequence being generated.
class Generator {
 public:
  Generator(const Model& model, const Tokenizer& tokenizer, const GenerationOptions& options, ThreadPool& pool,
            const std::function<bool(std::string_view)>& on_text)
      : model_(model),
        options_(options),
        pool_(pool),
        on_text_(on_text),
        sequence_(model.new_sequence()),
        logits_(model.spec().vocabulary),
        sampler_(options.sampling),
        decoder_(tokenizer),
        stops_(options.stop) {}

  Result<Generation> run(std::span<const int32_t> prompt) {
    out_.prompt_tokens = static_cast<int64_t>(prompt.size());
    auto start = Clock::now();
    NIBBLE_DO(prefill(prompt));
    out_.prefill_seconds = seconds_since(start);
    start = Clock::now();
    NIBBLE_DO(decode());
    out_.decode_seconds = seconds_since(start);
    return std::move(out_);
  }

 private:
  // Only the last token's logits are wanted.
  Status prefill(std::span<const int32_t> prompt) {
    const auto chunk = static_cast<size_t>(std::max<int64_t>(options_.prefill_chunk, 1));
    for (size_t at = 0; at < prompt.size(); at += chunk) {
      const auto part = prompt.subspan(at, std::min(chunk, prompt.size() - at));
      NIBBLE_DO(forward(part, at + part.size() == prompt.size()));
    }
    return {};
  }

  Status forward(std::span<const int32_t> tokens, bool want_logits) {
    Segment segment{&sequence_, static_cast<int64_t>(tokens.size()), 0};
    const int64_t last = segment.count - 1;
    return model_.forward(tokens, {&segment, 1}, {&last, want_logits ? size_t{1} : size_t{0}}, logits_.data(),
                          workspace_, pool_);
  }

  Status decode() {
    for (std::optional<StopReason> reason = next_token();; reason = next_token()) {
      if (reason) {
        out_.reason = *reason;
        break;
      }
      NIBBLE_DO(forward({&out_.token_ids.back(), 1}, true));
    }
    finish_text();
    return {};
  }

  // Chooses a token and gives out its text. The reason to end, if there is one.
  std::optional<StopReason> next_token() {
    if (static_cast<int64_t>(out_.token_ids.size()) >= options_.max_tokens) return StopReason::length;
    const int32_t id = sampler_.next(logits_.span());
    out_.token_ids.push_back(id);
    if (std::find(options_.stop_tokens.begin(), options_.stop_tokens.end(), id) != options_.stop_tokens.end())
      return StopReason::stop_token;
    const bool wanted = give_out(stops_.push(decoder_.push(id)));
    if (stops_.stopped()) return StopReason::stop_string;
    if (!wanted) return StopReason::cancelled;
    if (static_cast<int64_t>(out_.token_ids.size()) >= options_.max_tokens) return StopReason::length;
    if (sequence_.length() >= sequence_.max_positions()) return StopReason::context;
    return std::nullopt;
  }

  // What the decoder and the stop strings still keep back.
  void finish_text() {
    if (out_.reason == StopReason::stop_string || out_.reason == StopReason::cancelled) return;
    std::string rest = stops_.push(decoder_.finish());
    if (stops_.stopped()) {
      out_.reason = StopReason::stop_string;
    } else {
      rest += stops_.finish();
    }
    give_out(rest);
  }

  bool give_out(std::string_view text) {
    out_.text += text;
    return text.empty() || !on_text_ || on_text_(text);
  }

  const Model& model_;
  const GenerationOptions& options_;
  ThreadPool& pool_;
  const std::function<bool(std::string_view)>& on_text_;
  Sequence sequence_;
  Workspace workspace_;
  AlignedBuffer<float> logits_;
  Sampler sampler_;
  StreamDecoder decoder_;
  StopStrings stops_;
  Generation out_;
};

}  // namespace

std::string_view name_of(StopReason reason) {
  switch (reason) {
    case StopReason::length: return "length";
    case StopReason::stop_token: return "stop_token";
    case StopReason::stop_string: return "stop_string";
    case StopReason::context: return "context";
    case StopReason::cancelled: return "cancelled";
  }
  return "";
}

Result<Generation> generate(const Model& model, const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                            const GenerationOptions& options, ThreadPool& pool,
                            const std::function<bool(std::string_view)>& on_text) {
  if (prompt.empty()) return fail(ErrorCode::usage, "the prompt is empty: there is nothing to continue");
  if (static_cast<int64_t>(prompt.size()) > model.spec().max_positions)
    return fail(ErrorCode::usage, "the prompt has {} tokens, the model {} positions", prompt.size(),
                model.spec().max_positions);
  return Generator(model, tokenizer, options, pool, on_text).run(prompt);
}

}  // namespace nibble
