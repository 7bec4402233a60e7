#include "eval/verify/verify.h"

#include "eval/verify/checks.h"
#include "model/end_tokens.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr SamplingPlan kDrawn{8, 64, 1};

Status expect_limit(const char* name, std::optional<double> limit, double least, double most) {
  if (!limit || (*limit >= least && *limit <= most)) return {};
  return fail(ErrorCode::usage, "{} is {}; expected {} to {}", name, *limit, least, most);
}

Status validate(const VerifyOptions& options) {
  NIBBLE_DO(expect_limit("max_kl", options.max_kl, 0, 1e6));
  NIBBLE_DO(expect_limit("min_agreement", options.min_agreement, 0, 1));
  NIBBLE_DO(expect_limit("max_perplexity_ratio", options.max_perplexity_ratio, 0, 1e12));
  const bool limited = options.max_kl || options.min_agreement || options.max_perplexity_ratio;
  if (options.reference.empty() && limited)
    return fail(ErrorCode::usage, "a limit of divergence needs a reference to diverge from");
  if (options.reference.empty() && !options.text.empty())
    return fail(ErrorCode::usage, "a text is for measuring divergence, which needs a reference");
  std::error_code error;
  if (!fs::exists(options.candidate, error))
    return fail(ErrorCode::io, "cannot open {}: no such folder", options.candidate.string());
  if (!fs::is_directory(options.candidate, error))
    return fail(ErrorCode::usage, "{} is a file; expected the folder of a model", options.candidate.string());
  return {};
}

// What a drawn text begins with: bos, where a text has one, and an everyday word. Without a tokenizer, or with one that
// is not this model's, the id 0.
std::vector<int32_t> beginning(const Opened& opened) {
  std::vector<int32_t> ids;
  if (opened.tokenizer) ids = opened.tokenizer->encode("The");
  for (int32_t id : ids)
    if (id >= opened.source->spec().vocabulary) ids.clear();
  if (ids.empty() || static_cast<int64_t>(ids.size()) >= opened.source->spec().max_positions) ids = {0};
  return ids;
}

bool corrupt(const Finding& finding) {
  return finding.kind == FindingKind::failed && finding.code == ErrorCode::corrupt;
}

// What a damaged model does may surface as an error of whatever touched it first; what says nothing about the model
// stays an error.
Result<Finding> finding_of(Result<Finding> found) {
  if (found) return found;
  const Error& error = found.error();
  if (error.code == ErrorCode::corrupt || error.code == ErrorCode::io) return failed(ErrorCode::corrupt, error.message);
  // `failure`: logits that are not finite.
  if (error.code == ErrorCode::verification || error.code == ErrorCode::failure)
    return failed(ErrorCode::verification, error.message);
  return found;
}

}  // namespace

Result<Opened> open_folder(const fs::path& folder) {
  Opened out;
  NIBBLE_TRY(out.source, open_model(folder));
  auto tokenizer = Tokenizer::load(folder);
  if (tokenizer) {
    out.tokenizer = *tokenizer;
  } else if (tokenizer.error().code == ErrorCode::io) {
    out.no_tokenizer = tokenizer.error().message;
  } else {
    return tl::unexpected(tokenizer.error());
  }
  NIBBLE_TRY(out.end_tokens, end_tokens(*out.source));
  if (out.end_tokens.empty() && out.tokenizer && out.tokenizer->eos()) out.end_tokens.push_back(*out.tokenizer->eos());
  return out;
}

void Examination::told(const std::string& what, double done) {
  if (options.progress) options.progress({what, begin_ + done * (end_ - begin_), -1});
}

Result<const Model*> Examination::model_of(const Opened& opened, std::optional<Model>& model) {
  if (!model) {
    Model::Options wanted;
    wanted.cache = options.cache;
    NIBBLE_TRY(model, Model::load(*opened.source, wanted, pool));
  }
  return &*model;
}

Result<const SampledText*> Examination::text_of(const Opened& opened, const Model& model, Part part,
                                                std::optional<SampledText>& text) {
  if (!text) {
    // With a reference both begin alike and end where the reference ends.
    const Opened& judge = reference ? *reference : opened;
    NIBBLE_TRY(text, sample_text(model, beginning(judge), judge.end_tokens, kDrawn, pool, [&](double done) {
                 told("drawing text", part.begin + done * (part.end - part.begin));
               }));
  }
  return &*text;
}

Result<const SampledText*> Examination::candidate_text(Part part) {
  NIBBLE_TRY(const Model* model, candidate_model());
  return text_of(candidate, *model, part, candidate_text_);
}

Result<const SampledText*> Examination::reference_text(Part part) {
  NIBBLE_TRY(const Model* model, reference_model());
  return of_reference(text_of(*reference, *model, part, reference_text_));
}

Result<Verification> verify_model(const VerifyOptions& options, ThreadPool& pool) {
  NIBBLE_DO(validate(options));
  Examination examination(options, pool);
  if (!options.reference.empty()) {
    NIBBLE_TRY(examination.reference, open_folder(options.reference));
    if (!options.text.empty()) {
      NIBBLE_TRY(examination.given, given_text(options.text, *examination.reference));
    }
  }
  double all = 0, before = 0;
  for (const CheckRow& check : kChecks) all += check.effort;
  Verification out;
  std::string stopped;
  for (const CheckRow& check : kChecks) {
    examination.enter(before / all, (before + check.effort) / all);
    before += check.effort;
    Result<Finding> found = stopped.empty() ? check.run(examination) : skipped(stopped + " found the files corrupt");
    if (examination.reference_error) return tl::unexpected(*examination.reference_error);
    NIBBLE_TRY(Finding finding, finding_of(std::move(found)));
    if (stopped.empty() && corrupt(finding)) stopped = check.name;
    examination.told(std::string(check.name), 1);
    out.findings.push_back({std::string(check.name), std::move(finding)});
  }
  out.divergence = examination.divergence;
  return out;
}

}  // namespace nibble
