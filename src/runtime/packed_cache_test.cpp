#include "runtime/packed_cache.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>

#include "core/testing.h"
#include "model/random/random_checkpoint.h"
#include "runtime/model.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::expect_ok;
using testing::get;
using testing::put;
using testing::TemporaryFolder;

void flip(const fs::path& path, int64_t at) {
  std::string text = get(path);
  text.at(static_cast<size_t>(at)) ^= 1;
  const auto time = fs::last_write_time(path);
  put(path, text);
  fs::last_write_time(path, time);
}

// The items that a cache's header names.
Json items_of(const fs::path& cache) {
  constexpr size_t kPrologue = 88;
  const std::string text = get(cache);
  uint64_t size = 0;
  std::memcpy(&size, text.data() + kPrologue - sizeof size, sizeof size);
  return parse_json(std::string_view(text).substr(kPrologue, size), "header").value()["items"];
}

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

TEST_F(PackedCacheOfAModel, IsIgnoredAndReplacedWhenAnyItemIsDamaged) {
  expect_loads("written");
  const Json items = items_of(cache_);
  EXPECT_EQ(items.size(), 2u + 1 + 2 * (2 + 7));  // embedding and head, final norm, blocks of norms and linears
  for (const Json& item : items) {
    flip(cache_, item["offset"].get<int64_t>() + item["bytes"].get<int64_t>() / 2);
    expect_loads(fmt::format("ignored: {}: {} is damaged", cache_.string(), dump_json(item["name"])));
    EXPECT_NE(note_.find("packed weights written to"), std::string::npos) << note_;
  }
  expect_loads("mapped");
}

TEST_F(PackedCacheOfAModel, IsStaleWhenWeightsChangeAndTheirTimeDoesNot) {
  expect_loads("written");
  const fs::path weights = model_ / "model.safetensors";
  const auto time = fs::last_write_time(weights);
  RandomCheckpoint other;
  other.shape = find_known_shape("tiny");
  other.seed = 1;
  ASSERT_TRUE(write_random_checkpoint(other, folder_ / "other", pool_, {}));
  ASSERT_EQ(fs::file_size(folder_ / "other" / "model.safetensors"), fs::file_size(weights));
  fs::copy_file(folder_ / "other" / "model.safetensors", weights, fs::copy_options::overwrite_existing);
  fs::last_write_time(weights, time);
  const std::vector<float> before = uncached_;
  uncached_ = logits_of({});
  EXPECT_NE(uncached_, before);
  expect_loads("ignored: " + cache_.string() + " was made from something else: its \"contents\" differs");
  expect_loads("mapped");
}

TEST_F(PackedCacheOfAModel, IsLeftAloneWhereTheModelsFilesCannotBeLookedAt) {
  fs::create_symlink("nowhere", model_ / "x.safetensors");
  expect_loads("packed cache neither read nor written: cannot look at " + (model_ / "x.safetensors").string());
  EXPECT_FALSE(fs::exists(cache_));
  fs::remove(model_ / "x.safetensors");
  ASSERT_EQ(::mkfifo((model_ / "x.safetensors").c_str(), 0600), 0);
  expect_loads("packed cache neither read nor written: cannot map (not a regular file?)");
  fs::remove(model_ / "x.safetensors");
  fs::create_directory(model_ / "x.safetensors");
  expect_loads("packed weights written");
}

// An embedding in the numbers of its file is read from there; with the cache everything is.
TEST_F(PackedCacheOfAModel, CountsWhatIsMappedApart) {
  const Model plain = Model::load(model_, {}, pool_).value();
  const Spec& spec = plain.spec();
  EXPECT_EQ(plain.mapped_bytes(), spec.vocabulary * spec.embedding * 2);
  EXPECT_GT(plain.packed_bytes(), plain.mapped_bytes());
  Model::Options options;
  options.packed_cache = true;
  for (const char* note : {"written", "mapped"}) {
    const Model model = Model::load(model_, options, pool_).value();
    EXPECT_NE(model.note().find(note), std::string::npos);
    EXPECT_EQ(model.packed_bytes() + model.mapped_bytes(), plain.packed_bytes() + plain.mapped_bytes());
    EXPECT_EQ(model.packed_bytes(), note == std::string_view("mapped") ? 0 : plain.packed_bytes());
  }
}

TEST_F(PackedCacheOfAModel, KnowsWhatItWasPackedFor) {
  expect_loads("written");
  Model::Options options;
  options.packed_cache = true;
  options.weights = Levels::bf16;
  logits_of(options);
  EXPECT_NE(note_.find("\"converted\" differs"), std::string::npos) << note_;
}

