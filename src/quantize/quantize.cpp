#include "quantize/quantize.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "checkpoint/manifest.h"
#include "checkpoint/output_folder.h"
#include "checkpoint/safetensors.h"
#include "model/channel_order.h"
#include "model/end_tokens.h"
#include "model/globals.h"
#include "model/storage.h"
#include "quantize/observe/sensitivity.h"
#include "quantize/pipeline/block.h"
#include "quantize/pipeline/estimate.h"
#include "quantize/pipeline/fingerprint.h"
#include "quantize/pipeline/head.h"
#include "quantize/pipeline/record.h"
#include "quantize/pipeline/statistics_file.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

int64_t peak_resident_bytes() {
  struct rusage usage {};
  ::getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;  // Linux counts in KiB
}

// Everything that is known before the first byte is written.
struct Preparation {
  std::unique_ptr<ModelSource> source;
  std::vector<std::vector<SitePlan>> plans;
  std::vector<AttentionFormats> attention;  // by block; of those that are done with their fractions
  Needs needs;
  int64_t length = 0;
  int64_t tokens = 0;     // of text that runs through the blocks
  bool observed = false;  // the recipe needs calibration text
  std::optional<SensitivityFile> sensitivities;

  // Work on a site, and on the first blocks, in operations.
  double work_on(size_t block, size_t site) const { return work_of(plans[block], site, source->spec(), tokens); }
  double work_on(size_t blocks) const {
    double work = 0;
    for (size_t i = 0; i < blocks; ++i)
      for (size_t site = 0; site < plans[i].size(); ++site) work += work_on(i, site);
    return work;
  }
  // The pass over the model before any of it is quantized, for steps that look at all of it.
  double first_pass(const QuantizeOptions& options) const {
    if (options.recipe.model_steps.empty() || options.calibration.empty()) return 0;
    const int64_t seen = options.samples * length;
    return 2 * static_cast<double>(seen) * static_cast<double>(parameter_count(source->spec()));
  }
};

bool observes(const std::vector<std::vector<SitePlan>>& plans) {
  for (const std::vector<SitePlan>& plan : plans)
    for (const SitePlan& site : plan)
      if (site.statistics() != kNoStatistics) return true;
  return false;
}

// Is `inner` the folder `outer`, or somewhere below it? Links are followed.
bool holds(const fs::path& outer, const fs::path& inner) {
  std::error_code error;
  for (fs::path at = fs::canonical(inner, error); !error; at = at.parent_path()) {
    if (fs::equivalent(at, outer, error)) return true;
    error.clear();  // no `outer`: it holds nothing
    if (at == at.parent_path()) return false;
  }
  return false;
}

// A run replaces OUT and empties the folders beside it that it works in: the model must be in none of them.
Status expect_elsewhere(const fs::path& model, const fs::path& output) {
  fs::path normal = output.lexically_normal();
  if (!normal.has_filename()) normal = normal.parent_path();
  for (const char* suffix : {"", ".partial", ".replaced"}) {
    fs::path folder = normal;
    folder += suffix;
    if (holds(folder, model))
      return fail(ErrorCode::usage, "the output {} would overwrite the model {}; write to another folder",
                  output.string(), model.string());
  }
  return {};
}

// The file of sensitivities, with all that steps will read of it; none where no step reads any.
Result<std::optional<SensitivityFile>> sensitivities_of(const QuantizeOptions& options, const ModelSource& source,
                                                        const std::vector<std::vector<SitePlan>>& plans) {
  std::optional<SensitivityFile> file;
  if (!options.sensitivity.empty()) {
    NIBBLE_TRY(file, SensitivityFile::open(options.sensitivity, source));
  }
  bool read = false;
  for (size_t block = 0; block < plans.size(); ++block)
    for (const SitePlan& site : plans[block])
      for (const LinearPlan& linear : site.linears) {
        if (!linear.reads_sensitivities()) continue;
        read = true;
        if (!file)
          return fail(ErrorCode::usage,
                      "recipe {} needs the sensitivities of weights; give them with --sensitivity "
                      "(tools/fisher.py computes them)",
                      options.recipe.name);
        if (!options.recipe.model_steps.empty() || site.turns())
          return fail(ErrorCode::usage,
                      "recipe {}: sensitivities belong to weights as they are in the checkpoint; expected "
                      "no step that gathers or rotates channels",
                      options.recipe.name);
        NIBBLE_DO(file->check(static_cast<int64_t>(block), linear.role));
      }
  if (file && !read)
    return fail(ErrorCode::usage, "recipe {} reads no sensitivities; expected no --sensitivity", options.recipe.name);
  return file;
}

