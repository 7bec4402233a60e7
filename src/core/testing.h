// For *_test.cpp files only: a folder that disappears with the test, the reference material that may not be there,
// and expectations about errors.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

#include "core/result.h"

namespace nibble::testing {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "nibble_test_XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TemporaryFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

inline void put(const std::filesystem::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary).write(text.data(), static_cast<std::streamsize>(text.size()));
}

inline std::string get(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline int64_t entries_in(const std::filesystem::path& folder) {
  return std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator());
}

// The folder of models and golden data that is not part of the repository, or an empty path.
inline std::filesystem::path shared_folder() {
  const char* named = std::getenv("NIBBLE_SHARED");
  const std::filesystem::path path =
      named != nullptr ? std::filesystem::path(named) : std::filesystem::path(NIBBLE_SOURCE_DIR) / ".." / "shared";
  return std::filesystem::exists(path / "models") ? path : std::filesystem::path();
}

// The result is an error with this code, and its message has all fragments.
template <class T, class... Fragments>
void expect_error(const Result<T>& result, ErrorCode code, Fragments... fragments) {
  ASSERT_FALSE(result.has_value()) << "expected an error";
  EXPECT_EQ(static_cast<int>(result.error().code), static_cast<int>(code)) << result.error().message;
  for (std::string_view fragment : {std::string_view(fragments)...})
    EXPECT_NE(result.error().message.find(fragment), std::string::npos)
        << "expected \"" << fragment << "\" in: " << result.error().message;
}

template <class T>
void expect_ok(const Result<T>& result) {
  ASSERT_TRUE(result.has_value()) << result.error().message;
}

}  // namespace nibble::testing
