// What a run leaves in OUT.partial so that another can go on, and what goes into the manifest.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/cpu.h"
#include "format/attention_formats.h"
#include "model/model.h"
#include "quantize/pipeline/samples.h"
#include "quantize/quantize.h"

namespace nibble {

// The progress of a run, written durably after the globals and after each block: whatever it counts as done is on
// disk completely.
struct Record {
  Json inputs;                                 // everything that decides the result: see inputs_of
  int64_t blocks_done = 0;                     // the hidden states before this block are there
  Json linears = Json::object();               // linear_entry() by name
  std::map<std::string, std::string> weights;  // shard by tensor
  int64_t tensor_bytes = 0;
  std::vector<LinearReport> reports;
  std::vector<SiteReport> sites;
  double left_over = 0;                     // SiteWork::left_over after the last of these blocks
  std::vector<AttentionFormats> attention;  // of these blocks, with their fractions
};

inline constexpr const char* kRecordName = "resume.json";

Status write_record(const std::filesystem::path& folder, const Record& record);
// nullopt when there is none; `corrupt` when it is malformed.
Result<std::optional<Record>> read_record(const std::filesystem::path& folder);

// Tool version, ISA, the model's files with sizes and SHA-256, canonical recipe, samples with seed and token hashes.
Result<Json> inputs_of(const QuantizeOptions& options, const Samples* calibration, const Samples* validation, Isa isa);
// `corrupt` naming the first field in which a run to be resumed differs from this one. `where`: its folder.
Status check_same_inputs(const Json& earlier, const Json& now, const std::filesystem::path& where);

Json to_json(const LinearReport& report);
Json to_json(const SiteReport& report);
// Both read manifests of earlier versions, too, which say less.
Result<LinearReport> report_from_json(const Json& value, std::string where);
Result<SiteReport> site_from_json(const Json& value, std::string where);
// The entries of "linears" and "sites" of a manifest into `record`; either may be missing.
Status read_reports(const Json& manifest, Record& record, const std::string& where);

}  // namespace nibble
