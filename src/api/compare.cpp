#include <nibble/compare.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>

#include "api/guard.h"
#include "api/load_model.h"
#include "api/text_protocol.h"
#include "api/threads.h"
#include "core/file.h"
#include "core/memory.h"
#include "measure/divergence.h"
#include "tokenizer/tokenizer.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

// Models count as fitting the memory when their files are at most this part of what is available; the rest is for
// packing, caches and activations.
constexpr double kUsableMemory = 0.7;

tl::unexpected<Error> named(const fs::path& path, Error error) {
  error.message = fmt::format("{}: {}", path.string(), error.message);
  return tl::unexpected(std::move(error));
}

// A model folder or a file of stored logits, before any weights are loaded.
struct Participant {
  fs::path path;
  std::unique_ptr<ModelSource> source;   // of a model
  std::unique_ptr<StoredLogits> stored;  // of a file

  bool is_model() const { return source != nullptr; }
  int64_t vocabulary() const { return is_model() ? source->spec().vocabulary : stored->vocabulary(); }
  // Of a model. The tokenizer is loaded for this alone: ids that were stored need none.
  Result<ScoredText> read(std::string_view text, const TextOptions& options) const {
    NIBBLE_TRY(const Tokenizer tokenizer, Tokenizer::load(path));
    auto scored = read_scored_text(text, options, tokenizer, source->spec().max_positions);
    if (!scored) return named(path, std::move(scored.error()));
    return scored;
  }
};

Result<Participant> open_participant(const fs::path& path) {
  Participant out{path, nullptr, nullptr};
  if (fs::is_regular_file(path)) {
    NIBBLE_TRY(out.stored, StoredLogits::open(path));
    return out;
  }
  NIBBLE_TRY(out.source, open_model(path));
  return out;
}

// A participant that can be read: the model in memory, when it is one. Errors of its rows get its name.
class Running final : public LogitSource {
 public:
  static Result<std::unique_ptr<Running>> start(Participant& participant, const ScoredText& text,
                                                const LoadOptions& load, ThreadPool& pool) {
    std::unique_ptr<Running> out(new Running(participant));
    if (!participant.is_model()) return out;
    auto model = load_model(*participant.source, load, pool);
    if (!model) return named(participant.path, std::move(model.error()));
    out->model_.emplace(std::move(*model));
    out->logits_.emplace(*out->model_, text, pool);
    return out;
  }

  const ScoredText& text() const override { return source().text(); }
  int64_t vocabulary() const override { return source().vocabulary(); }
  Status read(int64_t count, float* logits) override {
    Status done = source().read(count, logits);
    if (!done) return named(participant_.path, std::move(done.error()));
    return done;
  }

 private:
  explicit Running(Participant& participant) : participant_(participant) {}
  const LogitSource& source() const {
    return logits_ ? static_cast<const LogitSource&>(*logits_) : *participant_.stored;
  }
  LogitSource& source() { return logits_ ? static_cast<LogitSource&>(*logits_) : *participant_.stored; }

  Participant& participant_;
  std::optional<Model> model_;
  std::optional<ModelLogits> logits_;
};

// A folder of our own for temporary files, which goes away with its contents.
class TemporaryFolder {
 public:
  static Result<TemporaryFolder> create() {
    std::string pattern = (fs::temp_directory_path() / "nibble-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) return system_failure(errno, "create", pattern);
    return TemporaryFolder(pattern);
  }
  TemporaryFolder(TemporaryFolder&& other) noexcept : path_(std::move(other.path_)) { other.path_.clear(); }
  TemporaryFolder& operator=(TemporaryFolder&&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }

 private:
  explicit TemporaryFolder(fs::path path) : path_(std::move(path)) {}
  fs::path path_;
};

// Stored logits of `text` must have room in the folder. `advice` follows the message.
Status expect_space(const fs::path& folder, const ScoredText& text, int64_t vocabulary, std::string_view advice) {
  const double bytes = 2.0 * static_cast<double>(text.predictions()) * static_cast<double>(vocabulary);
  std::error_code unknown;
  const fs::space_info space = fs::space(folder, unknown);
  if (unknown || bytes <= static_cast<double>(space.available)) return {};
  return fail(ErrorCode::resources, "{}: the stored logits need {:.1f} MB, {:.1f} MB are free on its disk{}",
              folder.string(), bytes * 1e-6, static_cast<double>(space.available) * 1e-6, advice);
}

Measured measured(const Estimate& estimate) { return {estimate.value, estimate.standard_error}; }

Comparison comparison_of(const fs::path& candidate, Divergence found) {
  Comparison out;
  out.candidate = candidate;
  out.tokens = found.tokens;
  out.mean_kl = measured(found.mean_kl);
  out.median_kl = measured(found.median_kl);
  out.p99_kl = measured(found.p99_kl);
  out.p999_kl = measured(found.p999_kl);
  out.max_kl = found.max_kl;
  out.top1_agreement = measured(found.top1_agreement);
  out.top5_agreement = measured(found.top5_agreement);
  out.probability_change = measured(found.probability_change);
  out.rms_probability_change = found.rms_probability_change;
  out.reference_perplexity = found.reference_perplexity;
  out.candidate_perplexity = found.candidate_perplexity;
  out.perplexity_ratio = measured(found.perplexity_ratio);
  out.kl = std::move(found.kl);
  return out;
}

// The progress of one part of several; how long those that follow take is not known.
ProgressCallback part_of(const ProgressCallback& whole, size_t part, size_t parts, const fs::path& path) {
  if (!whole) return {};
  return [&whole, part, parts, name = path.filename().string()](const Progress& progress) {
    const double done = (static_cast<double>(part) + progress.done) / static_cast<double>(parts);
    whole({fmt::format("{}, {}", name, progress.what), done, part + 1 == parts ? progress.seconds_left : -1});
  };
}

class ComparisonRun {
 public:
  ComparisonRun(const CompareRequest& request, int threads) : request_(request), pool_(threads) {}

  Result<CompareReport> run() {
    NIBBLE_DO(open_all());
    NIBBLE_TRY(text_, choose_text());
    NIBBLE_DO(expect_alike());
    models_ = count_models();
    report_.one_at_a_time = models_ > 1 && (request_.one_at_a_time || !fits());
    NIBBLE_DO(expect_room());
    if (report_.one_at_a_time) {
      NIBBLE_DO(run_one_at_a_time());
    } else {
      NIBBLE_DO(run_together());
    }
    return finished();
  }

 private:
  Status open_all() {
    NIBBLE_TRY(reference_, open_participant(request_.reference));
    for (const fs::path& path : request_.candidates) {
      NIBBLE_TRY(Participant candidate, open_participant(path));
      candidates_.push_back(std::move(candidate));
    }
    if (request_.save_logits.empty()) {
      if (candidates_.empty()) return fail(ErrorCode::usage, "there is no candidate to compare with the reference");
      return {};
    }
    if (!reference_.is_model())
      return fail(ErrorCode::usage, "{} holds stored logits already: there is nothing to save",
                  reference_.path.string());
    NIBBLE_DO(check_file_target(request_.save_logits));
    if (fs::exists(request_.save_logits) && !StoredLogits::open(request_.save_logits))
      return fail(ErrorCode::usage, "{} exists and does not hold stored logits: it is not replaced",
                  request_.save_logits.string());
    return {};
  }

  // The reference's text. Of a stored one the protocol is known, and repeating it is allowed, changing it is not.
  Result<ScoredText> choose_text() const {
    if (reference_.is_model()) {
      if (request_.text.empty()) return fail(ErrorCode::usage, "a text is needed: the reference is not a file");
      return reference_.read(request_.text, text_options(request_.protocol));
    }
    const ScoredText& stored = reference_.stored->text();
    const TextProtocol& asked = request_.protocol;
    const bool contradicts = (asked.name != TextProtocol().name && asked.name != stored.protocol) ||
                             (asked.window != 0 && asked.window != stored.window) ||
                             (asked.stride != 0 && asked.stride != stored.stride) ||
                             (!asked.preset.empty() && asked.preset != stored.preset);
    if (contradicts && !stored.protocol.empty())
      return fail(ErrorCode::usage, "{} was stored with protocol {}, window {}, stride {}, preset \"{}\"",
                  reference_.path.string(), stored.protocol, stored.window, stored.stride, stored.preset);
    return stored;
  }

  // Equal vocabularies, and equal ids of the text from every tokenizer.
  Status expect_alike() const {
    TextOptions options = text_options(request_.protocol);
    if (!text_.protocol.empty()) options = {text_.protocol, text_.window, text_.stride, text_.preset};
    for (const Participant& candidate : candidates_) {
      if (candidate.vocabulary() != reference_.vocabulary())
        return fail(ErrorCode::corrupt, "{} has a vocabulary of {} tokens, the reference {} one of {}",
                    candidate.path.string(), candidate.vocabulary(), reference_.path.string(), reference_.vocabulary());
      if (!candidate.is_model()) {
        NIBBLE_DO(expect_text(candidate, candidate.stored->text()));
      } else if (!request_.text.empty()) {
        NIBBLE_TRY(const ScoredText text, candidate.read(request_.text, options));
        NIBBLE_DO(expect_text(candidate, text));
      }
    }
    return {};
  }

  Status expect_text(const Participant& candidate, const ScoredText& text) const {
    if (const auto difference = difference_of(text_, text))
      return fail(ErrorCode::corrupt, "the reference {} and {} do not have the same tokens: {}",
                  reference_.path.string(), candidate.path.string(), *difference);
    return {};
  }

  int64_t count_models() const {
    return reference_.is_model() +
           std::count_if(candidates_.begin(), candidates_.end(), [](const auto& p) { return p.is_model(); });
  }

