#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstring>

#include "checkpoint/safetensors.h"
#include "checkpoint/testing.h"
#include "core/hash.h"
#include "core/random.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using testing::bytes_of;
using testing::entries_in;
using testing::expect_error;
using testing::expect_ok;
using testing::get;
using testing::TemporaryFolder;
using testing::text_of;

TensorView view(std::string name, DType dtype, std::vector<int64_t> shape, std::string_view data) {
  return {std::move(name), dtype, std::move(shape), bytes_of(data)};
}

TEST(SafetensorsWriter, WritesTheBytesOfTheReferenceLibrary) {
  TemporaryFolder folder;
  const float values[] = {1, 2, 3, 4};
  expect_ok(write_safetensors(folder / "m", {{"w", DType::f32, {2, 2}, std::as_bytes(std::span(values))}}));
  using namespace std::string_literals;
  EXPECT_EQ(get(folder / "m"),
            "X\0\0\0\0\0\0\0{\"__metadata__\":{\"format\":\"pt\"},\"w\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_"
            "offsets\":[0,16]}}"
            "\0\0\x80\x3F\0\0\0\x40\0\0\x40\x40\0\0\x80\x40"s);
}

// 13 types x 4 shapes; the hash is that of the file which the Python package safetensors 0.8.0 writes for them.
TEST(SafetensorsWriter, OrdersManyTypesAsTheReferenceLibrary) {
  TemporaryFolder folder;
  std::string counting, alternating;
  for (int i = 0; i < 48; ++i) counting += static_cast<char>(i), alternating += static_cast<char>(i % 2);
  std::vector<TensorView> tensors;
  for (DType type : {DType::boolean, DType::u8, DType::i8, DType::i16, DType::u16, DType::f16, DType::i32, DType::u32,
                     DType::f32, DType::c64, DType::f64, DType::i64, DType::u64}) {
    const std::string prefix = std::string(name_of(type)) + ".";
    const std::string_view data = type == DType::boolean ? alternating : counting;
    const size_t size = static_cast<size_t>(bits_of(type)) / 8;
    tensors.push_back(view(prefix + "b", type, {2, 3}, data.substr(0, 6 * size)));
    tensors.push_back(view(prefix + "a", type, {1}, data.substr(0, size)));
    tensors.push_back(view(prefix + "\xC3\xA9", type, {0, 4}, ""));
    tensors.push_back(view(prefix + "s", type, {}, data.substr(0, size)));
  }
  expect_ok(write_safetensors(folder / "m", tensors));
  EXPECT_EQ(fs::file_size(folder / "m"), 3672u);
  EXPECT_EQ(sha256(get(folder / "m")), "fb31bd86a5cc6e8f3042d6a16055d73f442ee480992cef65402fb4407744fae4");
}

struct RandomFile {
  std::vector<std::string> data;
  std::vector<TensorView> tensors;
  std::map<std::string, std::string> metadata;
};

RandomFile random_file(uint64_t seed) {
  Random random(seed);
  RandomFile file;
  const uint64_t count = random.below(12);
  file.data.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    const auto dtype = static_cast<DType>(random.below(22));
    std::vector<int64_t> shape;
    for (uint64_t d = random.below(5); d > 0; --d) shape.push_back(static_cast<int64_t>(random.below(5)));
    if (bits_of(dtype) % 8 != 0) shape.push_back(4);  // four elements of 4 or 6 bits end on a byte
    TensorView t{fmt::format("t\xC3\xA9 \"{}\" {}", random.below(1000), i), dtype, shape, {}};
    std::string data(static_cast<size_t>(t.elements() * bits_of(dtype) / 8), '\0');
    for (char& c : data) c = static_cast<char>(random.next());
    file.data.push_back(std::move(data));
    t.bytes = bytes_of(file.data.back());
    file.tensors.push_back(std::move(t));
  }
  for (uint64_t i = random.below(3); i > 0; --i)
    file.metadata[fmt::format("k{}\n", i)] = fmt::format("v\\{}", random.next());
  return file;
}

TEST(SafetensorsWriter, WhatIsWrittenIsReadBack) {
  TemporaryFolder folder;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(seed);
    const RandomFile source = random_file(seed);
    expect_ok(write_safetensors(folder / "m", source.tensors, source.metadata));
    auto file = SafetensorsFile::open(folder / "m");
    expect_ok(file);
    ASSERT_EQ(file->tensors().size(), source.tensors.size());
    for (const TensorView& expected : source.tensors) {
      const TensorView* found = file->find(expected.name);
      ASSERT_NE(found, nullptr);
      EXPECT_EQ(found->dtype, expected.dtype);
      EXPECT_EQ(found->shape, expected.shape);
      EXPECT_EQ(text_of(found->bytes), text_of(expected.bytes));
    }
    auto metadata = source.metadata;
    metadata["format"] = "pt";
    EXPECT_EQ(file->metadata(), metadata);
  }
}

TEST(SafetensorsWriter, TheBytesDoNotDependOnTheOrderGiven) {
  TemporaryFolder folder;
  RandomFile source = random_file(11);
  ASSERT_GE(source.tensors.size(), 3u);
  expect_ok(write_safetensors(folder / "a", source.tensors));
  std::reverse(source.tensors.begin(), source.tensors.end());
  expect_ok(write_safetensors(folder / "b", source.tensors));
  EXPECT_EQ(get(folder / "a"), get(folder / "b"));
}

