// The reader, rule by rule: files that must be refused with the reason, and files that must be accepted.
#include "checkpoint/safetensors.h"

#include <algorithm>

#include "checkpoint/safetensors_header.h"
#include "checkpoint/testing.h"

namespace nibble {
namespace {

using namespace std::string_literals;
using testing::bytes_of;
using testing::entry;
using testing::expect_error;
using testing::expect_ok;
using testing::little_endian_64;
using testing::safetensors;
using testing::text_of;

Result<SafetensorsHeader> parse(std::string_view file) { return parse_safetensors(bytes_of(file), "m.safetensors"); }

struct Case {
  const char* what;
  std::string file;
  std::string fragment;  // of the message
};

void expect_all_refused(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    expect_error(parse(c.file), ErrorCode::corrupt, "m.safetensors", c.fragment);
  }
}

std::string object(const std::string& inside) { return "{" + inside + "}"; }
std::string one(std::string_view dtype, std::string_view shape, std::string_view offsets) {
  return object(entry("w", dtype, shape, offsets));
}

TEST(SafetensorsHostile, SizeOfTheHeader) {
  expect_all_refused({
      {"rule 1: empty file", "", "0 bytes are too few"},
      {"rule 1: seven bytes", std::string(7, '\0'), "7 bytes are too few"},
      {"rule 2: one more than the limit", little_endian_64(100'000'001) + "{}", "100000001 bytes is too large"},
      {"rule 2: 2^63", little_endian_64(uint64_t{1} << 63) + "{}", "9223372036854775808 bytes is too large"},
      {"rule 2: 2^64-1", little_endian_64(UINT64_MAX) + "{}", "18446744073709551615 bytes is too large"},
      {"rule 2: big-endian size", "\0\0\0\0\0\0\0\2{}"s, "is too large"},
      {"rule 2: a zip archive, as newer pickles are", "PK\x03\x04\x14\0\x08\x08 archive"s, "is too large"},
      {"rule 2: a GGUF file", "GGUF\3\0\0\0\1\0\0\0"s, "is too large"},
      {"rule 3: exactly the limit, in a short file", little_endian_64(100'000'000) + "{}", "but only 2 follow"},
      {"rule 3: one byte missing", little_endian_64(3) + "{}", "has 3 bytes, but only 2 follow"},
      {"rule 3: nothing after the size", little_endian_64(2), "but only 0 follow"},
      {"an LFS pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"},
  });
}

TEST(SafetensorsHostile, NotText) {
  expect_all_refused({
      {"rule 4: a stray byte", safetensors("{\"\xFF\":1}"), "not valid UTF-8 at byte 2"},
      {"rule 4: overlong slash", safetensors("{\"\xC0\xAF\":1}"), "not valid UTF-8 at byte 2"},
      {"rule 4: surrogate", safetensors("{\"\xED\xA0\x80\":1}"), "not valid UTF-8"},
      {"rule 4: beyond U+10FFFF", safetensors("{\"\xF4\x90\x80\x80\":1}"), "not valid UTF-8"},
      {"rule 4: cut code point", safetensors("{}\xE2\x82"), "not valid UTF-8 at byte 2"},
      {"rule 4: UTF-16", safetensors("\xFF\xFE{\0}\0"s), "not valid UTF-8 at byte 0"},
      {"rule 4 before rule 5", safetensors("nonsense \xFF"), "not valid UTF-8"},
  });
}

TEST(SafetensorsHostile, NotTheExpectedJson) {
  expect_all_refused({
      {"empty header", safetensors(""), "does not start with '{'"},
      {"only padding", safetensors("        "), "does not start with '{'"},
      {"byte order mark", safetensors("\xEF\xBB\xBF{}"), "does not start with '{'"},
      {"a list", safetensors("[]"), "does not start with '{'"},
      {"null", safetensors("null"), "does not start with '{'"},
      {"not closed", safetensors("{"), "not valid JSON"},
      {"trailing comma", safetensors("{\"__metadata__\":{},}"), "not valid JSON"},
      {"single quotes", safetensors("{'a':1}"), "not valid JSON"},
      {"a comment", safetensors("{}//x"), "not valid JSON"},
      {"two documents", safetensors("{}{}"), "not valid JSON"},
      {"hidden after a NUL", safetensors("{}\0{\"x\":1}"s), "not valid JSON at byte 2"},
      {"padded with NUL", safetensors("{}\0\0\0\0\0\0"s), "not valid JSON"},
      {"tensor is a number", safetensors("{\"w\":3}"), "\"w\" is a number, expected an object"},
      {"tensor is a list", safetensors("{\"w\":[]}"), "\"w\" is a list, expected an object"},
      {"tensor is null", safetensors("{\"w\":null}"), "\"w\" is null, expected an object"},
      {"deep nesting", safetensors("{\"w\":{\"shape\":" + std::string(100'000, '[')), "has a list in shape"},
      {"deep objects", safetensors(object("\"w\":{\"dtype\":{\"dtype\":{}}}")), "has an object for dtype"},
  });
}

TEST(SafetensorsHostile, WrongFields) {
  const std::string huge(400, '9');
  expect_all_refused({
      {"unknown dtype", safetensors(one("F24", "[1]", "[0,3]"), "abc"), "tensor \"w\" has unknown dtype \"F24\""},
      {"lower-case dtype", safetensors(one("f32", "[1]", "[0,4]"), "abcd"), "unknown dtype \"f32\""},
      {"empty dtype", safetensors(one("", "[1]", "[0,4]"), "abcd"), "unknown dtype \"\""},
      {"dtype is a number", safetensors(R"({"w":{"dtype":5,"shape":[],"data_offsets":[0,1]}})", "a"),
       "has a number for dtype"},
      {"negative extent", safetensors(one("U8", "[-1]", "[0,1]"), "a"), "has the number -1 in shape"},
      {"negative zero", safetensors(one("U8", "[-0]", "[0,0]")), "in shape"},
      {"fraction", safetensors(one("U8", "[1.5]", "[0,1]"), "a"), "has the number \"1.5\" in shape"},
      {"float of an integer", safetensors(one("U8", "[1.0]", "[0,1]"), "a"), "in shape"},
      {"exponent", safetensors(one("U8", "[1e0]", "[0,1]"), "a"), "in shape"},
      {"1e400", safetensors(one("U8", "[1e400]", "[0,1]"), "a"), "not valid JSON"},
      {"2^64", safetensors(one("U8", "[18446744073709551616]", "[0,1]"), "a"), "in shape"},
      {"400 digits", safetensors(one("U8", "[" + huge + "]", "[0,1]"), "a"), "not valid JSON"},
      {"text as extent", safetensors(one("U8", R"(["1"])", "[0,1]"), "a"), "has a string in shape"},
      {"true as extent", safetensors(one("U8", "[true]", "[0,1]"), "a"), "has a boolean in shape"},
      {"null as extent", safetensors(one("U8", "[null]", "[0,1]"), "a"), "has null in shape"},
      {"nested shape", safetensors(one("U8", "[[1]]", "[0,1]"), "a"), "has a list in shape"},
      {"shape is a number", safetensors(one("U8", "1", "[0,1]"), "a"), "has a number for shape"},
      {"shape is null", safetensors(one("U8", "null", "[0,1]"), "a"), "has null for shape"},
      {"nine dimensions", safetensors(one("U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), "a"), "more than 8 dimensions"},
      {"negative offset", safetensors(one("U8", "[1]", "[-1,0]"), "a"), "in data_offsets"},
      {"no offsets", safetensors(one("U8", "[0]", "[]")), "needs two data_offsets"},
      {"one offset", safetensors(one("U8", "[1]", "[0]"), "a"), "needs two data_offsets"},
      {"three offsets", safetensors(one("U8", "[1]", "[0,1,1]"), "a"), "more than two data_offsets"},
      {"offsets as object", safetensors(one("U8", "[1]", "{}"), "a"), "has an object for data_offsets"},
      {"no dtype", safetensors(R"({"w":{"shape":[1],"data_offsets":[0,1]}})", "a"), "lacks dtype"},
      {"no shape", safetensors(R"({"w":{"dtype":"U8","data_offsets":[0,1]}})", "a"), "lacks dtype, shape"},
      {"no fields", safetensors(R"({"w":{}})"), "lacks dtype"},
      {"unknown field", safetensors(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"strides":[1]}})", "a"),
       "tensor \"w\" has the unknown key \"strides\""},
  });
}

TEST(SafetensorsHostile, NamesAndMetadata) {
  const std::string w = entry("w", "U8", "[1]", "[0,1]");
  expect_all_refused({
      {"the same tensor twice", safetensors(object(w + "," + w), "a"), "duplicate key \"w\""},
      {"twice, once escaped", safetensors(object(w + "," + entry("\\u0077", "U8", "[1]", "[1,2]")), "ab"),
       "duplicate key \"w\""},
      {"a field twice", safetensors(R"({"w":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}})", "a"),
       "duplicate key \"dtype\""},
      {"metadata twice", safetensors(R"({"__metadata__":{},"__metadata__":{}})"), "duplicate key \"__metadata__\""},
      {"a metadata key twice", safetensors(R"({"__metadata__":{"a":"1","a":"2"}})"), "duplicate key \"a\""},
      {"metadata is a list", safetensors(R"({"__metadata__":[]})"), "is a list, expected an object"},
      {"metadata is text", safetensors(R"({"__metadata__":"pt"})"), "is a string, expected an object"},
      {"metadata value is a number", safetensors(R"({"__metadata__":{"a":1}})"), "\"a\" is a number, expected text"},
      {"metadata value is null", safetensors(R"({"__metadata__":{"a":null}})"), "\"a\" is null, expected text"},
      {"metadata value is an object", safetensors(R"({"__metadata__":{"a":{}}})"), "\"a\" is an object"},
      {"empty name", safetensors(object(entry("", "U8", "[1]", "[0,1]")), "a"), "empty name"},
      {"NUL in a name", safetensors(object(entry("a\\u0000b", "U8", "[1]", "[0,1]")), "a"), "control characters"},
      {"an escape sequence for terminals", safetensors(object(entry("\\u001b[2J", "U8", "[1]", "[0,1]")), "a"),
       "control characters"},
      {"a long name", safetensors(object(entry(std::string(1025, 'n'), "U8", "[1]", "[0,1]")), "a"), "1025 bytes"},
  });
}

TEST(SafetensorsHostile, Offsets) {
  auto two = [](std::string_view first, std::string_view second) {
    return object(entry("a", "U8", "[2]", first) + "," + entry("b", "U8", "[2]", second));
  };
  expect_all_refused({
      {"rule 6: does not start at 0", safetensors(one("U8", "[1]", "[1,2]"), "ab"), "expected to start at 0"},
      {"rule 6: hole", safetensors(two("[0,2]", "[3,5]"), "abcde"), "tensor \"b\" has data_offsets [3, 5]"},
      {"rule 6: overlap", safetensors(two("[0,2]", "[1,3]"), "abc"), "tensor \"b\" has data_offsets [1, 3]"},
      {"rule 6: the same bytes twice", safetensors(two("[0,2]", "[0,2]"), "ab"), "expected to start at 2"},
      {"rule 6: reversed", safetensors(one("U8", "[2]", "[2,0]"), "ab"), "has data_offsets [2, 0]"},
      {"rule 6: end before start", safetensors(two("[0,2]", "[2,1]"), "abcd"), "has data_offsets [2, 1]"},
      {"rule 6: an end that wraps", safetensors(one("U8", "[1]", "[18446744073709551615,0]"), "a"),
       "expected to start"},
      {"rule 6 before rule 7", safetensors(one("U8", "[9223372036854775808,2]", "[1,2]"), "ab"), "expected to start"},
  });
}

TEST(SafetensorsHostile, ShapesThatOverflow) {
  auto shape = [](std::string_view s) { return safetensors(one("F32", s, "[0,4]"), "abcd"); };
  expect_all_refused({
      {"rule 7: 2^32 x 2^32", shape("[4294967296,4294967296]"), "too large to exist"},
      {"rule 7: 2^63 x 2", shape("[9223372036854775808,2]"), "too large to exist"},
      {"rule 7: 2^64-1", shape("[18446744073709551615]"), "too large to exist"},
      {"rule 7: the bits overflow", shape("[576460752303423489]"), "too large to exist"},
      {"rule 7: wraps to the right size", shape("[4294967296,4294967296,1]"), "too large to exist"},
      {"rule 7: a zero after", safetensors(one("F32", "[4294967296,4294967296,0]", "[0,0]")), "too large to exist"},
      {"rule 7: a zero before", safetensors(one("F32", "[0,4294967296,4294967296]", "[0,0]")), "too large to exist"},
      {"rule 7: does not fit a signed extent", safetensors(one("U8", "[0,9223372036854775808]", "[0,0]")),
       "too large to exist"},
      {"rule 7 before rule 9", safetensors(one("F32", "[9223372036854775807,3]", "[0,1]"), "a"), "too large to exist"},
  });
}

TEST(SafetensorsHostile, Sizes) {
  auto w = [](std::string_view dtype, std::string_view shape, std::string_view offsets, std::string_view data) {
    return safetensors(one(dtype, shape, offsets), data);
  };
  expect_all_refused({
      {"rule 8: one F4", w("F4", "[1]", "[0,1]", "a"), "does not end on a byte"},
      {"rule 8: three F4", w("F4", "[3]", "[0,2]", "ab"), "does not end on a byte"},
      {"rule 8: F6", w("F6_E2M3", "[3]", "[0,3]", "abc"), "type F6_E2M3 and shape [3] does not end on a byte"},
      {"rule 8: F6, other", w("F6_E3M2", "[2,5]", "[0,8]", "abcdefgh"), "does not end on a byte"},
      {"rule 9: too small", w("F32", "[2]", "[0,4]", "abcd"), "needs 8 bytes, its data_offsets give it 4"},
      {"rule 9: too large", w("F16", "[1]", "[0,4]", "abcd"), "needs 2 bytes, its data_offsets give it 4"},
      {"rule 9: a scalar of two bytes", w("U8", "[]", "[0,2]", "ab"), "needs 1 bytes"},
      {"rule 9: empty with bytes", w("U8", "[0]", "[0,1]", "a"), "needs 0 bytes"},
      {"rule 9: elements instead of bytes", w("I64", "[8]", "[0,8]", "abcdefgh"), "needs 64 bytes"},
      {"rule 10: one byte missing", w("F32", "[1]", "[0,4]", "abc"), "truncated"},
      {"rule 10: all missing", w("F32", "[1]", "[0,4]", ""), "need 4 bytes after the header, the file has 0"},
      {"rule 10: one byte more", w("F32", "[1]", "[0,4]", "abcde"), "longer than its header says"},
      {"rule 10: bytes without tensors", safetensors("{}", "a"), "longer than its header says"},
      {"rule 10: offsets far away", w("U8", "[1152921504606846976]", "[0,1152921504606846976]", "a"), "truncated"},
      {"rule 9 before rule 10", w("F32", "[2]", "[0,4]", "abc"), "needs 8 bytes"},
  });
}

TEST(SafetensorsHostile, EveryTruncationOfAFile) {
  const std::string file =
      safetensors(object(R"("__metadata__":{"format":"pt"},)" + entry("a", "F32", "[2,3]", "[0,24]") + "," +
                         entry("b.weight", "F16", "[4]", "[24,32]") + "  "),
                  std::string(32, 'x'));
  ASSERT_GE(file.size(), 180u);
  ASSERT_LE(file.size(), 250u);
  expect_ok(parse(file));
  for (size_t length = 0; length < file.size(); ++length) {
    SCOPED_TRACE(length);
    expect_error(parse(std::string_view(file).substr(0, length)), ErrorCode::corrupt, "m.safetensors");
  }
  expect_error(parse(file + "x"), ErrorCode::corrupt, "longer than its header says");
}

// Whatever one wrong byte does, an accepted file has views inside its bytes that fit their shapes.
TEST(SafetensorsHostile, EveryChangedByteIsRefusedOrHarmless) {
  const std::string file = safetensors(
      object(entry("a", "F32", "[2,3]", "[0,24]") + "," + entry("b", "U8", "[8]", "[24,32]")), std::string(32, 'x'));
  int accepted = 0;
  for (size_t i = 0; i < file.size(); ++i)
    for (int value = 0; value < 256; ++value) {
      std::string changed = file;
      changed[i] = static_cast<char>(value);
      auto header = parse(changed);
      if (!header) continue;
      ++accepted;
      for (const TensorView& t : header->tensors) {
        const auto* begin = reinterpret_cast<const std::byte*>(changed.data());
        ASSERT_GE(t.bytes.data(), begin);
        ASSERT_LE(t.bytes.data() + t.bytes.size(), begin + changed.size());
        ASSERT_EQ(t.elements() * bits_of(t.dtype), static_cast<int64_t>(t.bytes.size()) * 8);
      }
    }
  EXPECT_GT(accepted, 32 * 256) << "data bytes and other names are accepted";
}

TEST(SafetensorsGood, EmptyFile) {
  auto header = parse(safetensors("{}"));
  expect_ok(header);
  EXPECT_TRUE(header->tensors.empty());
  EXPECT_TRUE(header->metadata.empty());
}

TEST(SafetensorsGood, OneTensor) {
  const std::string file = safetensors(one("F32", "[2,1]", "[0,8]"), "abcdefgh");
  auto header = parse(file);
  expect_ok(header);
  ASSERT_EQ(header->tensors.size(), 1u);
  const TensorView& w = header->tensors[0];
  EXPECT_EQ(w.name, "w");
  EXPECT_EQ(w.dtype, DType::f32);
  EXPECT_EQ(w.shape, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(text_of(w.bytes), "abcdefgh");
  EXPECT_EQ(reinterpret_cast<const char*>(w.bytes.data()), file.data() + file.size() - 8) << "a view, not a copy";
}

TEST(SafetensorsGood, MetadataIsKept) {
  auto header = parse(safetensors(R"({"__metadata__":{"format":"pt","a":"b\n\u00e9","":""}})"));
  expect_ok(header);
  EXPECT_EQ(header->metadata, (std::map<std::string, std::string>{{"", ""}, {"a", "b\n\xC3\xA9"}, {"format", "pt"}}));
}

TEST(SafetensorsGood, NullMetadataCountsAsAbsent) { expect_ok(parse(safetensors(R"({"__metadata__":null})"))); }

TEST(SafetensorsGood, WhitespaceAroundTheHeader) {
  expect_ok(parse(safetensors(" \t\r\n{ } \n\t ")));
  const std::string aligned = std::string(4096 - 8 - 2, ' ') + "{}";
  expect_ok(parse(safetensors(aligned)));
}

TEST(SafetensorsGood, ScalarsAndZeroExtents) {
  auto header = parse(safetensors(object(entry("s", "F64", "[]", "[0,8]") + "," + entry("z", "F32", "[0]", "[8,8]") +
                                         "," + entry("y", "F32", "[3,0,5]", "[8,8]")),
                                  "12345678"));
  expect_ok(header);
  ASSERT_EQ(header->tensors.size(), 3u);
  EXPECT_EQ(header->tensors[0].elements(), 1);
  EXPECT_EQ(header->tensors[1].elements(), 0);
  EXPECT_EQ(header->tensors[2].shape, (std::vector<int64_t>{3, 0, 5}));
}

TEST(SafetensorsGood, AnEmptyTensorBetweenOthers) {
  const std::string inside = entry("b", "U8", "[2]", "[2,4]") + "," + entry("z", "U8", "[0]", "[2,2]") + "," +
                             entry("a", "U8", "[2]", "[0,2]");
  const std::string file = safetensors(object(inside), "abcd");
  auto header = parse(file);
  expect_ok(header);
  ASSERT_EQ(header->tensors.size(), 3u);
  EXPECT_EQ(header->tensors[0].name, "a");
  EXPECT_EQ(header->tensors[1].name, "z");
  EXPECT_EQ(header->tensors[2].name, "b");
  EXPECT_EQ(text_of(header->tensors[2].bytes), "cd");
}

TEST(SafetensorsGood, FieldsInAnyOrder) {
  expect_ok(parse(safetensors(R"({"w":{"data_offsets":[0,1],"shape":[1],"dtype":"I8"}})", "a")));
}

TEST(SafetensorsGood, EveryDtype) {
  const std::pair<const char*, int> types[] = {
      {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},          {"I8", 8},
      {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"I16", 16},    {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8},
      {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},    {"U32", 32},        {"F32", 32},
      {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64}};
  EXPECT_EQ(std::size(types), 22u);
  for (auto [name, bits] : types) {
    SCOPED_TRACE(name);
    const int bytes = bits;  // of eight elements
    auto header = parse(safetensors(one(name, "[2,4]", fmt::format("[0,{}]", bytes)), std::string(size_t(bytes), 'd')));
    expect_ok(header);
    EXPECT_EQ(name_of(header->tensors[0].dtype), name);
    EXPECT_EQ(bits_of(header->tensors[0].dtype), bits);
  }
}

TEST(SafetensorsGood, NamesUpToTheLimitAndOfAnyScript) {
  const std::string longest(1024, 'n');
  auto header = parse(safetensors(object(entry(longest, "U8", "[1]", "[0,1]") + "," +
                                         entry("\xE5\xB1\x82.\xF0\x9F\x98\x80/../x", "U8", "[1]", "[1,2]")),
                                  "ab"));
  expect_ok(header);
  EXPECT_EQ(header->tensors[0].name, longest);
  EXPECT_EQ(header->tensors[1].name, "\xE5\xB1\x82.\xF0\x9F\x98\x80/../x");
}

TEST(SafetensorsGood, EightDimensions) { expect_ok(parse(safetensors(one("U8", "[1,1,1,1,1,1,1,2]", "[0,2]"), "ab"))); }

TEST(SafetensorsGood, NotANumberInTheData) {
  expect_ok(parse(safetensors(one("F32", "[1]", "[0,4]"), "\xFF\xFF\xFF\xFF")));
}

TEST(SafetensorsGood, AHeaderThatDoesNotAlignTheData) {
  const std::string file = safetensors(one("F32", "[1]", "[0,4]") + " ", "\0\0\x80\x3F"s);
  auto header = parse(file);
  expect_ok(header);
  float value = 0;
  expect_ok(read_floats(header->tensors[0], 0, std::span(&value, 1)));
  EXPECT_EQ(value, 1.0f);
}

// Headers of many tensors take time and memory in proportion; one more than the limit is the end.
TEST(SafetensorsLimits, AMillionTensorsAndNotOneMore) {
  std::string header = "{";
  for (size_t i = 0; i <= kMaxTensors; ++i) {
    if (i == 100'000) {
      auto parsed = parse(safetensors(header + "}"));
      expect_ok(parsed);
      EXPECT_EQ(parsed->tensors.size(), 100'000u);
    }
    header += i == 0 ? "\"" : ",\"";
    header += std::to_string(i);
    header += R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  }
  expect_error(parse(safetensors(header + "}")), ErrorCode::corrupt, "more than 1000000 tensors");
}

TEST(SafetensorsFileTest, OpensFindsAndMoves) {
  testing::TemporaryFolder folder;
  testing::put(folder / "m.safetensors",
               safetensors(object(R"("__metadata__":{"k":"v"},)" + entry("a", "U8", "[1]", "[0,1]") + "," +
                                  entry("b", "U8", "[2]", "[1,3]")),
                           "xyz"));
  auto opened = SafetensorsFile::open(folder / "m.safetensors");
  expect_ok(opened);
  SafetensorsFile file = std::move(*opened);
  ASSERT_NE(file.find("b"), nullptr);
  EXPECT_EQ(text_of(file.find("b")->bytes), "yz");
  EXPECT_EQ(file.find("c"), nullptr);
  EXPECT_EQ(file.find(""), nullptr);
  EXPECT_EQ(file.metadata().at("k"), "v");
  EXPECT_EQ(file.tensors().size(), 2u);
  file.release(*file.find("b"));
  EXPECT_EQ(text_of(file.find("b")->bytes), "yz");
}

TEST(SafetensorsFileTest, MessagesNameTheFile) {
  testing::TemporaryFolder folder;
  testing::put(folder / "bad.safetensors", "short");
  expect_error(SafetensorsFile::open(folder / "bad.safetensors"), ErrorCode::corrupt, "bad.safetensors", "5 bytes");
  expect_error(SafetensorsFile::open(folder / "absent.safetensors"), ErrorCode::io, "absent.safetensors",
               "No such file");
  expect_error(SafetensorsFile::open(folder.path()), ErrorCode::io, "not a regular file");
}

// A file larger than memory is only a map: nothing is read before it is asked for.
TEST(SafetensorsFileTest, ASparseFileOfEightGigabytes) {
  testing::TemporaryFolder folder;
  const uint64_t size = uint64_t{8} << 30;
  testing::put(folder / "big.safetensors",
               safetensors(one("U8", fmt::format("[{}]", size), fmt::format("[0,{}]", size))));
  const auto path = folder / "big.safetensors";
  std::error_code error;
  std::filesystem::resize_file(path, std::filesystem::file_size(path) + size, error);
  if (error) GTEST_SKIP() << "the file system has no large sparse files";
  auto file = SafetensorsFile::open(path);
  expect_ok(file);
  EXPECT_EQ(file->find("w")->elements(), static_cast<int64_t>(size));
  EXPECT_EQ(file->find("w")->bytes.back(), std::byte{0});
}

}  // namespace
}  // namespace nibble
