#include "core/json.h"

#include <limits>

#include "core/testing.h"

namespace nibble {
namespace {

using testing::expect_error;
using testing::expect_ok;

std::string nested(size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); }

TEST(ParseJson, ReadsEveryKindOfValue) {
  auto json = parse_json(R"({"a":[1,-2,3.5,true,false,null],"b":{"c":"\u00e9\n"},"d":18446744073709551615})", "x");
  expect_ok(json);
  EXPECT_EQ((*json)["a"].size(), 6u);
  EXPECT_EQ((*json)["a"][1], -2);
  EXPECT_EQ((*json)["a"][2], 3.5);
  EXPECT_TRUE((*json)["a"][5].is_null());
  EXPECT_EQ((*json)["b"]["c"], "\xC3\xA9\n");
  EXPECT_EQ((*json)["d"], std::numeric_limits<uint64_t>::max());
}

TEST(ParseJson, KeepsTheOrderOfKeys) {
  auto json = parse_json(R"({"z":1,"a":2,"m":{"y":1,"b":2}})", "x");
  expect_ok(json);
  EXPECT_EQ(dump_json(*json), R"({"z":1,"a":2,"m":{"y":1,"b":2}})");
}

TEST(ParseJson, AcceptsScalarsAndWhitespace) {
  for (const char* text : {"1", " null ", "\"x\"", "\t[ ]\n", "{ }", "1e308", "-0"})
    EXPECT_TRUE(parse_json(text, "x").has_value()) << text;
}

TEST(ParseJson, RefusesDuplicateKeysAtAnyDepth) {
  expect_error(parse_json(R"({"a":1,"a":1})", "config.json"), ErrorCode::corrupt, "config.json", "duplicate key \"a\"");
  expect_error(parse_json(R"([{"x":{"k":1,"l":2,"k":3}}])", "x"), ErrorCode::corrupt, "duplicate key \"k\"");
  expect_error(parse_json(R"({"a":1,"\u0061":2})", "x"), ErrorCode::corrupt, "duplicate key \"a\"");
}

TEST(ParseJson, AllowsTheSameKeyInDifferentObjects) {
  expect_ok(parse_json(R"([{"a":1},{"a":1},{"b":{"a":1},"a":2}])", "x"));
}

TEST(ParseJson, BoundsTheNesting) {
  expect_ok(parse_json(nested(128), "x"));
  expect_error(parse_json(nested(129), "x"), ErrorCode::corrupt, "128 levels");
  expect_error(parse_json(std::string(1'000'000, '['), "x"), ErrorCode::corrupt, "128 levels");
  std::string objects;
  for (int i = 0; i < 200; ++i) objects += R"({"a":)";
  expect_error(parse_json(objects, "x"), ErrorCode::corrupt, "128 levels");
}

TEST(ParseJson, RefusesNumbersThatAreNotFinite) {
  for (const char* text : {"1e400", "-1e400", "[1e99999]"}) EXPECT_FALSE(parse_json(text, "x").has_value()) << text;
  for (const char* text : {"NaN", "Infinity", "-Infinity", "[nan]"})
    EXPECT_FALSE(parse_json(text, "x").has_value()) << text;
}

TEST(ParseJson, RefusesInvalidUtf8) {
  for (const char* text :
       {"\"\xFF\"", "\"\xC0\x80\"", "\"\xED\xA0\x80\"", "\"\xF4\x90\x80\x80\"", "\"\xE2\x82\"", "\xFF"})
    expect_error(parse_json(text, "x"), ErrorCode::corrupt, "not valid JSON");
  EXPECT_FALSE(parse_json(R"("\ud800")", "x").has_value()) << "a lone surrogate";
}

TEST(ParseJson, RefusesWhatIsNotJson) {
  for (const char* text :
       {"",   " ",   "{",       "[1,]",      "{\"a\"}", "{a:1}", "'a'",      "01",  "+1",        ".5",
        "1.", "0x1", "// c\n1", "/* c */ 1", "{} {}",   "[1] 2", "\"a\nb\"", "tru", "\"\\x41\"", "{\"a\":1,}"})
    EXPECT_FALSE(parse_json(text, "x").has_value()) << text;
}

TEST(ParseJson, LooksAtWhatFollowsANulByte) {
  using namespace std::string_view_literals;
  expect_error(parse_json("{}\0{\"hidden\":1}"sv, "x"), ErrorCode::corrupt, "NUL byte at offset 2");
  expect_error(parse_json("\0"sv, "x"), ErrorCode::corrupt, "NUL byte");
  expect_error(parse_json("\"a\0b\""sv, "x"), ErrorCode::corrupt, "NUL byte");
  expect_ok(parse_json("\"a\\u0000b\"", "x"));
}

TEST(ParseJson, TakesTimeInProportionToTheNumberOfKeys) {
  // A look-up per key that walks the object would need 10^10 steps here and not end within the test run.
  std::string text = "{";
  for (int i = 0; i < 100'000; ++i) text += fmt::format("{}\"key{}\":{}", i == 0 ? "" : ",", i, i);
  auto json = parse_json(text + "}", "x");
  expect_ok(json);
  EXPECT_EQ(json->size(), 100'000u);
}

TEST(ReadJson, NamesTheFileAndItsLimit) {
  testing::TemporaryFolder folder;
  testing::put(folder / "a.json", "{\"a\":[1,2,3]}");
  expect_ok(read_json(folder / "a.json"));
  expect_error(read_json(folder / "a.json", 5), ErrorCode::corrupt, "a.json", "more than the 5 allowed");
  expect_error(read_json(folder / "b.json"), ErrorCode::io, "b.json", "No such file");
}

TEST(DumpJson, ReplacesInvalidUtf8AndIndents) {
  EXPECT_EQ(dump_json(Json("a\xFFz")), "\"a\xEF\xBF\xBDz\"");
  EXPECT_EQ(dump_json(Json{{"a", 1}}, 2), "{\n  \"a\": 1\n}");
}

class JsonReaderTest : public ::testing::Test {
 protected:
  JsonReader reader(ErrorCode code = ErrorCode::corrupt) { return *JsonReader::open(json_, "config.json", code); }
  Json json_ = *parse_json(
      R"({"layers": 6, "big": 18446744073709551615, "negative": -3, "eps": 1e-5, "tied": true, "name": "opt",
          "list": ["a", "b"], "mixed": ["a", 1], "nothing": null, "rope": {"factor": 8, "type": "llama3"}})",
      "x");
};

TEST_F(JsonReaderTest, OpensObjectsOnly) {
  expect_error(JsonReader::open(Json(3), "config.json"), ErrorCode::corrupt, "config.json", "expected an object", "3");
  const std::string long_text(500, 'x');
  auto opened = JsonReader::open(Json(long_text), "c");
  ASSERT_FALSE(opened.has_value());
  EXPECT_LT(opened.error().message.size(), 150u) << "long values are cut";
}

TEST_F(JsonReaderTest, ReadsIntegersInRange) {
  JsonReader r = reader();
  EXPECT_EQ(r.integer("layers", 1, 10).value(), 6);
  EXPECT_EQ(r.integer("layers", 6, 6).value(), 6);
  EXPECT_EQ(r.integer("negative", -3, 0).value(), -3);
  expect_error(r.integer("layers", 7, 10), ErrorCode::corrupt, "config.json", "\"layers\" is 6",
               "an integer from 7 to 10");
  expect_error(r.integer("layers", 1, 5), ErrorCode::corrupt, "\"layers\" is 6");
  expect_error(r.integer("big", INT64_MIN, INT64_MAX), ErrorCode::corrupt, "18446744073709551615");
  expect_error(r.integer("eps", 0, 1), ErrorCode::corrupt, "\"eps\"");
  expect_error(r.integer("name", 0, 1), ErrorCode::corrupt, "\"name\" is \"opt\"");
  expect_error(r.integer("tied", 0, 1), ErrorCode::corrupt, "\"tied\" is true");
}

TEST_F(JsonReaderTest, FallsBackOnlyForAbsentOrNullKeys) {
  JsonReader r = reader();
  EXPECT_EQ(r.integer("absent", 0, 1, 7).value(), 7);
  EXPECT_EQ(r.integer("nothing", 0, 1, 7).value(), 7);
  EXPECT_EQ(r.number("absent", 0, 1, 0.5).value(), 0.5);
  EXPECT_EQ(r.boolean("absent", true).value(), true);
  EXPECT_EQ(r.string("absent", "gelu").value(), "gelu");
  EXPECT_EQ(r.strings("absent", std::vector<std::string>{"q"}).value(), std::vector<std::string>{"q"});
  EXPECT_FALSE(r.integer("name", 0, 1, 7).has_value()) << "a wrong type is not an absent key";
  expect_error(r.integer("absent", 0, 1), ErrorCode::corrupt, "\"absent\" is missing");
  expect_error(r.number("nothing", 0, 1), ErrorCode::corrupt, "\"nothing\" is missing");
  expect_error(r.boolean("absent"), ErrorCode::corrupt, "missing");
  expect_error(r.string("absent"), ErrorCode::corrupt, "missing");
  expect_error(r.strings("absent"), ErrorCode::corrupt, "missing");
  expect_error(r.object("absent"), ErrorCode::corrupt, "missing");
}

TEST_F(JsonReaderTest, ReadsNumbersBooleansStringsAndLists) {
  JsonReader r = reader();
  EXPECT_EQ(r.number("eps", 0, 1).value(), 1e-5);
  EXPECT_EQ(r.number("layers", 0, 10).value(), 6.0) << "an integer is a number";
  expect_error(r.number("eps", 0.5, 1), ErrorCode::corrupt, "\"eps\"", "a number from 0.5 to 1");
  expect_error(r.number("name", 0, 1), ErrorCode::corrupt, "\"opt\"");
  EXPECT_TRUE(r.boolean("tied").value());
  expect_error(r.boolean("layers"), ErrorCode::corrupt, "true or false");
  EXPECT_EQ(r.string("name").value(), "opt");
  expect_error(r.string("layers"), ErrorCode::corrupt, "a string");
  EXPECT_EQ(r.strings("list").value(), (std::vector<std::string>{"a", "b"}));
  expect_error(r.strings("mixed"), ErrorCode::corrupt, "a list of strings");
  expect_error(r.strings("name"), ErrorCode::corrupt, "a list of strings");
}

TEST_F(JsonReaderTest, NestedObjectsSayWhereTheyAre) {
  JsonReader r = reader(ErrorCode::usage);
  auto rope = r.object("rope");
  expect_ok(rope);
  EXPECT_EQ(rope->integer("factor", 1, 10).value(), 8);
  expect_error(rope->integer("factor", 1, 2), ErrorCode::usage, "config.json, \"rope\"", "\"factor\" is 8");
  expect_error(r.object("layers"), ErrorCode::usage, "config.json, \"layers\"", "expected an object");
}

TEST_F(JsonReaderTest, RefusesTheFirstKeyNobodyRead) {
  JsonReader r = reader();
  (void)r.integer("layers", 0, 10);
  (void)r.boolean("absent", false);
  expect_error(r.refuse_unknown(), ErrorCode::corrupt, "config.json: unknown key \"big\"");
  r.ignore({"big", "negative", "eps", "tied", "name", "list", "mixed", "nothing"});
  expect_error(r.refuse_unknown(), ErrorCode::corrupt, "unknown key \"rope\"");
  (void)r.object("rope");
  expect_ok(r.refuse_unknown());
}

TEST_F(JsonReaderTest, HasMeansPresentAndNotNull) {
  JsonReader r = reader();
  EXPECT_TRUE(r.has("layers"));
  EXPECT_FALSE(r.has("nothing"));
  EXPECT_FALSE(r.has("absent"));
  EXPECT_EQ(r.find("nothing"), nullptr);
}

TEST(FindPath, FollowsKeysThroughObjectsOnly) {
  const Json value = *parse_json(R"({"inputs": {"recipe": {"name": "quik"}, "list": [1], "nothing": null}})", "x");
  EXPECT_EQ(find_path(value, {}), &value);
  EXPECT_EQ(*find_path(value, {"inputs", "recipe", "name"}), "quik");
  EXPECT_TRUE(find_path(value, {"inputs", "nothing"})->is_null());
  EXPECT_EQ(find_path(value, {"outputs", "recipe"}), nullptr);
  EXPECT_EQ(find_path(value, {"inputs", "list", "0"}), nullptr);
  EXPECT_EQ(find_path(value, {"inputs", "list", "recipe"}), nullptr);
  EXPECT_EQ(find_path(value, {"inputs", "nothing", "x"}), nullptr);
  EXPECT_EQ(find_path(value, {"inputs", "recipe", "name", "x"}), nullptr);
  for (const char* root : {"[]", "[1]", "3", "\"inputs\"", "null"})
    EXPECT_EQ(find_path(*parse_json(root, "x"), {"inputs"}), nullptr) << root;
}

}  // namespace
}  // namespace nibble