Result<Preparation> prepare(const QuantizeOptions& options, int threads) {
  Preparation out;
  NIBBLE_DO(expect_elsewhere(options.model, options.output));
  NIBBLE_TRY(out.source, open_model(options.model));
  if (out.source->quantization() != nullptr)
    return fail(ErrorCode::unsupported, "{} is quantized already; expected an unquantized model",
                options.model.string());
  NIBBLE_TRY(out.plans, plan_all(options.recipe, out.source->spec()));
  NIBBLE_DO(check_budgets(out.plans, out.source->spec()));
  NIBBLE_TRY(out.attention, attention_of_recipe(options.recipe, out.source->spec()));
  NIBBLE_TRY(out.length, sample_length(options, out.source->spec()));
  out.observed = observes(out.plans) || std::any_of(out.attention.begin(), out.attention.end(), has_open_fractions);
  NIBBLE_TRY(out.sensitivities, sensitivities_of(options, *out.source, out.plans));
  out.tokens = options.samples * out.length * (int{!options.calibration.empty()} + int{!options.validation.empty()});
  NIBBLE_TRY(out.needs, needs_of(options, *out.source, out.plans, out.length, threads));
  return out;
}

// Of the blocks that are done, of which there are no more than planned ones.
Status check_attention(const Record& record, const std::vector<AttentionFormats>& planned, const fs::path& file) {
  if (static_cast<int64_t>(record.attention.size()) != record.blocks_done)
    return fail(ErrorCode::corrupt, "{}: \"attention\" has {} entries for {} blocks", file.string(),
                record.attention.size(), record.blocks_done);
  for (size_t block = 0; block < record.attention.size(); ++block)
    if (!fulfils(record.attention[block], planned[block]))
      return fail(ErrorCode::corrupt, "{}: attention of block {} is {}, the recipe says {}", file.string(), block,
                  dump_json(to_json(record.attention[block])), dump_json(to_json(planned[block])));
  return {};
}

// One run. The functions are its stages, in order.
class Run {
 public:
  Run(const QuantizeOptions& options, Preparation prepared, ThreadPool& pool)
      : options_(options),
        prepared_(std::move(prepared)),
        pool_(pool),
        meter_(prepared_.first_pass(options) + prepared_.work_on(prepared_.plans.size()), options.progress) {}

  // Nothing is written or thrown away before this has succeeded.
  Status read_text();
  // Takes up an interrupted run, or starts a new one with the globals.
  Status begin();
  Status quantize_blocks();
  Status write_rest();
  Status finish();
  Result<QuantizeReport> report() const;

 private:
  const Spec& spec() const { return prepared_.source->spec(); }
  const fs::path& folder() const { return output_->path(); }
  Result<std::optional<Samples>> samples_of(const std::vector<fs::path>& files, const char* what) const;
  Status check_ids(const Samples& samples, const char* what) const;
  void make_streams();
  std::vector<HiddenStream*> streams();
  Status start();
  Status take_up();
  Status transform_model();
  Result<ModelStatistics> observe_model(const GlobalWeights& globals);
  Result<std::vector<std::vector<float>>> observe_block(HiddenStream& stream, int64_t index);
  Result<std::optional<Record>> record_of_manifest() const;
  Status write_shard(const NamedTensors& tensors, int64_t index);
  Status quantize_one(int64_t index);
  Status advance_prompt(int64_t index, const BlockWeights& weights);
  Status write_config() const;
  Result<Json> manifest_fields();
  Result<std::vector<std::string>> final_files() const;
  void remove_scratch();

  const QuantizeOptions& options_;
  Preparation prepared_;
  std::optional<OutputFolder> output_;
  ThreadPool& pool_;
  ProgressMeter meter_;
  Isa isa_ = Isa::portable;
  std::optional<Tokenizer> tokenizer_;
  std::optional<Samples> calibration_, validation_;
  Samples prompt_;
  std::optional<HiddenStream> calibration_stream_, validation_stream_, prompt_stream_;
  Record record_;
  bool resumed_ = false;
  bool written_ = false;  // an interrupted run had come as far as the manifest: only finish() is left
};

