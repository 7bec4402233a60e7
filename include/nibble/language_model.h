// A model that is ready to run: measuring, generating, timing.
#pragma once

#include <nibble/bench.h>
#include <nibble/progress.h>
#include <nibble/result.h>
#include <nibble/text_tokenizer.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

enum class FloatType { f32, f16, bf16 };
// "f32", "f16" or "bf16"; `usage` for any other name.
Result<FloatType> float_type_named(std::string_view name);
std::string_view name_of(FloatType type);

struct LoadOptions {
  int threads = 0;  // 0: NIBBLE_THREADS, or else one per usable processor
  // How keys and values are stored: f32, f16, bf16 or a block format such as "bfp8:b16" (docs/formats.md), or
  // "KEYS/VALUES". Default: as the model's recipe says, else f32.
  std::optional<std::string> cache;
  std::optional<FloatType> weights;  // convert weights that are stored as floats; default: as stored
  // What the input of linears with float weights is rounded to: f32 (default), or bf16 where the weights are bf16,
  // which runs on the processor's 16-bit multiplier. Quantized linears are not concerned.
  std::optional<FloatType> activations;
  // Reads the packed weights from the file nibble.packed-cache in the model's folder when it fits the model, this
  // program and this machine; otherwise packs them and writes it. LanguageModel::load_note() says which.
  bool packed_cache = false;
};

// Which tokens of a text are predicted, and from what. The text is tokenised once with the tokenizer's own special
// tokens; W is the window, S the stride:
//   windows      windows of W that do not overlap, the incomplete last one dropped; all but the first token of each
//   strided      windows of W that begin every S tokens; every token but the first of the text, once
//   second-half  as `windows`, a leading special token in place of the first of each; the second half of each
struct TextProtocol {
  std::string name = "windows";  // or "strided" or "second-half"
  int64_t window = 0;            // tokens; 0: min(2048, the model's positions)
  int64_t stride = 0;            // strided only; 0: half a window
  // "wikitext2", "ptb", "ptb-new", "c4" or "c4-new": the text is the file of that data set, and joined and cut as the
  // evaluation code of the GPTQ papers does it; protocol `windows` only. Empty: the text as it is.
  std::string preset;
};

struct PerplexityOptions {
  TextProtocol protocol;
  ProgressCallback progress;
};

struct PerplexityReport {
  double perplexity = 0;      // exp(nll)
  double nll = 0;             // mean negative log-likelihood, nats per predicted token
  double standard_error = 0;  // of the nll, tokens taken as independent
  int64_t tokens = 0;         // predicted
  TextProtocol protocol;      // as it was used: with the window, and the stride where there is one
  int64_t windows = 0;
  double seconds = 0, tokens_per_second = 0;  // of the tokens run through the model
};

struct GenerateOptions {
  int64_t max_tokens = 128;
  double temperature = 0;  // 0: greedy, ties to the lower id
  int64_t top_k = 0;       // 0: off
  double top_p = 1;        // 1: off
  double min_p = 0;        // 0: off
  uint64_t seed = 0;
  std::vector<std::string> stop;   // texts that end the generation; not part of the output
  bool ignore_eos = false;         // go on after an end-of-sequence token
  bool add_special_tokens = true;  // around the prompt
};

// Why a generation ended: max_tokens were made; an end-of-sequence token or a stop text came; the model's positions
// were used up; the callback said so.
enum class FinishReason { length, stop_token, stop_text, context, cancelled };
std::string_view name_of(FinishReason reason);  // as above: "length", "stop_token", ...

struct GenerateReport {
  std::string text;                // what was generated, without the prompt
  std::vector<int32_t> token_ids;  // generated ones, an end-of-sequence token included
  int64_t prompt_tokens = 0;
  FinishReason reason = FinishReason::length;
  double prefill_seconds = 0, decode_seconds = 0;
};

// Gets text as it appears: whole code points, never part of a stop text. Returning false ends the generation.
using TextCallback = std::function<bool(std::string_view)>;

// Which kernel runs one linear layer, and why better ones do not serve.
struct KernelChoice {
  std::string layer;    // "blocks.3.q"
  std::string prefill;  // for many tokens
  std::string decode;   // for one token
};

struct EvaluateRequest;  // nibble/evaluate.h
struct EvaluateReport;

// Owns its weights. Movable. Calls on one object from several threads wait for each other (a callback must not call
// back into its own model); different objects are independent.
class LanguageModel {
 public:
  // Loads a Hugging Face folder or one that quantize() wrote, tokenizer included, and packs the weights for this
  // machine. Errors: `io` when files are missing, `corrupt` for damaged ones (with name and place), `unsupported` for
  // a model, format or machine, `resources` when memory runs out, `usage` for impossible options.
  static Result<LanguageModel> load(const std::filesystem::path& folder, const LoadOptions& options = {});
  LanguageModel(LanguageModel&&) noexcept;
  LanguageModel& operator=(LanguageModel&&) noexcept;
  ~LanguageModel();

  const TextTokenizer& tokenizer() const;
  int64_t positions() const;   // the longest context, tokens
  int64_t vocabulary() const;  // logits per token
  int64_t layers() const;
  int threads() const;
  std::string isa() const;
  // One line about the packed cache, when it was asked for: mapped, written, or ignored and why; else empty.
  std::string load_note() const;

  // `usage` when the text does not fill one window, the window does not fit the model, or the protocol contradicts
  // itself; `corrupt` for a line of the text that its preset cannot read; `failure` when the model's logits are not
  // finite.
  Result<PerplexityReport> perplexity(std::string_view text, const PerplexityOptions& options = {}) const;

  // `usage` for an empty prompt, one longer than positions(), or sampling options out of range.
  Result<GenerateReport> generate(std::string_view prompt, const GenerateOptions& options = {},
                                  const TextCallback& on_text = {}) const;

  // Zero-shot and few-shot tasks (nibble/evaluate.h says which errors).
  Result<EvaluateReport> evaluate(const EvaluateRequest& request) const;

  // Prefill, decoding and batched decoding of pseudo-random tokens, timed apart, with their shares of the roof.
  Result<BenchReport> bench(const BenchOptions& options = {}) const;

  // One entry per linear layer of the blocks, in execution order. prefill_tokens >= 1.
  Result<std::vector<KernelChoice>> explain(int64_t prefill_tokens = 512) const;

 private:
  struct Impl;
  explicit LanguageModel(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble
