// The logits of every predicted token of a text, a few rows at a time: from a model, or from a file of stored ones.
// Whatever compares or scores reads this interface, so neither all logits nor two models need be in memory.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/progress.h"
#include "core/result.h"
#include "core/threads.h"
#include "measure/protocol.h"
#include "runtime/model.h"

namespace nibble {

class LogitSource {
 public:
  virtual ~LogitSource() = default;
  virtual const ScoredText& text() const = 0;
  virtual int64_t vocabulary() const = 0;
  // The next `count` rows [count][vocabulary], in the order of text().targets(). The caller asks for no more rows than
  // are left. Rows are the same whatever the counts of the calls.
  virtual Status read(int64_t count, float* logits) = 0;
};

// Runs passages several at a time through a model. `model`, `text` and `pool` must outlive it.
class ModelLogits final : public LogitSource {
 public:
  ModelLogits(const Model& model, const ScoredText& text, ThreadPool& pool);
  ~ModelLogits() override;
  const ScoredText& text() const override;
  int64_t vocabulary() const override;
  Status read(int64_t count, float* logits) override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Stored logits: a safetensors file with
//   log_probabilities  U16 [predictions, vocabulary]   log p = -code * kLogStep, p below e^-32 as e^-32
//   ids                I32 [tokens]                    of the text
//   passages           I64 [passages, 3]               begin, count, first
// and the metadata {"nibble_logits": "1", "model": <name of its folder>}, with the text's "protocol", "window",
// "stride" and "preset" where they are known. Rounding log p by at most 2.5e-4 nats moves the mean
// KL divergence by less than 1e-7. The most probable tokens may then be equal, of which the one with the lower id
// counts as the first.
inline constexpr double kLogStep = 32.0 / 65535;

class StoredLogits final : public LogitSource {
 public:
  // `corrupt` when it is not such a file, predicts nothing, or contradicts itself (names what).
  static Result<std::unique_ptr<StoredLogits>> open(const std::filesystem::path& path);
  ~StoredLogits() override;
  const ScoredText& text() const override;
  int64_t vocabulary() const override;
  Status read(int64_t count, float* logits) override;  // log probabilities
  void rewind();
  const std::string& model_name() const;

 private:
  StoredLogits();
  struct State;
  std::unique_ptr<State> state_;
};

// Writes such a file while its rows are made, durably; nothing is left behind without commit().
class LogitWriter {
 public:
  static Result<LogitWriter> create(const std::filesystem::path& path, const ScoredText& text, int64_t vocabulary,
                                    const std::string& model_name);
  LogitWriter(LogitWriter&&) noexcept;
  LogitWriter& operator=(LogitWriter&&) noexcept;
  ~LogitWriter();
  Status write(std::span<const float> rows, ThreadPool& pool);  // [count][vocabulary], the next ones
  Status commit();

 private:
  LogitWriter();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nibble
