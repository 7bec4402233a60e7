#include "search/fit_budget.h"

#include <algorithm>
#include <cmath>

#include "model/globals.h"
#include "quantize/pipeline/estimate.h"

namespace nibble::search {
namespace {

constexpr const char* kCaches[] = {"f16", "bfp8:b16", "bfp8:b16/bfp4:b16", "bfp4:b16"};

Status refuse_slow(const LinearPlan& linear, Isa isa, const std::string& explanation) {
  return fail(ErrorCode::unsupported,
              "{}: weights {} with input {} have no kernel on this machine ({}), only the reference; leave them out of "
              "--palette, or give --allow-slow\n{}",
              linear.name, to_string(linear.weights), to_string(linear.activations), to_string(isa), explanation);
}

// Of a site whose columns have bits of their own, else 0.
double average_of(const SitePlan& site) {
  if (std::none_of(site.linears.begin(), site.linears.end(), [](const auto& l) { return l.weights.bits == 0; }))
    return 0;
  for (const PlannedStep& step : site.steps)
    if (step.step->gives_bits(open_columns())) return step.parameters.value("bits", 0.0);
  return 0;
}

int64_t values_of(const Space& space) {
  int64_t sum = 0;
  for (size_t i : space.pools[0].variables) sum += space.variables[i].values;
  return sum;
}

}  // namespace

bool CacheOption::plain() const {
  return std::all_of(attention.begin(), attention.end(), [](const auto& one) { return one == AttentionFormats(); });
}

Result<FitBudget> FitBudget::make(const FitOptions& options, const Candidates& candidates, ThreadPool& pool) {
  NIBBLE_TRY(const Isa isa, selected_isa());
  FitBudget out(options, candidates, isa, pool);
  for (size_t k = 0; k < candidates.measured; ++k) NIBBLE_DO(out.price(k));
  NIBBLE_TRY(out.beside_, beside_linears(*candidates.source, options.recipe, out.packing_));
  const Shape head = shape_of(candidates.spec, Global::head);
  NIBBLE_TRY(const GlobalWeights globals, candidates.source->globals());
  const LinearWeight& matrix = globals.head ? *globals.head : globals.embedding;
  NIBBLE_TRY(out.head_bytes_, options.recipe.head ? out.packing_.bytes(head, options.recipe.head->weights,
                                                                       options.recipe.head->activations)
                                                  : out.packing_.bytes(head, matrix.format, NumberFormat()));
  out.workspace_ = workspace_bytes(candidates.spec, options.context, options.batch, pool.size());
  NIBBLE_DO(out.read_caches());
  return out;
}

Result<Space> FitBudget::make_space() const {
  Budget endless;
  endless.memory = kEndless;
  const WeightCosts costs = [&](int64_t block, Role role, size_t format) {
    const Priced& one = priced(format, block, role);
    return WeightCost{8 * one.stored, 8 * charged(one), one.average};
  };
  return search::make_space(candidates_->spec, candidates_->palette, endless, {}, costs);
}

Status FitBudget::price(size_t format) {
  const Spec& spec = candidates_->spec;
  auto& blocks = priced_.emplace_back();
  for (const std::vector<SitePlan>& plan : candidates_->plans[format]) {
    auto& linears = blocks.emplace_back();
    for (const SitePlan& site : plan) {
      const int64_t kept = most_kept(site, spec);
      for (const LinearPlan& linear : site.linears) {
        std::vector<uint8_t> widths;
        if (linear.weights.bits == 0) widths = even_widths(site, spec, kept);
        auto facts = packing_.of(spec, linear, kept, widths);
        if (!facts) return fail(facts.error().code, "{}: {}", linear.name, facts.error().message);
        if (facts->slow && !options_->allow_slow) return refuse_slow(linear, isa_, facts->explanation);
        linears[static_cast<size_t>(linear.role)] = {stored_bytes(site, linear, shape_of(spec, linear.role), kept),
                                                     facts->bytes, tensors_of(linear, kept), average_of(site)};
      }
    }
  }
  return {};
}

Status FitBudget::price_measured(const Log& log, Space& space) {
  if (!candidates_->palette.gives_averages()) return {};
  const Spec& spec = candidates_->spec;
  for (size_t i : space.pools[0].variables) {
    Variable& variable = space.variables[i];
    for (size_t k = 0; k < variable.averages.size(); ++k) {
      const ChannelCounts counts = log.channels("", variable.name, space.name(variable, static_cast<int>(k)));
      std::vector<uint8_t> widths;
      for (size_t width = 0; width < counts.size(); ++width)
        widths.insert(widths.end(), static_cast<size_t>(counts[width]), static_cast<uint8_t>(width + 1));
      if (widths.empty()) continue;
      variable.charged[k] = 0;
      for (Role role : variable.roles) {
        const LinearPlan& plan = candidates_->plan_of(k, variable.block, role);
        const int64_t inputs = shape_of(spec, role).columns;
        NIBBLE_TRY(const PackedFacts facts,
                   packing_.of(spec, plan, inputs - static_cast<int64_t>(widths.size()), widths));
        set_resident(k, variable.block, role, facts.bytes);
        variable.charged[k] += 8 * charged(priced(k, variable.block, role));
      }
    }
  }
  return expect_possible(space);
}

Status FitBudget::read_caches() {
  const Spec& spec = candidates_->spec;
  NIBBLE_TRY(const std::vector<AttentionFormats> attention, attention_of_recipe(options_->recipe, spec));
  const auto add = [&](const std::string& format) -> Status {
    CacheOption option{format, attention, 0, 0};
    if (format.empty()) {
      option.name = cache_name(attention[0]);
    } else {
      for (AttentionFormats& block : option.attention) {
        NIBBLE_TRY(block, with_cache(block, format, "--cache"));
      }
      option.name = cache_name(option.attention[0]);
    }
    if (std::any_of(option.attention.begin(), option.attention.end(), has_open_fractions)) {
      NIBBLE_DO(closed_attention_of_recipe(options_->recipe, spec));  // says why
    }
    option.bytes = cache_bytes(spec, option.attention, options_->context, options_->batch);
    caches_.push_back(std::move(option));
    return {};
  };
  if (options_->cache != "auto") return add(options_->cache);
  for (const char* format : kCaches) {
    NIBBLE_DO(add(format));
    if (options_->limit != Limit::memory) break;  // it costs nothing: the best
  }
  return {};
}

const CacheOption& FitBudget::cache_named(const std::string& name) const {
  return *std::find_if(caches_.begin(), caches_.end(), [&](const CacheOption& one) { return one.name == name; });
}

// Bytes of what is not chosen, in what the budget counts.
int64_t FitBudget::fixed(const CacheOption& cache) const {
  switch (options_->limit) {
    case Limit::bits: return 0;
    case Limit::files: return beside_.stored + header_bytes(candidates_->spec, most_tensors());
    case Limit::memory: break;
  }
  return beside_.resident + workspace_ + cache.bytes;
}

int64_t FitBudget::most_tensors() const {
  int64_t sum = 0;
  for (int64_t block = 0; block < candidates_->spec.layers; ++block)
    for (Role role : kAllRoles) {
      int64_t most = 0;
      for (size_t format = 0; format < priced_.size(); ++format)
        most = std::max(most, priced(format, block, role).tensors);
      sum += most;
    }
  return sum;
}

int64_t FitBudget::limit_bits(const Space& space, const CacheOption& cache) const {
  if (options_->limit == Limit::bits) return limit_of(options_->bits, values_of(space));
  return 8 * (std::min(options_->bytes, kEndless) - fixed(cache));
}

int64_t FitBudget::least_bits(const Space& space) const {
  int64_t sum = 0;
  for (size_t i : space.pools[0].variables) {
    const auto begin = space.variables[i].charged.begin();
    sum += *std::min_element(begin, begin + static_cast<std::ptrdiff_t>(candidates_->measured));
  }
  return sum;
}

Status FitBudget::expect_possible(const Space& space) const {
  const CacheOption& least = *std::min_element(
      caches_.begin(), caches_.end(), [](const CacheOption& a, const CacheOption& b) { return a.bytes < b.bytes; });
  const int64_t weights = least_bits(space);
  if (weights <= limit_bits(space, least)) return {};
  const int64_t bytes = (weights + 7) / 8;
  switch (options_->limit) {
    case Limit::bits:
      return fail(ErrorCode::usage, "--bits {} is impossible: the narrowest formats need {:.4f} bits on average",
                  options_->bits,
                  std::ceil(static_cast<double>(weights) / static_cast<double>(values_of(space)) * 1e4) * 1e-4);
    case Limit::files:
      return fail(ErrorCode::usage,
                  "--size {} is impossible: at least {} bytes are needed: {} for the linears in the narrowest "
                  "formats, {} for embeddings, head, norms and headers",
                  options_->bytes, bytes + fixed(least), bytes, fixed(least));
    case Limit::memory: break;
  }
  return fail(ErrorCode::usage,
              "--fit {} is impossible: at least {} bytes are needed: {} for the linears in the narrowest formats, {} "
              "for embeddings, head and norms, {} for the KV cache of {} x {} tokens in {}, {} for workspace",
              options_->bytes, bytes + fixed(least), bytes, beside_.resident, least.bytes, options_->batch,
              options_->context, least.name, workspace_);
}

FitBytes FitBudget::bytes_of(const Space& space, const Choice& choice, const CacheOption& cache) const {
  FitBytes out;
  int64_t tensors = 0;
  for (size_t i : space.pools[0].variables) {
    const Variable& variable = space.variables[i];
    for (Role role : variable.roles) {
      const Priced& one = priced(static_cast<size_t>(choice[i]), variable.block, role);
      out.linears += one.stored;
      out.resident_linears += one.resident;
      tensors += one.tensors;
    }
  }
  out.files = out.linears + beside_.stored + header_bytes(candidates_->spec, tensors);
  out.resident_rest = beside_.resident;
  out.cache = cache.bytes;
  out.workspace = workspace_;
  out.read_per_token = out.resident_linears + head_bytes_;
  return out;
}

}  // namespace nibble::search
