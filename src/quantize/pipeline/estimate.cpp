#include "quantize/pipeline/estimate.h"

#include <nibble/units.h>

#include <algorithm>

#include "model/globals.h"
#include "quantize/pipeline/head.h"
#include "quantize/solve/cholesky.h"
#include "quantize/solve/error.h"
#include "quantize/solve/gptq.h"

namespace nibble {
namespace {

constexpr int64_t kProgram = int64_t{40} << 20;  // program, tokenizer, text and small things
constexpr int64_t kWantedTokens = 2048;          // run at a time where memory allows
constexpr int64_t kDefaultLength = 2048;
constexpr int64_t kSlack = 25;  // a twenty-fifth more: allocators and page tables

int64_t with_slack(int64_t bytes) { return bytes + bytes / kSlack; }

}  // namespace

// The steps' own rule, asked with channels that exceed every threshold.
int64_t most_kept(const SitePlan& plan, const Spec& spec) {
  if (plan.steps.empty()) return 0;
  ThreadPool pool(1);
  SiteStatistics loud;
  loud.absmax.assign(static_cast<size_t>(plan.inputs), 3e38f);
  SiteWork site{plan.name, plan.inputs, spec.hidden, plan.sparse24(),    &loud,
                {},        {},          Levels::f16, plan.activations(), 0};
  for (const PlannedStep& step : plan.steps)
    if (!step.step->apply_to_site(site, pool)) return 0;  // the run itself will say why
  return static_cast<int64_t>(site.kept.size());
}

namespace {

OpenLinear open_linear(const LinearPlan& plan, const Shape& shape) {
  OpenLinear out{plan.weights, shape.rows, 0, {}};
  for (const PlannedStep& step : plan.steps) out.sparse += step.step->most_sparse(shape.rows * shape.columns);
  return out;
}

int64_t float_bytes(const NumberFormat& format) { return format.bits / 8; }

int64_t open_bytes(const SitePlan& plan, const LinearPlan& linear, const Shape& shape, int64_t kept) {
  SiteWork site{};
  site.inputs = shape.columns;
  site.kept.resize(static_cast<size_t>(kept));  // how many is all that counts
  site.open = {open_linear(linear, shape)};
  double bits = 0;
  for (const PlannedStep& step : shares_widths(linear) ? plan.steps : linear.steps)
    bits = std::max(bits, step.step->open_bits(site));
  return static_cast<int64_t>(bits / 8);
}

}  // namespace

int64_t stored_bytes(const SitePlan& site, const LinearPlan& plan, const Shape& shape, int64_t kept) {
  if (!plan.quantized()) return shape.rows * shape.columns * float_bytes(plan.weights);
  if (plan.weights.bits == 0) return open_bytes(site, plan, shape, kept);
  const RowSizes row = row_sizes(plan.weights, shape.columns - kept, plan.sparse24);
  int64_t sparse = 0;
  if (plan.weights.is_learned())
    for (const PlannedStep& step : plan.steps) sparse += step.step->most_sparse(shape.rows * (shape.columns - kept));
  return shape.rows * (row.bytes() + 2 * kept) + 4 * kept + (plan.weights.outer ? 4 : 0) +
         plan.weights.table_bytes(shape.rows, shape.columns - kept) +
         sparse * (2 + sparse_column_bytes(shape.columns - kept)) + (sparse > 0 ? 4 * shape.rows : 0);
}

namespace {

int64_t norm_bytes(const Spec& spec) {
  const NormParts parts = norm_parts_of(spec);
  return (int{parts.gain} + int{parts.bias}) * spec.hidden * static_cast<int64_t>(sizeof(float));
}

// Bytes of a value of the checkpoint, which its size tells.
int64_t bytes_of_global(const ModelSource& source) {
  return source.file_bytes() > 3 * parameter_count(source.spec()) ? 4 : 2;
}

int64_t stored_block_bytes(const std::vector<SitePlan>& sites, const Spec& spec) {
  int64_t bytes = norm_bytes(spec) * (spec.shared_norm ? 1 : 2);
  for (const SitePlan& site : sites) {
    const int64_t kept = most_kept(site, spec);
    for (const LinearPlan& linear : site.linears) {
      const Shape shape = shape_of(spec, linear.role);
      bytes += stored_bytes(site, linear, shape, kept);
      if (spec.bias[static_cast<size_t>(linear.role)]) bytes += shape.rows * static_cast<int64_t>(sizeof(float));
    }
  }
  return bytes;
}

// Floats of one token while text runs through the linears of a site, up to the next: what is read and written, the
// input once more as it is prepared, and for attention its cache.
int64_t floats_per_token(const SitePlan& plan, const Spec& spec) {
  const int64_t d = spec.hidden, heads = spec.heads * spec.head_dim, cache = spec.kv_heads * spec.head_dim;
  const int64_t mlp = (int{spec.gated} + 1) * spec.ffn;
  switch (plan.linears[0].role) {
    case Role::q: return 2 * d + 2 * heads + 4 * cache + (spec.shared_norm ? mlp : 0);
    case Role::o: return 3 * d + 2 * heads + std::max(d, spec.shared_norm ? spec.ffn : 0);
    case Role::down: return 2 * spec.ffn + (spec.parallel ? 3 : 2) * d;
    default: return 2 * d + mlp;
  }
}

// What lies in memory from one site of a block to the next.
struct BlockState {
  int64_t packed = 0;  // the block as text runs through it
  int64_t solved = 0;  // its quantized linears as they will be stored
};

// What sites need, one after the other.
class BlockNeeds {
 public:
  BlockNeeds(const QuantizeOptions& options, const ModelSource& source, int64_t length, int threads, Needs& needs)
      : spec_(source.spec()),
        float_size_(bytes_of_global(source)),
        length_(length),
        threads_(threads),
        text_(!options.calibration.empty() || !options.validation.empty()),
        calibrated_(!options.calibration.empty()),
        validated_(!options.validation.empty()),
        reordered_(!options.recipe.model_steps.empty()),
        needs_(needs) {}

