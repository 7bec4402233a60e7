#include "runtime/packed_cache.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/testing.h"
#include "model/random/random_checkpoint.h"
#include "runtime/model.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using testing::TemporaryFolder;

class PackedCacheOfAModel : public ::testing::Test {
 protected:
  void SetUp() override {
    RandomCheckpoint wanted;
    wanted.shape = find_known_shape("tiny");
    ASSERT_TRUE(write_random_checkpoint(wanted, model_, pool_, {}));
    uncached_ = logits_of({});
    ASSERT_FALSE(fs::exists(cache_));
  }

  // Of a few tokens; `note_` is what loading said.
  std::vector<float> logits_of(Model::Options options) {
    auto model = Model::load(model_, options, pool_);
    EXPECT_TRUE(model) << model.error().message;
    note_ = model->note();
    std::vector<float> logits(static_cast<size_t>(model->spec().vocabulary));
    Sequence sequence = model->new_sequence();
    Workspace workspace;
    const int32_t ids[] = {5, 99, 300, 7};
    Segment segment{&sequence, 4, 0};
    const int64_t last = 3;
    EXPECT_TRUE(model->forward(ids, {&segment, 1}, {&last, 1}, logits.data(), workspace, pool_));
    return logits;
  }
  void expect_loads(std::string_view note) {
    Model::Options options;
    options.packed_cache = true;
    EXPECT_EQ(logits_of(options), uncached_);
    EXPECT_NE(note_.find(note), std::string::npos) << note_;
  }
  void overwrite(int64_t at, char byte) {
    std::fstream file(cache_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(at);
    file.put(byte);
  }

  TemporaryFolder folder_;
  const fs::path model_ = folder_ / "model", cache_ = model_ / kPackedCacheName;
  ThreadPool pool_{2};
  std::vector<float> uncached_;
  std::string note_;
};

TEST_F(PackedCacheOfAModel, IsWrittenThenMapped) {
  expect_loads("packed weights written to");
  expect_loads("packed weights mapped from");
}

TEST_F(PackedCacheOfAModel, IsIgnoredAndReplacedWhenStaleOrDamaged) {
  expect_loads("written");
  fs::last_write_time(model_ / "config.json", fs::file_time_type::clock::now() + std::chrono::hours(1));
  expect_loads("ignored: " + cache_.string() + " was made from something else: its \"files\" differs");
  expect_loads("mapped");
  overwrite(200, '#');
  expect_loads("the header's hash does not match");
  overwrite(85, 'x');  // the header's size
  expect_loads("a header of");
  fs::resize_file(cache_, fs::file_size(cache_) - 4096);
  expect_loads("ignored");
  fs::resize_file(cache_, 30);
  expect_loads("cut off");
  expect_loads("mapped");
}

TEST_F(PackedCacheOfAModel, KnowsWhatItWasPackedFor) {
  expect_loads("written");
  Model::Options options;
  options.packed_cache = true;
  options.weights = Levels::bf16;
  logits_of(options);
  EXPECT_NE(note_.find("\"converted\" differs"), std::string::npos) << note_;
}

// What the input is multiplied with belongs to the shape.
TEST(PackedCache, KeepsExponentsOfColumns) {
  ThreadPool pool(1);
  LinearWeight weight;
  weight.rows = 2;
  weight.columns = 8;
  weight.format = parse_format("code3:col").value();
  weight.activations = parse_format("int8:token").value();
  weight.codes.append(std::vector<std::byte>(6, std::byte{0xA7}));
  for (int k = 0; k < 8; ++k) {
    weight.exponents.push_back(static_cast<int8_t>(k - 10));
    for (int i = 0; i < 8; ++i) weight.levels.push_back(std::ldexp(static_cast<float>(20 * i - 90 + k), k - 10));
  }
  const auto packed = PackedLinear::pack(weight, Isa::portable, pool);
  ASSERT_TRUE(packed) << packed.error().message;
  TemporaryFolder folder;
  PackedCacheWriter writer;
  writer.add("q", *packed);
  ASSERT_TRUE(writer.write(folder / "cache", Json::object()));
  const auto cache = PackedCache::open(folder / "cache", Json::object(), pool);
  ASSERT_TRUE(cache) << cache.error().message;
  const auto read = cache->linear("q", 2, 8, Isa::portable);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->shape(), packed->shape());
  EXPECT_EQ(read->plan().exponents, weight.exponents);
}

}  // namespace
}  // namespace nibble
