#include "quantize/pipeline/record.h"

#include <algorithm>

#include "core/file.h"
#include "core/hash.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kRecordVersion = 5;
constexpr int64_t kMostBytes = INT64_MAX;

// The files of a model folder that can change the result: weights, configuration and tokenizer.
Result<std::vector<fs::path>> model_files(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    const std::string extension = entry.path().extension().string();
    const bool matters = extension == ".safetensors" || extension == ".json" || extension == ".model" ||
                         extension == ".txt" || extension == ".jinja";
    if (matters && entry.is_regular_file(error)) files.push_back(entry.path());
  }
  if (error) return fail(ErrorCode::io, "cannot list {}: {}", folder.string(), error.message());
  std::sort(files.begin(), files.end());
  return files;
}

Json sampling_of(const Samples& samples, uint64_t seed) {
  Json out = Json::object();
  out["samples"] = samples.count;
  out["length"] = samples.length;
  out["seed"] = seed;
  out["tokens"] = samples.hash;
  return out;
}

// Where two values differ first, as a path of keys; empty when they are equal.
std::string difference(const Json& a, const Json& b) {
  if (a == b) return "";
  if (!a.is_object() || !b.is_object()) return "value";
  for (const Json* side : {&a, &b})
    for (const auto& item : side->items()) {
      const bool both = a.contains(item.key()) && b.contains(item.key());
      if (!both) return item.key();
      const std::string inside = difference(a[item.key()], b[item.key()]);
      if (!inside.empty()) return inside == "value" ? item.key() : item.key() + ", " + inside;
    }
  return "order of keys";
}

Status read_shards(const Json* shards, Record& record, const std::string& where) {
  if (shards == nullptr || !shards->is_object())
    return fail(ErrorCode::corrupt, "{}: \"weight_map\" is missing", where);
  for (const auto& item : shards->items()) {
    if (!item.value().is_string()) return fail(ErrorCode::corrupt, "{}: \"weight_map\" is malformed", where);
    record.weights[item.key()] = item.value().get<std::string>();
  }
  return {};
}

// The entries of an array of an object, or nothing when it is absent.
template <class Report, class Read>
Status read_array(const Json& object, const char* key, std::vector<Report>& out, const std::string& where,
                  const Read& read) {
  const auto found = object.find(key);
  if (found == object.end()) return {};
  if (!found->is_array()) return fail(ErrorCode::corrupt, "{}: \"{}\" is not a list", where, key);
  for (const Json& value : *found) {
    NIBBLE_TRY(Report report, read(value, fmt::format("{}, \"{}\"", where, key)));
    out.push_back(std::move(report));
  }
  return {};
}

// A number that may be missing.
Result<std::optional<double>> maybe_number(JsonReader& reader, const char* key, double least, double most) {
  if (reader.find(key) == nullptr) return std::nullopt;
  return reader.number(key, least, most);
}

void put(Json& out, const char* key, const std::optional<double>& value) {
  if (value) out[key] = *value;
}

}  // namespace

Json to_json(const LinearReport& report) {
  Json out = Json::object();
  out["name"] = report.name;
  out["weights"] = report.weights;
  out["activations"] = report.activations;
  out["rows"] = report.rows;
  out["columns"] = report.columns;
  out["kept"] = report.kept;
  out["stored_bytes"] = report.stored_bytes;
  out["weight_error"] = report.weight_error;
  const auto measured = [&](const char* key, double value) {
    if (value >= 0) out[key] = value;
  };
  measured("output_error", report.output_error);
  measured("rounding_output_error", report.rounding_output_error);
  measured("validation_error", report.validation_error);
  measured("rounding_validation_error", report.rounding_validation_error);
  measured("damping", report.damping);
  put(out, "run_error", report.run_error);
  put(out, "run_cosine", report.run_cosine);
  put(out, "clip_mean", report.clip_mean);
  put(out, "clip_least", report.clip_least);
  return out;
}

Json to_json(const SiteReport& report) {
  Json out = Json::object();
  out["name"] = report.name;
  out["inputs"] = report.inputs;
  out["maximum"] = report.maximum;
  out["median"] = report.median;
  put(out, "kurtosis", report.kurtosis);
  return out;
}

Result<LinearReport> report_from_json(const Json& value, std::string where) {
  NIBBLE_TRY(JsonReader reader, JsonReader::open(value, std::move(where)));
  LinearReport report;
  NIBBLE_TRY(report.name, reader.string("name"));
  NIBBLE_TRY(report.weights, reader.string("weights"));
  NIBBLE_TRY(report.activations, reader.string("activations"));
  NIBBLE_TRY(report.rows, reader.integer("rows", 1, kMostBytes));
  NIBBLE_TRY(report.columns, reader.integer("columns", 1, kMostBytes));
  NIBBLE_TRY(report.kept, reader.integer("kept", 0, kMostBytes));
  NIBBLE_TRY(report.stored_bytes, reader.integer("stored_bytes", 0, kMostBytes));
  NIBBLE_TRY(report.weight_error, reader.number("weight_error", 0, 1e300));
  NIBBLE_TRY(report.output_error, reader.number("output_error", 0, 1e300, -1));
  NIBBLE_TRY(report.rounding_output_error, reader.number("rounding_output_error", 0, 1e300, -1));
  NIBBLE_TRY(report.validation_error, reader.number("validation_error", 0, 1e300, -1));
  NIBBLE_TRY(report.rounding_validation_error, reader.number("rounding_validation_error", 0, 1e300, -1));
  NIBBLE_TRY(report.damping, reader.number("damping", 0, 1e300, -1));
  NIBBLE_TRY(report.run_error, maybe_number(reader, "run_error", 0, 1e300));
  NIBBLE_TRY(report.run_cosine, maybe_number(reader, "run_cosine", -1.001, 1.001));  // rounding may pass the bounds
  NIBBLE_TRY(report.clip_mean, maybe_number(reader, "clip_mean", 0, 1));
  NIBBLE_TRY(report.clip_least, maybe_number(reader, "clip_least", 0, 1));
  return report;
}

