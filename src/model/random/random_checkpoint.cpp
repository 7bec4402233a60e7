#include "model/random/random_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "checkpoint/output_folder.h"
#include "checkpoint/safetensors.h"
#include "core/buffer.h"
#include "core/file.h"
#include "core/half.h"
#include "core/json.h"
#include "core/random.h"
#include "model/random/byte_tokenizer.h"
#include "model/shard_plan.h"
#include "model/storage.h"
#include "model/tensor_map.h"
#include "model/tensor_reading.h"

namespace nibble {
namespace fs = std::filesystem;
namespace {

constexpr double kDeviation = 0.02;
constexpr int64_t kQuantiles = 65536;
constexpr int64_t kChunk = 1 << 20;  // values drawn from one seed; fixed, so that threads do not matter

struct TypeName {
  Levels levels;
  std::string_view torch;
};
constexpr TypeName kTypes[] = {{Levels::f32, "float32"}, {Levels::f16, "float16"}, {Levels::bf16, "bfloat16"}};

std::string_view torch_name(Levels levels) {
  return std::find_if(std::begin(kTypes), std::end(kTypes), [&](auto& row) { return row.levels == levels; })->torch;
}

Levels levels_named(std::string_view torch) {
  return std::find_if(std::begin(kTypes), std::end(kTypes), [&](auto& row) { return row.torch == torch; })->levels;
}

// The quantiles (i + 1/2) / 65536 of the standard normal distribution, ascending. Each is found by Newton's method
// from the one before it; the lower half is the mirror of the upper.
std::vector<double> normal_quantiles() {
  std::vector<double> quantiles(kQuantiles);
  double x = 0;
  for (int64_t i = kQuantiles / 2; i < kQuantiles; ++i) {
    const double above = 1 - (static_cast<double>(i) + 0.5) / kQuantiles;  // the probability beyond x
    for (int step = 0; step < 8; ++step) {
      const double density = std::exp(-x * x / 2) / std::sqrt(2 * M_PI);
      x += (0.5 * std::erfc(x / M_SQRT2) - above) / density;
    }
    quantiles[static_cast<size_t>(i)] = x;
    quantiles[static_cast<size_t>(kQuantiles - 1 - i)] = -x;
  }
  return quantiles;
}

// The quantiles times a deviation, in the bits of a float type T that holds them.
template <class T>
std::vector<T> scaled_table(const std::vector<double>& quantiles, double deviation, Levels levels) {
  std::vector<T> table;
  table.reserve(quantiles.size());
  for (double quantile : quantiles) {
    const auto value = static_cast<float>(quantile * deviation);
    if constexpr (sizeof(T) == 4) {
      table.push_back(value);
    } else {
      table.push_back(levels == Levels::f16 ? f32_to_f16(value) : f32_to_bf16(value));
    }
  }
  return table;
}

template <class T>
void draw(const std::vector<T>& table, uint64_t seed, std::span<T> out) {
  Random random(seed);
  for (size_t i = 0; i < out.size(); i += 4) {
    const uint64_t bits = random.next();
    const size_t count = std::min<size_t>(4, out.size() - i);
    for (size_t j = 0; j < count; ++j) out[i + j] = table[bits >> 16 * j & 0xFFFF];
  }
}

// How a tensor's values are made.
enum class Filling { one, normal, residual };

// Values of one float type.
class Source {
 public:
  Source(Levels levels, int64_t layers) : levels_(levels) {
    const std::vector<double> quantiles = normal_quantiles();
    const double residual = kDeviation / std::sqrt(2.0 * static_cast<double>(layers));
    if (levels == Levels::f32) {
      wide_ = {scaled_table<float>(quantiles, kDeviation, levels), scaled_table<float>(quantiles, residual, levels)};
    } else {
      narrow_ = {scaled_table<uint16_t>(quantiles, kDeviation, levels),
                 scaled_table<uint16_t>(quantiles, residual, levels)};
    }
  }

