// Reading of the quantized folder; storage.h describes it.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "checkpoint/file_name.h"
#include "checkpoint/safetensors.h"
#include "core/checked.h"
#include "core/hadamard.h"
#include "model/globals.h"
#include "model/storage.h"
#include "model/tensor_reading.h"

namespace nibble {
namespace {

// One line of "linears".
struct Entry {
  NumberFormat weights, activations;
  int64_t kept = 0;
  Levels kept_levels = Levels::f16;
  bool sparse24 = false;
  int64_t rotation = 0;
  int64_t sparse = 0;
  MixedSizes mixed;

  bool has_widths() const { return weights.bits == 0; }
};

// What a stored linear must look like: its name, shape and line, if it has one.
struct StoredLinear {
  std::string name;
  Shape shape;
  bool bias = false;
  const Entry* entry = nullptr;  // nullptr: plain floats

  int64_t kept() const { return entry == nullptr ? 0 : entry->kept; }
  int64_t dense() const { return shape.columns - kept(); }
  bool coded() const { return entry != nullptr && entry->weights.has_codes(); }
};

Result<NumberFormat> read_format(JsonReader& reader, std::string_view key) {
  NIBBLE_TRY(const std::string text, reader.string(key));
  auto format = parse_format(text);
  if (!format) return fail(ErrorCode::unsupported, "{}: \"{}\": {}", reader.where(), key, format.error().message);
  return *format;
}

Status check_entry(const Entry& entry, const std::string& where) {
  if (!serves_weights(entry.weights))
    return fail(ErrorCode::unsupported, "{}: \"weights\" is \"{}\"; weights have scales per row, column or group",
                where, to_string(entry.weights));
  if (!serves_activations(entry.activations))
    return fail(ErrorCode::unsupported,
                "{}: \"activations\" is \"{}\"; supported are f32, bf16, integers per token and block formats", where,
                to_string(entry.activations));
  if (!can_multiply(entry.weights, entry.activations))
    return fail(ErrorCode::unsupported, "{}: \"activations\" is \"{}\", which weights in {} are not multiplied with",
                where, to_string(entry.activations), to_string(entry.weights));
  if (entry.sparse24 && !entry.weights.has_codes())
    return fail(ErrorCode::corrupt, "{}: \"pattern\" needs \"weights\" in codes", where);
  if (entry.sparse > 0 && !entry.weights.is_learned())
    return fail(ErrorCode::unsupported, "{}: \"sparse\" is {} beside {}; supported beside learned levels", where,
                entry.sparse, to_string(entry.weights));
  return {};
}

Result<Entry> read_entry(JsonReader reader) {
  Entry entry;
  NIBBLE_TRY(entry.weights, read_format(reader, "weights"));
  NIBBLE_TRY(entry.activations, read_format(reader, "activations"));
  NIBBLE_TRY(entry.kept, reader.integer("kept", 0, kMaxFfn, 0));
  NIBBLE_TRY(const std::string kept_as, reader.string("kept_as", "f16"));
  if (kept_as != "f16" && kept_as != "bf16")
    return fail(ErrorCode::unsupported, "{}: \"kept_as\" is \"{}\", supported are f16 and bf16", reader.where(),
                kept_as);
  if (kept_as == "bf16") entry.kept_levels = Levels::bf16;
  NIBBLE_TRY(const std::string pattern, reader.string("pattern", ""));
  entry.sparse24 = pattern == "2:4";
  if (!pattern.empty() && !entry.sparse24)
    return fail(ErrorCode::unsupported, "{}: \"pattern\" is \"{}\", supported is 2:4", reader.where(), pattern);
  NIBBLE_TRY(entry.rotation, reader.integer("hadamard", 2, kMaxRotation, 0));
  if (!is_rotation(entry.rotation))
    return fail(ErrorCode::unsupported, "{}: \"hadamard\" is {}, supported are powers of two", reader.where(),
                entry.rotation);
  NIBBLE_TRY(entry.sparse, reader.integer("sparse", 0, INT32_MAX, 0));
  if (entry.has_widths()) {
    NIBBLE_TRY(entry.mixed.code_bits, reader.integer("row_bits", 0, 8 * kMaxFfn));
    if (entry.weights.is_learned()) {
      NIBBLE_TRY(entry.mixed.levels, reader.integer("levels", 0, kMaxFfn << kTableBits));
    }
  }
  NIBBLE_DO(reader.refuse_unknown());
  NIBBLE_DO(check_entry(entry, reader.where()));
  return entry;
}

struct ExpectedPart {
  std::string name;
  DType type;
  std::vector<int64_t> shape;
};

DType dtype_of(ScaleCodec codec) {
  return codec == ScaleCodec::f32 ? DType::f32 : codec == ScaleCodec::f16 ? DType::f16 : DType::u8;
}

// The tensors of the dense part.
void expect_dense(const StoredLinear& linear, std::vector<ExpectedPart>& parts) {
  const int64_t rows = linear.shape.rows;
  const Entry& entry = *linear.entry;
  const RowSizes row = row_sizes(entry.weights, linear.dense(), entry.sparse24, entry.mixed.code_bits);
  parts.push_back({linear.name + ".codes", DType::u8, {rows, row.codes}});
  if (entry.sparse24) parts.push_back({linear.name + ".pattern", DType::u8, {rows, row.pattern}});
  if (entry.weights.scale != ScaleCodec::none)
    parts.push_back({linear.name + ".scales", dtype_of(entry.weights.scale), {rows, row.groups}});
  if (entry.weights.outer) parts.push_back({linear.name + ".outer", DType::f32, {1}});
  if (entry.weights.offset) parts.push_back({linear.name + ".offsets", DType::u8, {rows, row.offsets}});
  if (entry.weights.is_learned()) {
    const int64_t levels = entry.has_widths() ? entry.mixed.levels : entry.weights.table_levels(rows, linear.dense());
    const int64_t tables = entry.has_widths() ? linear.dense() : levels / entry.weights.levels_count();
    parts.push_back({linear.name + ".levels", DType::i8, {levels}});
    parts.push_back({linear.name + ".exponents", DType::i8, {tables}});
  }
  if (entry.has_widths())
    parts.push_back({linear.name + ".widths", DType::u8, {width_bytes(entry.weights, linear.dense())}});
  if (entry.sparse == 0) return;
  parts.push_back({linear.name + ".sparse", DType::bf16, {entry.sparse}});
  parts.push_back({linear.name + ".sparse_rows", DType::i32, {rows}});
  const bool narrow = sparse_column_bytes(linear.dense()) == 2;
  parts.push_back({linear.name + ".sparse_columns", narrow ? DType::u16 : DType::i32, {entry.sparse}});
}

// All tensors whose type is known beforehand; a plain float weight's is not.
std::vector<ExpectedPart> parts_of(const StoredLinear& linear) {
  std::vector<ExpectedPart> parts;
  if (linear.coded()) {
    expect_dense(linear, parts);
  } else if (linear.entry != nullptr) {
    parts.push_back(
        {linear.name + ".weight", dtype_of(linear.entry->weights.levels), {linear.shape.rows, linear.dense()}});
  }
  if (linear.kept() > 0) {
    parts.push_back({linear.name + ".kept", dtype_of(linear.entry->kept_levels), {linear.shape.rows, linear.kept()}});
    parts.push_back({linear.name + ".kept_columns", DType::i32, {linear.kept()}});
  }
  if (linear.bias) parts.push_back({linear.name + ".bias", DType::f32, {linear.shape.rows}});
  return parts;
}

template <class T>
std::vector<T> copy_values(const TensorView& tensor) {
  std::vector<T> values(tensor.bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), tensor.bytes.data(), values.size() * sizeof(T));
  return values;
}

class QuantizedSource : public ModelSource {
 public:
  QuantizedSource(Checkpoint checkpoint, Json config) : checkpoint_(std::move(checkpoint)) {
    folder_ = checkpoint_.folder();
    config_ = std::move(config);
  }

