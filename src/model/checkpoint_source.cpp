#include "model/checkpoint_source.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "checkpoint/file_name.h"
#include "checkpoint/safetensors.h"
#include "model/tensor_map.h"
#include "model/tensor_reading.h"

namespace nibble {
namespace {

// What older versions of transformers stored beside the weights, and nobody reads.
bool is_leftover(std::string_view name) {
  constexpr std::string_view kSuffixes[] = {".inv_freq", ".cos_cached", ".sin_cached", ".masked_bias",
                                            "decoder.version"};
  return std::any_of(std::begin(kSuffixes), std::end(kSuffixes), [&](auto suffix) { return name.ends_with(suffix); });
}

Result<std::string> find_base(const Checkpoint& checkpoint, const Layout& layout) {
  std::string tried;
  for (std::string_view base : layout.bases) {
    const std::string name = embedding_tensor(layout, base);
    if (checkpoint.find(name) != nullptr) return std::string(base);
    tried += (tried.empty() ? "" : ", ") + name;
  }
  return fail(ErrorCode::corrupt, "{}: the embedding is missing: none of the tensors {}", checkpoint.folder().string(),
              tried);
}

// The rows of a linear in a tensor with rows of `row_bytes`: where they lie, or gathered when they lie apart.
CodeBytes rows_of(const Checkpoint& checkpoint, const TensorView& tensor, const RowRuns& rows, int64_t row_bytes) {
  if (rows.count == 1) {
    const auto part =
        tensor.bytes.subspan(static_cast<size_t>(rows.first * row_bytes), static_cast<size_t>(rows.run * row_bytes));
    return CodeBytes::borrowed(part, checkpoint.borrow(tensor, part));
  }
  Bytes out(static_cast<size_t>(rows.rows() * row_bytes));
  for (int64_t i = 0; i < rows.count; ++i)
    std::memcpy(out.data() + i * rows.run * row_bytes, tensor.bytes.data() + (rows.first + i * rows.stride) * row_bytes,
                static_cast<size_t>(rows.run * row_bytes));
  return out;
}

class CheckpointSource : public ModelSource {
 public:
  CheckpointSource(Checkpoint checkpoint, Json config) : checkpoint_(std::move(checkpoint)) {
    folder_ = checkpoint_.folder();
    config_ = std::move(config);
  }

  Status read_config();
  Status check_tensors() const;
  Result<GlobalWeights> globals() const override;
  Result<BlockWeights> block(int64_t index) const override;
  int64_t file_bytes() const override { return checkpoint_.file_bytes(); }
  CheckpointPlace place_of(int64_t block, Role role) const override;

 private:
  Status check_expected(const std::vector<ExpectedTensor>& tensors, std::set<std::string_view>& seen) const;
  Status check_rest(const std::set<std::string_view>& seen) const;
  Status check_tied_head() const;
  // The tensors are there: check_tensors() has looked.
  const TensorView& at(const std::string& name) const { return *checkpoint_.find(name); }
  Status check_values(const std::vector<ExpectedTensor>& tensors) const;
  void release(const std::vector<ExpectedTensor>& tensors) const;
  Result<std::vector<float>> floats(const std::string& name) const;
  Result<std::vector<float>> bias(const LinearNames& names) const;