TEST(SafetensorsWriter, DataStartsAtAMultipleOfEight) {
  TemporaryFolder folder;
  for (size_t length = 1; length <= 16; ++length) {
    expect_ok(write_safetensors(folder / "m", {view(std::string(length, 'n'), DType::u8, {1}, "x")}));
    EXPECT_EQ(fs::file_size(folder / "m") % 8, 1u);
  }
}

TEST(SafetensorsWriter, TheFormatIsAlwaysPt) {
  TemporaryFolder folder;
  expect_ok(write_safetensors(folder / "m", {}, {{"format", "tf"}}));
  EXPECT_EQ(SafetensorsFile::open(folder / "m")->metadata().at("format"), "pt");
}

TEST(SafetensorsWriter, StreamsInPieces) {
  TemporaryFolder folder;
  auto writer = SafetensorsWriter::create(
      folder / "m",
      {view("a", DType::u8, {4}, ""), view("empty", DType::f32, {0}, ""), view("b", DType::f16, {2}, "")});
  expect_ok(writer);
  ASSERT_EQ(writer->order().size(), 3u);
  EXPECT_EQ(writer->order()[0].name, "empty");
  EXPECT_EQ(writer->order()[1].name, "b");
  EXPECT_EQ(writer->order()[2].name, "a");
  expect_ok(writer->write("b", bytes_of("xyz")));
  expect_ok(writer->write("b", bytes_of("w")));
  expect_ok(writer->write("a", bytes_of("1")));
  expect_ok(writer->write("empty", {}));
  expect_ok(writer->write("a", bytes_of("234")));
  EXPECT_FALSE(fs::exists(folder / "m"));
  expect_ok(writer->commit());
  auto file = SafetensorsFile::open(folder / "m");
  expect_ok(file);
  EXPECT_EQ(text_of(file->find("a")->bytes), "1234");
  EXPECT_EQ(text_of(file->find("b")->bytes), "xyzw");
}

TEST(SafetensorsWriter, RefusesBytesThatAreNotDue) {
  TemporaryFolder folder;
  {
    auto writer =
        SafetensorsWriter::create(folder / "m", {view("a", DType::u8, {4}, ""), view("b", DType::u8, {2}, "")});
    expect_ok(writer);
    expect_error(writer->write("b", bytes_of("x")), ErrorCode::failure, "\"b\" came while \"a\" was due");
    expect_error(writer->write("a", bytes_of("12345")), ErrorCode::failure, "1 bytes too many");
    expect_ok(writer->write("a", bytes_of("1234")));
    expect_ok(writer->write("b", bytes_of("1")));
    expect_error(writer->commit(), ErrorCode::failure, "tensor \"b\" lacks 1 bytes");
    expect_ok(writer->write("b", bytes_of("1")));
    expect_error(writer->write("b", bytes_of("1")), ErrorCode::failure, "\"nothing\" was due");
  }
  EXPECT_EQ(entries_in(folder.path()), 0) << "nothing is left without commit";
}

TEST(SafetensorsWriter, NeverBeginsAFileThatTheReaderWouldRefuse) {
  TemporaryFolder folder;
  const auto refused = [&](std::vector<TensorView> tensors, std::string_view why) {
    expect_error(write_safetensors(folder / "m", tensors), ErrorCode::failure, "cannot write", why);
  };
  refused({view("a", DType::u8, {1}, "x"), view("a", DType::u8, {1}, "y")}, "duplicate key \"a\"");
  refused({view("", DType::u8, {1}, "x")}, "empty name");
  refused({view("a\nb", DType::u8, {1}, "x")}, "control characters");
  refused({view("\xFF", DType::u8, {1}, "x")}, "not valid UTF-8");
  refused({view("__metadata__", DType::u8, {1}, "x")}, "__metadata__");
  refused({view(std::string(1025, 'n'), DType::u8, {1}, "x")}, "1025 bytes");
  refused({view("a", DType::u8, {-1}, "x")}, "impossible shape");
  refused({view("a", DType::f4, {3}, "xy")}, "impossible shape");
  refused({view("a", DType::u8, {int64_t{1} << 40, int64_t{1} << 40}, "x")}, "impossible shape");
  refused({view("a", DType::u8, {1, 1, 1, 1, 1, 1, 1, 1, 1}, "x")}, "8 dimensions");
  refused({view("a", DType::f32, {2}, "1234")}, "lacks 4 bytes");
  refused({view("a", DType::f32, {1}, "12345")}, "1 bytes too many");
  EXPECT_EQ(entries_in(folder.path()), 0);
}

TEST(SafetensorsWriter, AWriteThatFailsKeepsTheOldFile) {
  TemporaryFolder folder;
  testing::put(folder / "m", "old");
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  const rlimit tiny{10, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &tiny), 0);
  const auto written = write_safetensors(folder / "m", {view("a", DType::u8, {1}, "x")});
  ::setrlimit(RLIMIT_FSIZE, &before);
  ::signal(SIGXFSZ, handler);
  expect_error(written, ErrorCode::io, "cannot write", "File too large");
  EXPECT_EQ(get(folder / "m"), "old");
  EXPECT_EQ(entries_in(folder.path()), 1);
}

}  // namespace
}  // namespace nibble
