// Are the files those that were written, and do they agree with each other?
#include <map>
#include <set>

#include "checkpoint/manifest.h"
#include "eval/verify/checks.h"
#include "eval/verify/manifest_form.h"
#include "format/block_scale.h"
#include "model/families.h"
#include "model/globals.h"
#include "model/storage.h"
#include "quantize/pipeline/record.h"
#include "quantize/recipe/plan.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

tl::unexpected<Error> corrupt(const std::string& message) { return fail(ErrorCode::corrupt, "{}", message); }

// Where two values differ first: "rope, theta" and both values; empty when they are equal.
struct Difference {
  std::string path, a, b;
};
std::optional<Difference> first_difference(const Json& a, const Json& b, const std::string& path = "") {
  if (a == b) return std::nullopt;
  if (!a.is_object() || !b.is_object()) return Difference{path, dump_json(a), dump_json(b)};
  for (const Json* side : {&a, &b})
    for (const auto& item : side->items()) {
      const std::string inside = path.empty() ? item.key() : path + ", " + item.key();
      const auto x = a.find(item.key()), y = b.find(item.key());
      if (x == a.end() || y == b.end())
        return Difference{inside, x == a.end() ? "nothing" : dump_json(*x), y == b.end() ? "nothing" : dump_json(*y)};
      if (auto found = first_difference(*x, *y, inside)) return found;
    }
  return std::nullopt;  // the same keys in another order
}

// The keys of the original configuration still stand in config.json, and other software reads those.
Status compare_config(const ModelSource& source) {
  NIBBLE_TRY(const Reading reading, read_family(source.config(), (source.folder() / "config.json").string()));
  if (const auto found = first_difference(to_json(reading.spec), to_json(source.spec())))
    return corrupt(
        fmt::format("config.json contradicts itself: \"{}\" is {} by the model's own keys, {} in "
                    "quantization_config.spec",
                    found->path, found->a, found->b));
  return {};
}

Status compare_with_reference(const ModelSource& source, const ModelSource& reference) {
  if (source.spec().vocabulary != reference.spec().vocabulary)
    return fail(ErrorCode::corrupt, "{} has a vocabulary of {} tokens, the reference {} has {}: not the same model",
                source.folder().string(), source.spec().vocabulary, reference.folder().string(),
                reference.spec().vocabulary);
  const Spec expected = untied_like(reference.spec(), source.spec());
  if (const auto found = first_difference(to_json(source.spec()), to_json(expected)))
    return corrupt(fmt::format("\"{}\" is {}, the reference has {}", found->path, found->a, found->b));
  return {};
}

std::string described(const std::string& weights, const std::string& activations, bool sparse24, int64_t rotation) {
  return fmt::format("{} / {}{}{}", weights, activations, sparse24 ? " 2:4" : "",
                     rotation > 0 ? fmt::format(", rotated by {}", rotation) : "");
}

// The format that the recipe plans, with the fraction that was found for it where it left that open.
std::string planned_name(const NumberFormat& planned, const Json& entry, const char* key) {
  if (const auto listed = parse_format(entry.value(key, "")); listed && fulfils(*listed, planned))
    return to_string(*listed);
  return to_string(planned);
}

// What the site's steps that look at no statistics decide.
int64_t rotation_of(const SitePlan& plan) {
  ThreadPool pool(1);
  SiteWork site;
  site.name = plan.name;
  site.inputs = plan.inputs;
  site.activations = plan.activations();
  for (const PlannedStep& step : plan.steps)
    if (step.step->needs() == kNoStatistics && !step.step->apply_to_site(site, pool)) return 0;
  return site.rotation;
}

// Formats as the recipe plans them, against those that config.json lists.
Status compare_plan(const ModelSource& source, const Json& quantization) {
  const std::string where = (source.folder() / "config.json").string();
  auto recipe = parse_recipe(quantization["recipe"], where + ", recipe");
  if (!recipe) return corrupt(recipe.error().message);
  std::map<std::string, std::string> planned;
  for (int64_t block = 0; block < source.spec().layers; ++block) {
    NIBBLE_TRY(const std::vector<SitePlan> sites, plan_block(*recipe, source.spec(), block));
    for (const SitePlan& site : sites)
      for (const LinearPlan& linear : site.linears)
        if (linear.quantized()) {
          const Json entry = quantization["linears"].value(linear.name, Json::object());
          planned[linear.name] =
              described(planned_name(linear.weights, entry, "weights"),
                        planned_name(linear.activations, entry, "activations"), linear.sparse24, rotation_of(site));
        }
  }
  if (recipe->head)
    planned[std::string(name_of(Global::head))] =
        described(to_string(recipe->head->weights), to_string(recipe->head->activations), false, 0);
  std::map<std::string, std::string> listed;
  for (const auto& item : quantization["linears"].items())
    listed[item.key()] = described(item.value().value("weights", ""), item.value().value("activations", ""),
                                   item.value().contains("pattern"), item.value().value("hadamard", int64_t{0}));
  for (const auto& [name, formats] : planned)
    if (!listed.contains(name) || listed[name] != formats)
      return corrupt(fmt::format("{}: {} is stored as {}, the recipe says {}", where, name,
                                 listed.contains(name) ? listed[name] : "plain floats", formats));
  for (const auto& [name, formats] : listed)
    if (!planned.contains(name))
      return corrupt(fmt::format("{}: {} is stored as {}, the recipe leaves it alone", where, name, formats));
  NIBBLE_TRY(const std::vector<AttentionFormats> attention, attention_of(source));
  for (int64_t block = 0; block < source.spec().layers; ++block) {
    NIBBLE_TRY(const AttentionFormats wanted, attention_of_block(*recipe, source.spec(), block));
    const AttentionFormats& found = attention[static_cast<size_t>(block)];
    if (!fulfils(found, wanted))
      return corrupt(fmt::format("{}: attention of block {} is {}, the recipe says {}", where, block,
                                 dump_json(to_json(found)), dump_json(to_json(wanted))));
  }
  return {};
}

