// `nibble eval` against lm-evaluation-harness: the harness itself ran the demo model over the files of
// tests/golden/eval (tools/oracle_eval/make_golden.py); prompts, verdicts and accuracies must be the same, likelihoods
// to its float32 sums.
#include <gtest/gtest.h>

#include <map>

#include "core/json.h"
#include "core/testing.h"
#include "core/text_lines.h"
#include "eval/tasks/evaluation.h"

namespace nibble {
namespace {

const std::filesystem::path kRepository = NIBBLE_SOURCE_DIR;

// By number of examples: what make_golden.py wrote.
const Json& golden() {
  static const Json json = read_json(kRepository / "tests" / "golden" / "eval" / "demo.json").value();
  return json["shots"];
}

struct DemoRun {
  std::vector<ExamResult> results;
  std::map<std::string, std::vector<Json>> samples;  // by task
};

Result<DemoRun> run_demo_model(int shots) {
  const std::filesystem::path folder = kRepository / "models" / "demo";
  const testing::TemporaryFolder scratch;
  EvaluationOptions options;
  options.data = options.few_shot_data = kRepository / "tests" / "golden" / "eval";
  options.few_shot = shots;
  options.samples = scratch / "samples.jsonl";
  NIBBLE_TRY(const auto exams, read_exams(options));
  NIBBLE_TRY(const Tokenizer tokenizer, Tokenizer::load(folder));
  ThreadPool pool(2);
  NIBBLE_TRY(const Model model, Model::load(folder, {}, pool));
  DemoRun run;
  NIBBLE_TRY(run.results, run_exams(exams, options, model, tokenizer, pool));
  const std::string text = testing::get(options.samples);
  for (std::string_view line : lines_of(text)) {
    NIBBLE_TRY(const Json sample, parse_json(line, "sample"));
    run.samples[sample["task"].get<std::string>()].push_back(sample);
  }
  return run;
}

// The parameter is the number of examples.
class Harness : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    static std::map<int, DemoRun> runs;
    if (!runs.contains(GetParam())) {
      auto run = run_demo_model(GetParam());
      ASSERT_TRUE(run) << run.error().message;
      runs[GetParam()] = *std::move(run);
    }
    results_ = runs[GetParam()].results;
    samples_ = runs[GetParam()].samples;
    golden_ = golden()[std::to_string(GetParam())];
    ASSERT_EQ(golden_.size(), all_tasks().size());
  }

  std::vector<ExamResult> results_;
  std::map<std::string, std::vector<Json>> samples_;
  Json golden_;
};

std::string entry(const Json& list, size_t at) { return list[list.size() == 1 ? 0 : at].get<std::string>(); }

TEST_P(Harness, AsksTheSame) {
  for (const auto& [task, expected] : golden_.items()) {
    ASSERT_EQ(samples_[task].size(), expected["items"].size()) << task;
    for (size_t i = 0; i < samples_[task].size(); ++i) {
      std::string context;
      const Json& pairs = expected["items"][i]["pairs"];
      for (size_t j = 0; j < pairs.size(); ++j) {
        if (!pairs[j][0].is_null()) context = pairs[j][0];
        EXPECT_EQ(entry(samples_[task][i]["contexts"], j), context) << task << " item " << i;
        EXPECT_EQ(fmt::format(" {}", entry(samples_[task][i]["choices"], j)), pairs[j][1]) << task << " item " << i;
      }
    }
  }
}

TEST_P(Harness, FindsTheSameLikelihoods) {
  for (const auto& [task, expected] : golden_.items()) {
    for (size_t i = 0; i < samples_[task].size(); ++i) {
      const Json &sample = samples_[task][i], &item = expected["items"][i];
      ASSERT_EQ(sample["log_likelihoods"].size(), item["log_likelihoods"].size()) << task << " item " << i;
      for (size_t j = 0; j < item["log_likelihoods"].size(); ++j)
        EXPECT_NEAR(sample["log_likelihoods"][j].get<double>(), item["log_likelihoods"][j].get<double>(), 2e-4)
            << task << " item " << i << " answer " << j;
      EXPECT_EQ(sample["greedy"], item["greedy"]) << task << " item " << i;
      for (const char* key : {"acc", "acc_norm"})
        if (item.contains(key)) {
          EXPECT_EQ(sample[key].get<double>(), item[key].get<double>()) << task << " item " << i;
        }
    }
  }
}

TEST_P(Harness, ComputesTheSameMetrics) {
  ASSERT_EQ(results_.size(), golden_.size());
  for (const ExamResult& result : results_) {
    const Json& expected = golden_[std::string(result.task->name)]["metrics"];
    size_t compared = 0;
    for (const Metric& metric : result.metrics) {
      const std::string name(metric.name);
      if (!expected.contains(name)) continue;
      const double tolerance = name == "perplexity" ? 1e-3 : 1e-12;
      const double value = expected[name].get<double>();
      EXPECT_NEAR(metric.value, value, tolerance * (1 + value)) << result.task->name << " " << name;
      const double error = expected[name + "_stderr"].get<double>();
      EXPECT_NEAR(*metric.standard_error, error, tolerance * (1 + error)) << result.task->name << " " << name;
      ++compared;
    }
    EXPECT_EQ(compared, result.task->scoring == Scoring::plain ? 1u : 2u) << result.task->name;
  }
}

INSTANTIATE_TEST_SUITE_P(Examples, Harness, ::testing::Values(0, 2));

// The files of the real tasks: how many items they have, and how many HellaSwag contexts get their capital letter.
TEST(TaskFiles, RealOnesAreRead) {
  const std::filesystem::path folder = testing::shared_folder() / "data" / "eval";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "needs " << folder.string() << " (set NIBBLE_SHARED)";
  EvaluationOptions options;
  options.data = folder;
  const auto exams = read_exams(options);
  ASSERT_TRUE(exams) << exams.error().message;
  const std::map<std::string_view, size_t> sizes = {{"hellaswag", 10042},    {"piqa", 1838},       {"arc_easy", 2376},
                                                    {"arc_challenge", 1172}, {"winogrande", 1267}, {"boolq", 3270},
                                                    {"openbookqa", 500},     {"lambada", 5153}};
  for (const Exam& exam : *exams) EXPECT_EQ(exam.items.size(), sizes.at(exam.task->name)) << exam.task->name;
  const std::string text = testing::get(exams->front().file);
  const auto lines = lines_of(text);
  size_t changed = 0;
  for (size_t i = 0; i < exams->front().items.size(); ++i)
    changed += exams->front().items[i].contexts[0] != lines[i * 6] ? 1 : 0;
  EXPECT_EQ(changed, 3236u);
}

}  // namespace
}  // namespace nibble
