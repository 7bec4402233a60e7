#include "bench/cases.h"

#include <fnmatch.h>

#include <algorithm>

#include "bench/solving.h"
#include "kernels/list.h"
#include "kernels/product.h"

namespace nibble::bench {
namespace {

constexpr LayerKind kEverywhere[] = {
    {"int4:row", "int8:token:asym"},
    {"int4:g128", "int8:token:asym"},
    {"int8:row", "int8:token:asym"},
    {"int8:g128", "int8:token:asym"},
    {"int4:row", "f32"},
    {"int4:g128", "f32"},
    {"int8:row", "f32"},
    {"int8:g128", "f32"},
    {"bf16", "bf16"},
    {"bf16", "f32"},
    {"f16", "f32"},
    {"f32", "f32"},
};

// On the first shape only.
constexpr LayerKind kOnce[] = {
    {"bfp4:b16", "bfp4:b16"},
    {"bfp5:b16", "bfp5:b16"},
    {"bfp6:b16", "bfp6:b16"},
    {"mxfp4:b32", "mxfp4:b32"},
    {"mxint8:b32", "mxint8:b32"},
    {"nvfp4:b16", "nvfp4:b16"},
    {"mxfp4:b32", "f32"},
    {"mxfp4:b32", "bf16"},
    {"bfp5:b16", "f32"},
    {"bfp5:b16", "bf16"},
    {"bfp6:b16", "f32"},
    {"bfp6:b16", "bf16"},
    {"mxfp8:b32", "f32"},
    {"mxfp8:b32", "bf16"},
    {"mxint8:b32", "f32"},
    {"e4m3", "f32"},
    {"e4m3", "bf16"},
    {"code2:col", "f32"},
    {"code2:col", "bf16"},
    {"code2:col", "int8:token:asym"},
    {"code3:col", "f32"},
    {"code3:col", "bf16"},
    {"code3:col", "int8:token:asym"},
    {"code4:col", "f32"},
    {"code4:col", "bf16"},
    {"code4:col", "int8:token:asym"},
    {"code:col", "f32"},
    {"code:col", "bf16"},
    {"code:col", "int8:token:asym"},
    {"code3:row", "f32"},
    {"code3:row", "bf16"},
    {"code3:row", "int8:token:asym"},
    {"code4:row", "bf16"},
    {"code4:row", "int8:token:asym"},
    {"code3:g128", "int8:token:asym"},
    {"code3:row", "int4:token:asym"},
    {"int4:row", "int4:token:asym"},
    {"int4:g128", "int4:token:asym"},
    {"int8:row", "int4:token:asym"},
    {"int4:row", "int8:token:asym", 256},
    {"int4:row", "int8:token:asym", 256, "bf16"},
    {"int4:row", "int4:token:asym", 256},
    {"int4:row", "int4:token:asym", 256, "bf16"},
    {"int8:row", "int8:token:asym", 256},
    {"int8:row", "int8:token:asym", 256, "bf16"},
};

// Attention and MLP of LLaMA-2-7B, up and down, its head; the narrowest and the widest hidden state of the family.
constexpr Shape kShapes[] = {{4096, 4096}, {11008, 4096}, {4096, 11008}, {32000, 4096}, {2048, 2048}, {8192, 8192}};

constexpr Shape kQuickShapes[] = {{512, 512}};
// LLaMA-2-7B, and with a quarter of its key and value heads.
constexpr AttentionTask kAttention[] = {
    {32, 32, 128, 512, 0}, {32, 32, 128, 2048, 0}, {32, 32, 128, 1, 4096},
    {32, 8, 128, 512, 0},  {32, 8, 128, 2048, 0},  {32, 8, 128, 1, 4096},
};
constexpr AttentionTask kQuickAttention[] = {{4, 2, 64, 64, 0}, {4, 2, 64, 1, 128}};

// What enters attention and MLP of the same model, and what enters its down projection.
constexpr QuantizeTask kQuantization[] = {
    {{"int4:row", "int8:token:asym"}, {4096, 4096}, 512},  {{"int4:row", "int8:token:asym", 256}, {4096, 4096}, 512},
    {{"int4:row", "int4:token:asym"}, {4096, 4096}, 512},  {{"int4:row", "int4:token:asym", 256}, {4096, 4096}, 512},
    {{"int4:row", "int8:token:asym"}, {4096, 11008}, 512}, {{"int4:row", "int8:token:asym", 256}, {4096, 11008}, 512},
    {{"int4:row", "int4:token:asym"}, {4096, 11008}, 512}, {{"int4:row", "int4:token:asym", 256}, {4096, 11008}, 512},
    {{"bfp6:b16", "bfp6:b16"}, {4096, 4096}, 512},         {{"mxfp4:b32", "mxfp4:b32"}, {4096, 4096}, 512},
    {{"nvfp4:b16", "nvfp4:b16"}, {4096, 4096}, 512},
};
constexpr QuantizeTask kQuickQuantization[] = {{{"int4:row", "int8:token:asym"}, {512, 512}, 16},
                                               {{"int4:row", "int4:token:asym", 32}, {512, 512}, 16},
                                               {{"bfp6:b16", "bfp6:b16"}, {512, 512}, 16}};

// One layer of the first shape with the calibration text of a sample.
constexpr SolveTask kSolving[] = {
    {Solving::gram, {4096, 4096}, 2048}, {Solving::factorise, {4096, 4096}, 0}, {Solving::gptq, {4096, 4096}, 0}};
constexpr SolveTask kQuickSolving[] = {
    {Solving::gram, {128, 128}, 256}, {Solving::factorise, {128, 128}, 0}, {Solving::gptq, {128, 128}, 0}};

constexpr int64_t kTokens[] = {1, 2, 4, 8, 16, 32, 128, 512}, kQuickTokens[] = {1, 16, 64};
constexpr int64_t kMostTokens = 1 << 16, kMostWidth = 1 << 18, kMostWeights = int64_t{1} << 30;

// Most columns kept are what the widest kind above keeps; a narrow layer keeps a sixteenth.
std::vector<Task> tasks_on(std::span<const Shape> shapes) {
  std::vector<Task> tasks;
  for (const LayerKind& kind : kEverywhere)
    for (const Shape& shape : shapes) tasks.push_back({kind, shape});
  for (LayerKind kind : kOnce) {
    kind.kept = std::min(kind.kept, shapes[0].k / 16);
    tasks.push_back({kind, shapes[0]});
  }
  return tasks;
}

Status validate(const Wish& wish) {
  for (const Shape& shape : wish.shapes)
    if (shape.n < 16 || shape.k < 16 || shape.n > kMostWidth || shape.k > kMostWidth ||
        shape.n * shape.k > kMostWeights)
      return fail(ErrorCode::usage, "shape {}x{}: expected N x K of 16 to {} each and at most {} weights", shape.n,
                  shape.k, kMostWidth, kMostWeights);
  for (int64_t m : wish.tokens)
    if (m < 1 || m > kMostTokens) return fail(ErrorCode::usage, "{} tokens: expected 1 to {}", m, kMostTokens);
  return {};
}

template <class T>
std::vector<T> either(const std::vector<T>& wished, std::span<const T> usual) {
  return wished.empty() ? std::vector<T>(usual.begin(), usual.end()) : wished;
}

bool fits(const std::string& name, Isa level, Isa isa, const std::string& glob) {
  if (level > isa) return false;
  // Hundreds of times slower than the others: only when it is meant.
  if (level == Isa::portable && isa != Isa::portable && glob.find("reference") == std::string::npos) return false;
  if (!glob.empty()) return ::fnmatch(glob.c_str(), name.c_str(), 0) == 0;
  return level >= std::min(isa, Isa::avx512vnni);
}

template <class T, size_t count>
std::vector<T> listed(const T (&values)[count]) {
  return std::vector<T>(std::begin(values), std::end(values));
}

}  // namespace

Result<Plan> make_plan(const Wish& wish) {
  NIBBLE_DO(validate(wish));
  Plan plan{.tasks = {},
            .tokens = either<int64_t>(wish.tokens, kTokens),
            .attention = listed(kAttention),
            .quantization = listed(kQuantization),
            .solving = listed(kSolving),
            .memory_bytes = int64_t{512} << 20,
            .rotation_bytes = int64_t{400} << 20,
            .case_seconds = 0.2,
            .least_slices = 5,
            .most_slices = 40};
  if (wish.quick) {
    plan.tokens = either<int64_t>(wish.tokens, kQuickTokens);
    plan.attention = listed(kQuickAttention);
    plan.quantization = listed(kQuickQuantization);
    plan.solving = listed(kQuickSolving);
    plan.memory_bytes = int64_t{64} << 20;
    plan.rotation_bytes = 1;
    plan.case_seconds = 0;
    plan.least_slices = plan.most_slices = 2;
  }
  plan.tasks = tasks_on(either<Shape>(wish.shapes, wish.quick ? std::span<const Shape>(kQuickShapes) : kShapes));
  return plan;
}

namespace {

std::vector<AttentionFormats> formats_for(CacheType type) {
  if (type == CacheType::f32) return {*with_cache({}, "f32", "bench")};
  if (type == CacheType::f16) return {*with_cache({}, "f16", "bench")};
  if (type == CacheType::bf16) return {*with_cache({}, "bf16", "bench")};
  const NumberFormat bfp6 = *parse_format("bfp6");
  return {*with_cache({}, "bfp8", "bench"), *with_cache({}, "bfp4", "bench"), {bfp6, bfp6, bfp6, bfp6}};
}

}  // namespace

Result<Kernels> chosen_kernels(Isa isa, const std::string& glob) {
  Kernels out;
  for (const IsaTable& entry : all_tables()) {
    const KernelTable& table = *entry.table;
    for (const LinearRow* row = table.linear; row->kernel != nullptr; ++row)
      if (fits(row->name, entry.isa, isa, glob)) out.linear.push_back({row, entry.isa});
    if (table.attention != nullptr)
      for (const AttentionRow* row = table.attention; row->kernel != nullptr; ++row)
        if (fits(row->name, entry.isa, isa, glob))
          for (const AttentionFormats& formats : formats_for(row->type))
            out.attention.push_back({row, entry.isa, formats});
    if (table.token != nullptr) {
      std::string name = std::string("quantize__") + table.token->isa;
      if (fits(name, entry.isa, isa, glob)) out.quantize.push_back({std::move(name), entry.isa});
    }
    if (table.solve != &solve_kernels()) continue;
    for (Solving what : {Solving::gram, Solving::factorise, Solving::gptq}) {
      std::string name = std::string(name_of(what)) + "__" + table.solve->isa;
      if (fits(name, entry.isa, isa, glob)) out.solve.push_back({std::move(name), entry.isa, what});
    }
  }
  if (!out.linear.empty() || !out.attention.empty() || !out.quantize.empty() || !out.solve.empty()) return out;
  return fail(ErrorCode::usage,
              "no kernel that {} can run fits \"{}\"; they are named like linear_w4_a8__avx2_6x16, "
              "attention_f16__avx2_6x16, quantize__avx2 or gptq__avx2",
              to_string(isa), glob);
}

Isa level_of(const LinearRow& wanted) {
  for (const IsaTable& entry : all_tables())
    for (const LinearRow* row = entry.table->linear; row->kernel != nullptr; ++row)
      if (row == &wanted) return entry.isa;
  return Isa::portable;
}

}  // namespace nibble::bench
