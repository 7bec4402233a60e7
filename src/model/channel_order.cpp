#include "model/channel_order.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "checkpoint/safetensors.h"
#include "model/globals.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using Order = std::vector<int32_t>;

Order inverse(const Order& order) {
  Order out(order.size());
  for (size_t i = 0; i < order.size(); ++i) out[static_cast<size_t>(order[i])] = static_cast<int32_t>(i);
  return out;
}

void reorder(const Order& order, std::vector<float>& values) {
  if (order.empty() || values.empty()) return;
  const std::vector<float> old = values;
  for (size_t i = 0; i < order.size(); ++i) values[i] = old[static_cast<size_t>(order[i])];
}

void reorder(const Order& order, NormWeight& norm) {
  reorder(order, norm.gain);
  reorder(order, norm.bias);
}

LinearWeight floats_of(const LinearWeight& weight) {
  Bytes values(static_cast<size_t>(weight.rows * weight.columns) * sizeof(float));
  std::vector<float> row(static_cast<size_t>(weight.columns));
  for (int64_t n = 0; n < weight.rows; ++n) {
    decode_row(weight, n, row);
    std::memcpy(values.data() + static_cast<size_t>(n) * row.size() * sizeof(float), row.data(),
                row.size() * sizeof(float));
  }
  return float_linear(weight.rows, weight.columns, Levels::f32, std::move(values), weight.bias);
}

template <class Value>
void copy_row(const std::byte* from, const Order& columns, std::byte* to) {
  for (size_t k = 0; k < columns.size(); ++k)
    std::memcpy(to + k * sizeof(Value), from + static_cast<size_t>(columns[k]) * sizeof(Value), sizeof(Value));
}

// Rows and columns of a matrix; an empty order leaves them.
void reorder(const Order& rows, const Order& columns, LinearWeight& weight) {
  if (weight.rows == 0 || (rows.empty() && columns.empty())) return;
  if (weight.format.has_codes() || weight.kept_count() > 0 || weight.rotation > 0) weight = floats_of(weight);
  const size_t value = static_cast<size_t>(weight.format.bits / 8);
  const size_t row_bytes = static_cast<size_t>(weight.columns) * value;
  const CodeBytes& old = weight.codes;
  Bytes codes(old.size());
  for (size_t n = 0; n < static_cast<size_t>(weight.rows); ++n) {
    const std::byte* const from = old.data() + (rows.empty() ? n : static_cast<size_t>(rows[n])) * row_bytes;
    std::byte* const to = codes.data() + n * row_bytes;
    if (columns.empty()) {
      std::memcpy(to, from, row_bytes);
    } else {
      value == 4 ? copy_row<uint32_t>(from, columns, to) : copy_row<uint16_t>(from, columns, to);
    }
  }
  weight.codes = std::move(codes);
  reorder(rows, weight.bias);
}

// The inputs of the output projection: each query head reads the values of its key-value head.
Order outputs_of_attention(const Order& values, const Spec& spec) {
  Order out;
  for (int64_t head = 0; !values.empty() && head < spec.heads; ++head) {
    const int64_t group = head / (spec.heads / spec.kv_heads);
    for (int64_t d = 0; d < spec.head_dim; ++d)
      out.push_back(static_cast<int32_t>(values[static_cast<size_t>(group * spec.head_dim + d)] +
                                         (head - group) * spec.head_dim));
  }
  return out;
}

Status check(const Order& order, int64_t size, std::string_view where, std::string_view name) {
  if (order.empty()) return {};
  std::vector<bool> seen(order.size());
  bool good = static_cast<int64_t>(order.size()) == size;
  for (size_t i = 0; good && i < order.size(); ++i) {
    good = order[i] >= 0 && order[i] < size && !seen[static_cast<size_t>(order[i])];
    if (good) seen[static_cast<size_t>(order[i])] = true;
  }
  if (good) return {};
  return fail(ErrorCode::corrupt, "{}: \"{}\" is no order of {} channels", where, name, size);
}

class ReorderedSource : public ModelSource {
 public:
  ReorderedSource(std::unique_ptr<ModelSource> source, ChannelOrder order)
      : source_(std::move(source)), order_(std::move(order)) {
    folder_ = source_->folder();
    spec_ = source_->spec();
    config_ = source_->config();
  }
  const Json* quantization() const override { return source_->quantization(); }
  int64_t file_bytes() const override { return source_->file_bytes(); }
  Result<GlobalWeights> globals() const override {
    NIBBLE_TRY(GlobalWeights out, source_->globals());
    reorder(order_, spec_, out);
    return out;
  }
  Result<BlockWeights> block(int64_t index) const override {
    NIBBLE_TRY(BlockWeights out, source_->block(index));
    reorder(order_, spec_, index, out);
    return out;
  }

 private:
  std::unique_ptr<ModelSource> source_;
  ChannelOrder order_;
};

}  // namespace

ChannelOrder inverse(const ChannelOrder& order) {
  ChannelOrder out;
  out.residual = inverse(order.residual);
  for (const ChannelOrder::Block& block : order.blocks)
    out.blocks.push_back({inverse(block.mlp), inverse(block.values)});
  return out;
}

