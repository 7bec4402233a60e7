#include "measure/logits.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "checkpoint/safetensors.h"
#include "core/testing.h"
#include "measure/testing.h"
#include "runtime/random_source.h"

namespace nibble {
namespace {

using testing::expect_error;
using testing::expect_ok;
using testing::random_ids;
using testing::TemporaryFolder;

std::vector<float> read_all(LogitSource& source, std::initializer_list<int64_t> counts) {
  const int64_t total = source.text().predictions();
  std::vector<float> out(static_cast<size_t>(total * source.vocabulary()));
  int64_t done = 0;
  while (done < total)
    for (int64_t count : counts) {
      const int64_t now = std::min(count, total - done);
      expect_ok(source.read(now, out.data() + done * source.vocabulary()));
      done += now;
    }
  return out;
}

// Rows do not depend on how they are asked for, on threads, or on which passages run together.
TEST(ModelLogits, AreTheSameWhateverTheCalls) {
  ThreadPool one(1), three(3);
  const Model model = *Model::load(RandomSource(small_spec()), {}, one);
  for (const ProtocolOptions& options : {ProtocolOptions{Protocol::windows, 13}, {Protocol::strided, 40, 7}}) {
    const ScoredText text = *scored_text(random_ids(1500, 61), options, 96);
    ModelLogits whole(model, text, one), single(model, text, three), mixed(model, text, three);
    const auto expected = read_all(whole, {1 << 20});
    EXPECT_EQ(read_all(single, {1}), expected);
    EXPECT_EQ(read_all(mixed, {7, 100, 3}), expected);
    const ScoredText alone{text.ids, {text.passages[5]}};
    ModelLogits passage(model, alone, one);
    const auto part = read_all(passage, {5});
    int64_t before = 0;
    for (size_t i = 0; i < 5; ++i) before += text.passages[i].predictions();
    EXPECT_TRUE(std::equal(part.begin(), part.end(), expected.begin() + before * 61));
  }
}

TEST(ModelLogits, AreThoseOfTheTokensBefore) {
  ThreadPool pool(1);
  const Model model = *Model::load(RandomSource(small_spec()), {}, pool);
  const ScoredText text = *scored_text(random_ids(20, 61), {Protocol::second_half, 10}, 96);
  ModelLogits source(model, text, pool);
  const auto rows = read_all(source, {3});
  Workspace workspace;
  Sequence sequence = model.new_sequence();
  Segment segment{&sequence, 10, 0};
  const std::vector<int64_t> wanted = {5, 6, 7, 8};
  std::vector<float> expected(4 * 61);
  expect_ok(model.forward(std::span(text.ids).subspan(10), {&segment, 1}, wanted, expected.data(), workspace, pool));
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), rows.begin() + 4 * 61));
}

// The error names the token of the text, whatever the chunks in which rows are asked for and the passages run.
TEST(ModelLogits, ThatAreNotFiniteNameTheToken) {
  ThreadPool pool(2);
  const Model model = *Model::load(testing::PoisonedSource(small_spec(), 60), {}, pool);
  std::vector<int32_t> ids(40, 7);
  ids[25] = 60;  // the sixth input of the third window, after 9 + 9 + 5 predictions
  const ScoredText text = *scored_text(ids, {Protocol::windows, 10}, 96);
  for (int64_t chunk : {1, 7, 36}) {
    ModelLogits source(model, text, pool);
    std::vector<float> rows(static_cast<size_t>(chunk * 61));
    Status status;
    for (int64_t done = 0; status && done < 36; done += chunk)
      status = source.read(std::min(chunk, 36 - done), rows.data());
    expect_error(status, ErrorCode::failure, "predicted token 24 of 36", "not finite");
  }
}

