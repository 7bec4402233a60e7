// Folders of weights: one file, shards with an index, and the folders that must be refused.
#include <algorithm>
#include <set>

#include "checkpoint/file_name.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/testing.h"
#include "core/json.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using testing::entry;
using testing::expect_error;
using testing::expect_ok;
using testing::put;
using testing::safetensors;
using testing::TemporaryFolder;
using testing::text_of;

// One tensor of one byte per letter of `names`; its value is the letter.
std::string file_with(std::string_view names) {
  std::string inside;
  for (size_t i = 0; i < names.size(); ++i)
    inside += fmt::format("{}{}", i == 0 ? "" : ",",
                          entry(names.substr(i, 1), "U8", "[1]", fmt::format("[{},{}]", i, i + 1)));
  return safetensors(fmt::format("{{{}}}", inside), names);
}

// A folder with shards one (a, b) and two (c), and an index that is given.
class ShardsTest : public ::testing::Test {
 protected:
  ShardsTest() {
    put(folder_ / "one.safetensors", file_with("ab"));
    put(folder_ / "two.safetensors", file_with("c"));
  }
  Result<Checkpoint> open_with(std::string_view index) {
    put(folder_ / "model.safetensors.index.json", index);
    return Checkpoint::open(folder_.path());
  }
  Result<Checkpoint> open_with_map(std::string_view map) {
    return open_with(R"({"metadata":{"total_size":3},"weight_map":{)" + std::string(map) + "}}");
  }
  static constexpr const char* kGood = R"("a":"one.safetensors","b":"one.safetensors","c":"two.safetensors")";
  TemporaryFolder folder_;
};

TEST(CheckpointTest, OneFile) {
  TemporaryFolder folder;
  put(folder / "model.safetensors", file_with("ab"));
  auto checkpoint = Checkpoint::open(folder.path());
  expect_ok(checkpoint);
  Checkpoint moved = std::move(*checkpoint);
  EXPECT_EQ(moved.folder(), folder.path());
  EXPECT_EQ(moved.tensors().size(), 2u);
  EXPECT_EQ(text_of(moved.find("b")->bytes), "b");
  EXPECT_EQ(moved.tensor("a").value(), moved.find("a"));
  expect_error(moved.tensor("c"), ErrorCode::corrupt, folder.path().string(), "tensor \"c\" is missing");
  EXPECT_EQ(moved.file_bytes(), static_cast<int64_t>(fs::file_size(folder / "model.safetensors")));
  moved.release(*moved.find("a"));
  EXPECT_EQ(text_of(moved.find("a")->bytes), "a");
}

TEST_F(ShardsTest, AllShards) {
  auto checkpoint = open_with_map(kGood);
  expect_ok(checkpoint);
  std::string names;
  for (const TensorView* tensor : checkpoint->tensors()) {
    names += tensor->name;
    EXPECT_EQ(text_of(tensor->bytes), tensor->name);
    checkpoint->release(*tensor);
  }
  EXPECT_EQ(names, "abc");
  EXPECT_EQ(checkpoint->file_bytes(), static_cast<int64_t>(fs::file_size(folder_ / "one.safetensors") +
                                                           fs::file_size(folder_ / "two.safetensors")));
}

TEST_F(ShardsTest, MetadataIsOptionalAndNotBelieved) {
  expect_ok(open_with("{\"weight_map\":{" + std::string(kGood) + "}}"));
  expect_ok(
      open_with(R"({"metadata":{"total_size":999999999},"extra":[1],"weight_map":{)" + std::string(kGood) + "}}"));
}

TEST_F(ShardsTest, TensorsThatTheIndexDoesNotMentionAreThere) {
  auto checkpoint = open_with_map(R"("a":"one.safetensors","c":"two.safetensors")");
  expect_ok(checkpoint);
  EXPECT_NE(checkpoint->find("b"), nullptr);
}

TEST_F(ShardsTest, FilesThatTheIndexDoesNotMentionAreNotOpened) {
  put(folder_ / "three.safetensors", "not a safetensors file");
  expect_ok(open_with_map(kGood));
}

TEST_F(ShardsTest, TheSingleFileIsChosenBeforeTheIndex) {
  put(folder_ / "model.safetensors", file_with("z"));
  auto checkpoint = open_with_map(kGood);
  expect_ok(checkpoint);
  EXPECT_NE(checkpoint->find("z"), nullptr);
  EXPECT_EQ(checkpoint->find("a"), nullptr);
}

TEST_F(ShardsTest, SymbolicLinksAreFollowed) {
  fs::create_directory(folder_ / "blobs");
  fs::rename(folder_ / "two.safetensors", folder_ / "blobs/0123");
  fs::create_symlink("blobs/0123", folder_ / "two.safetensors");
  expect_ok(open_with_map(kGood));
}

