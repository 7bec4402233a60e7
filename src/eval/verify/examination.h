// What the checks look at: the candidate's folder, the reference's, and what earlier checks have made of them.
#pragma once

#include <optional>
#include <string>

#include "core/json.h"
#include "eval/verify/sampling.h"
#include "eval/verify/verify.h"
#include "measure/protocol.h"
#include "model/model.h"
#include "runtime/model.h"
#include "tokenizer/tokenizer.h"

namespace nibble {

// A model folder, opened as far as it goes.
struct Opened {
  std::unique_ptr<ModelSource> source;
  std::optional<Tokenizer> tokenizer;
  std::string no_tokenizer;         // why not
  std::vector<int32_t> end_tokens;  // of the folder, or else of the tokenizer
};
Result<Opened> open_folder(const std::filesystem::path& folder);

// The text that the user gave, by windows of min(2048, positions, its length). `usage` for a folder without a tokenizer
// and for a text too short to judge by.
Result<ScoredText> given_text(const std::string& text, const Opened& reference);

class Examination {
 public:
  Examination(const VerifyOptions& wanted, ThreadPool& threads) : options(wanted), pool(threads) {}

  const VerifyOptions& options;
  ThreadPool& pool;
  std::optional<Json> manifest;  // of the candidate
  Opened candidate;              // opened by the check "files", which comes first
  std::optional<Opened> reference;
  std::optional<ScoredText> given;  // the text of the user, cut by the reference's tokenizer
  std::optional<MeasuredDivergence> divergence;

  // What goes wrong with the reference says nothing about the candidate: it is noted here and ends the checking.
  std::optional<Error> reference_error;
  template <class T>
  Result<T> of_reference(Result<T> result) {
    if (!result) reference_error = {result.error().code, "the reference: " + result.error().message};
    return result;
  }

  // Loaded when first asked for.
  Result<const Model*> candidate_model() { return model_of(candidate, candidate_model_); }
  Result<const Model*> reference_model() { return of_reference(model_of(*reference, reference_model_)); }
  // Text drawn from each, the same number of tokens from the same beginning, when first asked for. `part`: of the
  // running check's progress, that drawing takes.
  struct Part {
    double begin = 0, end = 1;
  };
  Result<const SampledText*> candidate_text(Part part);
  Result<const SampledText*> reference_text(Part part);

  // Tells of progress inside the check that is running.
  void told(const std::string& what, double done);
  void enter(double begin, double end) { begin_ = begin, end_ = end; }

 private:
  Result<const Model*> model_of(const Opened& opened, std::optional<Model>& model);
  Result<const SampledText*> text_of(const Opened& opened, const Model& model, Part part,
                                     std::optional<SampledText>& text);

  std::optional<Model> candidate_model_, reference_model_;
  std::optional<SampledText> candidate_text_, reference_text_;
  double begin_ = 0, end_ = 1;  // the running check's part of the whole
};

}  // namespace nibble
