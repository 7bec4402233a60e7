// nibble.manifest.json: what a finished model folder consists of. Written last, so a folder without it is incomplete.
//
//   {
//     "manifest_version": 1,
//     <the caller's fields: tool version, seed, hashes, errors, ...>
//     "files": {"config.json": {"bytes": 812, "sha256": "9f86d0..."}, ...}
//   }
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "core/json.h"
#include "core/result.h"

namespace nibble {

inline constexpr const char* kManifestName = "nibble.manifest.json";
inline constexpr int64_t kManifestVersion = 1;

// Hashes `files` (plain names, all in `folder`) and writes the manifest durably, files sorted by name, so that equal
// input gives equal bytes. `fields` is an object without the keys "manifest_version" and "files".
Status write_manifest(const std::filesystem::path& folder, std::span<const std::string> files, Json fields);

// The whole manifest, with its form checked. `corrupt` when it is missing (the folder is incomplete) or malformed,
// `unsupported` when its version is newer than ours. Does not look at the files.
Result<Json> read_manifest(const std::filesystem::path& folder);

// Compares every file of the manifest with the folder: existence and size of all of them first, then the hashes. A
// `corrupt` error names the first file that differs, in the order of names. Files not in the manifest do not matter.
Status check_manifest(const std::filesystem::path& folder);

}  // namespace nibble