// Nothing is thrown for what the file system refuses to follow.
TEST_F(ShardsTest, LinksThatLeadNowhere) {
  fs::create_symlink("round.safetensors", folder_ / "round.safetensors");
  expect_error(open_with_map(R"("a":"round.safetensors")"), ErrorCode::corrupt, "round.safetensors");
  fs::create_symlink("model.safetensors", folder_ / "model.safetensors");
  expect_error(Checkpoint::open(folder_.path()), ErrorCode::io, "model.safetensors");
  fs::remove(folder_ / "model.safetensors");
  fs::create_symlink("gone", folder_ / "model.safetensors");
  expect_error(Checkpoint::open(folder_.path()), ErrorCode::io, "model.safetensors");
}

TEST_F(ShardsTest, NamesThatLeaveTheFolder) {
  for (const char* name :
       {"../one.safetensors", "/etc/passwd", "sub/one.safetensors", "..", ".", "", "a\\\\b.safetensors",
        "./one.safetensors", "one.safetensors/", "..\\\\x.safetensors", "C:\\\\x.safetensors"}) {
    SCOPED_TRACE(name);
    expect_error(open_with_map(fmt::format(R"("a":"{}")", name)), ErrorCode::corrupt, "index.json",
                 "expected the name of a file in the same folder");
  }
  expect_error(open_with_map(R"("a":"x\u0000.safetensors")"), ErrorCode::corrupt, "control characters");
  expect_error(open_with_map(R"("a":"\u001b[2J.safetensors")"), ErrorCode::corrupt, "control characters");
  expect_error(open_with_map("\"a\":\"" + std::string(300, 'x') + ".safetensors\""), ErrorCode::corrupt, "255 bytes");
}

TEST_F(ShardsTest, ShardsThatAreNotThere) {
  expect_error(open_with_map(R"("a":"one.safetensors","d":"three.safetensors")"), ErrorCode::corrupt,
               "index.json: names the shard \"three.safetensors\", which is not in the folder");
  fs::create_directory(folder_ / "dir.safetensors");
  expect_error(open_with_map(R"("a":"dir.safetensors")"), ErrorCode::corrupt, "not in the folder");
  fs::create_symlink("nowhere", folder_ / "dangling.safetensors");
  expect_error(open_with_map(R"("a":"dangling.safetensors")"), ErrorCode::corrupt, "not in the folder");
}

TEST_F(ShardsTest, ShardsOfAnotherKind) {
  put(folder_ / "pytorch_model.bin", "x");
  expect_error(open_with_map(R"("a":"pytorch_model.bin")"), ErrorCode::corrupt, "not a .safetensors file");
}

TEST_F(ShardsTest, TensorsThatAreElsewhere) {
  expect_error(open_with_map(R"("a":"one.safetensors","b":"two.safetensors","c":"two.safetensors")"),
               ErrorCode::corrupt, "maps tensor \"b\" to two.safetensors, but it is in another shard");
  expect_error(open_with_map(std::string(kGood) + R"(,"d":"two.safetensors")"), ErrorCode::corrupt,
               "maps tensor \"d\" to two.safetensors, but it is in no shard");
}

TEST_F(ShardsTest, ATensorInTwoShards) {
  put(folder_ / "two.safetensors", file_with("ca"));
  expect_error(open_with_map(kGood), ErrorCode::corrupt, "tensor \"a\" is in one.safetensors and in two.safetensors");
}

TEST_F(ShardsTest, ATruncatedShard) {
  const std::string whole = file_with("c");
  put(folder_ / "two.safetensors", whole.substr(0, whole.size() - 1));
  expect_error(open_with_map(kGood), ErrorCode::corrupt, "two.safetensors", "truncated");
  put(folder_ / "two.safetensors", "");
  expect_error(open_with_map(kGood), ErrorCode::corrupt, "two.safetensors", "0 bytes are too few");
}

TEST_F(ShardsTest, MalformedIndex) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "not valid JSON"},
      {"[]", "expected an object"},
      {"{}", "\"weight_map\" is missing"},
      {R"({"weight_map":[]})", "\"weight_map\" is not an object"},
      {R"({"weight_map":null})", "\"weight_map\" is not an object"},
      {R"({"weight_map":{}})", "\"weight_map\" is empty"},
      {R"({"weight_map":{"a":1}})", "the shard of tensor \"a\" is not a file name"},
      {R"({"weight_map":{"a":["one.safetensors"]}})", "is not a file name"},
      {R"({"weight_map":{"a":"one.safetensors","a":"two.safetensors"}})", "duplicate key \"a\""},
      {R"({"weight_map":{"a":"one.safetensors"},"weight_map":{}})", "duplicate key \"weight_map\""},
      {R"({"weight_map":{"a":"one.safetensors"}} trailing)", "not valid JSON"},
      {"{\"weight_map\":{\"\xFF\":\"one.safetensors\"}}", "not valid JSON"},
  };
  for (const auto& [text, fragment] : cases) {
    SCOPED_TRACE(text);
    expect_error(open_with(text), ErrorCode::corrupt, "model.safetensors.index.json", fragment);
  }
}