  void fill(Filling filling, uint64_t seed, std::span<std::byte> out) const {
    if (levels_ == Levels::f32) {
      fill_typed(wide_, 1.0f, filling, seed, out);
    } else {
      const uint16_t one = levels_ == Levels::f16 ? f32_to_f16(1) : f32_to_bf16(1);
      fill_typed(narrow_, one, filling, seed, out);
    }
  }

 private:
  template <class T>
  struct Tables {
    std::vector<T> normal, residual;
  };

  // `out` is aligned for T: it begins a buffer.
  template <class T>
  static void fill_typed(const Tables<T>& tables, T one, Filling filling, uint64_t seed, std::span<std::byte> out) {
    const std::span values(reinterpret_cast<T*>(out.data()), out.size() / sizeof(T));
    if (filling == Filling::one) {
      std::fill(values.begin(), values.end(), one);
    } else {
      draw(filling == Filling::normal ? tables.normal : tables.residual, seed, values);
    }
  }

  Levels levels_;
  Tables<float> wide_;
  Tables<uint16_t> narrow_;
};

// FNV-1a, to give every tensor its own numbers.
uint64_t hash_of(std::string_view name) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001B3u;
  return hash;
}

uint64_t seed_of(uint64_t seed, std::string_view tensor, int64_t chunk) {
  return Random(Random(seed ^ hash_of(tensor)).next() + static_cast<uint64_t>(chunk)).next();
}

class Writer {
 public:
  Writer(const Reading& reading, const RandomCheckpoint& wanted, Levels levels, ThreadPool& pool,
         const ProgressCallback& progress)
      : spec_(reading.spec),
        layout_(reading.layout),
        base_(layout_.bases.front()),
        levels_(levels),
        seed_(wanted.seed),
        shards_(plan_shards(spec_, layout_, base_, levels, wanted.shard_bytes)),
        source_(levels, spec_.layers),
        pool_(pool),
        meter_(static_cast<double>(bytes_of(shards_)), progress) {
    for (int64_t block = 0; block < spec_.layers; ++block) note_block(block);
    note_gain(global_map(spec_, layout_, base_).final_gain);
    for (int i = 0; i < 4 * pool.size(); ++i) buffers_.emplace_back(kChunk * bytes_of(levels));
  }

  const std::vector<Shard>& shards() const { return shards_; }

  Status write_shards(const fs::path& folder) {
    const auto count = static_cast<int64_t>(shards_.size());
    for (int64_t i = 0; i < count; ++i)
      NIBBLE_DO(write_shard(shards_[static_cast<size_t>(i)], folder / shard_name(i, count)));
    return write_shard_index(folder, shards_);
  }

 private:
  void note_block(int64_t block) {
    const BlockMap map = block_map(spec_, layout_, base_, block);
    for (const NormNames& norm : map.norms) note_gain(norm.gain);
    for (const LinearNames& linear : map.linears)
      if (linear.role == Role::o || linear.role == Role::down) residual_.insert(linear.weight);
  }
  void note_gain(const std::string& name) {
    if (!name.empty()) gains_.insert(name);
  }
  Filling filling_of(const std::string& tensor) const {
    if (gains_.contains(tensor)) return Filling::one;
    return residual_.contains(tensor) ? Filling::residual : Filling::normal;
  }

  Status write_shard(const Shard& shard, const fs::path& path) {
    NIBBLE_TRY(SafetensorsWriter writer, SafetensorsWriter::create(path, shard.tensors));
    for (const TensorView& tensor : writer.order()) NIBBLE_DO(write_tensor(tensor, writer));
    return writer.commit();
  }

