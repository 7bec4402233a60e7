#include "eval/tasks/few_shot.h"

#include <gtest/gtest.h>

#include <set>

#include "core/testing.h"

namespace nibble {
namespace {

Item question(const std::string& text) { return {{text}, {"no", "yes"}, 1, 1}; }

std::vector<Item> questions(int count) {
  std::vector<Item> items;
  for (int i = 0; i < count; ++i) items.push_back(question(fmt::format("Q{}?", i)));
  return items;
}

std::vector<std::string> drawn(const char* task, std::span<const Item> items, std::span<const Item> pool, bool own,
                               int64_t shots, uint64_t seed = 1234) {
  const auto out = examples_for(**task_named(task), items, pool, own, shots, seed);
  EXPECT_TRUE(out) << out.error().message;
  return out.value_or(std::vector<std::string>());
}

TEST(FewShot, AnExampleIsQuestionAndRightAnswer) {
  EXPECT_EQ(example_text(**task_named("arc_easy"), question("Question: Is ice cold?\nAnswer:")),
            "Question: Is ice cold?\nAnswer: yes\n\n");
  EXPECT_EQ(example_text(**task_named("winogrande"), {{"The cup", "The plate"}, {"broke."}, 1, 1}),
            "The plate broke.\n\n");
  // The harness puts its space before an answer that has one already.
  EXPECT_EQ(example_text(**task_named("lambada"), {{"He rowed the"}, {"boat"}, 0, 1}), "He rowed the  boat\n\n");
}

TEST(FewShot, NoneByDefault) {
  const auto items = questions(2);
  EXPECT_EQ(drawn("arc_easy", items, items, true, 0), (std::vector<std::string>{"", ""}));
}

// Tasks without a test split draw one more in the harness, also from other items; the draw of Random(1234) from ten
// begins 7, 1, 0.
TEST(FewShot, DrawsWhatTheHarnessDraws) {
  const auto items = questions(2), pool = questions(10);
  EXPECT_EQ(drawn("arc_easy", std::span(items).first(1), pool, false, 3)[0], "Q7? yes\n\nQ1? yes\n\nQ0? yes\n\n");
  EXPECT_EQ(drawn("piqa", std::span(items).subspan(1), pool, false, 2)[0], "Q7? yes\n\nQ0? yes\n\n");
  EXPECT_EQ(drawn("piqa", std::span(items).subspan(0, 1), pool, false, 2)[0], "Q7? yes\n\nQ1? yes\n\n");
}

TEST(FewShot, AnItemIsNeverItsOwnExample) {
  const auto items = questions(6);
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const auto texts = drawn("arc_easy", items, items, true, 5, seed);
    for (size_t i = 0; i < items.size(); ++i) {
      for (const Item& other : items)
        EXPECT_EQ(texts[i].find(other.contexts[0]) != std::string::npos, !other.same_as(items[i])) << texts[i];
    }
  }
}

TEST(FewShot, CopiesOfAnItemAreLeftOutToo) {
  auto items = questions(4);
  items.push_back(items[0]);
  items.push_back(items[0]);
  for (uint64_t seed = 0; seed < 20; ++seed)
    for (const std::string& text : drawn("arc_easy", std::span(items).first(1), items, true, 3, seed))
      EXPECT_EQ(text.find("Q0?"), std::string::npos) << text;
}

TEST(FewShot, TheFirstItemsGetTheSameWhateverFollows) {
  const auto items = questions(30);
  const auto all = drawn("boolq", items, items, true, 4),
             some = drawn("boolq", std::span(items).first(7), items, true, 4);
  EXPECT_EQ(std::vector<std::string>(all.begin(), all.begin() + 7), some);
  EXPECT_NE(all, drawn("boolq", items, items, true, 4, 99));
}

TEST(FewShot, TooFewItemsAreRefused) {
  const auto items = questions(3);
  const Task& task = **task_named("arc_easy");
  EXPECT_TRUE(examples_for(task, items, items, true, 2, 1));
  testing::expect_error(examples_for(task, items, items, true, 3, 1), ErrorCode::usage, "arc_easy", "3 examples", "2");
  testing::expect_error(examples_for(task, items, items, false, 4, 1), ErrorCode::usage, "4 examples");
  const std::vector<Item> copies(4, items[0]);
  testing::expect_error(examples_for(task, copies, copies, true, 2, 1), ErrorCode::usage, "only 0");
}

}  // namespace
}  // namespace nibble
