#include <nibble/language_model.h>

#include <mutex>

#include "api/guard.h"
#include "api/language_model_impl.h"
#include "api/load_model.h"
#include "api/text_protocol.h"
#include "api/threads.h"
#include "core/json.h"
#include "engine/generate.h"
#include "measure/likelihood.h"
#include "model/end_tokens.h"

namespace nibble {
namespace {

// End-of-sequence ids: generation_config.json decides, then config.json, then the tokenizer.
Result<std::vector<int32_t>> stop_tokens_of(const ModelSource& source, const TextTokenizer& tokenizer) {
  NIBBLE_TRY(std::vector<int32_t> ids, end_tokens(source));
  if (ids.empty() && tokenizer.eos()) ids.push_back(*tokenizer.eos());
  return ids;
}

Status expect_range(std::string_view name, double value, double least, double most) {
  if (value >= least && value <= most) return {};
  return fail(ErrorCode::usage, "{} is {}; expected {} to {}", name, value, least, most);
}

Status validate(const GenerateOptions& options) {
  if (options.max_tokens < 1)
    return fail(ErrorCode::usage, "max_tokens is {}; expected at least 1", options.max_tokens);
  if (options.top_k < 0) return fail(ErrorCode::usage, "top_k is {}; expected 0 (off) or more", options.top_k);
  NIBBLE_DO(expect_range("temperature", options.temperature, 0, 1e6));
  NIBBLE_DO(expect_range("min_p", options.min_p, 0, 1));
  if (!(options.top_p > 0)) return fail(ErrorCode::usage, "top_p is {}; expected more than 0", options.top_p);
  return expect_range("top_p", options.top_p, 0, 1);
}

GenerationOptions engine_options(const GenerateOptions& options, const std::vector<int32_t>& stop_tokens) {
  GenerationOptions out;
  out.max_tokens = options.max_tokens;
  out.sampling.temperature = options.temperature;
  out.sampling.top_k = options.top_k;
  out.sampling.top_p = options.top_p;
  out.sampling.min_p = options.min_p;
  out.sampling.seed = options.seed;
  out.stop = options.stop;
  if (!options.ignore_eos) out.stop_tokens = stop_tokens;
  return out;
}

FinishReason reason_of(StopReason reason) {
  switch (reason) {
    case StopReason::stop_token: return FinishReason::stop_token;
    case StopReason::stop_string: return FinishReason::stop_text;
    case StopReason::context: return FinishReason::context;
    case StopReason::cancelled: return FinishReason::cancelled;
    case StopReason::length: break;
  }
  return FinishReason::length;
}

}  // namespace

std::string_view name_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop_token: return "stop_token";
    case FinishReason::stop_text: return "stop_text";
    case FinishReason::context: return "context";
    case FinishReason::cancelled: return "cancelled";
    case FinishReason::length: break;
  }
  return "length";
}

LanguageModel::LanguageModel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LanguageModel::LanguageModel(LanguageModel&&) noexcept = default;
LanguageModel& LanguageModel::operator=(LanguageModel&&) noexcept = default;
LanguageModel::~LanguageModel() = default;

Result<LanguageModel> LanguageModel::load(const std::filesystem::path& folder, const LoadOptions& options) {
  return guarded([&]() -> Result<LanguageModel> {
    NIBBLE_TRY(const int threads, thread_count(options.threads));
    if (options.cache) NIBBLE_DO(with_cache({}, *options.cache, "the KV cache"));
    NIBBLE_TRY(const auto source, open_model(folder));
    NIBBLE_TRY(TextTokenizer tokenizer, TextTokenizer::load(folder));
    NIBBLE_TRY(std::vector<int32_t> stop_tokens, stop_tokens_of(*source, tokenizer));
    auto pool = std::make_unique<ThreadPool>(threads);
    NIBBLE_TRY(Model model, load_model(*source, options, *pool));
    return LanguageModel(std::unique_ptr<Impl>(
        new Impl{std::move(pool), std::move(model), std::move(tokenizer), std::move(stop_tokens), {}}));
  });
}

const TextTokenizer& LanguageModel::tokenizer() const { return impl_->tokenizer; }
int64_t LanguageModel::positions() const { return impl_->model.spec().max_positions; }
int64_t LanguageModel::vocabulary() const { return impl_->model.spec().vocabulary; }
int64_t LanguageModel::layers() const { return impl_->model.spec().layers; }
int LanguageModel::threads() const { return impl_->pool->size(); }
std::string LanguageModel::isa() const { return to_string(impl_->model.isa()); }
std::string LanguageModel::load_note() const { return impl_->model.note(); }

Result<PerplexityReport> LanguageModel::perplexity(std::string_view text, const PerplexityOptions& options) const {
  return guarded([&]() -> Result<PerplexityReport> {
    NIBBLE_TRY(const ScoredText scored,
               read_scored_text(text, text_options(options.protocol), *tokenizer().tokenizer_, positions()));
    std::lock_guard guard(impl_->lock);
    NIBBLE_TRY(const Likelihood found, score(impl_->model, scored, *impl_->pool, options.progress));
    return PerplexityReport{found.perplexity(),  found.nll,     found.standard_error, found.tokens,
                            protocol_of(scored), found.windows, found.seconds,        found.rate()};
  });
}

Result<GenerateReport> LanguageModel::generate(std::string_view prompt, const GenerateOptions& options,
                                               const TextCallback& on_text) const {
  return guarded([&]() -> Result<GenerateReport> {
    NIBBLE_DO(validate(options));
    NIBBLE_TRY(const std::vector<int32_t> ids, tokenizer().encode(prompt, options.add_special_tokens));
    std::lock_guard guard(impl_->lock);
    NIBBLE_TRY(Generation made, nibble::generate(impl_->model, *tokenizer().tokenizer_, ids,
                                                 engine_options(options, impl_->stop_tokens), *impl_->pool, on_text));
    return GenerateReport{std::move(made.text),   std::move(made.token_ids), made.prompt_tokens,
                          reason_of(made.reason), made.prefill_seconds,      made.decode_seconds};
  });
}

Result<std::vector<KernelChoice>> LanguageModel::explain(int64_t prefill_tokens) const {
  return guarded([&]() -> Result<std::vector<KernelChoice>> {
    if (prefill_tokens < 1) return fail(ErrorCode::usage, "explain: {} tokens; expected at least 1", prefill_tokens);
    std::vector<KernelChoice> choices;
    for (int64_t layer = 0; layer < layers(); ++layer) {
      for (Role role : kAllRoles) {
        const auto& linear = impl_->model.block(layer).linears[static_cast<size_t>(role)];
        if (!linear) continue;
        choices.push_back({linear_name(layer, role), linear->explain(prefill_tokens), linear->explain(1)});
      }
    }
    return choices;
  });
}

}  // namespace nibble