  bool fits() const {
    double bytes = reference_.is_model() ? static_cast<double>(reference_.source->file_bytes()) : 0;
    for (const Participant& candidate : candidates_)
      if (candidate.is_model()) bytes += static_cast<double>(candidate.source->file_bytes());
    return bytes <= kUsableMemory * static_cast<double>(available_memory());
  }

  // For the reference's logits, where they are stored.
  Status expect_room() const {
    if (const fs::path& file = request_.save_logits; !file.empty())
      return expect_space(file.has_parent_path() ? file.parent_path() : ".", text_, reference_.vocabulary(), "");
    if (!report_.one_at_a_time || !reference_.is_model()) return {};
    return expect_space(fs::temp_directory_path(), text_, reference_.vocabulary(),
                        "; TMPDIR names another folder for this temporary file, a shorter text makes it smaller");
  }

  Status run_together() {
    NIBBLE_TRY(const auto reference, Running::start(reference_, text_, request_.load, pool_));
    std::vector<std::unique_ptr<Running>> running;
    for (Participant& candidate : candidates_) {
      NIBBLE_TRY(auto started, Running::start(candidate, text_, request_.load, pool_));
      running.push_back(std::move(started));
    }
    std::vector<LogitSource*> sources;
    for (const auto& source : running) sources.push_back(source.get());
    return measure(*reference, sources, 0, request_.save_logits, request_.progress);
  }

  // The reference goes to a file, from where each candidate is compared with it.
  Status run_one_at_a_time() {
    const size_t parts = candidates_.size() + (reference_.is_model() ? 1 : 0);
    size_t part = 0;
    if (reference_.is_model()) {
      const ProgressCallback progress = part_of(request_.progress, part++, parts, reference_.path);
      NIBBLE_DO(store_reference(progress));
    }
    for (size_t i = 0; i < candidates_.size(); ++i) {
      const ProgressCallback progress = part_of(request_.progress, part++, parts, candidates_[i].path);
      NIBBLE_TRY(const auto running, Running::start(candidates_[i], text_, request_.load, pool_));
      LogitSource* const sources[] = {running.get()};
      reference_.stored->rewind();
      NIBBLE_DO(measure(*reference_.stored, sources, i, {}, progress));
    }
    return {};
  }

  // Replaces the reference model by a file, which has no name any more by the time it is read, unless it was asked for.
  Status store_reference(const ProgressCallback& progress) {
    NIBBLE_TRY(const TemporaryFolder folder, TemporaryFolder::create());
    const fs::path path = request_.save_logits.empty() ? folder.path() / "reference" : request_.save_logits;
    {
      NIBBLE_TRY(const auto reference, Running::start(reference_, text_, request_.load, pool_));
      NIBBLE_DO(measure(*reference, {}, 0, path, progress));
    }
    NIBBLE_TRY(reference_.stored, StoredLogits::open(path));
    reference_.source.reset();
    return {};
  }

  // Compares with candidates first, first + 1 .., and stores the reference when there is a path.
  Status measure(LogitSource& reference, std::span<LogitSource* const> sources, size_t first, const fs::path& path,
                 const ProgressCallback& progress) {
    const auto start = std::chrono::steady_clock::now();
    std::optional<LogitWriter> writer;
    if (!path.empty()) {
      NIBBLE_TRY(writer, LogitWriter::create(path, text_, reference.vocabulary(), name_of(reference_.path)));
    }
    const auto store = [&](std::span<const float> rows) { return writer->write(rows, pool_); };
    NIBBLE_TRY(auto found, compare_logits(reference, sources, pool_, progress,
                                          writer ? std::function<Status(std::span<const float>)>(store) : nullptr));
    if (writer) NIBBLE_DO(writer->commit());
    for (size_t i = 0; i < found.size(); ++i)
      report_.candidates.push_back(comparison_of(candidates_[first + i].path, std::move(found[i])));
    report_.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return {};
  }

  static std::string name_of(const fs::path& folder) {
    const fs::path absolute = fs::absolute(folder).lexically_normal();
    return (absolute.has_filename() ? absolute : absolute.parent_path()).filename().string();
  }

  CompareReport finished() {
    report_.protocol = text_.protocol;
    report_.preset = text_.preset;
    report_.window = text_.window;
    report_.stride = text_.stride;
    report_.tokens = text_.predictions();
    report_.stored_reference = reference_.stored != nullptr;
    const auto run = static_cast<double>(text_.tokens_run() * models_);
    report_.tokens_per_second = report_.seconds > 0 ? run / report_.seconds : 0;
    return std::move(report_);
  }

  const CompareRequest& request_;
  ThreadPool pool_;
  Participant reference_;
  std::vector<Participant> candidates_;
  ScoredText text_;
  int64_t models_ = 0;  // that run
  CompareReport report_;
};

}  // namespace

Result<CompareReport> compare(const CompareRequest& request) {
  return guarded([&]() -> Result<CompareReport> {
    NIBBLE_TRY(const int threads, thread_count(request.load.threads));
    return ComparisonRun(request, threads).run();
  });
}

}  // namespace nibble
