// nibble tokenize: text to ids and back.
#include <nibble/text_tokenizer.h>

#include <charconv>
#include <memory>

#include "commands.h"
#include "options.h"

namespace nibble::cli {
namespace {

constexpr const char* kFooter =
    "\nPrints one line per token: its id, a tab, its spelling in the vocabulary. Only the tokenizer files of the "
    "folder\n"
    "are read.\n"
    "\nExamples:\n"
    "  nibble tokenize opt-125m \"Hello world\"\n"
    "  cat book.txt | nibble tokenize opt-125m - --ids\n"
    "  nibble tokenize opt-125m --decode \"2 31414 232\"\n";

struct Options {
  std::string model, text = "-", file;
  bool decode = false, ids_only = false, no_special_tokens = false;
};

Result<std::string> input_of(const Options& options) {
  if (!options.file.empty()) return read_file(options.file);
  return options.text == "-" ? read_file("-") : options.text;
}

// Ids between anything that is not part of a number: "1 2 3", "[1, 2, 3]", one per line.
Result<std::vector<int32_t>> parse_ids(const std::string& text) {
  constexpr std::string_view kBetween = " \t\r\n,[]";
  std::vector<int32_t> ids;
  size_t at = 0;
  while ((at = text.find_first_not_of(kBetween, at)) != std::string::npos) {
    const size_t stop = std::min(text.find_first_of(kBetween, at), text.size());
    int32_t id = 0;
    const auto [end, error] = std::from_chars(text.data() + at, text.data() + stop, id);
    if (error != std::errc() || end != text.data() + stop)
      return failure(ErrorCode::usage, fmt::format("\"{}\" is not a token id", text.substr(at, stop - at)));
    ids.push_back(id);
    at = stop;
  }
  return ids;
}

std::string piece_of(const TextTokenizer& tokenizer, int32_t id) { return tokenizer.piece(id).value_or(""); }

Json ids_json(const TextTokenizer& tokenizer, const std::vector<int32_t>& ids) {
  Json pieces = Json::array();
  for (int32_t id : ids) pieces.push_back(piece_of(tokenizer, id));
  return {{"token_ids", ids}, {"pieces", pieces}, {"tokens", ids.size()}};
}

std::string ids_text(const TextTokenizer& tokenizer, const std::vector<int32_t>& ids, bool only) {
  std::string out;
  for (int32_t id : ids)
    out +=
        only ? fmt::format("{}{}", out.empty() ? "" : " ", id) : fmt::format("{}\t{}\n", id, piece_of(tokenizer, id));
  return only ? out + "\n" : out;
}

Status decode(const TextTokenizer& tokenizer, const std::string& input, const Options& options, bool json) {
  const auto ids = parse_ids(input);
  if (!ids) return error_of(ids);
  const auto text = tokenizer.decode(*ids, options.no_special_tokens);
  if (!text) return error_of(text);
  return json ? print_json({{"text", *text}, {"token_ids", *ids}}) : print(*text + "\n");
}

Status encode(const TextTokenizer& tokenizer, const std::string& input, const Options& options, bool json) {
  const auto ids = tokenizer.encode(input, !options.no_special_tokens);
  if (!ids) return error_of(ids);
  return json ? print_json(ids_json(tokenizer, *ids)) : print(ids_text(tokenizer, *ids, options.ids_only));
}

Status run(const Options& options, const Session& session) {
  const auto input = input_of(options);
  if (!input) return error_of(input);
  const auto tokenizer = TextTokenizer::load(options.model);
  if (!tokenizer) return error_of(tokenizer);
  return options.decode ? decode(*tokenizer, *input, options, session.json)
                        : encode(*tokenizer, *input, options, session.json);
}

}  // namespace

void add_tokenize(CLI::App& program, Session& session) {
  CLI::App* command = program.add_subcommand("tokenize", "Turn text into token ids, or ids into text");
  auto options = std::make_shared<Options>();
  add_model_option(*command, options->model);
  command->add_option("text", options->text, "The text (or ids); - reads standard input")
      ->type_name("TEXT")
      ->capture_default_str();
  command->add_option("-f,--file", options->file, "Read the text (or ids) from a file")->type_name("FILE");
  command->add_flag("--decode", options->decode, "The input is token ids; print their text");
  command->add_flag("--ids", options->ids_only, "Print the ids alone, on one line");
  command->add_flag("--no-special-tokens", options->no_special_tokens,
                    "Add none such as <s> to the text; leave them out of decoded text");
  add_output_options(*command, session);
  command->footer(kFooter);
  set_action(*command, session, [options, &session] { return run(*options, session); });
}

}  // namespace nibble::cli