Status validate(const ChannelOrder& order, const Spec& spec, std::string_view where) {
  NIBBLE_DO(check(order.residual, spec.hidden, where, "residual"));
  if (!order.blocks.empty() && static_cast<int64_t>(order.blocks.size()) != spec.layers)
    return fail(ErrorCode::corrupt, "{}: orders of {} blocks for a model of {}", where, order.blocks.size(),
                spec.layers);
  for (size_t i = 0; i < order.blocks.size(); ++i) {
    const std::string name = fmt::format("blocks.{}.values", i);
    const Order& values = order.blocks[i].values;
    NIBBLE_DO(check(order.blocks[i].mlp, spec.ffn, where, fmt::format("blocks.{}.mlp", i)));
    NIBBLE_DO(check(values, spec.kv_heads * spec.head_dim, where, name));
    for (size_t d = 0; d < values.size(); ++d)
      if (static_cast<int64_t>(d) / spec.head_dim != values[d] / spec.head_dim)
        return fail(ErrorCode::corrupt, "{}: \"{}\" takes channel {} to another head", where, name, values[d]);
  }
  return {};
}

void reorder(const ChannelOrder& order, const Spec& spec, GlobalWeights& globals) {
  const Order& residual = order.residual;
  if (residual.empty()) return;
  // An embedding of another width is projected in, and the hidden state out again.
  if (globals.project_in) {
    reorder(residual, {}, *globals.project_in);
  } else {
    reorder({}, residual, globals.embedding);
  }
  if (globals.project_out) {
    reorder({}, residual, *globals.project_out);
  } else if (globals.head) {
    reorder({}, residual, *globals.head);
  }
  reorder(residual, globals.final_norm);
  const auto width = static_cast<size_t>(spec.hidden);
  for (size_t at = 0; at < globals.position_rows.size(); at += width) {
    const std::vector<float> old(globals.position_rows.begin() + static_cast<std::ptrdiff_t>(at),
                                 globals.position_rows.begin() + static_cast<std::ptrdiff_t>(at + width));
    for (size_t i = 0; i < width; ++i) globals.position_rows[at + i] = old[static_cast<size_t>(residual[i])];
  }
}

void reorder(const ChannelOrder& order, const Spec& spec, int64_t index, BlockWeights& block) {
  const ChannelOrder::Block own =
      order.blocks.empty() ? ChannelOrder::Block() : order.blocks[static_cast<size_t>(index)];
  const Order& residual = order.residual;
  reorder(residual, block.attention_norm);
  reorder(residual, block.mlp_norm);
  reorder({}, residual, block[Role::q]);
  reorder({}, residual, block[Role::k]);
  reorder(own.values, residual, block[Role::v]);
  reorder(residual, outputs_of_attention(own.values, spec), block[Role::o]);
  reorder(own.mlp, residual, block[Role::gate]);
  reorder(own.mlp, residual, block[Role::up]);
  reorder(residual, own.mlp, block[Role::down]);
}

std::unique_ptr<ModelSource> reordered(std::unique_ptr<ModelSource> source, ChannelOrder order) {
  return std::make_unique<ReorderedSource>(std::move(source), std::move(order));
}

Status write_order(const fs::path& folder, const ChannelOrder& order) {
  std::vector<TensorView> tensors;
  const auto add = [&](std::string name, const Order& list) {
    if (list.empty()) return;
    tensors.push_back(
        {std::move(name), DType::i32, {static_cast<int64_t>(list.size())}, std::as_bytes(std::span(list))});
  };
  add("residual", order.residual);
  for (size_t i = 0; i < order.blocks.size(); ++i) {
    add(fmt::format("blocks.{}.mlp", i), order.blocks[i].mlp);
    add(fmt::format("blocks.{}.values", i), order.blocks[i].values);
  }
  return write_safetensors(folder / kOrderName, tensors);
}

Result<ChannelOrder> read_order(const fs::path& folder, const Spec& spec) {
  ChannelOrder order;
  std::error_code error;
  const fs::path path = folder / kOrderName;
  const bool exists = fs::exists(path, error);
  if (error) return fail(ErrorCode::io, "cannot look for {}: {}", path.string(), error.message());
  if (!exists) return order;
  NIBBLE_TRY(const SafetensorsFile file, SafetensorsFile::open(path));
  size_t found = 0;
  std::map<std::string_view, const TensorView*> tensors;
  for (const TensorView& tensor : file.tensors())
    if (tensor.dtype == DType::i32) tensors.emplace(tensor.name, &tensor);
  const auto take = [&](const std::string& name, Order& list) {
    const auto at = tensors.find(name);
    if (at == tensors.end()) return;
    list.resize(at->second->bytes.size() / sizeof(int32_t));
    if (!list.empty()) std::memcpy(list.data(), at->second->bytes.data(), list.size() * sizeof(int32_t));
    ++found;
  };
  take("residual", order.residual);
  order.blocks.resize(static_cast<size_t>(spec.layers));
  for (size_t i = 0; i < order.blocks.size(); ++i) {
    take(fmt::format("blocks.{}.mlp", i), order.blocks[i].mlp);
    take(fmt::format("blocks.{}.values", i), order.blocks[i].values);
  }
  const size_t expected = 1 + 2 * order.blocks.size();
  if (found != expected || found != file.tensors().size())
    return fail(ErrorCode::corrupt, "{}: has {} tensors, of which {} are orders of this model's channels, expected {}",
                path.string(), file.tensors().size(), found, expected);
  NIBBLE_DO(validate(order, spec, path.string()));
  return order;
}

Result<ChannelOrder> order_of(const ModelSource& model) {
  NIBBLE_TRY(ChannelOrder order, read_order(model.folder(), model.spec()));
  if (!order.empty() || model.quantization() == nullptr) return order;
  const Json* steps = find_path(*model.quantization(), {"recipe", "steps"});
  const bool gathered = steps != nullptr && steps->is_array() &&
                        std::any_of(steps->begin(), steps->end(), [](const Json& s) { return s.contains("gather"); });
  if (gathered)
    return fail(ErrorCode::corrupt, "{} is missing: the recipe gathers channels, and only that file says from where",
                (model.folder() / kOrderName).string());
  return order;
}

}  // namespace nibble
