// Writing the page of a report.
#include <nibble/report.h>

#include <system_error>

#include "api/guard.h"
#include "core/file.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kBeginning = "<!doctype html>";

Status check_page(const fs::path& file, bool force) {
  NIBBLE_DO(check_file_target(file));
  std::error_code ignored;
  if (!force && fs::exists(file, ignored) && !begins_with(file, kBeginning))
    return fail(ErrorCode::usage, "{} exists and is not an HTML page; --force replaces it", file.string());
  return {};
}

}  // namespace

Status may_write_page(const fs::path& file, bool force) {
  return guarded([&] { return check_page(file, force); });
}

Status write_page(const ModelReport& report, const fs::path& file, bool force) {
  return guarded([&]() -> Status {
    NIBBLE_DO(check_page(file, force));
    return write_durably(file, report.html);
  });
}

}  // namespace nibble
