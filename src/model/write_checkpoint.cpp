// From a ModelSource back to an ordinary float checkpoint of its family.
#include "checkpoint/output_folder.h"
#include "checkpoint/safetensors.h"
#include "core/file.h"
#include "model/globals.h"
#include "model/shard_plan.h"
#include "model/storage.h"
#include "model/tensor_map.h"
#include "model/tensor_reading.h"

namespace nibble {
namespace fs = std::filesystem;
namespace {

// One tensor of the output, filled row by row.
class TensorBytes {
 public:
  TensorBytes(const TensorView& tensor, Levels levels)
      : name_(tensor.name), levels_(levels), bytes_(static_cast<size_t>(tensor.elements() * bytes_of(levels))) {}

  // `values` as elements first, first + 1, ...
  Status put(int64_t first, std::span<const float> values) {
    NIBBLE_CHECK((first + static_cast<int64_t>(values.size())) * bytes_of(levels_) <=
                 static_cast<int64_t>(bytes_.size()));
    const auto misfit = write_floats(values, levels_, bytes_.data() + first * bytes_of(levels_));
    if (!misfit) return {};
    return fail(ErrorCode::usage, "tensor \"{}\": the value {} does not fit {}; choose bf16 or f32", name_, *misfit,
                name_of(dtype_of(levels_)));
  }
  Status put_rows(const LinearWeight& weight, const RowRuns& rows) {
    std::vector<float> row(static_cast<size_t>(weight.columns));
    for (int64_t n = 0; n < weight.rows; ++n) {
      decode_row(weight, n, row);
      NIBBLE_DO(put(rows.at(n) * weight.columns, row));
    }
    return {};
  }
  Status put_bias(const LinearWeight& weight, const RowRuns& rows) {
    NIBBLE_CHECK(static_cast<int64_t>(weight.bias.size()) == weight.rows);
    for (int64_t n = 0; n < weight.rows; ++n)
      NIBBLE_DO(put(rows.at(n), std::span(weight.bias).subspan(static_cast<size_t>(n), 1)));
    return {};
  }
  const Bytes& bytes() const { return bytes_; }

 private:
  std::string name_;
  Levels levels_;
  Bytes bytes_;
};

Status fill_from_block(const BlockMap& map, const BlockWeights& block, const std::string& name, TensorBytes& out) {
  for (const LinearNames& linear : map.linears) {
    if (linear.weight == name) NIBBLE_DO(out.put_rows(block[linear.role], linear.rows));
    if (linear.bias == name) NIBBLE_DO(out.put_bias(block[linear.role], linear.rows));
  }
  for (const NormNames& norm : map.norms) {
    if (norm.gain == name) NIBBLE_DO(out.put(0, (block.*norm.norm).gain));
    if (norm.bias == name) NIBBLE_DO(out.put(0, (block.*norm.norm).bias));
  }
  return {};
}

Status fill_from_globals(const GlobalMap& map, const GlobalWeights& globals, const std::string& name,
                         TensorBytes& out) {
  for (const GlobalNames& names : map.linears) {
    const LinearWeight* linear = find_linear(globals, names.linear);
    if (names.weight == name) NIBBLE_DO(out.put_rows(*linear, RowRuns::whole(linear->rows)));
  }
  if (map.positions == name) NIBBLE_DO(out.put(0, globals.position_rows));
  if (map.final_gain == name) NIBBLE_DO(out.put(0, globals.final_norm.gain));
  if (map.final_bias == name) NIBBLE_DO(out.put(0, globals.final_norm.bias));
  return {};
}

class Writer {
 public:
  Writer(const ModelSource& source, const Layout& layout, Levels levels, int64_t shard_bytes)
      : source_(source),
        layout_(layout),
        base_(layout.bases.front()),
        levels_(levels),
        shards_(plan_shards(source.spec(), layout, base_, levels, shard_bytes)) {}

  int64_t bytes() const { return bytes_of(shards_); }
  Status write_shards(const fs::path& folder);

 private:
  Status write_shard(const Shard& shard, const fs::path& path);
  Status write_tensor(const TensorView& tensor, int64_t unit, SafetensorsWriter& writer);
  Status load(int64_t unit);

