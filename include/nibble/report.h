// What quantization did to a model, layer by layer, for people who would rather look than read.
#pragma once

#include <nibble/language_model.h>
#include <nibble/progress.h>
#include <nibble/result.h>

#include <filesystem>
#include <string>

namespace nibble {

struct ReportRequest {
  std::filesystem::path model;      // a folder that quantize() wrote, or any model folder (then with a reference)
  std::filesystem::path reference;  // the unquantized model; empty: only what the model's manifest recorded
  std::string text;                 // with a reference: the divergence over this text; empty: not measured
  TextProtocol protocol;
  LoadOptions load;
  ProgressCallback progress;
};

struct ModelReport {
  std::string json;  // docs/evidence.md says what is in it
  std::string html;  // one self-contained page: no other file, no network
};

// Errors: `usage` without a model, or with a text and no reference; `corrupt` when the reference is another model
// (names what differs), or the manifest or the statistics belong to one; with a text those of compare(); otherwise as
// LanguageModel::load().
Result<ModelReport> report(const ReportRequest& request);

// Writes the page to a file that appears under its name when it is complete. A page that is already there is replaced;
// any other file is refused with `usage` unless `force`, so that a slip of the keyboard does not cost a model; a folder
// always is. Other errors: `io` when the folder of the file does not exist or cannot be written, `resources` when its
// disk is full.
Status write_page(const ModelReport& report, const std::filesystem::path& file, bool force = false);
// Whether write_page() would write there, to be asked before the measuring; the same errors, but for those of writing.
Status may_write_page(const std::filesystem::path& file, bool force = false);

}  // namespace nibble