// Writes a source's rows in chunks.
Status store(LogitSource& source, const std::filesystem::path& path, int64_t chunk, ThreadPool& pool) {
  NIBBLE_TRY(LogitWriter writer, LogitWriter::create(path, source.text(), source.vocabulary(), "tiny"));
  std::vector<float> rows(static_cast<size_t>(chunk * source.vocabulary()));
  for (int64_t left = source.text().predictions(); left > 0; left -= chunk) {
    const int64_t now = std::min(left, chunk);
    NIBBLE_DO(source.read(now, rows.data()));
    NIBBLE_DO(writer.write(std::span(rows).first(static_cast<size_t>(now * source.vocabulary())), pool));
  }
  return writer.commit();
}

TEST(StoredLogits, HoldRoundedLogProbabilities) {
  const TemporaryFolder folder;
  ThreadPool pool(2);
  const ScoredText text = *scored_text(random_ids(50, 100), {Protocol::strided, 12, 5}, 64);
  auto source = testing::random_rows(text, 100, 4, 8);
  expect_ok(store(source, folder / "x", 7, pool));
  const auto stored = StoredLogits::open(folder / "x");
  expect_ok(stored);
  EXPECT_EQ(difference_of((*stored)->text(), text), std::nullopt);
  EXPECT_EQ((*stored)->vocabulary(), 100);
  EXPECT_EQ((*stored)->model_name(), "tiny");
  const auto rows = read_all(**stored, {6});
  (*stored)->rewind();
  EXPECT_EQ(read_all(**stored, {1, 13}), rows);
  for (size_t row = 0; row < rows.size() / 100; ++row) {
    long double sum = 0;
    for (size_t i = 0; i < 100; ++i) sum += std::exp(static_cast<long double>(source.rows()[row * 100 + i]));
    for (size_t i = 0; i < 100; ++i) {
      const auto exact = static_cast<double>(source.rows()[row * 100 + i] - std::log(sum));
      EXPECT_NEAR(rows[row * 100 + i], std::max(exact, -32.0), kLogStep / 2 + 2e-6);
    }
  }
}

TEST(StoredLogits, OfEqualRowsAreEqualBytes) {
  const TemporaryFolder folder;
  ThreadPool one(1), four(4);
  auto source = testing::random_rows(testing::predicting(random_ids(40, 33)), 33, 1);
  expect_ok(store(source, folder / "a", 40, one));
  source.rewind();
  expect_ok(store(source, folder / "b", 3, four));
  EXPECT_EQ(testing::get(folder / "a"), testing::get(folder / "b"));
}

TEST(LogitWriter, LeavesNothingBehindWithoutCommit) {
  const TemporaryFolder folder;
  ThreadPool pool(1);
  {
    auto writer = LogitWriter::create(folder / "x", testing::predicting({1, 2}), 3, "m");
    expect_ok(writer);
    expect_ok(writer->write(std::vector<float>{1, 2, 3}, pool));
    expect_error(writer->commit(), ErrorCode::failure, "log_probabilities", "lacks 6 bytes");
  }
  EXPECT_EQ(testing::entries_in(folder.path()), 0);
  expect_error(LogitWriter::create(folder / "no" / "x", testing::predicting({1, 2}), 3, "m"), ErrorCode::io, "no/x");
}

// A file by hand, with one thing wrong at a time.
struct Parts {
  std::map<std::string, std::string> metadata = {{"nibble_logits", "1"}, {"model", "tiny"}};
  std::vector<int64_t> passages = {0, 3, 1};
  std::vector<int32_t> ids = {0, 1, 2};
  std::vector<uint16_t> rows = {0, 65535, 9, 9, 0, 1};
  int64_t columns = 3, passage_fields = 3;
  int64_t row_count() const { return columns == 0 ? 0 : static_cast<int64_t>(rows.size()) / columns; }
  DType row_type = DType::u16;
  std::string row_name = "log_probabilities";

