#include <nibble/nibble.h>
#include <nibble/nibble_c.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "api/guard.h"
#include "api/version.h"

// The handle of the C interface is the C++ object itself.
struct nibble_model {
  nibble::LanguageModel model;
};

namespace nibble {
namespace {

// Of fixed size, so that reporting "out of memory" needs none.
constexpr size_t kLongestMessage = 4096;
thread_local char last_message[kLongestMessage] = "";

nibble_code remember(const Error& error) noexcept {
  const size_t length = std::min(error.message.size(), kLongestMessage - 1);
  std::memcpy(last_message, error.message.data(), length);
  last_message[length] = 0;
  return static_cast<nibble_code>(error.code);
}

// Runs the body of a C function: no exception leaves, an error is remembered.
template <class Body>
nibble_code run(Body&& body) noexcept {
  const Status status = guarded(std::forward<Body>(body));
  return status ? NIBBLE_OK : remember(status.error());
}

Status expect_given(const void* argument, const char* name) {
  if (argument != nullptr) return {};
  return fail(ErrorCode::usage, "argument \"{}\" is null", name);
}

// The caller's options, of which it may know only the first `size` bytes, over the defaults.
template <class Options>
Result<Options> options_given(const Options* given, void (*defaults)(Options*)) {
  Options options;
  defaults(&options);
  if (given == nullptr) return options;
  if (given->size < sizeof(size_t) || given->size > sizeof(Options))
    return fail(ErrorCode::usage, "options of {} bytes; this library knows {}: fill them with the defaults function",
                given->size, sizeof(Options));
  std::memcpy(static_cast<void*>(&options), given, given->size);
  return options;
}

Result<std::optional<FloatType>> type_given(const char* name) {
  if (name == nullptr) return std::optional<FloatType>();
  NIBBLE_TRY(const FloatType type, float_type_named(name));
  return std::optional(type);
}

Result<LoadOptions> load_options(const nibble_load_options* given) {
  NIBBLE_TRY(const nibble_load_options known, options_given(given, nibble_load_defaults));
  LoadOptions options;
  options.threads = known.threads;
  if (known.cache != nullptr) options.cache = known.cache;
  NIBBLE_TRY(options.weights, type_given(known.weights));
  return options;
}

GenerateOptions generate_options(const nibble_generate_options& known) {
  GenerateOptions options;
  options.max_tokens = known.max_tokens;
  options.temperature = known.temperature;
  options.top_k = known.top_k;
  options.top_p = known.top_p;
  options.min_p = known.min_p;
  options.seed = known.seed;
  if (known.stop != nullptr) options.stop = {known.stop};
  options.ignore_eos = known.ignore_eos != 0;
  return options;
}

TextCallback text_callback(const nibble_generate_options& known) {
  if (known.on_text == nullptr) return {};
  return [call = known.on_text, user = known.user](std::string_view text) {
    return call(text.data(), text.size(), user) != 0;
  };
}

// Memory that free() releases, with a zero behind the last element.
template <class T>
T* copy_out(const T* values, size_t count) {
  T* copy = static_cast<T*>(std::calloc(count + 1, sizeof(T)));
  if (copy == nullptr) throw std::bad_alloc();
  std::copy_n(values, count, copy);
  return copy;
}

Status texts_given(const char* const* texts, size_t count, const char* name, auto& out) {
  if (count > 0) NIBBLE_DO(expect_given(texts, name));
  for (size_t i = 0; i < count; ++i) {
    NIBBLE_DO(expect_given(texts[i], name));
    out.emplace_back(texts[i]);
  }
  return {};
}

Result<QuantizeRequest> quantize_request(const nibble_quantize_options& known) {
  NIBBLE_DO(expect_given(known.model, "model"));
  NIBBLE_DO(expect_given(known.output, "output"));
  NIBBLE_DO(expect_given(known.recipe, "recipe"));
  QuantizeRequest request;
  request.model = known.model;
  request.output = known.output;
  request.recipe = known.recipe;
  NIBBLE_DO(texts_given(known.calibration, known.calibration_count, "calibration", request.calibration));
  NIBBLE_DO(texts_given(known.sets, known.set_count, "sets", request.sets));
  NIBBLE_DO(texts_given(known.overrides, known.override_count, "overrides", request.overrides));
  request.samples = known.samples;
  request.length = known.length;
  request.seed = known.seed;
  request.threads = known.threads;
  request.memory_limit = known.memory_limit;
  request.force = known.force != 0;
  request.resume = known.resume != 0;
  if (known.on_progress != nullptr)
    request.progress = [call = known.on_progress, user = known.user](const Progress& progress) {
      call(progress.what.c_str(), progress.done, progress.seconds_left, user);
    };
  return request;
}

}  // namespace
}  // namespace nibble

