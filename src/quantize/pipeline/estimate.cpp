#include "quantize/pipeline/estimate.h"

#include <algorithm>

#include "model/globals.h"
#include "quantize/pipeline/head.h"

namespace nibble {
namespace {

constexpr int64_t kProgram = int64_t{96} << 20;  // program, tokenizer, text and small things
constexpr int64_t kWantedTokens = 4096;          // run at a time where memory allows
constexpr int64_t kDefaultLength = 2048;
constexpr int64_t kSlack = 10;  // a tenth more: allocators and page tables

int64_t with_slack(int64_t bytes) { return bytes + bytes / kSlack; }

// Columns that a site keeps at most: the steps' own rule, asked with channels that exceed every threshold.
int64_t most_kept(const SitePlan& plan, const Spec& spec) {
  if (plan.steps.empty()) return 0;
  ThreadPool pool(1);
  SiteStatistics loud;
  loud.absmax.assign(static_cast<size_t>(plan.inputs), 3e38f);
  SiteWork site{plan.name, plan.inputs, spec.hidden, plan.sparse24(), &loud, {}, {}};
  for (const PlannedStep& step : plan.steps)
    if (!step.step->apply_to_site(site, pool)) return 0;  // the run itself will say why
  return static_cast<int64_t>(site.kept.size());
}

int64_t float_bytes(const NumberFormat& format) { return format.bits / 8; }

int64_t stored_bytes(const LinearPlan& plan, const Shape& shape, int64_t kept) {
  if (!plan.quantized()) return shape.rows * shape.columns * float_bytes(plan.weights);
  const RowSizes row = row_sizes(plan.weights, shape.columns - kept, plan.sparse24);
  return shape.rows * (row.bytes() + 2 * kept) + 4 * kept;
}

int64_t norm_bytes(const Spec& spec) {
  const NormParts parts = norm_parts_of(spec);
  return (int{parts.gain} + int{parts.bias}) * spec.hidden * static_cast<int64_t>(sizeof(float));
}

struct BlockSizes {
  int64_t parameters = 0, stored = 0, largest = 0;
  int64_t widest = 0;               // inputs of a site with a Gram matrix
  int64_t inputs = 0, outputs = 0;  // the most of a site, of a linear
  int64_t channels = 0;             // inputs of all sites
  bool observed = false;            // a step needs calibration text
};

BlockSizes sizes_of(const std::vector<SitePlan>& sites, const Spec& spec) {
  BlockSizes sizes;
  sizes.stored = norm_bytes(spec) * (spec.shared_norm ? 1 : 2);
  for (const SitePlan& site : sites) {
    const int64_t kept = most_kept(site, spec);
    for (const LinearPlan& linear : site.linears) {
      const Shape shape = shape_of(spec, linear.role);
      sizes.parameters += shape.rows * shape.columns;
      sizes.stored += stored_bytes(linear, shape, kept);
      if (spec.bias[static_cast<size_t>(linear.role)]) sizes.stored += shape.rows * static_cast<int64_t>(sizeof(float));
      sizes.largest = std::max(sizes.largest, shape.rows * shape.columns);
      sizes.outputs = std::max(sizes.outputs, shape.rows);
    }
    sizes.inputs = std::max(sizes.inputs, site.inputs);
    sizes.channels += site.inputs;
    sizes.observed |= site.statistics() != kNoStatistics;
    if (site.statistics() & kGram) sizes.widest = std::max(sizes.widest, site.inputs);
  }
  return sizes;
}

// Floats of one token on its way through a block: the buffers of the forward pass, its cache and its states.
int64_t floats_per_token(const Spec& spec) {
  const int64_t heads = spec.heads * spec.head_dim, cache = spec.kv_heads * spec.head_dim;
  return 5 * spec.hidden + 2 * heads + 4 * cache + 2 * spec.ffn + std::max({spec.hidden, heads, spec.ffn});
}

// Bytes of a value outside the blocks: in the type of the checkpoint, which its size tells.
int64_t bytes_of_global(const ModelSource& source) {
  return source.file_bytes() > 3 * parameter_count(source.spec()) ? 4 : 2;
}

// Of a head that is not the embedding.
int64_t stored_head_bytes(const ModelSource& source) {
  const Shape shape = shape_of(source.spec(), Global::head);
  return source.spec().tied_head ? 0 : shape.rows * shape.columns * bytes_of_global(source);
}

// Everything outside the blocks: matrices and positions, and the norm in float32.
int64_t global_bytes(const ModelSource& source) {
  const Spec& spec = source.spec();
  int64_t parameters = position_rows_of(spec) * spec.hidden;
  for (Global linear : globals_of(spec)) parameters += shape_of(spec, linear).rows * shape_of(spec, linear).columns;
  return parameters * bytes_of_global(source) + (spec.final_norm ? norm_bytes(spec) : 0);
}

std::string description(const SitePlan& site, const LinearPlan& linear, const Spec& spec) {
  if (!linear.quantized()) return fmt::format("kept as {}", to_string(linear.weights));
  std::string text =
      fmt::format("weights {}, activations {}", to_string(linear.weights), to_string(linear.activations));
  if (const int64_t kept = most_kept(site, spec); kept > 0)
    text += fmt::format(", at most {} of {} columns in f16", kept, site.inputs);
  if (linear.sparse24) text += ", 2:4 pattern";
  text += "; steps";
  for (const auto* steps : {&site.steps, &linear.steps})
    for (const PlannedStep& step : *steps) text += fmt::format(" {}", step.row->kind);
  return text;
}

std::string block_list(const std::vector<int64_t>& blocks) {
  std::string text;
  for (size_t i = 0; i < blocks.size();) {
    size_t end = i + 1;
    while (end < blocks.size() && blocks[end] == blocks[end - 1] + 1) ++end;
    text += text.empty() ? "" : ",";
    text += end - i == 1 ? fmt::format("{}", blocks[i]) : fmt::format("{}-{}", blocks[i], blocks[end - 1]);
    i = end;
  }
  return text;
}

}  // namespace

Result<int64_t> sample_length(const QuantizeOptions& options, const Spec& spec) {
  const int64_t length = options.length > 0 ? options.length : std::min(kDefaultLength, spec.max_positions);
  if (length <= spec.max_positions) return length;
  return fail(ErrorCode::usage, "samples of {} tokens do not fit the model's {} positions", length, spec.max_positions);
}

Result<std::vector<std::vector<SitePlan>>> plan_all(const Recipe& recipe, const Spec& spec) {
  std::vector<std::vector<SitePlan>> plans;
  for (int64_t block = 0; block < spec.layers; ++block) {
    NIBBLE_TRY(std::vector<SitePlan> plan, plan_block(recipe, spec, block));
    plans.push_back(std::move(plan));
  }
  return plans;
}

Result<Needs> needs_of(const QuantizeOptions& options, const ModelSource& source,
                       const std::vector<std::vector<SitePlan>>& plans, int64_t length) {
  const Spec& spec = source.spec();
  BlockSizes most;
  Needs needs;
  for (const std::vector<SitePlan>& plan : plans) {
    const BlockSizes sizes = sizes_of(plan, spec);
    needs.output += sizes.stored;
    most.parameters = std::max(most.parameters, sizes.parameters);
    most.stored = std::max(most.stored, sizes.stored);
    most.largest = std::max(most.largest, sizes.largest);
    most.widest = std::max(most.widest, sizes.widest);
    most.inputs = std::max(most.inputs, sizes.inputs);
    most.outputs = std::max(most.outputs, sizes.outputs);
    most.channels += sizes.channels;
    most.observed |= sizes.observed;
  }
  const bool calibrated = most.observed || !options.calibration.empty(), validated = !options.validation.empty();
  const bool text = calibrated || validated;
  const int64_t globals = global_bytes(source);
  needs.output += globals;
  if (options.recipe.head) needs.output += head_bytes(spec, *options.recipe.head) - stored_head_bytes(source);
  // A block: as read, as run (float32 once it is quantized), as stored; one linear as floats, effective and rounded;
  // the Gram matrices and the factorisation of the widest site.
  const int64_t matrices = 8 * (3 * most.widest * most.widest + int{validated} * most.inputs * most.inputs);
  // A sample of a site's input, as it is and prepared for a layer, and the outputs of two layers on it.
  const int64_t sample = calibrated ? 4 * RowSample::kMostRows * 2 * (most.inputs + most.outputs) : 0;
  const int64_t block = 4 * most.parameters * (text ? 2 : 1) + most.stored + 10 * most.largest + matrices + sample;
  // The globals: as read, and the output matrix packed.
  needs.fixed = kProgram + with_slack(std::max(block, 3 * globals));
  needs.per_sample = text ? with_slack(floats_per_token(spec) * length * 4) : 0;
  needs.hidden = 2 * options.samples * length * spec.hidden * 4 * (int{calibrated} + int{validated});
  if (calibrated) needs.hidden += 2 * most.channels * 4;
  needs.chunk = std::clamp<int64_t>(kWantedTokens / length, 1, options.samples);
  if (options.memory_limit > 0 && needs.per_sample > 0)
    needs.chunk = std::clamp<int64_t>((options.memory_limit - needs.fixed) / needs.per_sample, 1, needs.chunk);
  if (options.memory_limit > 0 && needs.peak() > options.memory_limit)
    return fail(ErrorCode::usage,
                "the memory limit of {} bytes is too small for this model and recipe: at least {} bytes are needed for "
                "one block and one sample of {} tokens",
                options.memory_limit, needs.peak(), length);
  return needs;
}

std::vector<std::string> describe(const Spec& spec, const std::vector<std::vector<SitePlan>>& plans) {
  std::vector<std::string> lines;
  for (Role role : kAllRoles) {
    std::vector<std::pair<std::string, std::vector<int64_t>>> ways;
    for (size_t block = 0; block < plans.size(); ++block)
      for (const SitePlan& site : plans[block])
        for (const LinearPlan& linear : site.linears) {
          if (linear.role != role) continue;
          const std::string way = description(site, linear, spec);
          auto known = std::find_if(ways.begin(), ways.end(), [&](const auto& entry) { return entry.first == way; });
          if (known == ways.end()) known = ways.insert(ways.end(), {way, {}});
          known->second.push_back(static_cast<int64_t>(block));
        }
    for (const auto& [way, blocks] : ways)
      lines.push_back(fmt::format("{} (blocks {}): {}", name_of(role), block_list(blocks), way));
  }
  return lines;
}

}  // namespace nibble
