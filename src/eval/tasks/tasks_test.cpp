// The prompts of every task, from invented lines in the form of its file, and what damaged files say.
#include "eval/tasks/task.h"

#include <gtest/gtest.h>

#include <set>

#include "core/testing.h"

namespace nibble {
namespace {

using Strings = std::vector<std::string>;
using testing::expect_error;

// The single item of a text, or an empty one.
Item only(const std::string& task, const std::string& text) {
  const auto found = (*task_named(task))->read(text, "file");
  EXPECT_TRUE(found) << found.error().message;
  if (!found || found->size() != 1) return {};
  return found->front();
}

TEST(Tasks, TheListHasEveryNameOnce) {
  std::set<std::string_view> names;
  for (const Task& task : all_tasks()) names.insert(task.name);
  EXPECT_EQ(names.size(), all_tasks().size());
  EXPECT_EQ(names, (std::set<std::string_view>{"hellaswag", "piqa", "arc_easy", "arc_challenge", "winogrande", "boolq",
                                               "openbookqa", "lambada"}));
  expect_error(task_named("hellaswagg"), ErrorCode::usage, "hellaswagg", "hellaswag, piqa", "lambada");
}

TEST(Tasks, HellaswagCapitalizesWhereTheSentenceIsToBeFinished) {
  const Item item =
      only("hellaswag", "Baking bread: A man kneads dough. the man\n2\nsings.\nswims.\nputs it in the oven.\nflies.\n");
  EXPECT_EQ(item.contexts, Strings{"Baking bread: A man kneads dough. The man"});
  EXPECT_EQ(item.choices, (Strings{"sings.", "swims.", "puts it in the oven.", "flies."}));
  EXPECT_EQ(item.gold, 2);
  EXPECT_EQ(item.line, 1);
  const auto context = [](const std::string& text) {
    return only("hellaswag", text + "\n0\na\nb\nc\nd\n").contexts.at(0);
  };
  // Whole sentences stay as they are, whatever they begin with.
  EXPECT_EQ(context("Health: How to rest. Sleep e.g. at night."), "Health: How to rest. Sleep e.g. at night.");
  EXPECT_EQ(context("Sport: Is it fun! two girls in red"), "Sport: Is it fun! Two girls in red");
  EXPECT_EQ(context("Sport: He says \"go.\" the other Man"), "Sport: He says \"go.\" The other man");
  EXPECT_EQ(context("Sport: 1 he runs. 2 he"), "Sport: 1 he runs. 2 he");
  EXPECT_EQ(context("Sport: a boy runs the boy"), "Sport: a boy runs the boy");
}

TEST(Tasks, HellaswagReadsWindowsLines) {
  const auto items = read_hellaswag("A: b.\r\n3\r\ne\r\nf\r\ng\r\nh\r\nB: c.\r\n0\r\ni\r\nj\r\nk\r\nl", "file");
  ASSERT_TRUE(items) << items.error().message;
  ASSERT_EQ(items->size(), 2u);
  EXPECT_EQ((*items)[0].choices, (Strings{"e", "f", "g", "h"}));
  EXPECT_EQ((*items)[1].choices.back(), "l");
  EXPECT_EQ((*items)[1].line, 7);
}

TEST(Tasks, PiqaAsksForAnAnswer) {
  const Item item =
      only("piqa", R"({"choices": ["Use a spoon.", "Use  a fork."], "gold": 1, "query": "Question: Eat soup.\n"})");
  EXPECT_EQ(item.contexts, Strings{"Question: Eat soup.\nAnswer:"});
  EXPECT_EQ(item.choices, (Strings{"Use a spoon.", "Use  a fork."}));
  EXPECT_EQ(item.gold, 1);
}

TEST(Tasks, ArcAsksForAnAnswer) {
  for (const char* task : {"arc_easy", "arc_challenge"}) {
    const Item item = only(task, R"({"query": "Question: What is ice?", "choices": ["water", "a rock"], "gold": 0})");
    EXPECT_EQ(item.contexts, Strings{"Question: What is ice?\nAnswer:"});
    EXPECT_EQ(item.choices, (Strings{"water", "a rock"}));
  }
}

TEST(Tasks, WinograndeHasTwoContexts) {
  const Item item = only("winogrande", R"({"context_options": ["The cup hit the plate, so the cup", )"
                                       R"("The cup hit the plate, so the plate"], "continuation": "broke.", )"
                                       R"("gold": 1})");
  EXPECT_EQ(item.answers(), 2u);
  EXPECT_EQ(item.context(1), "The cup hit the plate, so the plate");
  EXPECT_EQ(item.choice(0), "broke.");
  EXPECT_EQ(item.choice(1), "broke.");
  EXPECT_EQ(item.gold, 1);
}

TEST(Tasks, BoolqLosesTheWordPassage) {
  const Item item = only("boolq", R"({"query": "Passage: Ice floats.\nIt is light.\nQuestion: does ice sink?", )"
                                  R"("choices": ["no", "yes"], "gold": 0})");
  EXPECT_EQ(item.contexts, Strings{"Ice floats.\nIt is light.\nQuestion: does ice sink?\nAnswer:"});
  EXPECT_EQ(item.choices, (Strings{"no", "yes"}));
}

TEST(Tasks, OpenbookqaAsksAsItIs) {
  const Item item = only("openbookqa", R"({"query": "Birds have", "choices": ["gills", "wings", "fur"], "gold": 1})");
  EXPECT_EQ(item.contexts, Strings{"Birds have"});
  EXPECT_EQ(item.answers(), 3u);
}

TEST(Tasks, LambadaHasOneAnswer) {
  const Item item = only("lambada", R"({"context": "He rowed the", "continuation": "boat"})");
  EXPECT_EQ(item.contexts, Strings{"He rowed the"});
  EXPECT_EQ(item.choices, Strings{"boat"});
  EXPECT_EQ(item.answers(), 1u);
}

TEST(Tasks, BlankLinesAreSkippedAndCounted) {
  const auto items = read_lambada(
      "\n{\"context\": \"a\", \"continuation\": \"b\"}\n  \r\n"
      "{\"context\": \"c\", \"continuation\": \"d\", \"more\": 1}\n\n",
      "file");
  ASSERT_TRUE(items) << items.error().message;
  ASSERT_EQ(items->size(), 2u);
  EXPECT_EQ((*items)[1].line, 4);
}

TEST(Tasks, DamagedJsonLinesAreNamed) {
  const std::string good = R"({"query": "Question: a?", "choices": ["b", "c"], "gold": 1})";
  const auto second = [&](const std::string& line) { return read_arc(good + "\n" + line + "\n", "dir/arc.jsonl"); };
  const auto corrupt = ErrorCode::corrupt;
  expect_error(second(R"({"query": )"), corrupt, "dir/arc.jsonl, line 2", "not valid JSON");
  expect_error(second("[1, 2]"), corrupt, "line 2", "object");
  expect_error(second(R"({"choices": ["b", "c"], "gold": 1})"), corrupt, "line 2", "query");
  expect_error(second(R"({"query": "Question: a?", "gold": 1})"), corrupt, "line 2", "choices");
  expect_error(second(R"({"query": "Question: a?", "choices": ["b", "c"]})"), corrupt, "line 2", "gold");
  expect_error(second(R"({"query": 7, "choices": ["b", "c"], "gold": 1})"), corrupt, "line 2", "query", "7");
  expect_error(second(R"({"query": "Question: a?", "choices": "b", "gold": 1})"), corrupt, "line 2", "choices");
  expect_error(second(R"({"query": "Question: a?", "choices": ["b", 2], "gold": 1})"), corrupt, "line 2", "choices");
  expect_error(second(R"({"query": "Question: a?", "choices": ["b"], "gold": 0})"), corrupt, "line 2", "choices has 1");
  for (const char* gold : {"2", "-1", "0.5", "\"1\"", "null"})
    expect_error(second(R"({"query": "Question: a?", "choices": ["b", "c"], "gold": )" + std::string(gold) + "}"),
                 corrupt, "line 2", "gold");
  expect_error(second(R"({"query": "Question: a?", "choices": ["b", ""], "gold": 1})"), corrupt, "line 2", "empty");
  expect_error(second(R"({"query": "a?", "choices": ["b", "c"], "gold": 1})"), corrupt, "line 2", "Question: ");
  expect_error(read_arc("", "empty.jsonl"), corrupt, "empty.jsonl", "no items");
  expect_error(read_arc("\n \n", "blank.jsonl"), corrupt, "blank.jsonl", "no items");
}

TEST(Tasks, OtherFormsAreNamedToo) {
  const auto corrupt = ErrorCode::corrupt;
  expect_error(read_boolq(R"({"query": "Ice.", "choices": ["no", "yes"], "gold": 0})", "f"), corrupt, "Passage: ");
  expect_error(read_piqa(R"({"query": "Ice.", "choices": ["no", "yes"], "gold": 0})", "f"), corrupt, "Question: ");
  expect_error(read_openbookqa(R"({"query": " ", "choices": ["no", "yes"], "gold": 0})", "f"), corrupt, "blank");
  expect_error(read_winogrande(R"({"context_options": ["a"], "continuation": "b", "gold": 0})", "f"), corrupt,
               "context_options has 1");
  expect_error(read_winogrande(R"({"context_options": ["a", "c"], "continuation": "b", "gold": 2})", "f"), corrupt,
               "gold");
  expect_error(read_winogrande(R"({"context_options": ["a", "c"], "gold": 0})", "f"), corrupt, "continuation");
  expect_error(read_lambada(R"({"context": "a"})", "f"), corrupt, "line 1", "continuation");
  expect_error(read_lambada(R"({"context": "a", "continuation": ""})", "f"), corrupt, "empty");
}

TEST(Tasks, DamagedHellaswagFilesAreNamed) {
  const auto corrupt = ErrorCode::corrupt;
  const std::string good = "A: b.\n0\ne\nf\ng\nh\n";
  expect_error(read_hellaswag("", "h.txt"), corrupt, "h.txt", "no items");
  expect_error(read_hellaswag(good + "B: c.\n1\n", "h.txt"), corrupt, "h.txt", "8 lines", "six", "four endings");
  expect_error(read_hellaswag(good + "B: c.\n4\ne\nf\ng\nh\n", "h.txt"), corrupt, "h.txt, line 8", "\"4\"");
  expect_error(read_hellaswag(good + "B: c.\nx\ne\nf\ng\nh\n", "h.txt"), corrupt, "line 8", "\"x\"");
  expect_error(read_hellaswag(good + "\n1\ne\nf\ng\nh\n", "h.txt"), corrupt, "line 7", "blank");
  expect_error(read_hellaswag(good + "B: c.\n1\ne\nf\n\nh\n", "h.txt"), corrupt, "line 7", "empty");
}

}  // namespace
}  // namespace nibble
