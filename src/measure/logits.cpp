#include "measure/logits.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <map>

#include "checkpoint/safetensors.h"
#include "core/buffer.h"
#include "core/checked.h"
#include "measure/rows.h"
#include "measure/softmax.h"

namespace nibble {
namespace {

// Tokens in one forward pass (at least one passage).
constexpr int64_t kBatchTokens = 1024;

constexpr std::string_view kRows = "log_probabilities", kIds = "ids", kPassages = "passages";
constexpr const char *kVersionKey = "nibble_logits", *kModelKey = "model";
constexpr int64_t kPassageFields = 3;

uint16_t code_of(double log_probability) {
  return static_cast<uint16_t>(std::lround(std::clamp(-log_probability / kLogStep, 0.0, 65535.0)));
}

// Copies a tensor's elements out of a file, where they need not be aligned.
template <class T>
std::vector<T> values_of(const TensorView& tensor) {
  std::vector<T> out(static_cast<size_t>(tensor.elements()));
  if (!out.empty()) std::memcpy(out.data(), tensor.bytes.data(), tensor.bytes.size());
  return out;
}

Result<const TensorView*> expect_tensor(const SafetensorsFile& file, std::string_view name, DType type, size_t rank) {
  const TensorView* tensor = file.find(name);
  if (tensor == nullptr)
    return fail(ErrorCode::corrupt, "{}: stored logits lack the tensor \"{}\"", file.path().string(), name);
  if (tensor->dtype != type || tensor->shape.size() != rank)
    return fail(ErrorCode::corrupt, "{}: tensor \"{}\" is {} [{}]; stored logits have {} with {} dimension(s) there",
                file.path().string(), name, name_of(tensor->dtype), fmt::join(tensor->shape, ", "), name_of(type),
                rank);
  return tensor;
}

Status check_shape(const TensorView& rows, const std::string& where) {
  const int64_t count = rows.shape[0], vocabulary = rows.shape[1];
  if (count >= 1 && vocabulary >= 1 && vocabulary <= INT32_MAX) return {};
  return fail(ErrorCode::corrupt, "{}: {} stored rows for a vocabulary of {} tokens; expected at least one of each",
              where, count, vocabulary);
}

// Passages lie in the text and predict something; together they predict as many tokens as there are rows.
Result<std::vector<Passage>> read_passages(const TensorView& tensor, int64_t tokens, int64_t rows,
                                           const std::string& where) {
  if (tensor.shape[1] != kPassageFields)
    return fail(ErrorCode::corrupt, "{}: passages of {} numbers; expected {}", where, tensor.shape[1], kPassageFields);
  const auto numbers = values_of<int64_t>(tensor);
  std::vector<Passage> passages;
  int64_t left = rows;
  for (size_t i = 0; i < numbers.size(); i += kPassageFields) {
    const Passage passage{numbers[i], numbers[i + 1], numbers[i + 2]};
    const bool inside =
        passage.count >= 2 && passage.count <= tokens && passage.begin >= 0 && passage.begin <= tokens - passage.count;
    if (!inside || passage.first < 1 || passage.first >= passage.count)
      return fail(ErrorCode::corrupt, "{}: passage {} is tokens {} + {}, predicted from {}, of a text of {} tokens",
                  where, passages.size(), passage.begin, passage.count, passage.first, tokens);
    left -= passage.predictions();
    if (left < 0) break;
    passages.push_back(passage);
  }
  if (left != 0)
    return fail(ErrorCode::corrupt, "{}: the passages predict {} than the {} stored rows", where,
                left < 0 ? "more tokens" : "fewer tokens", rows);
  return passages;
}

// The metadata that say how the text was chosen; numbers that cannot be read count as not known.
std::map<std::string, std::string> metadata_of(const ScoredText& text, const std::string& model_name) {
  std::map<std::string, std::string> out = {{kVersionKey, "1"}, {kModelKey, model_name}};
  if (!text.protocol.empty()) out["protocol"] = text.protocol;
  if (!text.preset.empty()) out["preset"] = text.preset;
  if (text.window > 0) out["window"] = std::to_string(text.window);
  if (text.stride > 0) out["stride"] = std::to_string(text.stride);
  return out;
}

std::string string_in(const std::map<std::string, std::string>& metadata, const std::string& key) {
  const auto found = metadata.find(key);
  return found == metadata.end() ? std::string() : found->second;
}

int64_t number_in(const std::map<std::string, std::string>& metadata, const std::string& key) {
  const std::string text = string_in(metadata, key);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? std::max<int64_t>(0, value) : 0;
}

Status check_ids(std::span<const int32_t> ids, int64_t vocabulary, const std::string& where) {
  const auto bad = std::find_if(ids.begin(), ids.end(), [&](int32_t id) { return id < 0 || id >= vocabulary; });
  if (bad == ids.end()) return {};
  return fail(ErrorCode::corrupt, "{}: token {} is {}, outside the vocabulary of {}", where, bad - ids.begin(), *bad,
              vocabulary);
}

}  // namespace

// The predicting rows of a batch of passages lie in front of workspace.hidden.
struct ModelLogits::State {
  const Model& model;
  const ScoredText& text;
  ThreadPool& pool;
  Workspace workspace;
  std::vector<Sequence> sequences;
  size_t next_passage = 0;
  int64_t ready = 0, used = 0;  // rows of the batch, and those that were read
  int64_t finished = 0;         // rows read of the whole text