TEST(CheckpointTest, PickleIsRefusedWithTheWayOut) {
  for (const char* name :
       {"pytorch_model.bin", "model.pt", "consolidated.00.pth", "pytorch_model-00001-of-00002.bin"}) {
    SCOPED_TRACE(name);
    TemporaryFolder folder;
    put(folder / name, "PK\x03\x04");
    put(folder / "config.json", "{}");
    auto refused = Checkpoint::open(folder.path());
    expect_error(refused, ErrorCode::unsupported, folder.path().string(), name, "pickle", "safetensors only",
                 "save_pretrained", "safe_serialization=True");
    expect_error(Checkpoint::open(folder / name), ErrorCode::unsupported, name, "pickle");
  }
}

TEST(CheckpointTest, PickleBesideSafetensorsIsIgnored) {
  TemporaryFolder folder;
  put(folder / "model.safetensors", file_with("a"));
  put(folder / "pytorch_model.bin", "PK\x03\x04");
  expect_ok(Checkpoint::open(folder.path()));
}

TEST(CheckpointTest, FoldersWithoutWeights) {
  TemporaryFolder folder;
  expect_error(Checkpoint::open(folder / "absent"), ErrorCode::io, "absent", "No such file");
  expect_error(Checkpoint::open(folder.path()), ErrorCode::corrupt, "no weights");
  put(folder / "m.gguf", "GGUF");
  expect_error(Checkpoint::open(folder.path()), ErrorCode::unsupported, "m.gguf", "GGUF files are not read");
  expect_error(Checkpoint::open(folder / "m.gguf"), ErrorCode::unsupported, "GGUF");
  put(folder / "adapter.safetensors", file_with("a"));
  expect_error(Checkpoint::open(folder.path()), ErrorCode::corrupt, "has adapter.safetensors but neither");
  expect_error(Checkpoint::open(folder / "adapter.safetensors"), ErrorCode::usage, "is a file; expected the folder");
}

TEST(CheckpointTest, ABadSingleFileIsNotSkipped) {
  TemporaryFolder folder;
  put(folder / "model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
  expect_error(Checkpoint::open(folder.path()), ErrorCode::corrupt, "model.safetensors", "git lfs pull");
}

TEST(ShardIndex, WrittenAndReadBack) {
  TemporaryFolder folder;
  put(folder / "one.safetensors", file_with("ab"));
  put(folder / "two.safetensors", file_with("c"));
  const ShardIndex index{{"a", "one.safetensors"}, {"b", "one.safetensors"}, {"c", "two.safetensors"}};
  expect_ok(write_shard_index(folder.path(), index, 3));
  expect_ok(Checkpoint::open(folder.path()));
  const std::string text = testing::get(folder / "model.safetensors.index.json");
  EXPECT_EQ(parse_shard_index(text, "x").value(), index);
  EXPECT_EQ(read_json(folder / "model.safetensors.index.json").value()["metadata"]["total_size"], 3);
}

TEST(FileName, InQuotesIsShortAndPrintable) {
  EXPECT_EQ(in_quotes("a\"b\n"), "\"a\\\"b\\n\"");
  EXPECT_EQ(in_quotes("\x1B[2J"), "\"\\u001b[2J\"");
  EXPECT_LT(in_quotes(std::string(10'000, 'x')).size(), 120u);
}

// The checkpoints of the reference material: each opens, and its tensors are as many as its golden description says.
TEST(CheckpointTest, OpensTheReferenceModels) {
  const fs::path shared = testing::shared_folder();
  if (shared.empty()) GTEST_SKIP() << "the shared reference models are not here";
  int models = 0;
  for (const auto& item : fs::directory_iterator(shared / "models")) {
    const bool weights =
        fs::exists(item.path() / "model.safetensors") || fs::exists(item.path() / "model.safetensors.index.json");
    if (!weights) continue;
    SCOPED_TRACE(item.path().filename().string());
    auto checkpoint = Checkpoint::open(item.path());
    expect_ok(checkpoint);
    EXPECT_GT(checkpoint->tensors().size(), 10u);
    for (const TensorView* tensor : checkpoint->tensors()) expect_ok(check_finite(*tensor));
    ++models;
  }
  EXPECT_EQ(models, 7);
}

// tiny-opt-outlier is stored in three shards; most of its tensors are those of tiny-opt, bit by bit.
TEST(CheckpointTest, ShardsHoldTheSameTensorsAsOneFile) {
  const fs::path shared = testing::shared_folder();
  if (shared.empty()) GTEST_SKIP() << "the shared reference models are not here";
  auto single = Checkpoint::open(shared / "models/tiny-opt"),
       sharded = Checkpoint::open(shared / "models/tiny-opt-outlier");
  expect_ok(single);
  expect_ok(sharded);
  EXPECT_EQ(sharded->files().size(), 3u);
  ASSERT_EQ(single->tensors().size(), sharded->tensors().size());
  for (const TensorView* tensor : single->tensors()) {
    auto other = sharded->tensor(tensor->name);
    expect_ok(other);
    EXPECT_EQ((*other)->shape, tensor->shape) << tensor->name;
  }
}

}  // namespace
}  // namespace nibble
