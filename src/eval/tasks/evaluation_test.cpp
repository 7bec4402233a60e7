// Tasks from file to result, on a model whose likelihoods are known.
#include "eval/tasks/evaluation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/json.h"
#include "core/testing.h"
#include "core/text_lines.h"
#include "eval/tasks/testing.h"

namespace nibble {
namespace {

using testing::expect_error;
using testing::put;

float scattered(int32_t last, int32_t next) {
  return static_cast<float>((last * 7919 + next * 104729 + last * next * 31) % 97) / 16.0f;
}

// In the folder: three questions of ARC, four of WinoGrande, two words of LAMBADA.
class Evaluation : public ::testing::Test {
 protected:
  void SetUp() override {
    put(folder_ / "arc_easy.jsonl",
        "{\"query\": \"Question: Is ice cold?\", \"choices\": [\"yes\", \"no\", \"na\u00efve\"], \"gold\": 0}\n"
        "{\"query\": \"Question: Is fire cold?\", \"choices\": [\"yes, it is\", \"no\"], \"gold\": 1}\n"
        "{\"query\": \"Question: What is rain?\", \"choices\": [\"stones\", \"water\", \"air\", \"iron\"], \"gold\": "
        "1}\n");
    put(folder_ / "lambada_openai.jsonl",
        "{\"context\": \"He rowed the\", \"continuation\": \"boat\"}\n"
        "{\"context\": \"She read a\", \"continuation\": \"book\"}\n");
    options_.data = folder_.path();
    options_.tasks = {"arc_easy", "lambada"};
  }

  Result<std::vector<ExamResult>> run(const ProgressCallback& progress = {}) {
    NIBBLE_TRY(const auto exams, read_exams(options_));
    NIBBLE_TRY(const Model model, Model::load(testing::BigramSource(scattered, positions_), {}, pool_));
    return run_exams(exams, options_, model, testing::byte_tokenizer(), pool_, progress);
  }