  void write(const std::filesystem::path& path) const {
    const auto count = [](auto n) { return static_cast<int64_t>(n); };
    const auto bytes = [](const auto& values) { return std::as_bytes(std::span(values)); };
    expect_ok(write_safetensors(
        path,
        {{"passages", DType::i64, {count(passages.size()) / passage_fields, passage_fields}, bytes(passages)},
         {"ids", DType::i32, {count(ids.size())}, bytes(ids)},
         {row_name, row_type, {row_count(), columns}, bytes(rows)}},
        metadata));
  }
};

void expect_refused(const std::function<void(Parts&)>& edit, std::string_view message) {
  const TemporaryFolder folder;
  Parts parts;
  edit(parts);
  parts.write(folder / "x.logits");
  expect_error(StoredLogits::open(folder / "x.logits"), ErrorCode::corrupt, "x.logits", message);
}

TEST(StoredLogits, ReadAFileMadeByHand) {
  const TemporaryFolder folder;
  Parts().write(folder / "x");
  const auto stored = StoredLogits::open(folder / "x");
  expect_ok(stored);
  const auto rows = read_all(**stored, {2});
  const auto step = static_cast<float>(kLogStep);
  EXPECT_EQ(rows, (std::vector<float>{0, -32, -9 * step, -9 * step, 0, -step}));
}

TEST(StoredLogits, RefuseContradictions) {
  expect_refused([](Parts& p) { p.metadata.erase("nibble_logits"); }, "does not hold stored logits");
  expect_refused([](Parts& p) { p.metadata["nibble_logits"] = "2"; }, "version \"2\"");
  expect_refused([](Parts& p) { p.row_name = "logits"; }, "lack the tensor \"log_probabilities\"");
  expect_refused([](Parts& p) { p.row_type = DType::i16; }, "is I16 [2, 3]; stored logits have U16 with 2 dimension");
  expect_refused([](Parts& p) { p.ids[2] = 3; }, "token 2 is 3, outside the vocabulary of 3");
  expect_refused([](Parts& p) { p.ids[0] = -1; }, "token 0 is -1");
  expect_refused([](Parts& p) { p.passages = {0, 3, 1, 0, 3, 2}; }, "predict more tokens than the 2 stored rows");
  expect_refused([](Parts& p) { p.passages = {0, 3, 2}; }, "predict fewer tokens than the 2 stored rows");
  const auto without_rows = [](Parts& p) {
    p.passages.clear();
    p.rows.clear();
  };
  expect_refused(without_rows, "0 stored rows for a vocabulary of 3");
  expect_refused(
      [&](Parts& p) {
        without_rows(p);
        p.columns = 0;
        p.ids.clear();
      },
      "0 stored rows for a vocabulary of 0");
  expect_refused([](Parts& p) { p.passages.clear(); }, "predict fewer tokens than the 2 stored rows");
  expect_refused([](Parts& p) { p.passage_fields = 1; }, "passages of 1 numbers");
  for (const std::vector<int64_t>& bad : std::vector<std::vector<int64_t>>{
           {0, 4, 1}, {1, 3, 1}, {-1, 3, 1}, {0, 3, 0}, {0, 3, 3}, {0, 1, 1}, {INT64_MAX, 3, 1}, {0, INT64_MIN, 1}})
    expect_refused([&](Parts& p) { p.passages = bad; }, "passage 0 is tokens");
}

TEST(StoredLogits, RefuseTruncatedFiles) {
  const TemporaryFolder folder;
  Parts().write(folder / "x");
  const std::string whole = testing::get(folder / "x");
  for (size_t size = 0; size < whole.size(); size += 5) {
    testing::put(folder / "cut", whole.substr(0, size));
    expect_error(StoredLogits::open(folder / "cut"), ErrorCode::corrupt, "cut");
  }
  expect_error(StoredLogits::open(folder / "none"), ErrorCode::io, "none");
  expect_error(StoredLogits::open(folder.path()), ErrorCode::io, folder.path().string());
}

}  // namespace
}  // namespace nibble