  void add(const std::vector<SitePlan>& sites) {
    BlockState state;
    int64_t block = 0;
    for (const SitePlan& site : sites)
      for (const LinearPlan& linear : site.linears) block += parameters(linear) * float_size_;
    if (text_) state.packed = block;
    // A block whose channels were put in another order is a copy, not a part of the file.
    copied_ = reordered_ ? block : 0;
    for (size_t i = 0; i < sites.size(); ++i) {
      const bool gram = (sites[i].statistics() & kGram) != 0;
      const int64_t matrices = Triangle::bytes(sites[i].inputs) * (int{gram} + int{validated_});
      const int64_t rows = calibrated_ ? 4 * RowSample::kMostRows * sites[i].inputs : 0;
      if (text_) {
        // On the way to the site; it is looked at as it is, and packed for the Gram matrix.
        const int64_t floats =
            std::max(2 * spec_.hidden, (i > 0 ? floats_per_token(sites[i - 1], spec_) : 0) + spec_.hidden);
        const int64_t scratch = gram || validated_ ? Gram::scratch_bytes(sites[i].inputs, length_) : 0;
        needs_.passes.push_back({with_slack(copied_ + state.packed + state.solved + matrices + rows + scratch),
                                 with_slack(floats * length_ * 4)});
      }
      solve(sites[i], matrices + rows, gram, state);
    }
    if (text_)
      needs_.passes.push_back({with_slack(copied_ + state.packed + state.solved),
                               with_slack(floats_per_token(sites.back(), spec_) * length_ * 4)});
    // The block once more, as it will be run, for the prompt of the fingerprint.
    widen(state.packed + 2 * state.solved);
  }

 private:
  int64_t parameters(const LinearPlan& linear) const {
    const Shape shape = shape_of(spec_, linear.role);
    return shape.rows * shape.columns;
  }

  void widen(int64_t bytes) { needs_.solving = std::max(needs_.solving, with_slack(copied_ + bytes)); }

  void solve(const SitePlan& site, int64_t statistics, bool gram, BlockState& state) {
    const int64_t kept = most_kept(site, spec_), k = site.inputs;
    const int64_t factor = gram ? Triangle::bytes(k) : 0;
    if (gram) widen(state.packed + state.solved + statistics + factor + factor_scratch_bytes(k, threads_));
    int64_t waiting = 0;  // linears with tables by column are in memory together: they agree before they are solved
    for (const LinearPlan& linear : site.linears)
      if (linear.has_tables_by_column()) waiting += parameters(linear) * (linear.reads_sensitivities() ? 8 : 4);
    for (const LinearPlan& linear : site.linears) {
      const Shape shape = shape_of(spec_, linear.role);
      const int64_t count = shape.rows * shape.columns, stored = stored_bytes(site, linear, shape, kept);
      // Levels are stored in a byte and handled as float32.
      const int64_t levels = linear.weights.bits == 0 ? 0 : linear.weights.table_levels(shape.rows, k - kept);
      // As read and in float32; then either the solver's scratch, or beside the result what it is compared with.
      int64_t work = count * (float_size_ + 4) + stored;
      if (linear.weights.is_learned()) work += stored;  // tables of the steps before the solver, in their layer
      work += 12 * levels;
      if (linear.reads_sensitivities()) work += 4 * count;
      if (linear.has_tables_by_column()) {
        waiting -= count * (linear.reads_sensitivities() ? 8 : 4);
        work += waiting;
      }
      if (linear.quantized()) {
        const int64_t solver = gram ? gptq_scratch_bytes(shape.rows, k, threads_) : 0;
        const int64_t trial = calibrated_ ? stored + 64 * 2 * 4 * (shape.rows + shape.columns) : 0;
        const int64_t measuring = gram || validated_ ? stored + energy_scratch_bytes(k, threads_) : 0;
        work += std::max({solver, trial, measuring, text_ ? 2 * stored : 0});
      }
      widen(state.packed + state.solved + statistics + factor + work);
      state.solved += stored + 3 * levels;
      if (text_) state.packed -= linear.quantized() ? count * float_size_ - stored : 0;
    }
  }