  testing::TemporaryFolder folder_;
  EvaluationOptions options_;
  int64_t positions_ = 512;
  ThreadPool pool_{2};
};

TEST_F(Evaluation, EqualsTheBigramTable) {
  const auto likelihood = [](const std::string& answer) {
    return testing::bigram_likelihood(scattered, ':', " " + answer);
  };
  const std::vector<std::vector<std::string>> answers = {
      {"yes", "no", "na\u00efve"}, {"yes, it is", "no"}, {"stones", "water", "air", "iron"}};
  const size_t gold[] = {0, 1, 1};
  const double characters[3][4] = {{3, 2, 5}, {10, 2}, {6, 5, 3, 4}};
  double right = 0, right_divided = 0;
  for (size_t i = 0; i < 3; ++i) {
    size_t best = 0, best_divided = 0;
    for (size_t j = 1; j < answers[i].size(); ++j) {
      if (likelihood(answers[i][j]) > likelihood(answers[i][best])) best = j;
      if (likelihood(answers[i][j]) / characters[i][j] >
          likelihood(answers[i][best_divided]) / characters[i][best_divided])
        best_divided = j;
    }
    right += best == gold[i] ? 1 : 0;
    right_divided += best_divided == gold[i] ? 1 : 0;
  }
  const auto results = run();
  ASSERT_TRUE(results) << results.error().message;
  ASSERT_EQ(results->size(), 2u);
  const ExamResult& arc = results->front();
  EXPECT_EQ(arc.items, 3);
  EXPECT_EQ(arc.metrics[0].name, "acc");
  EXPECT_DOUBLE_EQ(arc.metrics[0].value, right / 3);
  EXPECT_EQ(arc.metrics[1].name, "acc_norm");
  EXPECT_DOUBLE_EQ(arc.metrics[1].value, right_divided / 3);
  const double mean =
      (testing::bigram_likelihood(scattered, 'e', " boat") + testing::bigram_likelihood(scattered, 'a', " book")) / 2;
  EXPECT_NEAR(results->back().metrics[1].value / std::exp(-mean), 1, 1e-5);
}

TEST_F(Evaluation, WritesWhatWasAsked) {
  options_.samples = folder_ / "samples.jsonl";
  options_.few_shot = 1;
  ASSERT_TRUE(run());
  const std::string text = testing::get(options_.samples);
  const auto lines = lines_of(text);
  ASSERT_EQ(lines.size(), 5u);
  const Json first = *parse_json(lines[0], "line"), last = *parse_json(lines[4], "line");
  EXPECT_EQ(first["task"], "arc_easy");
  EXPECT_EQ(first["item"], 0);
  EXPECT_EQ(first["line"], 1);
  EXPECT_EQ(first["gold"], 0);
  EXPECT_EQ(first["choices"], Json({"yes", "no", "na\u00efve"}));
  const std::string context = first["contexts"][0];
  EXPECT_TRUE(context.ends_with("\n\nQuestion: Is ice cold?\nAnswer:")) << context;
  EXPECT_TRUE(context.starts_with("Question: ")) << context;
  EXPECT_EQ(first["tokens"], Json({4, 3, 7}));
  EXPECT_NEAR(first["log_likelihoods"][1].get<double>(), testing::bigram_likelihood(scattered, ':', " no"), 1e-4);
  EXPECT_TRUE(first.contains("acc_tokens") && first.contains("acc_bytes"));
  EXPECT_EQ(last["task"], "lambada");
  EXPECT_EQ(last["contexts"][0], "He rowed the  boat\n\nShe read a");
  EXPECT_FALSE(last.contains("perplexity"));
}

TEST_F(Evaluation, ReportsProgressToTheEnd) {
  std::vector<double> done;
  std::string what;
  options_.batch_tokens = 10;
  ASSERT_TRUE(run([&](const Progress& progress) {
    done.push_back(progress.done);
    what = progress.what;
  }));
  EXPECT_EQ(done.size(), 5u);
  EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
  EXPECT_DOUBLE_EQ(done.back(), 1);
  EXPECT_EQ(what, "lambada 2 of 2 items");
}

TEST_F(Evaluation, TakesTheFirstItems) {
  options_.limit = 1;
  EXPECT_EQ(run().value().front().items, 1);
  options_.limit = 100;
  EXPECT_EQ(run().value().front().items, 3);
  options_.tasks = {"lambada", "arc_easy", "lambada"};
  const auto results = run();
  ASSERT_EQ(results->size(), 2u);
  EXPECT_EQ(results->front().task->name, "lambada");
}

TEST_F(Evaluation, ExamplesMayComeFromElsewhere) {
  const testing::TemporaryFolder train;
  put(train / "arc_easy.jsonl", R"({"query": "Question: Only one?", "choices": ["yes", "no"], "gold": 0})");
  options_.tasks = {"arc_easy"};
  options_.few_shot = 1;
  options_.few_shot_data = train.path();
  const auto exams = read_exams(options_);
  ASSERT_TRUE(exams) << exams.error().message;
  for (const std::string& example : exams->front().examples) EXPECT_EQ(example, "Question: Only one?\nAnswer: yes\n\n");
  options_.few_shot = 2;
  expect_error(read_exams(options_), ErrorCode::usage, "arc_easy", "2 examples");
}

TEST_F(Evaluation, CountsContextsThatLostTheirBeginning) {
  positions_ = 24;
  EXPECT_EQ(run().value().front().truncated, 9);
  positions_ = 9;
  expect_error(run(), ErrorCode::usage, "arc_easy.jsonl, item at line 2", "11 tokens", "9 positions");
}

TEST_F(Evaluation, WrongRequestsAreRefused) {
  const EvaluationOptions good = options_;
  options_.tasks = {"arc_easy", "mmlu"};
  expect_error(read_exams(options_), ErrorCode::usage, "mmlu", "arc_challenge");
  options_.tasks = {"piqa"};
  expect_error(read_exams(options_), ErrorCode::io, "piqa.jsonl", folder_.path().string());
  options_.tasks = {};  // all of them
  expect_error(read_exams(options_), ErrorCode::io, "hellaswag_val.txt");
  options_ = good;
  options_.data = folder_ / "nowhere";
  expect_error(read_exams(options_), ErrorCode::io, "arc_easy.jsonl", "nowhere");
  options_ = good;
  options_.limit = -1;
  expect_error(read_exams(options_), ErrorCode::usage, "limit is -1");
  options_ = good;
  options_.few_shot = -1;
  expect_error(read_exams(options_), ErrorCode::usage, "-1");
  options_ = good;
  options_.batch_tokens = 0;
  expect_error(read_exams(options_), ErrorCode::usage, "batch is 0");
  options_ = good;
  options_.few_shot = 3;
  expect_error(read_exams(options_), ErrorCode::usage, "3 examples");
  put(folder_ / "arc_easy.jsonl", "");
  options_ = good;
  expect_error(read_exams(options_), ErrorCode::corrupt, "arc_easy.jsonl", "no items");
}

// Before any model is loaded, that is, when the tasks are read.
TEST_F(Evaluation, SamplesThatCannotBeWrittenAreRefusedFirst) {
  options_.samples = folder_ / "nowhere" / "samples.jsonl";
  expect_error(read_exams(options_), ErrorCode::io, "samples.jsonl", "nowhere");
  options_.samples = folder_.path();
  expect_error(read_exams(options_), ErrorCode::usage, "is a folder");
}

TEST_F(Evaluation, SamplesReplaceOnlySamples) {
  options_.samples = options_.data / "arc_easy.jsonl";  // the tab key's idea of a file name
  const std::string questions = testing::get(options_.samples);
  expect_error(read_exams(options_), ErrorCode::usage, "arc_easy.jsonl", "not replaced");
  EXPECT_EQ(testing::get(options_.samples), questions);
  options_.samples = folder_ / "samples.jsonl";
  put(options_.samples, "");
  ASSERT_TRUE(run());
  const std::string samples = testing::get(options_.samples);
  options_.limit = 1;
  ASSERT_TRUE(run());
  EXPECT_LT(testing::get(options_.samples).size(), samples.size());
}

}  // namespace
}  // namespace nibble
