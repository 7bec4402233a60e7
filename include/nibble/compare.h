// How far a quantized model is from its original: the divergence of their predictions on a text.
#pragma once

#include <nibble/language_model.h>
#include <nibble/progress.h>
#include <nibble/result.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace nibble {

struct CompareRequest {
  std::filesystem::path reference;                // a model folder, or a file of stored logits
  std::vector<std::filesystem::path> candidates;  // the same
  // What is predicted. May be empty when the reference is a file: then models run on the ids stored in it; otherwise
  // they must agree with them.
  std::string text;
  TextProtocol protocol;  // of a stored reference: 0 or default, or what is stored
  LoadOptions load;
  // Store the reference's predictions in this file (which then serves as a reference); empty: do not. The candidates
  // may then be empty. An existing file is replaced only when it holds stored predictions.
  std::filesystem::path save_logits;
  // Hold one model at a time, through a temporary file of stored logits. Without it, that is done when the models do
  // not fit the available memory together. The file takes 2 bytes per predicted token and word of the vocabulary, in
  // the folder that the environment variable TMPDIR names (/tmp without it); `resources` when it has no room for that.
  bool one_at_a_time = false;
  ProgressCallback progress;
};

struct Measured {
  double value = 0, standard_error = 0;  // tokens taken as independent
};

// KL divergence of the candidate from the reference per predicted token, in nats, and what follows from it.
struct Comparison {
  std::filesystem::path candidate;
  int64_t tokens = 0;
  Measured mean_kl, median_kl, p99_kl, p999_kl;
  double max_kl = 0;
  Measured top1_agreement;      // the most probable token is the same; fraction
  Measured top5_agreement;      // shared part of the five most probable tokens; fraction
  Measured probability_change;  // of the true token: mean of candidate - reference
  double rms_probability_change = 0;
  double reference_perplexity = 0, candidate_perplexity = 0;
  Measured perplexity_ratio;  // candidate / reference
  std::vector<float> kl;      // by predicted token, in the order of the text
};

struct CompareReport {
  std::vector<Comparison> candidates;  // in the order of the request
  std::string protocol;
  std::string preset;
  int64_t window = 0, stride = 0, tokens = 0;
  bool stored_reference = false;              // predictions of the reference were rounded to 16-bit log probabilities
  bool one_at_a_time = false;                 // through a temporary file, which was the request or else saved memory
  double seconds = 0, tokens_per_second = 0;  // tokens run through models, all of them together
};

// `corrupt` when the vocabularies, or the ids of the text, differ, or a file of stored logits is damaged; `resources`
// when the disk is full or too small, with no part of a file left; otherwise as LanguageModel::load and perplexity.
Result<CompareReport> compare(const CompareRequest& request);

}  // namespace nibble
