#include "checkpoint/manifest.h"

#include <map>

#include "checkpoint/file_name.h"
#include "core/file.h"
#include "core/hash.h"

namespace nibble {
namespace fs = std::filesystem;
namespace {

struct FileRecord {
  int64_t bytes = 0;
  std::string sha256;
};

bool is_sha256(std::string_view text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

Result<std::map<std::string, FileRecord>> files_of(const Json& manifest, const std::string& where) {
  NIBBLE_TRY(JsonReader reader, JsonReader::open(manifest, where));
  NIBBLE_TRY(JsonReader files, reader.object("files"));
  std::map<std::string, FileRecord> records;
  for (const auto& [name, entry] : manifest.at("files").items()) {
    NIBBLE_DO(check_file_name(name, where));
    NIBBLE_TRY(JsonReader fields, files.object(name));
    FileRecord& record = records[name];
    NIBBLE_TRY(record.bytes, fields.integer("bytes", 0, INT64_MAX));
    NIBBLE_TRY(record.sha256, fields.string("sha256"));
    NIBBLE_DO(fields.refuse_unknown());
    if (!is_sha256(record.sha256))
      return fail(ErrorCode::corrupt, "{}: \"sha256\" is {}, expected 64 lower-case hexadecimal digits", fields.where(),
                  in_quotes(record.sha256));
  }
  return records;
}

Status check_size(const fs::path& folder, const std::string& name, const FileRecord& expected) {
  std::error_code error;
  const fs::path path = folder / name;
  if (!fs::exists(path, error))
    return fail(ErrorCode::corrupt, "{}: {} is missing; the manifest lists it", folder.string(), name);
  const auto size = fs::file_size(path, error);
  if (error) return system_failure(error.value(), "read the size of", path);
  if (static_cast<int64_t>(size) != expected.bytes)
    return fail(ErrorCode::corrupt, "{} has {} bytes, the manifest says {}", path.string(), size, expected.bytes);
  return {};
}

Status check_hash(const fs::path& path, const FileRecord& expected) {
  NIBBLE_TRY(std::string found, sha256_file(path));
  if (found == expected.sha256) return {};
  return fail(ErrorCode::corrupt, "{} has changed: its SHA-256 is {}, the manifest says {}", path.string(), found,
              expected.sha256);
}

Status check_fields(const Json& fields) {
  if (!fields.is_object()) return fail(ErrorCode::failure, "manifest fields: expected an object");
  for (const char* reserved : {"manifest_version", "files"})
    if (fields.contains(reserved)) return fail(ErrorCode::failure, "manifest fields: \"{}\" is reserved", reserved);
  return {};
}

}  // namespace

Status write_manifest(const fs::path& folder, std::span<const std::string> files, Json fields) {
  NIBBLE_DO(check_fields(fields));
  std::map<std::string, Json> sorted;
  for (const std::string& name : files) {
    NIBBLE_DO(check_file_name(name, "manifest"));
    NIBBLE_TRY(std::string hash, sha256_file(folder / name));
    sorted[name] = Json{{"bytes", fs::file_size(folder / name)}, {"sha256", hash}};
  }
  Json manifest{{"manifest_version", kManifestVersion}};
  manifest.update(fields);
  manifest["files"] = Json::object();
  for (auto& [name, entry] : sorted) manifest["files"][name] = std::move(entry);
  return write_durably(folder / kManifestName, dump_json(manifest, 2) + "\n");
}

Result<Json> read_manifest(const fs::path& folder) {
  const fs::path path = folder / kManifestName;
  std::error_code error;
  if (!fs::exists(path, error))
    return fail(ErrorCode::corrupt, "{}: no {}: the folder is incomplete or was not made by Nibble", folder.string(),
                kManifestName);
  NIBBLE_TRY(Json manifest, read_json(path));
  NIBBLE_TRY(JsonReader reader, JsonReader::open(manifest, path.string()));
  NIBBLE_TRY(int64_t version, reader.integer("manifest_version", 1, INT64_MAX));
  if (version > kManifestVersion)
    return fail(ErrorCode::unsupported, "{}: \"manifest_version\" is {}, this program reads up to {}", path.string(),
                version, kManifestVersion);
  NIBBLE_DO(files_of(manifest, path.string()));
  return manifest;
}

Status check_manifest(const fs::path& folder) {
  NIBBLE_TRY(Json manifest, read_manifest(folder));
  NIBBLE_TRY(auto records, files_of(manifest, (folder / kManifestName).string()));
  for (const auto& [name, record] : records) NIBBLE_DO(check_size(folder, name, record));
  for (const auto& [name, record] : records) NIBBLE_DO(check_hash(folder / name, record));
  return {};
}

}  // namespace nibble
