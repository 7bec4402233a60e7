#include "checkpoint/manifest.h"

#include "core/hash.h"
#include "core/testing.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::expect_ok;
using testing::get;
using testing::put;
using testing::TemporaryFolder;

class ManifestTest : public ::testing::Test {
 protected:
  ManifestTest() {
    put(folder_ / "config.json", "{}");
    put(folder_ / "model.safetensors", "weights");
    put(folder_ / "empty", "");
  }
  Status write(Json fields = Json::object()) {
    const std::string files[] = {"model.safetensors", "empty", "config.json"};
    return write_manifest(folder_.path(), files, std::move(fields));
  }
  Result<Json> read_text_as(std::string_view text) {
    put(folder_ / kManifestName, text);
    return read_manifest(folder_.path());
  }
  TemporaryFolder folder_;
};

TEST_F(ManifestTest, WritesSizesHashesAndFields) {
  expect_ok(write(Json{{"tool", "nibble 0.1.0"}, {"seed", 7}}));
  auto manifest = read_manifest(folder_.path());
  expect_ok(manifest);
  EXPECT_EQ((*manifest)["manifest_version"], 1);
  EXPECT_EQ((*manifest)["seed"], 7);
  EXPECT_EQ((*manifest)["files"].size(), 3u);
  EXPECT_EQ((*manifest)["files"].begin().key(), "config.json") << "sorted by name";
  EXPECT_EQ((*manifest)["files"]["model.safetensors"]["bytes"], 7);
  EXPECT_EQ((*manifest)["files"]["model.safetensors"]["sha256"], sha256("weights"));
  expect_ok(check_manifest(folder_.path()));
}

TEST_F(ManifestTest, EqualInputGivesEqualBytes) {
  expect_ok(write());
  const std::string first = get(folder_ / kManifestName);
  const std::string files[] = {"config.json", "model.safetensors", "empty"};
  expect_ok(write_manifest(folder_.path(), files, Json::object()));
  EXPECT_EQ(get(folder_ / kManifestName), first);
}

TEST_F(ManifestTest, NamesTheFileThatChanged) {
  expect_ok(write());
  put(folder_ / "model.safetensors", "weightS");
  expect_error(check_manifest(folder_.path()), ErrorCode::corrupt, "model.safetensors has changed", "SHA-256");
  put(folder_ / "model.safetensors", "weight");
  expect_error(check_manifest(folder_.path()), ErrorCode::corrupt,
               "model.safetensors has 6 bytes, the manifest says 7");
  fs::remove(folder_ / "model.safetensors");
  expect_error(check_manifest(folder_.path()), ErrorCode::corrupt, "model.safetensors is missing");
  put(folder_ / "model.safetensors", "weights");
  put(folder_ / "config.json", "[]");
  put(folder_ / "notes.txt", "not in the manifest");
  expect_error(check_manifest(folder_.path()), ErrorCode::corrupt, "config.json has changed");
}

TEST_F(ManifestTest, SizesAreComparedBeforeHashes) {
  expect_ok(write());
  put(folder_ / "config.json", "[]");
  put(folder_ / "model.safetensors", "x");
  expect_error(check_manifest(folder_.path()), ErrorCode::corrupt, "model.safetensors has 1 bytes");
}

TEST_F(ManifestTest, RefusesToWriteWhatItCouldNotCheck) {
  const std::string absent[] = {"absent"}, outside[] = {"../config.json"};
  expect_error(write_manifest(folder_.path(), absent, Json::object()), ErrorCode::io, "absent");
  expect_error(write_manifest(folder_.path(), outside, Json::object()), ErrorCode::corrupt, "path separator");
  expect_error(write(Json{{"files", 1}}), ErrorCode::failure, "\"files\" is reserved");
  expect_error(write(Json{{"manifest_version", 2}}), ErrorCode::failure, "reserved");
  expect_error(write(Json::array()), ErrorCode::failure, "expected an object");
  EXPECT_FALSE(fs::exists(folder_ / kManifestName));
}

TEST_F(ManifestTest, AFolderWithoutOneIsIncomplete) {
  expect_error(read_manifest(folder_.path()), ErrorCode::corrupt, folder_.path().string(), "incomplete");
  expect_error(check_manifest(folder_.path()), ErrorCode::corrupt, "incomplete");
}

TEST_F(ManifestTest, MalformedManifests) {
  const std::string hash(64, 'a');
  auto with_entry = [](const std::string& e) { return "{\"manifest_version\":1,\"files\":{\"a\":" + e + "}}"; };
  expect_ok(read_text_as(with_entry("{\"bytes\":1,\"sha256\":\"" + hash + "\"}")));
  const std::pair<std::string, const char*> cases[] = {
      {"", "not valid JSON"},
      {"[]", "expected an object"},
      {"{\"files\":{}}", "\"manifest_version\" is missing"},
      {"{\"manifest_version\":0,\"files\":{}}", "\"manifest_version\" is 0"},
      {"{\"manifest_version\":\"1\",\"files\":{}}", "\"manifest_version\" is \"1\""},
      {"{\"manifest_version\":1}", "\"files\" is missing"},
      {"{\"manifest_version\":1,\"files\":[]}", "expected an object"},
      {with_entry("3"), "expected an object"},
      {with_entry("{\"sha256\":\"" + hash + "\"}"), "\"bytes\" is missing"},
      {with_entry("{\"bytes\":-1,\"sha256\":\"" + hash + "\"}"), "\"bytes\" is -1"},
      {with_entry("{\"bytes\":1,\"sha256\":\"A\"}"), "64 lower-case hexadecimal digits"},
      {with_entry("{\"bytes\":1,\"sha256\":\"" + hash + "\",\"md5\":\"\"}"), "unknown key \"md5\""},
      {"{\"manifest_version\":1,\"files\":{\"../a\":{\"bytes\":1,\"sha256\":\"" + hash + "\"}}}", "path separator"},
  };
  for (const auto& [text, fragment] : cases) {
    SCOPED_TRACE(text);
    expect_error(read_text_as(text), ErrorCode::corrupt, "nibble.manifest.json", fragment);
  }
  expect_error(read_text_as("{\"manifest_version\":2,\"files\":{}}"), ErrorCode::unsupported,
               "\"manifest_version\" is 2");
}

}  // namespace
}  // namespace nibble
