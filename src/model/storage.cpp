#include "model/storage.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/file.h"
#include "core/half.h"
#include "model/globals.h"
#include "model/tensor_reading.h"

namespace nibble {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are stored as they lie in memory");

// Appends tensors, viewing memory that the caller keeps or that `out.storage` takes over.
class Collector {
 public:
  // `values`: contiguous.
  template <class Values>
  void view(std::string name, DType type, std::vector<int64_t> shape, const Values& values) {
    out_.tensors.push_back({std::move(name), type, std::move(shape), std::as_bytes(std::span(values))});
  }
  void own(std::string name, DType type, std::vector<int64_t> shape, Bytes bytes) {
    out_.storage.push_back(std::move(bytes));
    out_.tensors.push_back({std::move(name), type, std::move(shape), out_.storage.back()});
  }
  void floats(const std::string& name, const std::vector<float>& values) {
    if (!values.empty()) view(name, DType::f32, {static_cast<int64_t>(values.size())}, values);
  }
  void norm(const std::string& name, const NormWeight& norm) {
    floats(name + ".gain", norm.gain);
    floats(name + ".bias", norm.bias);
  }
  void linear(const std::string& name, const LinearWeight& weight);
  NamedTensors take() { return std::move(out_); }

 private:
  void dense(const std::string& name, const LinearWeight& weight);
  void scales(const std::string& name, const LinearWeight& weight);
  void widths(const std::string& name, const LinearWeight& weight);
  void learned(const std::string& name, const LinearWeight& weight);
  void sparse(const std::string& name, const LinearWeight& weight);
  NamedTensors out_;
};

// The values in a narrower type of the same values, f16 bits or bfloat16 bits.
template <class Convert>
Bytes narrowed(const std::vector<float>& values, Convert convert) {
  Bytes bytes(values.size() * 2);
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t bits = convert(values[i]);
    std::memcpy(bytes.data() + 2 * i, &bits, 2);
  }
  return bytes;
}

template <class Narrow, class Widen>
bool exact(const std::vector<float>& values, Narrow narrow, Widen widen) {
  for (float value : values)
    if (std::bit_cast<uint32_t>(widen(narrow(value))) != std::bit_cast<uint32_t>(value)) return false;
  return true;
}

void Collector::scales(const std::string& name, const LinearWeight& weight) {
  if (weight.format.outer) view(name + ".outer", DType::f32, {1}, std::span(&weight.outer, 1));
  if (weight.format.scale == ScaleCodec::none) return;
  const std::vector<int64_t> shape = {weight.rows, weight.groups()};
  if (weight.format.scale == ScaleCodec::f16)
    return own(name + ".scales", DType::f16, shape, narrowed(weight.scales, f32_to_f16));
  if (weight.format.scale == ScaleCodec::f32) return view(name + ".scales", DType::f32, shape, weight.scales);
  Bytes bytes(weight.scales.size());
  for (size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<std::byte>(scale_byte(weight.scales[i], weight.format.scale));
  own(name + ".scales", DType::u8, shape, std::move(bytes));
}

void Collector::dense(const std::string& name, const LinearWeight& weight) {
  const int64_t rows = weight.rows, size = static_cast<int64_t>(weight.codes.size());
  if (weight.format.is_float())
    return view(name + ".weight", dtype_of(weight.format.levels), {rows, weight.dense_columns()}, weight.codes);
  view(name + ".codes", DType::u8, {rows, size / rows}, weight.codes);
  if (weight.sparse24)
    view(name + ".pattern", DType::u8, {rows, static_cast<int64_t>(weight.pattern.size()) / rows}, weight.pattern);
  scales(name, weight);
  if (weight.format.offset) view(name + ".offsets", DType::u8, {rows, weight.groups()}, weight.offsets);
  widths(name, weight);
  if (weight.format.is_learned()) learned(name, weight);
}

// One byte for each group, where all columns of a group have the same bits.
void Collector::widths(const std::string& name, const LinearWeight& weight) {
  if (weight.widths.empty()) return;
  const int64_t count = width_bytes(weight.format, weight.dense_columns());
  Bytes bytes;
  for (int64_t g = 0; g < count; ++g) bytes.push_back(static_cast<std::byte>(weight.group_bits(g)));
  own(name + ".widths", DType::u8, {count}, std::move(bytes));
}

void Collector::learned(const std::string& name, const LinearWeight& weight) {
  const std::vector<int8_t> levels = integers_of_levels(weight);
  const auto bytes = std::as_bytes(std::span(levels));
  own(name + ".levels", DType::i8, {static_cast<int64_t>(levels.size())}, {bytes.begin(), bytes.end()});
  view(name + ".exponents", DType::i8, {static_cast<int64_t>(weight.exponents.size())}, weight.exponents);
  if (!weight.sparse.empty()) sparse(name, weight);
}

void Collector::sparse(const std::string& name, const LinearWeight& weight) {
  const auto count = static_cast<int64_t>(weight.sparse.values.size());
  own(name + ".sparse", DType::bf16, {count}, narrowed(weight.sparse.values, f32_to_bf16));
  view(name + ".sparse_rows", DType::i32, {weight.rows}, weight.sparse.row_ends);
  if (sparse_column_bytes(weight.dense_columns()) == 4)
    return view(name + ".sparse_columns", DType::i32, {count}, weight.sparse.columns);
  Bytes bytes;
  for (const int32_t column : weight.sparse.columns)
    for (int shift : {0, 8}) bytes.push_back(static_cast<std::byte>(column >> shift & 255));
  own(name + ".sparse_columns", DType::u16, {count}, std::move(bytes));
}

void Collector::linear(const std::string& name, const LinearWeight& weight) {
  if (weight.rows == 0) return;
  dense(name, weight);
  if (weight.kept_count() > 0) {
    view(name + ".kept", weight.kept_levels == Levels::bf16 ? DType::bf16 : DType::f16,
         {weight.rows, weight.kept_count()}, weight.kept);
    view(name + ".kept_columns", DType::i32, {weight.kept_count()}, weight.kept_columns);
  }
  floats(name + ".bias", weight.bias);
}

constexpr const char* kCompanions[] = {
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
    "LICENSE.txt",
    "generation_config.json",
};

}  // namespace