// The manifest's account of the run, against config.json. The manifest is whole.
Status compare_manifest(const ModelSource& source, const Json& quantization, const Json& manifest) {
  const std::string where = (source.folder() / kManifestName).string();
  if (const auto found = first_difference(*find_path(manifest, {"inputs", "recipe"}), quantization["recipe"]))
    return corrupt(
        fmt::format("the recipe of config.json is not the manifest's: \"{}\" is {} in the manifest, {} in "
                    "config.json",
                    found->path, found->a, found->b));
  const Json& linears = quantization["linears"];
  std::set<std::string> known;
  for (const Json& value : manifest["linears"]) {
    NIBBLE_TRY(const LinearReport report, report_from_json(value, where));
    const auto entry = linears.find(report.name);
    if (entry == linears.end())
      return corrupt(fmt::format("{} is in the manifest, but not in config.json", report.name));
    if (!known.insert(report.name).second)
      return corrupt(fmt::format("{} stands twice among the manifest's linears", report.name));
    const std::string now = fmt::format("{} / {}, {} kept", entry->value("weights", ""),
                                        entry->value("activations", ""), entry->value("kept", int64_t{0}));
    const std::string then = fmt::format("{} / {}, {} kept", report.weights, report.activations, report.kept);
    if (now != then) return corrupt(fmt::format("{} is {} in config.json, {} in the manifest", report.name, now, then));
  }
  for (const auto& item : linears.items())
    if (!known.contains(item.key()) && item.key() != name_of(Global::head))  // rounded, without an account
      return corrupt(fmt::format("{} is in config.json, but not in the manifest", item.key()));
  return {};
}

Status compare_quantization(const ModelSource& source, const std::optional<Json>& manifest) {
  const Json* quantization = source.quantization();
  if (quantization == nullptr) return {};
  NIBBLE_DO(compare_config(source));
  if (auto same = compare_plan(source, *quantization); !same) return corrupt(same.error().message);
  if (!manifest) return {};
  NIBBLE_DO(expect_whole(*manifest, source));
  return compare_manifest(source, *quantization, *manifest);
}

Status read_manifest_of(Examination& examination) {
  const fs::path& folder = examination.options.candidate;
  std::error_code error;
  if (!fs::exists(folder / kManifestName, error)) return {};
  examination.told("hashing files", 0);
  NIBBLE_TRY(examination.manifest, read_manifest(folder));
  return check_manifest(folder);
}

// What cannot be opened is corrupt, except where the program itself is the reason.
Status open_candidate(Examination& examination) {
  auto opened = open_folder(examination.options.candidate);
  if (opened) {
    examination.candidate = std::move(*opened);
    return {};
  }
  const Error& error = opened.error();
  const bool ours = error.code == ErrorCode::resources || error.code == ErrorCode::unsupported;
  return fail(ours ? error.code : ErrorCode::corrupt, "{}", error.message);
}

std::string evidence_of(const Examination& examination) {
  const ModelSource& source = *examination.candidate.source;
  if (!examination.manifest)
    return fmt::format("opens: {}, {} layers; no manifest, so no hashes to compare", source.spec().family,
                       source.spec().layers);
  const size_t files = (*examination.manifest)["files"].size();
  return fmt::format(
      "{} files have the manifest's sizes and SHA-256; {}, {} layers; config.json, recipe and manifest "
      "agree",
      files, source.spec().family, source.spec().layers);
}

}  // namespace

Result<Finding> check_files(Examination& examination) {
  NIBBLE_DO(read_manifest_of(examination));
  NIBBLE_DO(open_candidate(examination));
  const ModelSource& source = *examination.candidate.source;
  if (source.quantization() != nullptr && !examination.manifest)
    return failed(ErrorCode::corrupt, fmt::format("{} is quantized but has no {}: it is incomplete",
                                                  source.folder().string(), kManifestName));
  if (examination.reference) NIBBLE_DO(compare_with_reference(source, *examination.reference->source));
  NIBBLE_DO(compare_quantization(source, examination.manifest));
  return passed(evidence_of(examination));
}

}  // namespace nibble