Result<SiteReport> site_from_json(const Json& value, std::string where) {
  NIBBLE_TRY(JsonReader reader, JsonReader::open(value, std::move(where)));
  SiteReport report;
  NIBBLE_TRY(report.name, reader.string("name"));
  NIBBLE_TRY(report.inputs, reader.integer("inputs", 1, kMostBytes));
  NIBBLE_TRY(report.maximum, reader.number("maximum", 0, 1e300));
  NIBBLE_TRY(report.median, reader.number("median", 0, 1e300));
  NIBBLE_TRY(report.kurtosis, maybe_number(reader, "kurtosis", 0, 1e300));
  return report;
}

Status read_reports(const Json& manifest, Record& record, const std::string& where) {
  NIBBLE_DO(read_array(manifest, "linears", record.reports, where, report_from_json));
  return read_array(manifest, "sites", record.sites, where, site_from_json);
}

Status write_record(const fs::path& folder, const Record& record) {
  Json out = Json::object();
  out["record_version"] = kRecordVersion;
  out["inputs"] = record.inputs;
  out["blocks_done"] = record.blocks_done;
  out["linears"] = record.linears;
  out["weight_map"] = record.weights;
  out["tensor_bytes"] = record.tensor_bytes;
  out["left_over"] = record.left_over;
  out["reports"] = Json::array();
  for (const LinearReport& report : record.reports) out["reports"].push_back(to_json(report));
  out["sites"] = Json::array();
  for (const SiteReport& report : record.sites) out["sites"].push_back(to_json(report));
  out["attention"] = Json::array();
  for (const AttentionFormats& block : record.attention) out["attention"].push_back(to_json(block));
  return write_durably(folder / kRecordName, dump_json(out));
}

Result<std::optional<Record>> read_record(const fs::path& folder) {
  const fs::path path = folder / kRecordName;
  std::error_code error;
  if (!fs::exists(path, error)) return std::nullopt;
  NIBBLE_TRY(const Json value, read_json(path));
  NIBBLE_TRY(JsonReader reader, JsonReader::open(value, path.string()));
  Record record;
  NIBBLE_TRY(const int64_t version, reader.integer("record_version", 1, kMostBytes));
  if (version != kRecordVersion)
    return fail(ErrorCode::corrupt,
                "cannot resume {}: \"record_version\" is {}, this program goes on from {}: another version began it; "
                "start anew without --resume",
                path.string(), version, kRecordVersion);
  const Json* inputs = reader.find("inputs");
  const Json* linears = reader.find("linears");
  if (inputs == nullptr || !inputs->is_object() || linears == nullptr || !linears->is_object())
    return fail(ErrorCode::corrupt, "{}: \"inputs\" or \"linears\" is missing", path.string());
  record.inputs = *inputs;
  record.linears = *linears;
  NIBBLE_TRY(record.blocks_done, reader.integer("blocks_done", 0, kMaxLayers));
  NIBBLE_TRY(record.tensor_bytes, reader.integer("tensor_bytes", 0, kMostBytes));
  NIBBLE_TRY(record.left_over, reader.number("left_over", -1e18, 1e18));
  NIBBLE_DO(read_shards(reader.find("weight_map"), record, path.string()));
  for (const char* key : {"reports", "sites", "attention"})
    if (reader.find(key) == nullptr) return fail(ErrorCode::corrupt, "{}: \"{}\" is missing", path.string(), key);
  NIBBLE_DO(read_array(value, "reports", record.reports, path.string(), report_from_json));
  NIBBLE_DO(read_array(value, "sites", record.sites, path.string(), site_from_json));
  if (const Status read = read_array(value, "attention", record.attention, path.string(), attention_from_json); !read)
    return fail(ErrorCode::corrupt, "{}", read.error().message);
  NIBBLE_DO(reader.refuse_unknown());
  return record;
}

Result<Json> inputs_of(const QuantizeOptions& options, const Samples* calibration, const Samples* validation, Isa isa) {
  Json inputs = Json::object();
  inputs["tool"] = "nibble " NIBBLE_VERSION;
  inputs["isa"] = to_string(isa);
  inputs["model"] = Json::object();
  NIBBLE_TRY(const std::vector<fs::path> files, model_files(options.model));
  for (const fs::path& file : files) {
    Json entry = Json::object();
    std::error_code error;
    entry["bytes"] = static_cast<int64_t>(fs::file_size(file, error));
    NIBBLE_TRY(entry["sha256"], sha256_file(file));
    inputs["model"][file.filename().string()] = std::move(entry);
  }
  inputs["recipe"] = options.recipe.source;
  if (!options.sensitivity.empty()) {
    NIBBLE_TRY(inputs["sensitivity"], sha256_file(options.sensitivity));
  }
  if (calibration != nullptr) inputs["calibration"] = sampling_of(*calibration, options.seed);
  if (validation != nullptr) inputs["validation"] = sampling_of(*validation, options.seed);
  return inputs;
}

Status check_same_inputs(const Json& earlier, const Json& now, const fs::path& where) {
  const std::string differs = difference(earlier, now);
  if (differs.empty()) return {};
  return fail(ErrorCode::corrupt,
              "cannot resume {}: it was begun with another \"{}\"; run the same command as then, or start anew without "
              "--resume",
              where.string(), differs);
}

}  // namespace nibble