  // A buffer per chunk, as many chunks at a time as there are buffers.
  Status write_tensor(const TensorView& tensor, SafetensorsWriter& writer) {
    const int64_t values = tensor.elements(), chunks = (values + kChunk - 1) / kChunk;
    const Filling filling = filling_of(tensor.name);
    const auto many = static_cast<int64_t>(buffers_.size());
    for (int64_t first = 0; first < chunks; first += many) {
      const int64_t count = std::min(many, chunks - first);
      const auto part = [&](int64_t i) {
        const int64_t size = std::min(kChunk, values - (first + i) * kChunk) * bytes_of(levels_);
        return buffers_[static_cast<size_t>(i)].span().first(static_cast<size_t>(size));
      };
      pool_.run(count, [&](int64_t i) { source_.fill(filling, seed_of(seed_, tensor.name, first + i), part(i)); });
      for (int64_t i = 0; i < count; ++i) {
        NIBBLE_DO(writer.write(tensor.name, part(i)));
        meter_.advance(static_cast<double>(part(i).size()), tensor.name);
      }
    }
    return {};
  }

  const Spec& spec_;
  const Layout& layout_;
  std::string_view base_;
  Levels levels_;
  uint64_t seed_;
  std::vector<Shard> shards_;
  Source source_;
  ThreadPool& pool_;
  ProgressMeter meter_;
  std::set<std::string> gains_, residual_;
  std::vector<AlignedBuffer<std::byte>> buffers_;
};

Result<Json> config_of(const RandomCheckpoint& wanted) {
  NIBBLE_TRY(Json config, parse_json(wanted.shape->config, wanted.shape->name));
  if (wanted.layers > 0) config["num_hidden_layers"] = wanted.layers;
  if (wanted.levels) config["torch_dtype"] = torch_name(*wanted.levels);
  return config;
}

SpecialIds special_ids(const Json& config) {
  const auto id = [&](const char* key) {
    const Json* found = find_path(config, {key});
    return found != nullptr ? std::optional(found->get<int64_t>()) : std::nullopt;
  };
  return {id("bos_token_id"), id("eos_token_id"), id("pad_token_id")};
}

Status write_all(Writer& writer, const Json& config, int64_t vocabulary, const fs::path& folder) {
  const SpecialIds special = special_ids(config);
  NIBBLE_DO(writer.write_shards(folder));
  NIBBLE_DO(write_durably(folder / "tokenizer.json", byte_tokenizer_json(vocabulary, special)));
  NIBBLE_DO(write_durably(folder / "tokenizer_config.json", byte_tokenizer_config(special)));
  return write_durably(folder / "config.json", dump_json(config, 2) + "\n");
}

Status validate(const RandomCheckpoint& wanted) {
  if (wanted.layers < 0 || wanted.layers > kMaxLayers)
    return fail(ErrorCode::usage, "{} layers; expected 1 to {}, or 0 for as many as the model has", wanted.layers,
                kMaxLayers);
  if (wanted.levels == Levels::integer) return fail(ErrorCode::usage, "a checkpoint holds f32, f16 or bf16");
  if (wanted.shard_bytes < 1)
    return fail(ErrorCode::usage, "shards of {} bytes; expected at least 1", wanted.shard_bytes);
  return {};
}

}  // namespace

Result<RandomCheckpointSummary> write_random_checkpoint(const RandomCheckpoint& wanted, const fs::path& folder,
                                                        ThreadPool& pool, const ProgressCallback& progress) {
  NIBBLE_DO(validate(wanted));
  NIBBLE_TRY(const Json config, config_of(wanted));
  NIBBLE_TRY(const Reading reading, read_family(config, std::string(wanted.shape->name)));
  const Levels levels = levels_named(config["torch_dtype"].get<std::string>());
  Writer writer(reading, wanted, levels, pool, progress);
  const int64_t bytes = bytes_of(writer.shards());
  NIBBLE_TRY(OutputFolder out, OutputFolder::create(folder, wanted.force, false));
  Status written = out.require_space(bytes);
  if (written) written = write_all(writer, config, reading.spec.vocabulary, out.path());
  if (written) written = out.finish();
  if (!written) {
    out.discard();
    return tl::unexpected(written.error());
  }
  return RandomCheckpointSummary{reading.spec.layers, parameter_count(reading.spec), bytes,
                                 static_cast<int64_t>(writer.shards().size()), levels};
}

}  // namespace nibble