// A header that no sampled page lies in, pages that are sampled and such that are not.
TEST(PackedCacheKey, SamplesTheContentsOfFiles) {
  TemporaryFolder folder;
  const fs::path weights = folder / "model.safetensors";
  const uint64_t header = 50'000;
  constexpr int64_t kPages = 1000;
  std::string text(kPages * 4096, 'x');
  std::memcpy(text.data(), &header, sizeof header);
  put(weights, text);
  put(folder / "config.json", std::string(600'000, ' '));
  put(folder / "small.safetensors", std::string(64 * 4096, 'x'));
  put(folder / "empty.safetensors", "");
  const auto key = [&] { return packed_cache_key(folder.path(), Isa::portable, "").value(); };
  const Json before = key();
  const auto is_noticed = [&](const char* name, int64_t at) {
    flip(folder / name, at);
    const Json after = key();
    EXPECT_EQ(after["files"], before["files"]);
    flip(folder / name, at);
    EXPECT_EQ(key(), before);
    return after != before;
  };
  EXPECT_TRUE(is_noticed("model.safetensors", 49'999));
  EXPECT_TRUE(is_noticed("model.safetensors", 0));
  EXPECT_TRUE(is_noticed("model.safetensors", kPages * 4096 - 1));
  EXPECT_TRUE(is_noticed("model.safetensors", 999 * 32 / 63 * 4096));
  EXPECT_FALSE(is_noticed("model.safetensors", (999 * 32 / 63 + 1) * 4096));
  EXPECT_TRUE(is_noticed("config.json", 300'001));
  for (int64_t page = 0; page < 64; ++page) EXPECT_TRUE(is_noticed("small.safetensors", page * 4096 + 77)) << page;
}

// In any of its pieces of 4 MiB, the last of which is short.
TEST(PackedCache, NoticesDamageAnywhereInAnItem) {
  ThreadPool pool(2);
  TemporaryFolder folder;
  const fs::path path = folder / "cache";
  const std::vector<float> large((9 << 20) / sizeof(float) + 3, 0.5f), small = {1, 2, 3};
  PackedCacheWriter writer;
  writer.add("small", small);
  writer.add("large", large);
  writer.add("none", std::span<const float>());
  expect_ok(writer.write(path, Json::object(), pool));
  const auto cache = PackedCache::open(path, Json::object(), pool);
  expect_ok(cache);
  EXPECT_EQ(cache->floats("large").value(), large);
  EXPECT_EQ(cache->floats("small").value(), small);
  EXPECT_TRUE(cache->floats("none").value().empty());
  for (const Json& item : items_of(path)) {
    const auto begin = item["offset"].get<int64_t>(), bytes = item["bytes"].get<int64_t>();
    for (int64_t at : {int64_t{0}, int64_t{4 << 20}, int64_t{8 << 20} - 1, bytes - 1}) {
      if (at < 0 || at >= bytes) continue;
      flip(path, begin + at);
      expect_error(PackedCache::open(path, Json::object(), pool), ErrorCode::corrupt, dump_json(item["name"]),
                   "is damaged: its checksum does not match");
      flip(path, begin + at);
    }
  }
  expect_ok(PackedCache::open(path, Json::object(), pool));
}

TEST(PackedCache, RemovesWhatKilledWritersLeft) {
  ThreadPool pool(1);
  TemporaryFolder folder;
  const fs::path path = folder / "cache";
  for (const char* name : {"cache.tmp12", "cache.tmp13", "cache2.tmp12"}) put(folder / name, "half");
  fs::create_directory(folder / "cache.tmp14");
  const auto old = fs::file_time_type::clock::now() - std::chrono::hours(25);
  for (const char* name : {"cache.tmp12", "cache2.tmp12", "cache.tmp14"}) fs::last_write_time(folder / name, old);
  expect_ok(PackedCacheWriter().write(path, Json::object(), pool));
  EXPECT_FALSE(fs::exists(folder / "cache.tmp12"));
  for (const char* name : {"cache", "cache.tmp13", "cache.tmp14", "cache2.tmp12"})
    EXPECT_TRUE(fs::exists(folder / name)) << name;
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
  ASSERT_TRUE(writer.write(folder / "cache", Json::object(), pool));
  const auto cache = PackedCache::open(folder / "cache", Json::object(), pool);
  ASSERT_TRUE(cache) << cache.error().message;
  const auto read = cache->linear("q", 2, 8, Isa::portable);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->shape(), packed->shape());
  EXPECT_EQ(read->plan().exponents, weight.exponents);
}

}  // namespace
}  // namespace nibble