using nibble::Status;

extern "C" {

const char* nibble_version(void) { return NIBBLE_VERSION; }
const char* nibble_last_error(void) { return nibble::last_message; }

void nibble_load_defaults(nibble_load_options* options) {
  *options = {};
  options->size = sizeof *options;
}

nibble_code nibble_load(const char* folder, const nibble_load_options* options, nibble_model** model) {
  if (model != nullptr) *model = nullptr;
  return nibble::run([&]() -> Status {
    NIBBLE_DO(nibble::expect_given(folder, "folder"));
    NIBBLE_DO(nibble::expect_given(model, "model"));
    NIBBLE_TRY(const nibble::LoadOptions wanted, nibble::load_options(options));
    NIBBLE_TRY(nibble::LanguageModel loaded, nibble::LanguageModel::load(folder, wanted));
    *model = new nibble_model{std::move(loaded)};
    return {};
  });
}

void nibble_free(nibble_model* model) { delete model; }

void nibble_generate_defaults(nibble_generate_options* options) {
  *options = {};
  options->size = sizeof *options;
  options->max_tokens = 128;
  options->top_p = 1;
}

nibble_code nibble_generate(nibble_model* model, const char* prompt, const nibble_generate_options* options,
                            nibble_generation* generation) {
  if (generation != nullptr) *generation = {};
  return nibble::run([&]() -> Status {
    NIBBLE_DO(nibble::expect_given(model, "model"));
    NIBBLE_DO(nibble::expect_given(prompt, "prompt"));
    NIBBLE_DO(nibble::expect_given(generation, "generation"));
    NIBBLE_TRY(const nibble_generate_options known, nibble::options_given(options, nibble_generate_defaults));
    NIBBLE_TRY(const nibble::GenerateReport made,
               model->model.generate(prompt, nibble::generate_options(known), nibble::text_callback(known)));
    generation->text = nibble::copy_out(made.text.data(), made.text.size());
    generation->prompt_tokens = made.prompt_tokens;
    generation->token_ids = nibble::copy_out(made.token_ids.data(), made.token_ids.size());
    generation->token_count = made.token_ids.size();
    return {};
  });
}

void nibble_generation_free(nibble_generation* generation) {
  if (generation == nullptr) return;
  std::free(generation->text);
  std::free(generation->token_ids);
  *generation = {};
}

nibble_code nibble_perplexity(nibble_model* model, const char* text, size_t length, int64_t window,
                              nibble_perplexity_result* result) {
  if (result != nullptr) *result = {};
  return nibble::run([&]() -> Status {
    NIBBLE_DO(nibble::expect_given(model, "model"));
    NIBBLE_DO(nibble::expect_given(text, "text"));
    NIBBLE_DO(nibble::expect_given(result, "result"));
    nibble::PerplexityOptions options;
    options.protocol.window = window;
    NIBBLE_TRY(const nibble::PerplexityReport found, model->model.perplexity({text, length}, options));
    *result = {found.perplexity, found.nll, found.standard_error, found.tokens, found.protocol.window, found.windows};
    return {};
  });
}

void nibble_quantize_defaults(nibble_quantize_options* options) {
  *options = {};
  options->size = sizeof *options;
  options->samples = 128;
}

nibble_code nibble_quantize(const nibble_quantize_options* options, nibble_quantize_result* result) {
  if (result != nullptr) *result = {};
  return nibble::run([&]() -> Status {
    NIBBLE_DO(nibble::expect_given(options, "options"));
    NIBBLE_TRY(const nibble_quantize_options known, nibble::options_given(options, nibble_quantize_defaults));
    NIBBLE_TRY(const nibble::QuantizeRequest request, nibble::quantize_request(known));
    NIBBLE_TRY(const nibble::QuantizeOutcome outcome, nibble::quantize(request));
    if (result != nullptr)
      *result = {outcome.bits_per_weight, outcome.quantized_bits_per_weight, outcome.file_bytes,
                 outcome.peak_memory_bytes, outcome.seconds};
    return {};
  });
}

}  // extern "C"