  Status read_config();
  Status check_tensors() const;
  const Json* quantization() const override { return &config_["quantization_config"]; }
  Result<GlobalWeights> globals() const override;
  Result<BlockWeights> block(int64_t index) const override;
  int64_t file_bytes() const override { return checkpoint_.file_bytes(); }

 private:
  using Seen = std::set<std::string_view>;
  Status read_linears(JsonReader reader);
  Status check_names() const;
  StoredLinear stored(int64_t block, Role role) const;
  StoredLinear stored(Global linear) const;
  StoredLinear with_entry(StoredLinear linear) const;
  Status check_linear(const StoredLinear& linear, Seen& seen) const;
  Status check_norm(const std::string& name, Seen& seen) const;
  Status check_part(const ExpectedPart& part, Seen& seen) const;
  Status check_floats(const std::string& name, const std::vector<int64_t>& shape, Seen& seen) const;
  Status check_rest(const Seen& seen) const;

  const TensorView& at(const std::string& name) const { return *checkpoint_.find(name); }
  template <class T>
  std::vector<T> take(const std::string& name) const;
  CodeBytes borrow(const std::string& name) const;
  Result<std::vector<float>> take_floats(const std::string& name) const;
  Result<LinearWeight> read_linear(const StoredLinear& linear) const;
  Status read_dense(const StoredLinear& linear, LinearWeight& weight) const;
  Status read_scales(const StoredLinear& linear, LinearWeight& weight) const;
  Status read_widths(const StoredLinear& linear, LinearWeight& weight) const;
  Status read_learned(const StoredLinear& linear, LinearWeight& weight) const;
  Status read_plain(const StoredLinear& linear, LinearWeight& weight) const;
  Status read_kept(const StoredLinear& linear, LinearWeight& weight) const;
  Result<NormWeight> read_norm(const std::string& name) const;
  std::string where(const std::string& name) const;

