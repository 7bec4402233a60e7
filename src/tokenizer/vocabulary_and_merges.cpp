// vocab.json + merges.txt: byte-level byte-pair encoding as GPT-2 introduced it. The files do not say how text is
// split or what is put around it; that depends on the tokenizer class, of which three are known.
#include "core/file.h"
#include "tokenizer/bpe.h"
#include "tokenizer/pipeline.h"

namespace nibble {
namespace {

struct Kind {
  std::string_view name;
  std::string_view tokenizer_class, model_type;
  const char* special;  // the default bos, eos and unknown token
  bool add_bos;
  bool qwen2;  // NFC, and Qwen2's pattern instead of GPT-2's
};
// OPT comes first: its class is GPT-2's, only the model type tells them apart.
constexpr Kind kKinds[] = {
    {"OPT", "GPT2Tokenizer", "opt", "</s>", true, false},
    {"GPT-2", "GPT2Tokenizer", "gpt2", "<|endoftext|>", false, false},
    {"Qwen2", "Qwen2Tokenizer", "qwen2", "<|endoftext|>", false, true},
};

Result<Kind> kind_of(const TokenizerConfig& config, const std::string& where) {
  const std::string &wanted = config.tokenizer_class, &type = config.model_type;
  for (const Kind& kind : kKinds)
    if (type == kind.model_type && (wanted.empty() || wanted == kind.tokenizer_class)) return kind;
  // A model that we do not know may use a tokenizer that we do.
  for (const Kind& kind : kKinds)
    if (wanted == kind.tokenizer_class && kind.model_type != "opt") return kind;
  if (wanted.empty() && type.empty()) return kKinds[1];
  return fail(ErrorCode::unsupported,
              "{}: a tokenizer of class \"{}\" for model type \"{}\" made of vocab.json and merges.txt is not "
              "supported; supported are GPT2Tokenizer (gpt2, opt) and Qwen2Tokenizer, or a tokenizer.json",
              where, wanted, type);
}

Result<Merges> parse_merges(std::string_view text, const std::string& where) {
  Merges merges;
  for (size_t number = 1; !text.empty(); ++number) {
    size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line.starts_with("#version")) continue;
    size_t blank = line.find(' ');
    if (blank == std::string_view::npos || line.find(' ', blank + 1) != std::string_view::npos)
      return fail(ErrorCode::corrupt, "{}, line {}: expected two tokens, found \"{}\"", where, number,
                  line.substr(0, 60));
    merges.emplace_back(line.substr(0, blank), line.substr(blank + 1));
  }
  return merges;
}

Status require_special(const std::optional<AddedToken>& token, const Pipeline& pipeline, const std::string& where) {
  if (!token || pipeline.id(token->content)) return {};
  return fail(ErrorCode::corrupt, "{}: lacks the special token \"{}\" that tokenizer_config.json names", where,
              token->content);
}

}  // namespace

Status read_vocabulary_and_merges(const std::filesystem::path& folder, const TokenizerConfig& config,
                                  Pipeline& pipeline) {
  std::string where = (folder / "vocab.json").string(), merges_where = (folder / "merges.txt").string();
  NIBBLE_TRY(Kind kind, kind_of(config, where));
  NIBBLE_TRY(Json tokens, read_json(where));
  NIBBLE_TRY(pipeline.vocabulary, Vocabulary::read(tokens, where));
  NIBBLE_TRY(std::string text, read_text(merges_where));
  NIBBLE_TRY(Merges merges, parse_merges(text, merges_where));
  NIBBLE_TRY(pipeline.model, make_bpe(pipeline.vocabulary, merges, BpeOptions(), merges_where));
  if (kind.qwen2) pipeline.normalizer = make_nfc();
  pipeline.pre_tokenizer =
      kind.qwen2 ? make_qwen2_pre_tokenizer() : make_gpt2_pre_tokenizer(config.add_prefix_space.value_or(false));
  pipeline.decoders = make_byte_level_decoders();
  pipeline.added = config.added;
  if (config.added.empty()) {
    pipeline.declare_special(kind.special);
    if (kind.add_bos) pipeline.declare_special("<pad>");
  }
  for (const auto* token : {&config.bos, &config.eos, &config.unknown, &config.pad})
    if (*token) pipeline.declare_special((*token)->content);
  NIBBLE_DO(pipeline.index_added_tokens(where));
  NIBBLE_DO(require_special(config.bos, pipeline, where));
  NIBBLE_DO(require_special(config.eos, pipeline, where));
  NIBBLE_TRY(pipeline.around, pipeline.surroundings(config, kind.special, kind.special, kind.add_bos, where));
  return {};
}

}  // namespace nibble
