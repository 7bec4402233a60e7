// Nibble: quantizes large language models to a few bits and runs them on CPUs.
//
// The library in one page:
//
//   #include <nibble/nibble.h>
//
//   nibble::QuantizeRequest request;                       // a Hugging Face folder becomes a quantized one
//   request.model = "opt-125m";  request.output = "opt-125m-quik";  request.recipe = "quik-4b";
//   request.calibration = {"some.txt"};
//   auto outcome = nibble::quantize(request);
//   if (!outcome) return fail(outcome.error().message);    // every error is a value: a code and a message
//
//   auto model = nibble::LanguageModel::load("opt-125m-quik");
//   auto said = model->generate("Once upon a time", {}, [](std::string_view text) { std::cout << text; return true; });
//
// Errors: every function that can fail returns Result<T> (an alias of tl::expected<T, Error>); the codes are those
// of the program's exit status. No function throws: running out of memory and exceptions of the libraries beneath
// become `resources` and `failure` errors, and so does an exception that a callback throws.
//
// Threads: objects may be used from any thread; what may be called at the same time is said with each class.
//
// Environment: NIBBLE_THREADS (when an option says 0 threads) and NIBBLE_ISA (portable, avx2, avx512vnni, avx512bf16 or
// amx: at most these instructions).
#pragma once

#include <nibble/bench.h>
#include <nibble/compare.h>
#include <nibble/evaluate.h>
#include <nibble/fit.h>
#include <nibble/inspect.h>
#include <nibble/language_model.h>
#include <nibble/quantize.h>
#include <nibble/random_model.h>
#include <nibble/report.h>
#include <nibble/result.h>
#include <nibble/search.h>
#include <nibble/text_tokenizer.h>
#include <nibble/units.h>
#include <nibble/verify.h>

#include <string>

namespace nibble {

struct VersionInfo {
  std::string version;   // "0.1.0"
  std::string commit;    // of the source it was built from; empty when not known
  std::string compiler;  // "GCC 12.2.0"
  std::string isa;       // the instruction set that would be used now: portable, avx2, avx512vnni, avx512bf16, amx
  std::string detected;  // what this machine offers (differs from `isa` when NIBBLE_ISA is set)
};

// `unsupported` when NIBBLE_ISA asks for more than the machine has.
Result<VersionInfo> version();

}  // namespace nibble
