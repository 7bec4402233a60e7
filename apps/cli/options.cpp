#include "options.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>

namespace nibble::cli {
namespace {

struct SizeUnit {
  std::string_view name;
  double factor;
};
constexpr SizeUnit kSizeUnits[] = {
    {"", 1},     {"B", 1},      {"K", 0x1p10},   {"KIB", 0x1p10}, {"KB", 1e3},   {"M", 0x1p20},   {"MIB", 0x1p20},
    {"MB", 1e6}, {"G", 0x1p30}, {"GIB", 0x1p30}, {"GB", 1e9},     {"T", 0x1p40}, {"TIB", 0x1p40}, {"TB", 1e12},
};

std::string upper(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  return out;
}

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

Result<std::string> read_all(std::FILE* file, const std::string& name) {
  std::string text;
  char chunk[1 << 16];
  size_t count = 0;
  errno = 0;
  while ((count = std::fread(chunk, 1, sizeof chunk, file)) > 0) text.append(chunk, count);
  if (std::ferror(file)) return failure(ErrorCode::io, fmt::format("cannot read {}: {}", name, std::strerror(errno)));
  return text;
}

// The layers of a list, those that differ only in the block put into one line: "blocks.0-5.q".
struct ChoiceGroup {
  std::string role;  // what follows the block number
  std::string first, last;
  const KernelChoice* choice;
};

ChoiceGroup group_of(const KernelChoice& choice) {
  const size_t first = choice.layer.find('.'), second = choice.layer.find('.', first + 1);
  if (second == std::string::npos) return {choice.layer, "", "", &choice};
  const std::string block = choice.layer.substr(first + 1, second - first - 1);
  return {choice.layer.substr(second + 1), block, block, &choice};
}

std::vector<ChoiceGroup> grouped(const std::vector<KernelChoice>& choices) {
  std::vector<ChoiceGroup> groups;
  for (const KernelChoice& choice : choices) {
    ChoiceGroup next = group_of(choice);
    const auto same = std::find_if(groups.begin(), groups.end(), [&](const ChoiceGroup& group) {
      return group.role == next.role && group.choice->prefill == choice.prefill &&
             group.choice->decode == choice.decode;
    });
    if (same == groups.end()) {
      groups.push_back(std::move(next));
    } else {
      same->last = next.last;
    }
  }
  return groups;
}

std::string title(const ChoiceGroup& group) {
  if (group.first == group.last) return group.choice->layer;
  return fmt::format("blocks.{}..{}.{}", group.first, group.last, group.role);
}

std::string indented(std::string_view text) {
  std::string out = "    ";
  for (char c : text) {
    out += c;
    if (c == '\n') out += "    ";
  }
  while (!out.empty() && (out.back() == ' ' || out.back() == '\n')) out.pop_back();
  return out + "\n";
}

}  // namespace

void add_model_option(CLI::App& command, std::string& model, const std::string& kind) {
  command.add_option("model,-m,--model", model, "Model folder (" + kind + ")")->required()->type_name("MODEL");
}

void add_threads_option(CLI::App& command, int& threads) {
  command.add_option("-t,--threads", threads, "Threads; 0: $NIBBLE_THREADS, or else all processors")
      ->type_name("N")
      ->capture_default_str();
}

// CLI11 alone would take -1 for the largest number there is.
void add_seed_option(CLI::App& command, uint64_t& seed, const std::string& help) {
  const CLI::Validator not_negative(
      [](const std::string& value) {
        return value.find('-') == std::string::npos ? "" : value + " is negative; expected 0 or more";
      },
      "", "not negative");
  command.add_option("-s,--seed", seed, help)->check(not_negative)->type_name("S")->capture_default_str();
}

void add_type_options(CLI::App& command, RunOptions& options) {
  command
      .add_option("--cache", options.cache,
                  "Format of cached keys and values: f32, f16, bf16, a block format such as bfp8, or KEYS/VALUES "
                  "(default: as the model's recipe says, else f32)")
      ->type_name("FORMAT");
  command.add_option("--weights", options.weights, "Convert float weights to f32, f16 or bf16 (default: as stored)")
      ->type_name("TYPE");
  command
      .add_option("--activations", options.activations,
                  "Type of the input of float weights: f32, or bf16 with bf16 weights (default: f32)")
      ->type_name("TYPE");
}

void add_run_options(CLI::App& command, RunOptions& options) {
  add_model_option(command, options.model);
  add_threads_option(command, options.threads);
  add_type_options(command, options);
  command.add_flag("--packed-cache", options.packed_cache,
                   "Keep the packed weights in MODEL/nibble.packed-cache, so that the next start is quick");
  command.add_flag("--explain", options.explain, "Say which kernel runs each layer and why faster ones do not serve");
}

void add_protocol_options(CLI::App& command, TextProtocol& protocol) {
  command.add_option("--protocol", protocol.name, "Which tokens are predicted: windows, strided or second-half")
      ->type_name("NAME")
      ->capture_default_str();
  command.add_option("-w,--window", protocol.window, "Tokens per window; 0: min(2048, the model's positions)")
      ->type_name("N")
      ->capture_default_str();
  command.add_option("--stride", protocol.stride, "Tokens between windows (strided); 0: half a window")
      ->type_name("N")
      ->capture_default_str();
  command
      .add_option("--preset", protocol.preset,
                  "The text is the file of wikitext2, ptb, ptb-new, c4 or c4-new, joined as the GPTQ papers do")
      ->type_name("NAME");
}

std::string describe(const TextProtocol& protocol) {
  std::string out = fmt::format("protocol {}, windows of {}", protocol.name, protocol.window);
  if (protocol.stride > 0) out += fmt::format(" every {}", protocol.stride);
  if (!protocol.preset.empty()) out += ", preset " + protocol.preset;
  return out;
}

Result<LoadOptions> load_options(const RunOptions& options) {
  LoadOptions wanted;
  wanted.threads = options.threads;
  wanted.packed_cache = options.packed_cache;
  if (!options.cache.empty()) wanted.cache = options.cache;
  for (const auto& [name, type] :
       {std::pair(&options.weights, &wanted.weights), {&options.activations, &wanted.activations}}) {
    if (name->empty()) continue;
    const auto found = float_type_named(*name);
    if (!found) return error_of(found);
    *type = *found;
  }
  return wanted;
}

Result<LanguageModel> load(const RunOptions& options) {
  const auto wanted = load_options(options);
  if (!wanted) return error_of(wanted);
  return LanguageModel::load(options.model, *wanted);
}

Result<std::string> explanation(const LanguageModel& model) {
  const auto choices = model.explain();
  if (!choices) return error_of(choices);
  std::string out = fmt::format("kernels ({}):\n", model.isa());
  for (const ChoiceGroup& group : grouped(*choices)) {
    out += fmt::format("{}\n", title(group));
    out += "  many tokens:\n" + indented(group.choice->prefill);
    out += "  one token:\n" + indented(group.choice->decode);
  }
  return out;
}

Result<Json> explanation_json(const LanguageModel& model) {
  const auto choices = model.explain();
  if (!choices) return error_of(choices);
  Json list = Json::array();
  for (const KernelChoice& choice : *choices)
    list.push_back({{"layer", choice.layer}, {"prefill", choice.prefill}, {"decode", choice.decode}});
  return list;
}

Status explain_first(const RunOptions& options, const LanguageModel& model, const Session& session, Json& json) {
  if (const std::string note = model.load_note(); !note.empty()) session.note(note);
  if (!options.explain) return {};
  if (session.json) {
    auto list = explanation_json(model);
    if (!list) return error_of(list);
    json = *std::move(list);
    return {};
  }
  const auto text = explanation(model);
  if (!text) return error_of(text);
  fmt::print(stderr, "{}", *text);
  return {};
}

Result<int64_t> parse_size(const std::string& text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string unit = upper({end, static_cast<size_t>(text.data() + text.size() - end)});
  const auto* found = std::find_if(std::begin(kSizeUnits), std::end(kSizeUnits),
                                   [&](const SizeUnit& candidate) { return candidate.name == unit; });
  if (error != std::errc() || found == std::end(kSizeUnits) || !(number >= 0) || number * found->factor > 0x1p62)
    return failure(ErrorCode::usage, fmt::format("size \"{}\" is not understood; expected e.g. 3G, 512M, 800MB", text));
  return static_cast<int64_t>(std::llround(number * found->factor));
}

Result<std::string> read_file(const std::string& path) {
  if (path == "-") return read_all(stdin, "standard input");
  std::unique_ptr<std::FILE, CloseFile> file(std::fopen(path.c_str(), "rb"));
  if (!file) return failure(ErrorCode::io, fmt::format("cannot open {}: {}", path, std::strerror(errno)));
  return read_all(file.get(), path);
}

Result<std::string> read_text(const std::string& path) {
  auto text = read_file(path);
  if (text && text->empty())
    return failure(ErrorCode::usage, fmt::format("{} is empty", path == "-" ? "standard input" : path));
  return text;
}

}  // namespace nibble::cli