Status Run::read_text() {
  NIBBLE_TRY(isa_, selected_isa());
  auto tokenizer = Tokenizer::load(options_.model);
  const bool needed = prepared_.observed || !options_.calibration.empty() || !options_.validation.empty();
  if (tokenizer) {
    tokenizer_ = *tokenizer;
  } else if (needed || tokenizer.error().code != ErrorCode::io) {
    return tl::unexpected(tokenizer.error());  // only a model without any tokenizer can do without
  }
  if (prepared_.observed && options_.calibration.empty())
    return fail(ErrorCode::usage, "recipe {} needs calibration text; give it with --calibration", options_.recipe.name);
  NIBBLE_TRY(calibration_, samples_of(options_.calibration, "calibration"));
  NIBBLE_TRY(validation_, samples_of(options_.validation, "validation"));
  prompt_ = fingerprint_prompt(tokenizer_ ? &*tokenizer_ : nullptr, spec());
  return {};
}

Result<std::optional<Samples>> Run::samples_of(const std::vector<fs::path>& files, const char* what) const {
  if (files.empty()) return std::nullopt;
  NIBBLE_TRY(Samples samples,
             draw_samples(files, *tokenizer_, options_.samples, prepared_.length, options_.seed, what));
  NIBBLE_DO(check_ids(samples, what));
  return samples;
}

Status Run::check_ids(const Samples& samples, const char* what) const {
  const auto largest = std::max_element(samples.tokens.begin(), samples.tokens.end());
  if (*largest < spec().vocabulary) return {};
  return fail(ErrorCode::corrupt,
              "the tokenizer of {} gives the id {} for the {} text, but the model's vocabulary is {}",
              options_.model.string(), *largest, what, spec().vocabulary);
}

void Run::make_streams() {
  const int64_t chunk = prepared_.needs.chunk;
  if (calibration_) calibration_stream_.emplace(folder(), "calibration", spec(), *calibration_, chunk, isa_);
  if (validation_) validation_stream_.emplace(folder(), "validation", spec(), *validation_, chunk, isa_);
  prompt_stream_.emplace(folder(), "prompt", spec(), prompt_, 1, isa_);
}

std::vector<HiddenStream*> Run::streams() {
  std::vector<HiddenStream*> out;
  for (auto* stream : {&calibration_stream_, &validation_stream_, &prompt_stream_})
    if (*stream) out.push_back(&**stream);
  return out;
}

Status Run::begin() {
  NIBBLE_TRY(OutputFolder output, OutputFolder::create(options_.output, options_.force, options_.resume));
  output_.emplace(std::move(output));
  make_streams();
  NIBBLE_TRY(record_.inputs,
             inputs_of(options_, calibration_ ? &*calibration_ : nullptr, validation_ ? &*validation_ : nullptr, isa_));
  if (output_->resumed()) NIBBLE_DO(take_up());
  if (resumed_) return {};
  meter_.start_from(0);
  return start();
}

Status Run::take_up() {
  NIBBLE_TRY(std::optional<Record> earlier, read_record(folder()));
  std::error_code error;
  if (!earlier && fs::exists(folder() / kManifestName, error)) {
    NIBBLE_TRY(earlier, record_of_manifest());
    written_ = true;
  }
  // What lies there otherwise belongs to no run that could go on, and must not get into the output.
  if (!earlier) return output_->clear();
  NIBBLE_DO(check_same_inputs(earlier->inputs, record_.inputs, folder()));
  if (earlier->blocks_done > spec().layers)
    return fail(ErrorCode::corrupt, "{}: \"blocks_done\" is {}, but the model has {} blocks",
                (folder() / kRecordName).string(), earlier->blocks_done, spec().layers);
  if (!written_) NIBBLE_DO(check_attention(*earlier, prepared_.attention, folder() / kRecordName));
  if (!options_.recipe.model_steps.empty()) {
    NIBBLE_TRY(ChannelOrder order, read_order(folder(), spec()));
    if (order.empty())
      return fail(ErrorCode::corrupt, "cannot resume {}: {} is missing; start anew without --resume", folder().string(),
                  kOrderName);
    prepared_.source = reordered(std::move(prepared_.source), std::move(order));
  }
  record_ = std::move(*earlier);
  std::copy(record_.attention.begin(), record_.attention.end(), prepared_.attention.begin());
  resumed_ = true;
  meter_.start_from(prepared_.first_pass(options_) + prepared_.work_on(static_cast<size_t>(record_.blocks_done)));
  return {};
}

