// Every architecture that the golden files describe, and the trained models beside the repository.
#include <gtest/gtest.h>

#include <algorithm>

#include "model/model.h"
#include "model/testing.h"

namespace nibble {
namespace {

using testing::expect_ok;
using testing::OwnedTensor;
using testing::OwnedTensors;
using testing::TemporaryFolder;

const std::filesystem::path kGolden = std::filesystem::path(NIBBLE_SOURCE_DIR) / "tests" / "golden" / "forward";

std::vector<std::filesystem::path> golden_files() {
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(kGolden, error))
    if (entry.path().extension() == ".json") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

OwnedTensors golden_tensors(const Json& golden) {
  OwnedTensors tensors;
  for (const Json& line : golden["tensors"])
    tensors.push_back(testing::scattered(line["name"], line["shape"].get<std::vector<int64_t>>()));
  return tensors;
}

// The checkpoint, with the names and shapes that the library wrote, opens and is written back bit by bit.
void expect_golden(const Json& golden) {
  TemporaryFolder folder;
  const OwnedTensors tensors = golden_tensors(golden);
  testing::write_model(folder / "in", golden["config"], tensors);
  auto source = open_model(folder / "in");
  ASSERT_TRUE(source.has_value()) << source.error().message;
  int64_t parameters = 0;
  for (const OwnedTensor& tensor : tensors) parameters += testing::count_of(tensor.shape);
  EXPECT_EQ(parameter_count((*source)->spec()), parameters);
  expect_ok(write_checkpoint(**source, folder / "out", Levels::f32));
  auto out = Checkpoint::open(folder / "out");
  expect_ok(out);
  EXPECT_EQ(out->tensors().size(), tensors.size());
  for (const OwnedTensor& tensor : tensors) {
    const TensorView* found = out->find(tensor.name);
    if (found == nullptr) found = out->find("model." + tensor.name);  // written with the full name
    ASSERT_NE(found, nullptr) << tensor.name;
    EXPECT_TRUE(std::equal(tensor.bytes.begin(), tensor.bytes.end(), found->bytes.begin(), found->bytes.end()))
        << tensor.name;
  }
}

TEST(GoldenArchitectures, OpenAndAreWrittenBack) {
  const auto files = golden_files();
  ASSERT_FALSE(files.empty()) << "no golden files in " << kGolden;
  EXPECT_GE(files.size(), 24u);
  for (const auto& file : files) {
    SCOPED_TRACE(file.filename().string());
    auto golden = read_json(file);
    expect_ok(golden);
    expect_golden(*golden);
  }
}

struct Trained {
  const char* name;
  int64_t parameters;
  const char* family;
};

TEST(TrainedModels, OpenWithTheirParameters) {
  const std::filesystem::path shared = testing::shared_folder();
  if (shared.empty()) GTEST_SKIP() << "the trained models are not here; set NIBBLE_SHARED to their folder";
  // Counts as published with the models.
  const Trained models[] = {{"tiny-llama", 6'819'072, "llama"},
                            {"tiny-opt", 5'129'472, "opt"},
                            {"tiny-falcon", 4'410'368, "falcon"},
                            {"tiny-llama-outlier", 6'819'072, "llama"},
                            {"tiny-opt-outlier", 5'129'472, "opt"},
                            {"stories3m", 0, "llama"},
                            {"stories260k", 0, "llama"}};
  for (const Trained& model : models) {
    SCOPED_TRACE(model.name);
    auto source = open_model(shared / "models" / model.name);
    ASSERT_TRUE(source.has_value()) << source.error().message;
    EXPECT_EQ((*source)->spec().family, model.family);
    if (model.parameters != 0) {
      EXPECT_EQ(parameter_count((*source)->spec()), model.parameters);
    }
    expect_ok((*source)->globals());
    for (int64_t i = 0; i < (*source)->spec().layers; ++i) expect_ok((*source)->block(i));
  }
}

}  // namespace
}  // namespace nibble