  const ModelSource& source_;
  const Layout& layout_;
  std::string_view base_;
  Levels levels_;
  std::vector<Shard> shards_;
  int64_t loaded_ = kGlobalUnit - 1;  // the unit that block_ or globals_ holds
  BlockWeights block_;
  GlobalWeights globals_;
};

Status Writer::write_shards(const fs::path& folder) {
  const auto count = static_cast<int64_t>(shards_.size());
  for (int64_t i = 0; i < count; ++i)
    NIBBLE_DO(write_shard(shards_[static_cast<size_t>(i)], folder / shard_name(i, count)));
  return write_shard_index(folder, shards_);
}

// The file's order is by name, which keeps the tensors of a block together: each block is loaded once.
Status Writer::write_shard(const Shard& shard, const fs::path& path) {
  NIBBLE_TRY(SafetensorsWriter writer, SafetensorsWriter::create(path, shard.tensors));
  for (const TensorView& tensor : writer.order()) NIBBLE_DO(write_tensor(tensor, shard.units.at(tensor.name), writer));
  return writer.commit();
}

Status Writer::write_tensor(const TensorView& tensor, int64_t unit, SafetensorsWriter& writer) {
  NIBBLE_DO(load(unit));
  TensorBytes out(tensor, levels_);
  if (unit == kGlobalUnit) {
    NIBBLE_DO(fill_from_globals(global_map(source_.spec(), layout_, base_), globals_, tensor.name, out));
  } else {
    NIBBLE_DO(fill_from_block(block_map(source_.spec(), layout_, base_, unit), block_, tensor.name, out));
  }
  return writer.write(tensor.name, out.bytes());
}

Status Writer::load(int64_t unit) {
  if (unit == loaded_) return {};
  block_ = {};
  globals_ = {};
  if (unit == kGlobalUnit) {
    NIBBLE_TRY(globals_, source_.globals());
  } else {
    NIBBLE_TRY(block_, source_.block(unit));
  }
  loaded_ = unit;
  return {};
}

// The config's own Spec must be that of the weights, or the checkpoint would mean another function.
Status expect_same_spec(const Spec& weights, const Spec& config, const fs::path& folder) {
  const Json ours = to_json(weights), theirs = to_json(config);
  for (const auto& item : ours.items())
    if (theirs[item.key()] != item.value())
      return fail(
          ErrorCode::unsupported,
          "{}: the weights were changed so that \"{}\" is {}, config.json says {}: the family has no checkpoint "
          "for that",
          folder.string(), item.key(), dump_json(item.value()), dump_json(theirs[item.key()]));
  return {};
}

Json float_config(Json config, Levels levels) {
  constexpr std::string_view kNames[] = {"float32", "float16", "bfloat16"};
  const size_t row = levels == Levels::f32 ? 0 : levels == Levels::f16 ? 1 : 2;
  config.erase("quantization_config");
  if (!config.contains("dtype") || config.contains("torch_dtype")) config["torch_dtype"] = kNames[row];
  if (config.contains("dtype")) config["dtype"] = kNames[row];
  return config;
}

// With `force` the folder would be replaced, and with it the model that is being read.
Status expect_elsewhere(const fs::path& source, const fs::path& folder) {
  std::error_code error;
  if (!fs::equivalent(source, folder, error)) return {};
  return fail(ErrorCode::usage, "{} is the model itself; write to another folder", folder.string());
}

Status write_all(const ModelSource& source, Writer& writer, Levels levels, const fs::path& folder) {
  NIBBLE_DO(writer.write_shards(folder));
  NIBBLE_DO(copy_companions(source.folder(), folder));
  return write_durably(folder / "config.json", dump_json(float_config(source.config(), levels), 2) + "\n");
}

}  // namespace

Status write_checkpoint(const ModelSource& source, const fs::path& folder, Levels levels,
                        const CheckpointOptions& options) {
  if (levels == Levels::integer) return fail(ErrorCode::usage, "a checkpoint holds f32, f16 or bf16");
  NIBBLE_DO(expect_elsewhere(source.folder(), folder));
  NIBBLE_TRY(const Reading reading, read_family(source.config(), (source.folder() / "config.json").string()));
  NIBBLE_DO(expect_same_spec(source.spec(), reading.spec, source.folder()));
  Writer writer(source, reading.layout, levels, options.shard_bytes);
  NIBBLE_TRY(OutputFolder out, OutputFolder::create(folder, options.force, false));
  Status written = out.require_space(writer.bytes());
  if (written) written = write_all(source, writer, levels, out.path());
  if (written) written = out.finish();
  if (!written) out.discard();
  return written;
}

}  // namespace nibble
