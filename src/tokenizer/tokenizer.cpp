#include "tokenizer/tokenizer.h"

#include <array>

#include "tokenizer/pipeline.h"
#include "tokenizer/unicode.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

bool has(const fs::path& folder, const char* name) {
  std::error_code error;
  return fs::is_regular_file(folder / name, error);
}

std::optional<int32_t> id_of(const std::optional<AddedToken>& token, const Pipeline& pipeline) {
  return token ? pipeline.id(token->content) : std::nullopt;
}

// Files that are not read when a better one is there still belong to the tokenizer, for other programs.
std::vector<std::string> files_in(const fs::path& folder) {
  std::vector<std::string> files;
  for (const char* name : {"tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json",
                           "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"})
    if (has(folder, name)) files.push_back(name);
  return files;
}

Status read_folder(const fs::path& folder, const TokenizerConfig& config, Pipeline& pipeline) {
  if (has(folder, "tokenizer.json")) return read_tokenizer_json(folder / "tokenizer.json", pipeline);
  if (has(folder, "tokenizer.model")) return read_sentence_piece(folder / "tokenizer.model", config, pipeline);
  if (has(folder, "vocab.json") && has(folder, "merges.txt"))
    return read_vocabulary_and_merges(folder, config, pipeline);
  for (const char* name : {"vocab.json", "merges.txt"})
    if (has(folder, name))
      return fail(ErrorCode::io, "{}: has {} but not both vocab.json and merges.txt", folder.string(), name);
  return fail(ErrorCode::io, "{}: has no tokenizer: neither tokenizer.json nor tokenizer.model nor vocab.json",
              folder.string());
}

// One stretch of plain text: normalized, cut at the tokens that are looked for in normalized text, each part then
// split and encoded.
void encode_stretch(const Pipeline& pipeline, std::string_view text, bool at_start, std::vector<int32_t>& ids,
                    Work& work) {
  NormalText normal{std::string(text), at_start};
  if (pipeline.normalizer) pipeline.normalizer->apply(normal, work);
  std::string_view whole = normal.text;
  for (const auto& stretch : pipeline.normalized_search.cut(whole)) {
    if (stretch.id >= 0) {
      ids.push_back(stretch.id);
      continue;
    }
    Pieces pieces;
    pieces.list.push_back(
        {whole.substr(stretch.begin, stretch.end - stretch.begin), normal.at_start && stretch.begin == 0});
    if (pipeline.pre_tokenizer) pipeline.pre_tokenizer->apply(pieces, work);
    pipeline.model->encode(pieces.list, ids, work);
  }
}

std::vector<int32_t> encode_text(const Pipeline& pipeline, std::string_view text, bool add_special_tokens, Work& work) {
  std::string repaired;
  if (!is_utf8(text)) text = repaired = repaired_utf8(text);
  std::vector<int32_t> ids;
  for (const auto& stretch : pipeline.raw_search.cut(text)) {
    if (stretch.id >= 0)
      ids.push_back(stretch.id);
    else
      encode_stretch(pipeline, text.substr(stretch.begin, stretch.end - stretch.begin), stretch.begin == 0, ids, work);
  }
  return add_special_tokens ? filled(pipeline.around, ids) : ids;
}

// The string that decoding sees, or nullptr for an id that is skipped.
const std::string* decoded_token(const Pipeline& pipeline, int32_t id, bool skip_special_tokens) {
  const std::string* token = pipeline.token(id);
  bool skipped = token == nullptr || (skip_special_tokens && pipeline.special[static_cast<size_t>(id)]);
  return skipped ? nullptr : token;
}

}  // namespace

struct Tokenizer::Impl {
  Pipeline pipeline;
};

Result<Tokenizer> Tokenizer::load(const fs::path& folder) {
  auto impl = std::make_shared<Impl>();
  Pipeline& pipeline = impl->pipeline;
  NIBBLE_TRY(TokenizerConfig config, TokenizerConfig::read(folder));
  NIBBLE_DO(read_folder(folder, config, pipeline));
  pipeline.bos = id_of(config.bos, pipeline);
  pipeline.eos = id_of(config.eos, pipeline);
  pipeline.files = files_in(folder);
  return Tokenizer(std::move(impl));
}

Result<Tokenizer> Tokenizer::parse(std::string_view tokenizer_json, const std::string& where) {
  auto impl = std::make_shared<Impl>();
  NIBBLE_DO(parse_tokenizer_json(tokenizer_json, where, impl->pipeline));
  return Tokenizer(std::move(impl));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  EncodeCost cost;
  return encode(text, add_special_tokens, cost);
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special_tokens, EncodeCost& cost) const {
  Work work(text.size());
  std::vector<int32_t> ids = encode_text(impl_->pipeline, text, add_special_tokens, work);
  cost.merge_steps = work.merge_steps;
  cost.regex_exhausted = work.retries_left <= 0;
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  RunningDecoder decoder(impl_->pipeline.decoders);
  for (int32_t id : ids)
    if (const std::string* token = decoded_token(impl_->pipeline, id, skip_special_tokens)) decoder.token(*token);
  decoder.finish();
  return decoder.take();
}

int64_t Tokenizer::vocabulary_size() const { return static_cast<int64_t>(impl_->pipeline.special.size()); }

std::optional<std::string> Tokenizer::token(int32_t id) const {
  const std::string* found = impl_->pipeline.token(id);
  return found ? std::optional(*found) : std::nullopt;
}

std::optional<int32_t> Tokenizer::id(std::string_view token) const { return impl_->pipeline.id(token); }

bool Tokenizer::is_special(int32_t id) const {
  return id >= 0 && id < vocabulary_size() && impl_->pipeline.special[static_cast<size_t>(id)];
}

std::optional<int32_t> Tokenizer::bos() const { return impl_->pipeline.bos; }
std::optional<int32_t> Tokenizer::eos() const { return impl_->pipeline.eos; }
const std::vector<std::string>& Tokenizer::files() const { return impl_->pipeline.files; }

struct StreamDecoder::State {
  Tokenizer tokenizer;
  bool skip_special_tokens;
  std::optional<RunningDecoder> decoder;
};

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
    : state_(new State{tokenizer, skip_special_tokens, std::nullopt}) {
  state_->decoder.emplace(tokenizer.impl_->pipeline.decoders);
}
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;
StreamDecoder::~StreamDecoder() = default;

std::string StreamDecoder::push(int32_t id) {
  const Pipeline& pipeline = state_->tokenizer.impl_->pipeline;
  if (const std::string* token = decoded_token(pipeline, id, state_->skip_special_tokens))
    state_->decoder->token(*token);
  return state_->decoder->take();
}

std::string StreamDecoder::finish() {
  state_->decoder->finish();
  std::string rest = state_->decoder->take();
  state_->decoder.emplace(state_->tokenizer.impl_->pipeline.decoders);
  return rest;
}

}  // namespace nibble
