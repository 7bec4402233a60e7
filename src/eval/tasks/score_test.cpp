// Splitting texts into context and answer, and the likelihoods of answers against models whose likelihoods are known.
#include "eval/tasks/score.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/testing.h"
#include "eval/tasks/testing.h"
#include "measure/testing.h"
#include "runtime/random_source.h"

namespace nibble {
namespace {

using Ids = std::vector<int32_t>;

Ids bytes(std::string_view text, bool start = true) {
  Ids ids;
  if (start) ids.push_back(testing::kStart);
  for (char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

class Encode : public ::testing::Test {
 protected:
  Result<Continuation> encode(std::string_view context, std::string_view answer, bool special = true,
                              int64_t positions = 512) {
    return encode_continuation(tokenizer_, context, answer, special, positions);
  }
  const Tokenizer tokenizer_ = testing::byte_tokenizer();
};

TEST_F(Encode, TheAnswerFollowsTheContext) {
  const Continuation found = encode("Is it?", " no").value();
  EXPECT_EQ(found.ids, bytes("Is it? no"));
  EXPECT_EQ(found.start, 7);
  EXPECT_EQ(found.tokens(), 3);
  EXPECT_FALSE(found.truncated);
  EXPECT_EQ(encode("Is it?", " no", false)->ids, bytes("Is it? no", false));
}

TEST_F(Encode, SpaceAtTheEndOfTheContextBelongsToTheAnswer) {
  for (const std::string space : {" ", "\n", " \t\n", "\u00a0", "\u3000 ", "\u2003\x1f"}) {
    const Continuation found = encode("Is it?" + space, " no").value();
    EXPECT_EQ(found.ids, bytes("Is it?" + space + " no"));
    EXPECT_EQ(found.start, 7);
  }
  EXPECT_EQ(encode("caf\u00e9", " no")->start, 6);  // no space, though of two bytes
}

TEST_F(Encode, StartIsNotPutBeforeATextThatHasIt) {
  // This tokenizer names no bos token, so nothing is recognised but what the text itself spells.
  const Continuation found = encode("<s>Is it?", " no").value();
  EXPECT_EQ(found.tokens(), 3);
}

TEST_F(Encode, LongContextsLoseTheirBeginning) {
  const Continuation whole = encode("abcdef", " no", true, 9).value();
  EXPECT_FALSE(whole.truncated);
  EXPECT_EQ(whole.ids.size(), 10u);  // the last one is never read: 10 ids fill 9 positions
  const Continuation cut = encode("abcdef", " no", true, 8).value();
  EXPECT_TRUE(cut.truncated);
  EXPECT_EQ(cut.ids, bytes("abcdef no", false));
  EXPECT_EQ(cut.start, 6);
  const Continuation short_one = encode("abcdef", " no", true, 3).value();
  EXPECT_EQ(short_one.ids, bytes("f no", false));
  EXPECT_EQ(short_one.start, 1);
  testing::expect_error(encode("abcdef", " no", true, 2), ErrorCode::usage, "3 tokens", "2 positions");
}

TEST_F(Encode, NothingToPredictIsRefused) {
  testing::expect_error(encode("abc", ""), ErrorCode::corrupt, "adds no token");
  testing::expect_error(encode("  ", "no", false), ErrorCode::corrupt, "no tokens");
}

// After 'c' a space, after it 'a', after it 'b', each as likely as all 256 others together; elsewhere all alike.
float halves(int32_t last, int32_t next) {
  const bool favourite = (last == 'c' && next == ' ') || (last == ' ' && next == 'a') || (last == 'a' && next == 'b');
  return favourite ? std::log(256.0f) : 0.0f;
}

// Anything that is not symmetric.
float scattered(int32_t last, int32_t next) {
  return static_cast<float>((last * 7919 + next * 104729 + last * next * 31) % 97) / 16.0f;
}

class ScoreBigram : public ::testing::Test {
 protected:
  std::vector<std::vector<AnswerScore>> score(
      const std::function<float(int32_t, int32_t)>& table,
      const std::vector<std::vector<std::pair<std::string, std::string>>>& texts, int64_t batch = 2048) {
    const auto model = Model::load(testing::BigramSource(table), {}, pool_);
    EXPECT_TRUE(model) << model.error().message;
    std::vector<Answers> items;
    for (const auto& item : texts) {
      items.emplace_back();
      for (const auto& [context, answer] : item)
        items.back().push_back(encode_continuation(tokenizer_, context, answer, true, 512).value());
    }
    ScoreOptions options;
    options.batch_tokens = batch;
    auto scores = score_answers(*model, items, options, pool_);
    EXPECT_TRUE(scores) << scores.error().message;
    return std::move(scores).value();
  }
  ThreadPool pool_{2};
  const Tokenizer tokenizer_ = testing::byte_tokenizer();
};

// By hand: three tokens of probability 1/2; 1/2 times twice 1/257 and 1/2; uniform.
TEST_F(ScoreBigram, EqualsTheSumByHand) {
  const auto scores = score(halves, {{{"abc", " ab"}, {"abc", " xab"}, {"abx", "yz"}}});
  ASSERT_EQ(scores.size(), 1u);
  EXPECT_NEAR(scores[0][0].log_likelihood, 3 * std::log(0.5), 1e-6);
  EXPECT_TRUE(scores[0][0].greedy);
  EXPECT_EQ(scores[0][0].tokens, 3);
  // ' ' is 1/2, 'x' after ' ' one of 256 that share the other half, 'a' after 'x' 1/257, 'b' 1/2.
  EXPECT_NEAR(scores[0][1].log_likelihood, std::log(0.5) + std::log(0.5 / 256) - std::log(257.0) + std::log(0.5), 1e-5);
  EXPECT_FALSE(scores[0][1].greedy);
  EXPECT_NEAR(scores[0][2].log_likelihood, -2 * std::log(257.0), 1e-5);
  EXPECT_FALSE(scores[0][2].greedy);
}

TEST_F(ScoreBigram, EqualsTheTable) {
  std::vector<std::vector<std::pair<std::string, std::string>>> texts;
  for (int i = 0; i < 23; ++i) {
    const std::string context =
        "Question " + std::string(static_cast<size_t>(i * 5 % 17), 'q') + std::to_string(i) + "?";
    texts.push_back({{context, " yes"}, {context, " no"}, {context, " no, never"}, {context, " y"}});
  }
  for (int64_t batch : {1, 40, 2048}) {
    const auto scores = score(scattered, texts, batch);
    ASSERT_EQ(scores.size(), texts.size());
    for (size_t i = 0; i < texts.size(); ++i)
      for (size_t j = 0; j < texts[i].size(); ++j)
        EXPECT_NEAR(scores[i][j].log_likelihood, testing::bigram_likelihood(scattered, '?', texts[i][j].second), 1e-4);
  }
}

TEST_F(ScoreBigram, DifferentContextsOfOneAnswer) {
  const auto scores =
      score(scattered, {{{"the cup", " broke."}, {"the plate", " broke."}}, {{"x", " y"}, {"z", " y"}}});
  EXPECT_NEAR(scores[0][0].log_likelihood, testing::bigram_likelihood(scattered, 'p', " broke."), 1e-4);
  EXPECT_NEAR(scores[0][1].log_likelihood, testing::bigram_likelihood(scattered, 'e', " broke."), 1e-4);
  EXPECT_NEAR(scores[1][1].log_likelihood, testing::bigram_likelihood(scattered, 'z', " y"), 1e-4);
}

// A model with attention, where what was left in a cache would show.
class ScoreRandom : public ::testing::Test {
 protected:
  std::vector<Answers> random_items(int64_t count) {
    Random random(5);
    std::vector<Answers> items(static_cast<size_t>(count));
    const auto ids = [&](int64_t length) {
      Ids out;
      for (int64_t i = 0; i < length; ++i) out.push_back(static_cast<int32_t>(random.below(61)));
      return out;
    };
    for (Answers& answers : items) {
      const Ids context = ids(1 + static_cast<int64_t>(random.below(30)));
      const auto choices = 1 + random.below(4);
      for (uint64_t j = 0; j < choices; ++j) {
        Continuation answer{context, static_cast<int64_t>(context.size()), false};
        // Sometimes another context, sometimes the beginning of the last answer.
        if (random.below(5) == 0) answer.ids.back() = static_cast<int32_t>(random.below(61));
        const Ids rest = ids(1 + static_cast<int64_t>(random.below(9)));
        if (!answers.empty() && random.below(3) == 0) answer.ids = answers.back().ids;
        answer.ids.insert(answer.ids.end(), rest.begin(), rest.end());
        answers.push_back(answer);
      }
    }
    // Every token there is as an answer: one of them is the greedy one.
    items.emplace_back();
    for (int32_t id = 0; id < 61; ++id) items.back().push_back({{3, 1, 4, id}, 3, false});
    return items;
  }

  // Each answer by itself, all logits, plain arithmetic.
  AnswerScore alone(const Continuation& answer) {
    Sequence sequence = model_.new_sequence();
    Workspace workspace;
    const auto inputs = static_cast<int64_t>(answer.ids.size()) - 1;
    Segment segment{&sequence, inputs, 0};
    std::vector<int64_t> wanted;
    for (int64_t at = answer.start - 1; at < inputs; ++at) wanted.push_back(at);
    std::vector<float> logits(wanted.size() * 61);
    const auto tokens = std::span(answer.ids).first(static_cast<size_t>(inputs));
    EXPECT_TRUE(model_.forward(tokens, {&segment, 1}, wanted, logits.data(), workspace, pool_));
    AnswerScore out;
    for (size_t i = 0; i < wanted.size(); ++i) {
      const float* row = logits.data() + i * 61;
      const auto target = static_cast<size_t>(answer.ids[static_cast<size_t>(wanted[i]) + 1]);
      double total = 0;
      for (size_t k = 0; k < 61; ++k) {
        total += std::exp(double{row[k]});
        if (row[k] > row[target]) out.greedy = false;
      }
      out.log_likelihood += row[target] - std::log(total);
      ++out.tokens;
    }
    return out;
  }

  ThreadPool pool_{3};
  const Model model_ = Model::load(RandomSource(small_spec(), 7), {}, pool_).value();
};

TEST_F(ScoreRandom, EqualsEachAnswerAloneWhateverTheBatch) {
  const auto items = random_items(40);
  ScoreOptions options;
  std::vector<std::vector<AnswerScore>> first;
  int64_t tokens = 0, greedy = 0;
  for (const auto& [batch, share] : {std::pair(2048, true), {1, true}, {100, true}, {100, false}}) {
    int64_t run = 0, finished = 0;
    options.batch_tokens = batch;
    options.share = share;
    options.finished = [&](int64_t more, int64_t count) {
      run += more;
      finished += count;
    };
    const auto scores = score_answers(model_, items, options, pool_).value();
    EXPECT_EQ(finished, 41);
    if (first.empty()) {
      first = scores;
      tokens = run;
    }
    EXPECT_EQ(run > tokens, !share);
    for (size_t i = 0; i < items.size(); ++i) {
      ASSERT_EQ(scores[i].size(), items[i].size());
      for (size_t j = 0; j < items[i].size(); ++j) {
        const AnswerScore wanted = alone(items[i][j]);
        EXPECT_NEAR(scores[i][j].log_likelihood, wanted.log_likelihood, 1e-9);
        EXPECT_EQ(scores[i][j].greedy, wanted.greedy);
        EXPECT_EQ(scores[i][j].tokens, wanted.tokens);
        EXPECT_EQ(scores[i][j].log_likelihood, first[i][j].log_likelihood);  // to the bit
        greedy += wanted.greedy ? 1 : 0;
      }
    }
  }
  EXPECT_GE(greedy, 4);  // both outcomes were seen
}

TEST_F(ScoreRandom, CountsWhatIsRun) {
  const Continuation a{{1, 2, 3, 4, 5}, 3, false}, b{{1, 2, 3, 6}, 3, false}, c{{9, 9}, 1, false};
  EXPECT_EQ(tokens_to_run({a}), 4);
  EXPECT_EQ(tokens_to_run({a, b}), 3 + 1 + 0);  // 1 2 3 once, then 4; b has nothing left to read
  EXPECT_EQ(tokens_to_run({a, b}, false), 4 + 3);
  EXPECT_EQ(tokens_to_run({a, b, c}), 4 + 3 + 1);
}

TEST_F(ScoreRandom, IdsOutsideTheVocabularyAreRefused) {
  const ScoreOptions options;
  for (const Ids& ids : {Ids{1, 2, 61}, Ids{1, 61, 2}, Ids{1, -1}}) {
    const std::vector<Answers> items = {{Continuation{ids, 1, false}}};
    testing::expect_error(score_answers(model_, items, options, pool_), ErrorCode::usage, "vocabulary");
  }
  // The pass over the shared beginning predicts the first token of each answer, before any pass reads it.
  for (const int32_t id : {61, INT32_MAX, -1}) {
    const std::vector<Answers> items = {{Continuation{{1, id, 2}, 1, false}, Continuation{{1, 5, 2}, 1, false}}};
    testing::expect_error(score_answers(model_, items, options, pool_), ErrorCode::usage, "vocabulary");
  }
}

// The longest item runs first, but items are named as they were given.
TEST_F(ScoreRandom, LogitsThatAreNotFiniteNameTheItem) {
  const Model broken = Model::load(testing::PoisonedSource(small_spec(), 60), {}, pool_).value();
  const Answers good = {{{1, 2, 3}, 1, false}, {{1, 2, 4, 5}, 1, false}}, longest = {{{1, 2, 3, 4, 5, 6, 7}, 2, false}};
  for (const Answers& bad : {Answers{{{60, 2, 3}, 1, false}, {{60, 2, 4}, 1, false}},
                             Answers{{{1, 2, 3}, 1, false}, {{1, 2, 60, 3}, 1, false}}})
    for (int64_t batch : {1, 2048}) {
      ScoreOptions options;
      options.batch_tokens = batch;
      const std::vector<Answers> items = {good, longest, bad, good};
      testing::expect_error(score_answers(broken, items, options, pool_), ErrorCode::failure, "item 2 (from 0)",
                            "not finite");
    }
}

}  // namespace
}  // namespace nibble