  Checkpoint checkpoint_;
  std::map<std::string, Entry, std::less<>> entries_;
};

Status QuantizedSource::read_config() {
  NIBBLE_TRY(JsonReader config, JsonReader::open(config_, (folder_ / "config.json").string()));
  NIBBLE_TRY(JsonReader reader, config.object("quantization_config"));
  NIBBLE_TRY(const int64_t version, reader.integer("format_version", 1, INT64_MAX));
  if (version > kFormatVersion)
    return fail(ErrorCode::unsupported,
                "{}: \"format_version\" is {}, this program knows up to {}: a newer one wrote it", reader.where(),
                version, kFormatVersion);
  reader.ignore({"quant_method"});
  NIBBLE_TRY(JsonReader recipe, reader.object("recipe"));
  const Json* spec = reader.find("spec");
  if (spec == nullptr) return fail(ErrorCode::corrupt, "{}: \"spec\" is missing", reader.where());
  NIBBLE_TRY(spec_, spec_from_json(*spec, reader.where() + ", \"spec\""));
  NIBBLE_TRY(JsonReader linears, reader.object("linears"));
  reader.ignore({"attention"});
  NIBBLE_DO(attention_of(*this));
  NIBBLE_DO(reader.refuse_unknown());
  NIBBLE_DO(read_linears(std::move(linears)));
  const auto learned = std::find_if(entries_.begin(), entries_.end(),
                                    [](const auto& entry) { return entry.second.weights.is_learned(); });
  if (version < 4 && learned != entries_.end())
    return fail(ErrorCode::unsupported,
                "{}: \"format_version\" is {}, with {} in {}: from version 4 on learned levels are stored as integers; "
                "quantize the model again",
                reader.where(), version, learned->first, to_string(learned->second.weights));
  return {};
}

Status QuantizedSource::read_linears(JsonReader reader) {
  const Json& lines = config_["quantization_config"]["linears"];
  for (const auto& item : lines.items()) {
    NIBBLE_TRY(JsonReader line,
               JsonReader::open(item.value(), fmt::format("{}, {}", reader.where(), in_quotes(item.key()))));
    NIBBLE_TRY(Entry entry, read_entry(std::move(line)));
    entries_.emplace(item.key(), entry);
  }
  return check_names();
}

// Every line names a linear of the model, which has enough columns for it.
Status QuantizedSource::check_names() const {
  std::map<std::string, Shape, std::less<>> known;
  for (int64_t i = 0; i < spec_.layers; ++i)
    for (Role role : kAllRoles)
      if (shape_of(spec_, role).rows > 0) known.emplace(linear_name(i, role), shape_of(spec_, role));
  for (Global linear : globals_of(spec_)) known.emplace(name_of(linear), shape_of(spec_, linear));
  const std::string place = (folder_ / "config.json").string();
  for (const auto& [name, entry] : entries_) {
    const auto it = known.find(name);
    if (it == known.end())
      return fail(ErrorCode::corrupt, "{}: \"linears\" has {}, which is no linear of this model", place,
                  in_quotes(name));
    const int64_t dense = it->second.columns - entry.kept;
    if (dense < 0)
      return fail(ErrorCode::corrupt, "{}: \"{}\" keeps {} of {} columns", place, name, entry.kept, it->second.columns);
    if (entry.rotation > it->second.columns)
      return fail(ErrorCode::corrupt, "{}: \"{}\" rotates blocks of {} of {} columns", place, name, entry.rotation,
                  it->second.columns);
    if (entry.sparse24 && dense % 4 != 0)
      return fail(ErrorCode::corrupt, "{}: \"{}\" has {} dense columns, which a 2:4 pattern does not divide", place,
                  name, dense);
  }
  return {};
}

StoredLinear QuantizedSource::with_entry(StoredLinear linear) const {
  const auto it = entries_.find(linear.name);
  if (it != entries_.end()) linear.entry = &it->second;
  return linear;
}

StoredLinear QuantizedSource::stored(int64_t block, Role role) const {
  return with_entry({linear_name(block, role), shape_of(spec_, role), spec_.bias[static_cast<size_t>(role)], nullptr});
}

StoredLinear QuantizedSource::stored(Global linear) const {
  return with_entry({std::string(name_of(linear)), shape_of(spec_, linear), false, nullptr});
}

Status QuantizedSource::check_tensors() const {
  Seen seen;
  for (Global linear : globals_of(spec_)) NIBBLE_DO(check_linear(stored(linear), seen));
  if (const int64_t rows = position_rows_of(spec_); rows > 0)
    NIBBLE_DO(check_floats("positions.weight", {rows, spec_.hidden}, seen));
  if (spec_.final_norm) NIBBLE_DO(check_norm("final_norm", seen));
  for (int64_t i = 0; i < spec_.layers; ++i) {
    NIBBLE_DO(check_norm(fmt::format("blocks.{}.attention_norm", i), seen));
    if (!spec_.shared_norm) NIBBLE_DO(check_norm(fmt::format("blocks.{}.mlp_norm", i), seen));
    for (Role role : kAllRoles)
      if (shape_of(spec_, role).rows > 0) NIBBLE_DO(check_linear(stored(i, role), seen));
  }
  return check_rest(seen);
}

Status QuantizedSource::check_linear(const StoredLinear& linear, Seen& seen) const {
  for (const ExpectedPart& part : parts_of(linear)) NIBBLE_DO(check_part(part, seen));
  if (linear.entry != nullptr) return {};
  return check_floats(linear.name + ".weight", {linear.shape.rows, linear.shape.columns}, seen);
}

Status QuantizedSource::check_norm(const std::string& name, Seen& seen) const {
  const NormParts parts = norm_parts_of(spec_);
  if (parts.gain) NIBBLE_DO(check_part({name + ".gain", DType::f32, {spec_.hidden}}, seen));
  if (parts.bias) NIBBLE_DO(check_part({name + ".bias", DType::f32, {spec_.hidden}}, seen));
  return {};
}

Status QuantizedSource::check_part(const ExpectedPart& part, Seen& seen) const {
  NIBBLE_TRY(const TensorView* tensor, checkpoint_.tensor(part.name));
  if (tensor->dtype != part.type)
    return fail(ErrorCode::corrupt, "{}: tensor \"{}\" has the type {}, config.json requires {}",
                file_with(checkpoint_, *tensor), part.name, name_of(tensor->dtype), name_of(part.type));
  seen.insert(tensor->name);
  return expect_shape(checkpoint_, *tensor, part.shape);
}

Status QuantizedSource::check_floats(const std::string& name, const std::vector<int64_t>& shape, Seen& seen) const {
  NIBBLE_TRY(const TensorView* tensor, checkpoint_.tensor(name));
  NIBBLE_DO(expect_float(checkpoint_, *tensor));
  seen.insert(tensor->name);
  return expect_shape(checkpoint_, *tensor, shape);
}

Status QuantizedSource::check_rest(const Seen& seen) const {
  for (const TensorView* tensor : checkpoint_.tensors())
    if (!seen.contains(tensor->name))
      return fail(ErrorCode::corrupt, "{}: tensor {} does not belong to the model that config.json describes",
                  file_with(checkpoint_, *tensor), in_quotes(tensor->name));
  return {};
}

std::string QuantizedSource::where(const std::string& name) const {
  return fmt::format("{}: {}", folder_.string(), name);
}

template <class T>
std::vector<T> QuantizedSource::take(const std::string& name) const {
  const TensorView& tensor = at(name);
  std::vector<T> values = copy_values<T>(tensor);
  checkpoint_.release(tensor);
  return values;
}

CodeBytes QuantizedSource::borrow(const std::string& name) const {
  const TensorView& tensor = at(name);
  return CodeBytes::borrowed(tensor.bytes, checkpoint_.borrow(tensor, tensor.bytes));
}

Result<std::vector<float>> QuantizedSource::take_floats(const std::string& name) const {
  const TensorView& tensor = at(name);
  NIBBLE_DO(check_values_of(checkpoint_, tensor));
  NIBBLE_TRY(std::vector<float> values, all_floats(tensor));
  checkpoint_.release(tensor);
  return values;
}

Status QuantizedSource::read_dense(const StoredLinear& linear, LinearWeight& weight) const {
  weight.codes = borrow(linear.name + ".codes");
  if (weight.sparse24) weight.pattern = take<std::byte>(linear.name + ".pattern");
  NIBBLE_DO(read_scales(linear, weight));
  if (weight.format.offset) weight.offsets = take<uint8_t>(linear.name + ".offsets");
  if (linear.entry->has_widths()) NIBBLE_DO(read_widths(linear, weight));
  return weight.format.is_learned() ? read_learned(linear, weight) : Status();
}

Status QuantizedSource::read_widths(const StoredLinear& linear, LinearWeight& weight) const {
  const std::vector<uint8_t> stored = take<uint8_t>(linear.name + ".widths");
  const auto size = static_cast<size_t>(weight.format.group_size(weight.dense_columns()));
  for (size_t k = 0; k < static_cast<size_t>(weight.dense_columns()); ++k) weight.widths.push_back(stored[k / size]);
  MixedSizes found = MixedSizes::of(weight.widths);
  if (!weight.format.is_learned()) found.levels = 0;
  if (found == linear.entry->mixed) return {};
  return fail(ErrorCode::corrupt, "{}: its widths make {} bits and {} levels, config.json says {} and {}",
              where(linear.name), found.code_bits, found.levels, linear.entry->mixed.code_bits,
              linear.entry->mixed.levels);
}

Status QuantizedSource::read_learned(const StoredLinear& linear, LinearWeight& weight) const {
  weight.exponents = take<int8_t>(linear.name + ".exponents");
  weight.levels = levels_of_integers(weight, take<int8_t>(linear.name + ".levels"));
  if (linear.entry->sparse == 0) return {};
  NIBBLE_TRY(weight.sparse.values, take_floats(linear.name + ".sparse"));
  weight.sparse.row_ends = take<int32_t>(linear.name + ".sparse_rows");
  if (sparse_column_bytes(weight.dense_columns()) == 4) {
    weight.sparse.columns = take<int32_t>(linear.name + ".sparse_columns");
  } else {
    const std::vector<uint16_t> columns = take<uint16_t>(linear.name + ".sparse_columns");
    weight.sparse.columns.assign(columns.begin(), columns.end());
  }
  return {};
}

Status QuantizedSource::read_scales(const StoredLinear& linear, LinearWeight& weight) const {
  const ScaleCodec codec = weight.format.scale;
  if (weight.format.outer) {
    NIBBLE_TRY(const std::vector<float> outer, take_floats(linear.name + ".outer"));
    weight.outer = outer[0];
  }
  if (codec == ScaleCodec::none) return {};
  if (codec == ScaleCodec::f32 || codec == ScaleCodec::f16) {
    NIBBLE_TRY(weight.scales, take_floats(linear.name + ".scales"));
    return {};
  }
  for (uint8_t byte : take<uint8_t>(linear.name + ".scales")) weight.scales.push_back(scale_of_byte(byte, codec));
  return {};
}

Status QuantizedSource::read_plain(const StoredLinear& linear, LinearWeight& weight) const {
  const TensorView& tensor = at(linear.name + ".weight");
  NIBBLE_DO(check_values_of(checkpoint_, tensor));
  const Levels levels = levels_of(tensor.dtype);
  weight.format.levels = levels;
  weight.format.bits = static_cast<int>(8 * bytes_of(levels));
  weight.codes = borrow(linear.name + ".weight");
  return {};
}

Status QuantizedSource::read_kept(const StoredLinear& linear, LinearWeight& weight) const {
  if (linear.kept() == 0) return {};
  NIBBLE_DO(check_values_of(checkpoint_, at(linear.name + ".kept")));
  weight.kept = take<uint16_t>(linear.name + ".kept");
  weight.kept_levels = linear.entry->kept_levels;
  weight.kept_columns = take<int32_t>(linear.name + ".kept_columns");
  return {};
}

Result<LinearWeight> QuantizedSource::read_linear(const StoredLinear& linear) const {
  LinearWeight weight;
  weight.rows = linear.shape.rows;
  weight.columns = linear.shape.columns;
  if (linear.entry != nullptr) {
    weight.format = linear.entry->weights;
    weight.activations = linear.entry->activations;
    weight.sparse24 = linear.entry->sparse24;
    weight.rotation = linear.entry->rotation;
  }
  NIBBLE_DO(read_kept(linear, weight));
  NIBBLE_DO(linear.coded() ? read_dense(linear, weight) : read_plain(linear, weight));
  if (linear.bias) {
    NIBBLE_TRY(weight.bias, take_floats(linear.name + ".bias"));
  }
  NIBBLE_DO(weight.validate(where(linear.name)));
  return weight;
}

Result<NormWeight> QuantizedSource::read_norm(const std::string& name) const {
  NormWeight norm;
  const NormParts parts = norm_parts_of(spec_);
  if (parts.gain) {
    NIBBLE_TRY(norm.gain, take_floats(name + ".gain"));
  }
  if (parts.bias) {
    NIBBLE_TRY(norm.bias, take_floats(name + ".bias"));
  }
  return norm;
}

Result<GlobalWeights> QuantizedSource::globals() const {
  GlobalWeights out;
  for (Global linear : globals_of(spec_)) {
    NIBBLE_TRY(LinearWeight weight, read_linear(stored(linear)));
    set_linear(out, linear, std::move(weight));
  }
  if (position_rows_of(spec_) > 0) {
    NIBBLE_TRY(out.position_rows, take_floats("positions.weight"));
  }
  if (spec_.final_norm) {
    NIBBLE_TRY(out.final_norm, read_norm("final_norm"));
  }
  return out;
}

Result<BlockWeights> QuantizedSource::block(int64_t index) const {
  NIBBLE_CHECK(index >= 0 && index < spec_.layers);
  BlockWeights out;
  NIBBLE_TRY(out.attention_norm, read_norm(fmt::format("blocks.{}.attention_norm", index)));
  if (!spec_.shared_norm) {
    NIBBLE_TRY(out.mlp_norm, read_norm(fmt::format("blocks.{}.mlp_norm", index)));
  }
  for (Role role : kAllRoles) {
    if (shape_of(spec_, role).rows == 0) continue;
    NIBBLE_TRY(out[role], read_linear(stored(index, role)));
  }
  return out;
}

}  // namespace

Result<std::unique_ptr<ModelSource>> open_quantized(const std::filesystem::path& folder, Json config) {
  NIBBLE_TRY(Checkpoint checkpoint, Checkpoint::open(folder));
  auto source = std::make_unique<QuantizedSource>(std::move(checkpoint), std::move(config));
  NIBBLE_DO(source->read_config());
  NIBBLE_DO(source->check_tensors());
  return source;
}

}  // namespace nibble