  // The passages that follow, as many as fit a batch.
  std::span<const Passage> next_batch() const {
    const auto rest = std::span(text.passages).subspan(next_passage);
    int64_t tokens = 0;
    size_t count = 0;
    while (count < rest.size() && (count == 0 || tokens + rest[count].count <= kBatchTokens))
      tokens += rest[count++].count;
    return rest.first(count);
  }

  Status run_batch() {
    const auto passages = next_batch();
    NIBBLE_CHECK(!passages.empty());
    while (sequences.size() < passages.size()) sequences.push_back(model.new_sequence());
    std::vector<Segment> segments;
    std::vector<int32_t> tokens;
    for (size_t i = 0; i < passages.size(); ++i) {
      sequences[i].clear();
      segments.push_back({&sequences[i], passages[i].count, 0});
      const auto begin = text.ids.begin() + passages[i].begin;
      tokens.insert(tokens.end(), begin, begin + passages[i].count);
    }
    NIBBLE_DO(model.run_blocks(tokens, segments, workspace, pool));
    gather(passages);
    next_passage += passages.size();
    return {};
  }

  // The error of a row that is not finite (-1: of something else), by the token that it should predict.
  tl::unexpected<Error> located(Error error, int64_t row) const {
    if (row < 0) return tl::unexpected(std::move(error));
    return fail(error.code,
                "the logits for predicted token {} of {} are not finite: an activation overflowed or a "
                "weight is bad",
                finished + row + 1, text.predictions());
  }