  Checkpoint checkpoint_;
  Layout layout_;
  std::string base_;
};

Status CheckpointSource::read_config() {
  NIBBLE_TRY(Reading reading, read_family(config_, (folder_ / "config.json").string()));
  spec_ = std::move(reading.spec);
  layout_ = std::move(reading.layout);
  NIBBLE_TRY(base_, find_base(checkpoint_, layout_));
  return {};
}

Status CheckpointSource::check_tensors() const {
  std::set<std::string_view> seen;
  const GlobalMap globals = global_map(spec_, layout_, base_);
  NIBBLE_DO(check_expected(globals.tensors, seen));
  for (int64_t i = 0; i < spec_.layers; ++i)
    NIBBLE_DO(check_expected(block_map(spec_, layout_, base_, i).tensors, seen));
  return check_rest(seen);
}

Status CheckpointSource::check_expected(const std::vector<ExpectedTensor>& tensors,
                                        std::set<std::string_view>& seen) const {
  for (const ExpectedTensor& expected : tensors) {
    NIBBLE_TRY(const TensorView* tensor, checkpoint_.tensor(expected.name));
    NIBBLE_DO(expect_float(checkpoint_, *tensor));
    NIBBLE_DO(expect_shape(checkpoint_, *tensor, expected.shape));
    seen.insert(tensor->name);
  }
  return {};
}

Status CheckpointSource::check_rest(const std::set<std::string_view>& seen) const {
  for (const TensorView* tensor : checkpoint_.tensors()) {
    if (seen.contains(tensor->name) || is_leftover(tensor->name)) continue;
    if (spec_.tied_head && tensor->name == kHeadTensor) continue;
    return fail(ErrorCode::corrupt,
                "{}: tensor {} does not belong to the model that config.json describes ({}, {} layers)",
                file_with(checkpoint_, *tensor), in_quotes(tensor->name), spec_.family, spec_.layers);
  }
  return {};
}

// A tied checkpoint may hold the head again. If it is another matrix, config.json and weights contradict each other.
Status CheckpointSource::check_tied_head() const {
  const TensorView* head = spec_.tied_head ? checkpoint_.find(kHeadTensor) : nullptr;
  if (head == nullptr) return {};
  const TensorView& embedding = at(embedding_tensor(layout_, base_));
  const bool same = head->dtype == embedding.dtype && head->shape == embedding.shape &&
                    std::equal(head->bytes.begin(), head->bytes.end(), embedding.bytes.begin());
  checkpoint_.release(*head);
  if (same) return {};
  return fail(ErrorCode::corrupt,
              "{}: \"{}\" differs from \"{}\", though the output matrix is the embedding (\"tie_word_embeddings\" is "
              "true, or absent with that default); set it to false in config.json to use the tensor, or remove it",
              file_with(checkpoint_, *head), kHeadTensor, embedding.name);
}

Status CheckpointSource::check_values(const std::vector<ExpectedTensor>& tensors) const {
  for (const ExpectedTensor& tensor : tensors) NIBBLE_DO(check_values_of(checkpoint_, at(tensor.name)));
  return {};
}

void CheckpointSource::release(const std::vector<ExpectedTensor>& tensors) const {
  for (const ExpectedTensor& tensor : tensors) checkpoint_.release(at(tensor.name));
}

Result<std::vector<float>> CheckpointSource::floats(const std::string& name) const {
  if (name.empty()) return std::vector<float>();
  return all_floats(at(name));
}

Result<std::vector<float>> CheckpointSource::bias(const LinearNames& names) const {
  NIBBLE_TRY(const std::vector<float> all, floats(names.bias));
  std::vector<float> out;
  for (int64_t n = 0; n < names.rows.rows() && !all.empty(); ++n)
    out.push_back(all[static_cast<size_t>(names.rows.at(n))]);
  return out;
}

Result<GlobalWeights> CheckpointSource::globals() const {
  const GlobalMap map = global_map(spec_, layout_, base_);
  NIBBLE_DO(check_values(map.tensors));
  NIBBLE_DO(check_tied_head());
  GlobalWeights out;
  for (const GlobalNames& names : map.linears) {
    const TensorView& tensor = at(names.weight);
    const Shape shape = shape_of(spec_, names.linear);
    CodeBytes values = CodeBytes::borrowed(tensor.bytes, checkpoint_.borrow(tensor, tensor.bytes));
    set_linear(out, names.linear,
               float_linear(shape.rows, shape.columns, levels_of(tensor.dtype), std::move(values), {}));
  }
  NIBBLE_TRY(out.position_rows, floats(map.positions));
  NIBBLE_TRY(out.final_norm.gain, floats(map.final_gain));
  NIBBLE_TRY(out.final_norm.bias, floats(map.final_bias));
  release(map.tensors);
  return out;
}

Result<BlockWeights> CheckpointSource::block(int64_t index) const {
  NIBBLE_CHECK(index >= 0 && index < spec_.layers);
  const BlockMap map = block_map(spec_, layout_, base_, index);
  NIBBLE_DO(check_values(map.tensors));
  BlockWeights out;
  for (const NormNames& names : map.norms) {
    NIBBLE_TRY((out.*names.norm).gain, floats(names.gain));
    NIBBLE_TRY((out.*names.norm).bias, floats(names.bias));
  }
  for (const LinearNames& names : map.linears) {
    const TensorView& tensor = at(names.weight);
    const Levels levels = levels_of(tensor.dtype);
    const int64_t columns = shape_of(spec_, names.role).columns;
    NIBBLE_TRY(std::vector<float> bias_of_rows, bias(names));
    CodeBytes values = rows_of(checkpoint_, tensor, names.rows, columns * bytes_of(levels));
    out[names.role] = float_linear(names.rows.rows(), columns, levels, std::move(values), std::move(bias_of_rows));
  }
  release(map.tensors);
  return out;
}

CheckpointPlace CheckpointSource::place_of(int64_t block, Role role) const {
  CheckpointPlace out;
  for (const std::string_view base : layout_.bases)
    for (const LinearNames& names : block_map(spec_, layout_, base, block).linears) {
      if (names.role != role) continue;
      out.names.push_back(names.weight);
      out.rows = names.rows;
    }
  return out;
}

}  // namespace

Result<std::unique_ptr<ModelSource>> open_checkpoint(const std::filesystem::path& folder, Json config) {
  NIBBLE_TRY(Checkpoint checkpoint, Checkpoint::open(folder));
  auto source = std::make_unique<CheckpointSource>(std::move(checkpoint), std::move(config));
  NIBBLE_DO(source->read_config());
  NIBBLE_DO(source->check_tensors());
  return source;
}

}  // namespace nibble
