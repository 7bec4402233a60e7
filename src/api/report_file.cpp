// Writing the page of a report.
#include <nibble/report.h>

#include <algorithm>
#include <fstream>
#include <system_error>

#include "api/guard.h"
#include "core/file.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kBeginning = "<!doctype html>";

// An empty file is nobody's loss either.
bool is_page(const fs::path& file) {
  std::string start(kBeginning.size(), '\0');
  std::ifstream stream(file, std::ios::binary);
  stream.read(start.data(), static_cast<std::streamsize>(start.size()));
  start.resize(static_cast<size_t>(stream.gcount()));
  return start.empty() ? stream.eof() : start == kBeginning;
}

Status check_target(const fs::path& file, bool force) {
  std::error_code ignored;
  const fs::path folder = file.has_parent_path() ? file.parent_path() : fs::path(".");
  if (!fs::is_directory(folder, ignored))
    return fail(ErrorCode::io, "cannot write {}: the folder {} does not exist", file.string(), folder.string());
  if (fs::is_directory(file, ignored))
    return fail(ErrorCode::usage, "{} is a folder; a report is one file, e.g. report.html", file.string());
  if (!force && fs::exists(file, ignored) && !is_page(file))
    return fail(ErrorCode::usage, "{} exists and is not an HTML page; --force replaces it", file.string());
  return {};
}

}  // namespace

Status may_write_page(const fs::path& file, bool force) {
  return guarded([&] { return check_target(file, force); });
}

Status write_page(const ModelReport& report, const fs::path& file, bool force) {
  return guarded([&]() -> Status {
    NIBBLE_DO(check_target(file, force));
    return write_durably(file, report.html);
  });
}

}  // namespace nibble