  const Spec& spec_;
  int64_t float_size_, length_;
  int threads_;
  bool text_, calibrated_, validated_, reordered_;
  Needs& needs_;
  int64_t copied_ = 0;  // of the block, in memory of its own
};

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

int64_t Needs::peak() const {
  int64_t most = solving;
  for (const Pass& pass : passes) most = std::max(most, pass.fixed + chunk * pass.per_sample);
  return kProgram + most;
}

double work_of(const std::vector<SitePlan>& block, size_t site, const Spec& spec, int64_t tokens) {
  constexpr double kPerWeight = 1000;  // reading, rounding, measuring, storing
  const auto weights = [&](const SitePlan& plan) {
    double count = 0;
    for (const LinearPlan& linear : plan.linears) {
      const Shape shape = shape_of(spec, linear.role);
      count += static_cast<double>(shape.rows) * static_cast<double>(shape.columns);
    }
    return count;
  };
  const SitePlan& plan = block[site];
  const auto k = static_cast<double>(plan.inputs), text = static_cast<double>(tokens);
  double work = kPerWeight * weights(plan);
  if (site > 0) work += 2 * text * weights(block[site - 1]);
  if (site + 1 == block.size()) work += 2 * text * weights(plan);
  // The solver counts in float64: half as fast.
  if (plan.statistics() & kGram) work += text * k * k + 2 * (4.0 / 3 * k * k * k + weights(plan) * k);
  return work;
}

Result<Needs> needs_of(const QuantizeOptions& options, const ModelSource& source,
                       const std::vector<std::vector<SitePlan>>& plans, int64_t length, int threads) {
  const Spec& spec = source.spec();
  const bool calibrated = !options.calibration.empty(), validated = !options.validation.empty();
  Needs needs;
  BlockNeeds blocks(options, source, length, threads, needs);
  int64_t channels = 0;
  for (const std::vector<SitePlan>& plan : plans) {
    needs.output += stored_block_bytes(plan, spec);
    for (const SitePlan& site : plan) channels += site.inputs;
    blocks.add(plan);
  }
  const int64_t globals = global_bytes(source);
  needs.output += globals;
  // Before the blocks the globals as read, with a head that gets a format of its own in float32 and as stored; after
  // them the output matrix, as read and packed.
  const Shape head = shape_of(spec, Global::head);
  int64_t outside = std::max(globals, 2 * head.rows * head.columns * bytes_of_global(source));
  if (options.recipe.head) {
    const int64_t stored = head_bytes(spec, *options.recipe.head);
    needs.output += stored - stored_head_bytes(source);
    outside = std::max(outside, globals + 4 * head.rows * head.columns + stored);
  }
  needs.solving = std::max(needs.solving, with_slack(outside));
  // Between blocks the states before and after; between stages those of the stage beside them.
  const int64_t between = 2 * spec.hidden + std::max(spec.heads * spec.head_dim, spec.ffn) + spec.hidden;
  needs.hidden = options.samples * length * between * 4 * (int{calibrated} + int{validated});
  if (calibrated) needs.hidden += 2 * channels * 4;
  if (!options.recipe.model_steps.empty())  // the order of the channels
    needs.hidden += (spec.hidden + spec.layers * (spec.ffn + spec.kv_heads * spec.head_dim)) * 4;
  needs.chunk = std::clamp<int64_t>(kWantedTokens / length, 1, options.samples);
  while (options.memory_limit > 0 && needs.chunk > 1 && needs.peak() > options.memory_limit) --needs.chunk;
  if (options.memory_limit > 0 && needs.peak() > options.memory_limit)
    return fail(ErrorCode::usage,
                "the memory limit of {} ({} bytes) is too small for this model and recipe: at least {} ({} bytes) are "
                "needed for one block and one sample of {} tokens",
                human_bytes(options.memory_limit), options.memory_limit, human_bytes(needs.peak()), needs.peak(),
                length);
  return needs;
}

bool shares_widths(const LinearPlan& plan) { return plan.weights.bits == 0 && plan.weights.is_learned(); }

std::vector<OpenLinear> open_linears(const SitePlan& plan, const Spec& spec) {
  std::vector<OpenLinear> out;
  for (const LinearPlan& linear : plan.linears)
    if (shares_widths(linear)) out.push_back(open_linear(linear, shape_of(spec, linear.role)));
  return out;
}

Status check_budgets(const std::vector<std::vector<SitePlan>>& plans, const Spec& spec) {
  for (const std::vector<SitePlan>& block : plans)
    for (const SitePlan& plan : block) {
      SiteWork site{};
      site.name = plan.name;
      site.inputs = plan.inputs;
      site.open = open_linears(plan, spec);
      for (const PlannedStep& step : plan.steps) NIBBLE_DO(step.step->check_open(site));
      for (const LinearPlan& linear : plan.linears) {
        if (linear.weights.bits != 0 || shares_widths(linear)) continue;
        site.name = linear.name;
        site.open = {open_linear(linear, shape_of(spec, linear.role))};
        for (const PlannedStep& step : linear.steps) NIBBLE_DO(step.step->check_open(site));
      }
    }
  return {};
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