// Between the removal of the record and the final name there is the manifest.
Result<std::optional<Record>> Run::record_of_manifest() const {
  NIBBLE_DO(check_manifest(folder()));
  NIBBLE_TRY(const Json manifest, read_manifest(folder()));
  const std::string where = (folder() / kManifestName).string();
  NIBBLE_TRY(JsonReader reader, JsonReader::open(manifest, where));
  Record record;
  record.blocks_done = spec().layers;
  NIBBLE_TRY(record.tensor_bytes, reader.integer("tensor_bytes", 0, INT64_MAX));
  if (const Json* inputs = reader.find("inputs")) record.inputs = *inputs;
  NIBBLE_DO(read_reports(manifest, record, where));
  return record;
}

// The steps of the recipe that work on the whole model. What they decide lies in the folder from here on, so that a
// resumed run goes on with it.
Status Run::transform_model() {
  if (options_.recipe.model_steps.empty()) return {};
  ModelStatistics seen;
  if (calibration_) {
    NIBBLE_TRY(const GlobalWeights globals, prepared_.source->globals());
    NIBBLE_TRY(seen, observe_model(globals));
  }
  ModelWork work{*prepared_.source, calibration_ ? &seen : nullptr, {}};
  for (const StepPointer& step : options_.recipe.model_steps) NIBBLE_DO(step->apply_to_model(work, pool_));
  NIBBLE_DO(write_order(folder(), work.order));
  prepared_.source = reordered(std::move(prepared_.source), std::move(work.order));
  return {};
}

// What calibration text shows of the float model, in a pass of its own.
Result<ModelStatistics> Run::observe_model(const GlobalWeights& globals) {
  HiddenStream stream(folder(), "model", spec(), *calibration_, prepared_.needs.chunk, isa_);
  NIBBLE_TRY(const Embedder embedder, Embedder::make(spec(), globals, isa_, pool_));
  NIBBLE_DO(stream.embed(embedder, pool_));
  ModelStatistics seen;
  for (int64_t index = 0; index < spec().layers; ++index) {
    NIBBLE_TRY(auto sites, observe_block(stream, index));
    seen.push_back(std::move(sites));
    meter_.advance(prepared_.first_pass(options_) / static_cast<double>(spec().layers),
                   fmt::format("block {} of {}, looking at channels", index + 1, spec().layers));
    stream.remove(index);
  }
  stream.remove(spec().layers);
  return seen;
}

Result<std::vector<std::vector<float>>> Run::observe_block(HiddenStream& stream, int64_t index) {
  NIBBLE_TRY(const BlockWeights weights, prepared_.source->block(index));
  NIBBLE_TRY(const PackedBlock packed, pack_block(weights, isa_, pool_));
  const std::vector<Site>& sites = sites_of(spec());
  std::vector<std::vector<float>> absmax;
  for (size_t site = 0; site < sites.size(); ++site) {
    absmax.emplace_back(static_cast<size_t>(shape_of(spec(), sites[site].roles[0]).columns));
    Status seen;
    const SampleTap tap = [&](const float* x, int64_t length, int64_t) {
      if (seen) seen = observe_absmax(x, length, absmax.back(), fmt::format("block {}", index), pool_);
    };
    NIBBLE_DO(stream.reach(index, packed, site, &tap, pool_));
    NIBBLE_DO(seen);
  }
  NIBBLE_DO(stream.reach(index, packed, sites.size(), nullptr, pool_));
  return absmax;
}

Status Run::start() {
  NIBBLE_DO(output_->require_space(prepared_.needs.output + prepared_.needs.hidden));
  NIBBLE_DO(transform_model());
  NIBBLE_TRY(GlobalWeights globals, prepared_.source->globals());
  NIBBLE_DO(quantize_head(options_.recipe, globals, pool_));
  if (options_.recipe.head) record_.linears[std::string(name_of(Global::head))] = linear_entry(*globals.head);
  NIBBLE_DO(write_shard(global_tensors(globals), 0));
  NIBBLE_TRY(const Embedder embedder, Embedder::make(spec(), globals, isa_, pool_));
  for (HiddenStream* stream : streams()) NIBBLE_DO(stream->embed(embedder, pool_));
  return write_record(folder(), record_);
}

Status Run::write_shard(const NamedTensors& tensors, int64_t index) {
  const std::string name = shard_name(index, spec().layers + 1);
  NIBBLE_DO(write_safetensors(folder() / name, tensors.tensors));
  for (const TensorView& tensor : tensors.tensors) {
    record_.weights[tensor.name] = name;
    record_.tensor_bytes += static_cast<int64_t>(tensor.bytes.size());
  }
  return {};
}