NamedTensors block_tensors(const BlockWeights& block, int64_t index) {
  Collector out;
  out.norm(fmt::format("blocks.{}.attention_norm", index), block.attention_norm);
  out.norm(fmt::format("blocks.{}.mlp_norm", index), block.mlp_norm);
  for (Role role : kAllRoles) out.linear(linear_name(index, role), block[role]);
  return out.take();
}

NamedTensors global_tensors(const GlobalWeights& globals) {
  Collector out;
  for (Global linear : {Global::embedding, Global::head, Global::project_in, Global::project_out})
    if (const LinearWeight* weight = find_linear(globals, linear)) out.linear(std::string(name_of(linear)), *weight);
  out.norm("final_norm", globals.final_norm);
  const std::vector<float>& rows = globals.position_rows;
  if (rows.empty()) return out.take();
  // The table does not know its width; the embedding and the projection do.
  const int64_t width = globals.project_in ? globals.project_in->rows : globals.embedding.columns;
  const std::vector<int64_t> shape = {static_cast<int64_t>(rows.size()) / width, width};
  if (exact(rows, f32_to_f16, f16_to_f32)) {
    out.own("positions.weight", DType::f16, shape, narrowed(rows, f32_to_f16));
  } else if (exact(rows, f32_to_bf16, bf16_to_f32)) {
    out.own("positions.weight", DType::bf16, shape, narrowed(rows, f32_to_bf16));
  } else {
    out.view("positions.weight", DType::f32, shape, rows);
  }
  return out.take();
}

Json linear_entry(const LinearWeight& weight) {
  Json entry = {{"weights", to_string(weight.format)}, {"activations", to_string(weight.activations)}};
  if (weight.kept_count() > 0) entry["kept"] = weight.kept_count();
  if (weight.kept_count() > 0 && weight.kept_levels == Levels::bf16) entry["kept_as"] = "bf16";
  if (weight.sparse24) entry["pattern"] = "2:4";
  if (weight.rotation > 0) entry["hadamard"] = weight.rotation;
  if (!weight.sparse.empty()) entry["sparse"] = weight.sparse.values.size();
  if (!weight.widths.empty()) {
    const MixedSizes sizes = MixedSizes::of(weight.widths);
    entry["row_bits"] = sizes.code_bits;
    if (weight.format.is_learned()) entry["levels"] = sizes.levels;
  }
  return entry;
}

namespace {

int64_t version_of(const Json& linear) {
  const std::string weights = linear.value("weights", ""), activations = linear.value("activations", "");
  if (weights.starts_with("code") || weights.starts_with("int:")) return 4;
  if (activations == "bf16") return 3;
  return linear.contains("hadamard") ? 2 : 1;
}

}  // namespace

Json quantization_config_for(Json recipe, const Spec& spec, Json linears, std::span<const AttentionFormats> attention) {
  int64_t version = 1;
  for (const Json& linear : linears) version = std::max(version, version_of(linear));
  Json config = {{"quant_method", "nibble"},
                 {"format_version", version},
                 {"recipe", std::move(recipe)},
                 {"spec", to_json(spec)},
                 {"linears", std::move(linears)}};
  if (attention.empty()) return config;
  const bool alike =
      std::all_of(attention.begin(), attention.end(), [&](const auto& block) { return block == attention[0]; });
  // A float cache is in the recipe, where older programs look for it.
  if (alike && attention[0].plain() && cache_name(attention[0]) == config["recipe"].value("cache", "f32"))
    return config;
  config["format_version"] = std::max<int64_t>(version, 2);
  if (alike) {
    config["attention"] = to_json(attention[0]);
  } else {
    config["attention"] = Json::array();
    for (const AttentionFormats& block : attention) config["attention"].push_back(to_json(block));
  }
  return config;
}

std::string shard_name(int64_t index, int64_t count) {
  if (count == 1) return "model.safetensors";
  return fmt::format("model-{:05}-of-{:05}.safetensors", index + 1, count);
}

Status copy_companions(const std::filesystem::path& from, const std::filesystem::path& to) {
  for (const char* name : kCompanions) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(from / name, error)) continue;
    NIBBLE_TRY(const MappedFile file, MappedFile::open(from / name));
    NIBBLE_TRY(DurableFile copy, DurableFile::create(to / name));
    NIBBLE_DO(copy.write(file.bytes()));
    NIBBLE_DO(copy.commit());
  }
  return {};
}

}  // namespace nibble
