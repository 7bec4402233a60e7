#include <gtest/gtest.h>

#include <set>

#include "format/attention_formats.h"
#include "format/number_format.h"

namespace nibble {
namespace {

TEST(NumberFormat, EveryRowOfTheListParsesAndPrints) {
  std::set<std::string_view> names;
  for (const LevelsRow* row = begin_levels(); row != end_levels(); ++row) {
    EXPECT_TRUE(names.insert(row->name).second) << row->name << " is listed twice";
    auto format = parse_format(row->name);
    ASSERT_TRUE(format) << format.error().message;
    EXPECT_EQ(format->levels, row->levels);
    EXPECT_EQ(format->bits, row->bits);
    EXPECT_EQ(parse_format(to_string(*format)), *format) << to_string(*format);
    if (row->block > 0) {
      for (const char* sharing : {":row", ":token", ":b1", ":b16", ":b1048576"}) {
        const std::string text = std::string(row->name) + sharing;
        auto shared = parse_format(text);
        ASSERT_TRUE(shared) << shared.error().message;
        EXPECT_EQ(to_string(*shared), text);
        EXPECT_TRUE(shared->is_block());
      }
    }
    if (format->is_learned()) {
      for (const char* sharing : {":row", ":col", ":g1", ":g128"}) {
        const std::string text = std::string(row->name) + sharing;
        const auto shared = parse_format(text);
        const bool served = row->bits > 0 || text.ends_with(":col");  // columns' own widths are columns'
        ASSERT_EQ(shared.has_value(), served) << text;
        if (served) {
          EXPECT_EQ(to_string(*shared), text);
        }
      }
      for (const char* wrong : {":tensor", ":token", ":b16", ":row:asym", ":f2", ":floor"})
        EXPECT_FALSE(parse_format(std::string(row->name) + wrong)) << row->name << wrong;
      EXPECT_TRUE(serves_weights(*format) && !serves_activations(*format));
    }
    if (!format->is_integer()) continue;
    for (const char* sharing : {":tensor", ":row", ":token", ":g1", ":g128", ":g1048576"}) {
      for (const char* offset : {"", ":asym"}) {
        const std::string text = std::string(row->name) + sharing + offset;
        auto shared = parse_format(text);
        const bool served = row->bits > 0 || sharing[1] == 'g';  // bits are left open for groups only
        ASSERT_EQ(shared.has_value(), served) << text;
        if (!served) continue;
        EXPECT_EQ(to_string(*shared), text);
        EXPECT_EQ(shared->offset, *offset != 0);
      }
    }
  }
  EXPECT_TRUE(names.count("int4") && names.count("int8") && names.count("f32") && names.count("f16") &&
              names.count("bf16"));
}

TEST(NumberFormat, DefaultsAndCodecs) {
  const NumberFormat row = *parse_format("int4"), group = *parse_format("int4:g128"), real = *parse_format("bf16");
  EXPECT_EQ(to_string(row), "int4:row");
  EXPECT_EQ(*parse_format("int4:asym"), *parse_format("int4:row:asym"));
  EXPECT_EQ(row.scale, ScaleCodec::f32);
  EXPECT_EQ(group.scale, ScaleCodec::f16);
  EXPECT_EQ(real.scale, ScaleCodec::none);
  EXPECT_EQ(real.sharing, Sharing::none);
  EXPECT_EQ(real.bits, 16);
  EXPECT_EQ(row.levels_count(), 16);
  const NumberFormat open = *parse_format("int:asym");
  EXPECT_EQ(to_string(open), "int:g128:asym");
  EXPECT_EQ(open.with_bits(4), *parse_format("int4:g128:asym"));
  EXPECT_EQ(group.with_bits(2), group);
}

TEST(NumberFormat, BlocksFractionsAndRules) {
  const NumberFormat bfp = *parse_format("bfp6");
  EXPECT_EQ(to_string(bfp), "bfp6:b16");
  EXPECT_EQ(bfp.scale, ScaleCodec::power);
  EXPECT_EQ(to_string(*parse_format("bfp6:b16:floor")), "bfp6:b16");  // its default
  EXPECT_EQ(to_string(*parse_format("mxfp4:floor")), "mxfp4:b32:floor");
  EXPECT_EQ(to_string(*parse_format("nvfp4:4over6")), "nvfp4:b16:4over6");
  EXPECT_TRUE(parse_format("nvfp4")->outer);
  EXPECT_EQ(to_string(*parse_format("fixed8")), "fixed8");
  const NumberFormat fixed = *parse_format("fixed8:f4");
  EXPECT_EQ(to_string(fixed), "fixed8:f4");
  EXPECT_EQ(fixed.fraction, 4);
  EXPECT_EQ(fixed.groups(300), 1);
  EXPECT_EQ(parse_format("fixed8:f-3")->fraction, -3);
  EXPECT_EQ(to_string(*parse_format("e4m3")), "e4m3");
  EXPECT_EQ(to_string(*parse_format("e4m3:f2")), "e4m3:f2");
  EXPECT_EQ(to_string(*parse_format("e4m3:paper")), "e4m3:paper");
}

TEST(NumberFormat, GroupsOfARow) {
  const NumberFormat group = *parse_format("int4:g128");
  EXPECT_EQ(group.groups(0), 0);
  EXPECT_EQ(group.groups(1), 1);
  EXPECT_EQ(group.groups(128), 1);
  EXPECT_EQ(group.groups(129), 2);
  EXPECT_EQ(group.group_size(300), 128);
  EXPECT_EQ(parse_format("int4")->groups(300), 1);
  EXPECT_EQ(parse_format("int4")->group_size(300), 300);
}

TEST(NumberFormat, RefusesEverythingElseByName) {
  for (const char* text : {"",
                           ":",
                           "int:col",
                           "int1",
                           "int9",
                           "int16",
                           "INT4",
                           " int4",
                           "int4 ",
                           "fp16",
                           "f32:row",
                           "f16:",
                           "bf16:asym",
                           "int4:",
                           "int4:row:",
                           "int4::asym",
                           "int4:g",
                           "int4:g0",
                           "int4:g-1",
                           "int4:g1048577",
                           "int4:g99999999999999999999",
                           "int4:g12x",
                           "int4:column",
                           "int4:b16",
                           "int4:f3",
                           "int4:floor",
                           "bfp6:g16",
                           "bfp6:b0",
                           "bfp6:tensor",
                           "bfp9",
                           "bfp6:asym",
                           "bfp6:b16:b16",
                           "bfp6:floor:up",
                           "bfp6:floor:b16",
                           "bfp6:f3",
                           "bfp6:fit",
                           "mxfp4:4over6",
                           "nvfp4:even",
                           "e4m3:row",
                           "e4m3:floor",
                           "fixed8:f",
                           "fixed8:f200",
                           "mxint8:paper",
                           "int4:asym:asym",
                           "int4:asym:row",
                           "int4:row:row",
                           "int4:row:asym:x",
                           "int4:g4:g4"}) {
    auto format = parse_format(text);
    ASSERT_FALSE(format) << text;
    EXPECT_EQ(format.error().code, ErrorCode::usage);
    EXPECT_NE(format.error().message.find(fmt::format("\"{}\"", text)), std::string::npos) << format.error().message;
    EXPECT_NE(format.error().message.find("int4"), std::string::npos) << "names what is supported";
  }
}

// --- Attention -------------------------------------------------------------------------------------------------------

TEST(AttentionFormats, AreRefusedWithTheReason) {
  const struct {
    const char *operand, *text, *reason;
  } wrong[] = {
      {"k", "int8:token", "for linear layers"},           {"v", "nvfp4:4over6", "its scale needs a search"},
      {"q", "fixed8", "say it, as in fixed8:f4"},         {"k", "bfp4:search", "its scale needs a search"},
      {"k", "bm8:b16:paper", "its scale needs a search"}, {"q", "f16", "expected f32 or a block format"},
      {"p", "bf16", "expected f32 or a block format"},    {"v", "bfp4:b48", "must divide a page of 64"},
      {"v", "bfp4:b128", "must divide a page of 64"},     {"p", "bfp4:row", "must divide a page of 64"},
      {"p", "fixed8:f7", "cannot represent 1"},           {"p", "bfp4:b16:paper", "cannot represent 1"},
      {"k", "fixed8:f101", "its fraction is beyond 100"}, {"k", "bfp9", "no known levels"},
  };
  for (const auto& [operand, text, reason] : wrong) {
    const auto format = parse_attention_format(operand, text, "here");
    ASSERT_FALSE(format) << operand << " " << text;
    EXPECT_EQ(format.error().code, ErrorCode::usage);
    EXPECT_NE(format.error().message.find(reason), std::string::npos) << format.error().message;
    EXPECT_EQ(format.error().message.rfind(fmt::format("here: \"{}\"", operand), 0), 0u) << format.error().message;
  }
  for (const char* text : {"f32", "bfp4:b48", "bfp2:row", "fixed8:f7", "e3m2", "bl8:b128"})
    EXPECT_TRUE(parse_attention_format("q", text, "here")) << text;
  for (const char* text : {"fixed8:f6", "e4m3", "dmf8", "mxint8", "bl4", "bfp2", "mxfp4:b64", "bm6e2", "nvfp4"})
    EXPECT_TRUE(parse_attention_format("p", text, "here")) << text;
}

// 127 * 2^-N just holds the largest magnitude; probabilities are at most 1.
TEST(AttentionFormats, FractionsFollowFromMagnitudes) {
  EXPECT_EQ(to_string(*parse_attention_format("p", "fixed8", "here")), "fixed8:f6");
  EXPECT_EQ(to_string(*parse_attention_format("p", "fixed4", "here")), "fixed4:f2");
  AttentionFormats planned;
  for (const char* name : {"q", "k", "v"})
    operand_of(planned, name) = *parse_planned_attention_format(name, name[0] == 'v' ? "fixed6" : "fixed8", "here");
  planned.p = *parse_planned_attention_format("p", "fixed8", "here");
  EXPECT_TRUE(has_open_fractions(planned));
  const AttentionFormats found = with_fractions(planned, {127.0f / 16, 127.5f / 16, 0});
  EXPECT_EQ(dump_json(to_json(found)),
            "{\"q\":\"fixed8:f4\",\"k\":\"fixed8:f3\",\"p\":\"fixed8:f6\",\"v\":\"fixed6:f0\"}");
  EXPECT_FALSE(has_open_fractions(found));
  EXPECT_EQ(with_fractions(planned, {1e-38f, 1, 1}).q.fraction, 100);
  EXPECT_EQ(with_fractions(found, {9, 9, 9}), found);
  EXPECT_TRUE(fulfils(found, planned) && fulfils(found, found));
  EXPECT_FALSE(fulfils(planned, found));
  AttentionFormats other = found;
  other.v = *parse_attention_format("v", "fixed8:f0", "here");
  EXPECT_FALSE(fulfils(other, planned));
  const auto refused = parse_planned_attention_format("k", "bfp4:search", "here");
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("its scale needs a search"), std::string::npos);
}

TEST(AttentionFormats, CacheInOneWordOrTwo) {
  const auto both = with_cache({}, "bfp8/f16", "here");
  ASSERT_TRUE(both);
  EXPECT_EQ(cache_name(*both), "bfp8:b16/f16");
  EXPECT_DOUBLE_EQ(cache_bits(*both, 64), (8.5 + 16) / 2);
  EXPECT_DOUBLE_EQ(cache_bits(*with_cache({}, "bfp6:b32", "here"), 40), (6 + 2 * 8.0 / 40 + 6.25) / 2);
  EXPECT_DOUBLE_EQ(cache_bits(*with_cache({}, "bfp5", "here"), 64), 5.5);
  EXPECT_DOUBLE_EQ(cache_bits(*with_cache({}, "bfp7/bfp3", "here"), 64), (8.5 + 4.5) / 2);
  EXPECT_DOUBLE_EQ(cache_bits(*with_cache({}, "mxfp4", "here"), 64), 4.25);
  EXPECT_DOUBLE_EQ(cache_bits(*with_cache({}, "nvfp4", "here"), 64), 4.5 + (8.0 / 64 + 8.0 / (16 * 64)) / 2);
  EXPECT_TRUE(with_cache({}, "bf16", "here")->plain());
  for (const char* text : {"", "/", "f16/", "bfp8/bfp8/bfp8", "bfp8,bfp8"})
    EXPECT_FALSE(with_cache({}, text, "here")) << text;
  const AttentionFormats blocks[] = {*both, *both, {}};
  EXPECT_EQ(summary_of(blocks), "blocks 0-1: q f32, k bfp8:b16, p f32, v f16; blocks 2-2: q f32, k f32, p f32, v f32");
}

}  // namespace
}  // namespace nibble