Status Run::quantize_blocks() {
  for (int64_t index = record_.blocks_done; index < spec().layers; ++index) NIBBLE_DO(quantize_one(index));
  return {};
}

Status Run::quantize_one(int64_t index) {
  const std::vector<SitePlan>& plan = prepared_.plans[static_cast<size_t>(index)];
  NIBBLE_TRY(BlockWeights original, prepared_.source->block(index));
  const Streams text{calibration_stream_ ? &*calibration_stream_ : nullptr,
                     validation_stream_ ? &*validation_stream_ : nullptr};
  const SensitivityFile* sensitivities = prepared_.sensitivities ? &*prepared_.sensitivities : nullptr;
  const auto told = [&](size_t site) {
    meter_.advance(prepared_.work_on(static_cast<size_t>(index), site),
                   fmt::format("block {} of {}, {}", index + 1, spec().layers, plan[site].site.name));
  };
  AttentionFormats& attention = prepared_.attention[static_cast<size_t>(index)];
  NIBBLE_TRY(BlockResult block, quantize_block(spec(), plan, attention, index, std::move(original), text, sensitivities,
                                               record_.left_over, isa_, pool_, told));
  attention = block.attention;
  NIBBLE_DO(write_shard(block_tensors(block.weights, index), index + 1));
  NIBBLE_DO(advance_prompt(index, block.weights));
  for (Role role : kAllRoles)
    if (block.weights[role].format.has_codes())
      record_.linears[linear_name(index, role)] = linear_entry(block.weights[role]);
  record_.reports.insert(record_.reports.end(), block.reports.begin(), block.reports.end());
  record_.sites.insert(record_.sites.end(), block.sites.begin(), block.sites.end());
  if (calibration_) NIBBLE_DO(write_statistics_piece(folder(), index, block.absmax));
  record_.attention.push_back(attention);
  record_.left_over = block.left_over;
  record_.blocks_done = index + 1;
  NIBBLE_DO(write_record(folder(), record_));
  for (HiddenStream* stream : streams()) stream->remove(index);
  return {};
}

// The prompt of the fingerprint runs through the model as it will be run: with quantized activations, and attention in
// its block formats, though with floats of the cache in f32.
Status Run::advance_prompt(int64_t index, const BlockWeights& weights) {
  auto packed = pack_block(weights, isa_, pool_);
  if (!packed) return fail(packed.error().code, "block {}, {}", index, packed.error().message);
  const AttentionFormats attention = prepared_.attention[static_cast<size_t>(index)].without_float_types();
  return prompt_stream_->advance(index, *packed, attention, pool_);
}

Status Run::write_config() const {
  Json config = prepared_.source->config();
  const Spec stored = stored_spec(spec(), options_.recipe);
  if (stored.tied_head != spec().tied_head) config["tie_word_embeddings"] = stored.tied_head;
  config["quantization_config"] =
      quantization_config_for(options_.recipe.source, stored, record_.linears, prepared_.attention);
  return write_durably(folder() / "config.json", dump_json(config, 2) + "\n");
}

Status Run::write_rest() {
  if (written_) return {};
  NIBBLE_DO(write_shard_index(folder(), record_.weights, record_.tensor_bytes));
  NIBBLE_DO(copy_companions(options_.model, folder()));
  NIBBLE_DO(write_config());
  if (calibration_) NIBBLE_DO(join_statistics(folder(), prepared_.plans));
  NIBBLE_TRY(Json fields, manifest_fields());
  NIBBLE_TRY(const std::vector<std::string> files, final_files());
  return write_manifest(folder(), files, std::move(fields));
}

Result<Json> Run::manifest_fields() {
  Json fields = Json::object();
  fields["inputs"] = record_.inputs;
  fields["spec"] = to_json(stored_spec(spec(), options_.recipe));
  fields["tensor_bytes"] = record_.tensor_bytes;
  fields["linears"] = Json::array();
  for (const LinearReport& report : record_.reports) fields["linears"].push_back(to_json(report));
  if (calibration_) fields["sites"] = Json::array();
  for (const SiteReport& report : record_.sites) fields["sites"].push_back(to_json(report));
  if (tokenizer_) {
    NIBBLE_TRY(const std::vector<int32_t> ends, end_tokens(*prepared_.source));
    fields["tokenizer"] = tokenizer_fingerprint(*tokenizer_, ends);
  }
  NIBBLE_TRY(const std::vector<float> hidden, prompt_stream_->read(spec().layers));
  NIBBLE_TRY(const std::unique_ptr<ModelSource> quantized, open_model(folder()));
  NIBBLE_TRY(fields["logits"], logit_fingerprint(*quantized, prompt_, hidden, pool_));
  return fields;
}