  // Token t of a passage is predicted by the row of token t - 1.
  void gather(std::span<const Passage> passages) {
    const int64_t hidden = model.spec().hidden;
    float* rows = workspace.hidden.data();
    ready = used = 0;
    for (int64_t begin = 0; const Passage& passage : passages) {
      std::memmove(rows + ready * hidden, rows + (begin + passage.first - 1) * hidden,
                   static_cast<size_t>(passage.predictions() * hidden) * sizeof(float));
      ready += passage.predictions();
      begin += passage.count;
    }
  }
};

ModelLogits::ModelLogits(const Model& model, const ScoredText& text, ThreadPool& pool)
    : state_(new State{model, text, pool, {}, {}}) {}
ModelLogits::~ModelLogits() = default;
const ScoredText& ModelLogits::text() const { return state_->text; }
int64_t ModelLogits::vocabulary() const { return state_->model.spec().vocabulary; }

Status ModelLogits::read(int64_t count, float* logits) {
  State& s = *state_;
  while (count > 0) {
    if (s.used == s.ready) NIBBLE_DO(s.run_batch());
    const int64_t now = std::min(count, s.ready - s.used);
    const float* rows = s.workspace.hidden.data() + s.used * s.model.spec().hidden;
    if (Status done = s.model.logits_of(rows, now, logits, s.workspace, s.pool); !done)
      return s.located(std::move(done.error()), row_not_finite(logits, now, vocabulary()));
    s.used += now;
    s.finished += now;
    logits += now * vocabulary();
    count -= now;
  }
  return {};
}

struct StoredLogits::State {
  SafetensorsFile file;
  const TensorView* rows = nullptr;  // [predictions][vocabulary]
  ScoredText text;
  std::string model;
  int64_t next = 0;
};

StoredLogits::StoredLogits() : state_(std::make_unique<State>()) {}
StoredLogits::~StoredLogits() = default;
const ScoredText& StoredLogits::text() const { return state_->text; }
int64_t StoredLogits::vocabulary() const { return state_->rows->shape[1]; }
void StoredLogits::rewind() { state_->next = 0; }
const std::string& StoredLogits::model_name() const { return state_->model; }

Result<std::unique_ptr<StoredLogits>> StoredLogits::open(const std::filesystem::path& path) {
  std::unique_ptr<StoredLogits> out(new StoredLogits);
  State& s = *out->state_;
  NIBBLE_TRY(s.file, SafetensorsFile::open(path));
  const std::string where = path.string();
  const auto& metadata = s.file.metadata();
  const auto version = metadata.find(kVersionKey);
  if (version == metadata.end())
    return fail(ErrorCode::corrupt, "{} does not hold stored logits: its metadata lack \"{}\"", where, kVersionKey);
  if (version->second != "1")
    return fail(ErrorCode::corrupt, "{}: stored logits of version \"{}\"; this program reads version 1", where,
                version->second);
  s.model = string_in(metadata, kModelKey);
  s.text.protocol = string_in(metadata, "protocol");
  s.text.preset = string_in(metadata, "preset");
  s.text.window = number_in(metadata, "window");
  s.text.stride = number_in(metadata, "stride");
  NIBBLE_TRY(s.rows, expect_tensor(s.file, kRows, DType::u16, 2));
  NIBBLE_DO(check_shape(*s.rows, where));
  NIBBLE_TRY(const TensorView* ids, expect_tensor(s.file, kIds, DType::i32, 1));
  NIBBLE_TRY(const TensorView* passages, expect_tensor(s.file, kPassages, DType::i64, 2));
  s.text.ids = values_of<int32_t>(*ids);
  NIBBLE_DO(check_ids(s.text.ids, out->vocabulary(), where));
  const auto tokens = static_cast<int64_t>(s.text.ids.size());
  NIBBLE_TRY(s.text.passages, read_passages(*passages, tokens, s.rows->shape[0], where));
  return out;
}

Status StoredLogits::read(int64_t count, float* logits) {
  State& s = *state_;
  NIBBLE_CHECK(count >= 0 && count <= s.rows->shape[0] - s.next);
  TensorView part = *s.rows;
  const auto row_bytes = static_cast<size_t>(vocabulary()) * sizeof(uint16_t);
  part.bytes = part.bytes.subspan(static_cast<size_t>(s.next) * row_bytes, static_cast<size_t>(count) * row_bytes);
  for (int64_t i = 0; i < count * vocabulary(); ++i) {
    uint16_t code = 0;
    std::memcpy(&code, part.bytes.data() + i * static_cast<int64_t>(sizeof code), sizeof code);
    logits[i] = static_cast<float>(-kLogStep * code);
  }
  s.next += count;
  s.file.release(part);
  return {};
}

struct LogitWriter::State {
  SafetensorsWriter file;
  int64_t vocabulary;
  std::vector<uint16_t> codes;
};

LogitWriter::LogitWriter() = default;
LogitWriter::LogitWriter(LogitWriter&&) noexcept = default;
LogitWriter& LogitWriter::operator=(LogitWriter&&) noexcept = default;
LogitWriter::~LogitWriter() = default;

Result<LogitWriter> LogitWriter::create(const std::filesystem::path& path, const ScoredText& text, int64_t vocabulary,
                                        const std::string& model_name) {
  std::vector<int64_t> passages;
  for (const Passage& passage : text.passages)
    passages.insert(passages.end(), {passage.begin, passage.count, passage.first});
  const std::vector<TensorView> tensors = {
      {std::string(kPassages), DType::i64, {static_cast<int64_t>(text.passages.size()), kPassageFields}, {}},
      {std::string(kIds), DType::i32, {static_cast<int64_t>(text.ids.size())}, {}},
      {std::string(kRows), DType::u16, {text.predictions(), vocabulary}, {}}};
  NIBBLE_TRY(SafetensorsWriter file, SafetensorsWriter::create(path, tensors, metadata_of(text, model_name)));
  NIBBLE_DO(file.write(kPassages, std::as_bytes(std::span(passages))));
  NIBBLE_DO(file.write(kIds, std::as_bytes(std::span(text.ids))));
  LogitWriter out;
  out.state_.reset(new State{std::move(file), vocabulary, {}});
  return out;
}

Status LogitWriter::write(std::span<const float> rows, ThreadPool& pool) {
  State& s = *state_;
  const auto width = static_cast<size_t>(s.vocabulary);
  s.codes.resize(rows.size());
  pool.run(static_cast<int64_t>(rows.size() / width), [&](int64_t row) {
    const size_t begin = static_cast<size_t>(row) * width;
    const std::span<const float> logits = rows.subspan(begin, width);
    const Softmax softmax = softmax_of(logits);
    for (size_t i = 0; i < width; ++i) s.codes[begin + i] = code_of(softmax.log_of(logits[i]));
  });
  return s.file.write(kRows, std::as_bytes(std::span(s.codes)));
}

Status LogitWriter::commit() { return state_->file.commit(); }

}  // namespace nibble