bool is_scratch(const fs::path& path) { return path.extension() == ".f32" || path.filename() == kRecordName; }

Result<std::vector<std::string>> Run::final_files() const {
  std::vector<std::string> files;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder(), error))
    if (entry.is_regular_file(error) && !is_scratch(entry.path()) && entry.path().filename() != kManifestName)
      files.push_back(entry.path().filename().string());
  if (error) return fail(ErrorCode::io, "cannot list {}: {}", folder().string(), error.message());
  return files;
}

// The record goes first: it promises that the hidden states are there. Without it the manifest, which is complete by
// now, tells a resumed run that only this is left.
void Run::remove_scratch() {
  std::error_code ignored;
  fs::remove(folder() / kRecordName, ignored);
  std::vector<fs::path> scratch;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder(), ignored))
    if (is_scratch(entry.path())) scratch.push_back(entry.path());
  for (const fs::path& path : scratch) fs::remove(path, ignored);
}

Status Run::finish() {
  remove_scratch();
  return output_->finish();
}

Result<QuantizeReport> Run::report() const {
  QuantizeReport report;
  report.linears = record_.reports;
  report.sites = record_.sites;
  report.resumed = resumed_;
  report.discarded = output_->discarded();
  report.bits_per_weight = 8.0 * static_cast<double>(record_.tensor_bytes) /
                           static_cast<double>(parameter_count(stored_spec(spec(), options_.recipe)));
  NIBBLE_TRY(const std::unique_ptr<ModelSource> written, open_model(output_->final_path()));
  const Json& entries = (*written->quantization())["linears"];
  double bytes = 0, weights = 0, code_bits = 0, open = 0;
  for (const LinearReport& linear : record_.reports) {
    const auto count = static_cast<double>(linear.rows * linear.columns);
    bytes += static_cast<double>(linear.stored_bytes);
    weights += count;
    const auto entry = entries.find(linear.name);
    if (entry == entries.end() || !entry->contains("row_bits")) continue;
    code_bits += (*entry)["row_bits"].get<double>() * static_cast<double>(linear.rows);
    open += count;
  }
  if (open > 0) report.code_bits = code_bits / open;
  report.quantized_bits_per_weight = weights > 0 ? 8 * bytes / weights : 0;
  report.file_bytes = written->file_bytes();
  report.peak_memory = peak_resident_bytes();
  return report;
}

}  // namespace

Result<QuantizeEstimate> estimate(const QuantizeOptions& options, int threads) {
  NIBBLE_TRY(const Preparation prepared, prepare(options, threads > 0 ? threads : usable_processors()));
  const Spec& spec = prepared.source->spec();
  QuantizeEstimate out;
  out.peak_memory = prepared.needs.peak();
  out.output_bytes = prepared.needs.output;
  out.disk = prepared.needs.output + prepared.needs.hidden;
  out.bits_per_weight = 8.0 * static_cast<double>(prepared.needs.output) /
                        static_cast<double>(parameter_count(stored_spec(spec, options.recipe)));
  out.plan = describe(spec, prepared.plans);
  if (!options.recipe.model_steps.empty())
    out.plan.insert(out.plan.begin(), options.calibration.empty()
                                          ? "channels in descending order of their weights"
                                          : "channels in descending order of their largest |x|");
  if (const auto& head = options.recipe.head)
    out.plan.push_back(fmt::format("head: weights {}, activations {}; rounded to nearest", to_string(head->weights),
                                   to_string(head->activations)));
  return out;
}

Result<QuantizeReport> quantize(const QuantizeOptions& options, ThreadPool& pool) {
  const auto start = std::chrono::steady_clock::now();
  NIBBLE_TRY(Preparation prepared, prepare(options, pool.size()));
  Run run(options, std::move(prepared), pool);
  NIBBLE_DO(run.read_text());
  NIBBLE_DO(run.begin());
  NIBBLE_DO(run.quantize_blocks());
  NIBBLE_DO(run.write_rest());
  NIBBLE_DO(run.finish());
  NIBBLE_TRY(QuantizeReport report, run.report());
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace nibble
