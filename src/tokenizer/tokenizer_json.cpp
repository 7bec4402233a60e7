// tokenizer.json of Hugging Face tokenizers, version 1.0.
#include <algorithm>

#include "core/file.h"
#include "tokenizer/bpe.h"
#include "tokenizer/component.h"
#include "tokenizer/pipeline.h"

namespace nibble {
namespace {

constexpr size_t kMaxFile = size_t{256} << 20;
constexpr size_t kMaxAddedToken = 4096;  // bytes

Result<AddedToken> read_added_token(const Json& value, const std::string& where) {
  NIBBLE_TRY(JsonReader reader, JsonReader::open(value, where));
  AddedToken token;
  NIBBLE_TRY(int64_t id, reader.integer("id", 0, kMaxTokenId));
  token.id = static_cast<int32_t>(id);
  NIBBLE_TRY(token.content, reader.string("content"));
  NIBBLE_TRY(token.single_word, reader.boolean("single_word", false));
  NIBBLE_TRY(token.lstrip, reader.boolean("lstrip", false));
  NIBBLE_TRY(token.rstrip, reader.boolean("rstrip", false));
  NIBBLE_TRY(token.special, reader.boolean("special", false));
  NIBBLE_TRY(token.normalized, reader.boolean("normalized", !token.special));
  NIBBLE_DO(reader.refuse_unknown());
  if (token.content.size() > kMaxAddedToken)
    return fail(ErrorCode::unsupported, "{}: a token of {} bytes, supported are {}", where, token.content.size(),
                kMaxAddedToken);
  return token;
}

// The reference numbers added tokens itself (those in the vocabulary keep their id, the others follow it) and does
// not look at the ids in the file. Where the two differ nobody can know which is meant.
Status check_numbering(const std::vector<AddedToken>& added, const Vocabulary& vocabulary, const std::string& where) {
  int64_t largest = -1;
  for (const AddedToken& token : added) {
    auto known = vocabulary.id(token.content);
    int64_t expected = known ? *known : std::max(largest + 1, vocabulary.count());
    if (token.id != expected)
      return fail(ErrorCode::corrupt, "{}: \"{}\" has id {}, but {} by its place behind a vocabulary of {}", where,
                  token.content, token.id, expected, vocabulary.count());
    largest = std::max<int64_t>(largest, token.id);
  }
  return {};
}

Result<std::vector<AddedToken>> read_added_tokens(const Json* list, const std::string& where) {
  std::vector<AddedToken> added;
  if (list == nullptr) return added;
  if (!list->is_array()) return fail(ErrorCode::corrupt, "{}: expected a list", where);
  for (size_t i = 0; i < list->size(); ++i) {
    // There may be a million: the place is only worded for the one that fails.
    auto token = read_added_token((*list)[i], where);
    if (!token) return tl::unexpected(read_added_token((*list)[i], fmt::format("{}[{}]", where, i)).error());
    added.push_back(*std::move(token));
  }
  return added;
}

// ["a", "b"], or "a b" in older files.
Result<std::pair<std::string, std::string>> read_merge(const Json& value, const std::string& where, size_t rank) {
  if (value.is_array() && value.size() == 2 && value[0].is_string() && value[1].is_string())
    return std::pair(value[0].get<std::string>(), value[1].get<std::string>());
  const std::string* text = value.get_ptr<const std::string*>();
  size_t blank = text ? text->find(' ') : std::string::npos;
  if (blank == std::string::npos || text->find(' ', blank + 1) != std::string::npos)
    return fail(ErrorCode::corrupt, "{}, \"merges\"[{}] is {}, expected two tokens", where, rank, dump_json(value));
  return std::pair(text->substr(0, blank), text->substr(blank + 1));
}

Result<Merges> read_merges(const Json* list, const std::string& where) {
  if (list == nullptr || !list->is_array()) return fail(ErrorCode::corrupt, "{}: \"merges\" must be a list", where);
  Merges merges;
  merges.reserve(list->size());
  for (size_t i = 0; i < list->size(); ++i) {
    const Json& value = (*list)[i];
    if (value.is_string() && value.get_ref<const std::string&>().starts_with("#version")) continue;
    NIBBLE_TRY(auto merge, read_merge(value, where, i));
    merges.push_back(std::move(merge));
  }
  return merges;
}

Result<BpeOptions> read_bpe_options(JsonReader& reader) {
  BpeOptions options;
  if (reader.has("unk_token")) {
    NIBBLE_TRY(options.unknown, reader.string("unk_token"));
  }
  NIBBLE_TRY(options.continuing_prefix, reader.string("continuing_subword_prefix", ""));
  NIBBLE_TRY(options.end_suffix, reader.string("end_of_word_suffix", ""));
  NIBBLE_TRY(options.fuse_unknown, reader.boolean("fuse_unk", false));
  NIBBLE_TRY(options.byte_fallback, reader.boolean("byte_fallback", false));
  NIBBLE_TRY(options.ignore_merges, reader.boolean("ignore_merges", false));
  NIBBLE_TRY(double dropout, reader.number("dropout", 0, 1, 0));
  if (dropout != 0)
    return fail(ErrorCode::unsupported, "{}: \"dropout\" is {}, which makes the ids random; supported is none",
                reader.where(), dropout);
  reader.ignore({"unk_token"});
  return options;
}

Status read_model(JsonReader& reader, Pipeline& pipeline) {
  // Old files do not say the type; what they have is recognised by its merges.
  NIBBLE_TRY(std::string type, reader.string("type", reader.has("merges") ? "BPE" : "unknown"));
  if (type != "BPE")
    return fail(ErrorCode::unsupported, "{}: type \"{}\" is not supported; supported is BPE", reader.where(), type);
  const Json* vocabulary = reader.find("vocab");
  NIBBLE_TRY(pipeline.vocabulary, Vocabulary::read(vocabulary ? *vocabulary : Json(), reader.where() + ", \"vocab\""));
  NIBBLE_TRY(Merges merges, read_merges(reader.find("merges"), reader.where()));
  NIBBLE_TRY(BpeOptions options, read_bpe_options(reader));
  NIBBLE_DO(reader.refuse_unknown());
  NIBBLE_TRY(pipeline.model, make_bpe(pipeline.vocabulary, merges, std::move(options), reader.where()));
  return {};
}

Status read_stages(JsonReader& reader, Pipeline& pipeline) {
  auto value = [&](std::string_view key) {
    const Json* found = reader.find(key);
    return found ? *found : Json();
  };
  auto where = [&](std::string_view key) { return fmt::format("{}, \"{}\"", reader.where(), key); };
  NIBBLE_TRY(pipeline.normalizer, read_normalizer(value("normalizer"), where("normalizer")));
  NIBBLE_TRY(pipeline.pre_tokenizer, read_pre_tokenizer(value("pre_tokenizer"), where("pre_tokenizer")));
  double growth = (pipeline.normalizer ? pipeline.normalizer->growth() : 1) *
                  (pipeline.pre_tokenizer ? pipeline.pre_tokenizer->growth() : 1);
  if (growth > kMaxGrowth)
    return fail(ErrorCode::unsupported, "{}: normalizer and pre-tokenizer may make text {} times longer",
                reader.where(), growth);
  NIBBLE_TRY(pipeline.decoders, read_decoders(value("decoder"), where("decoder")));
  return {};
}

}  // namespace

Status parse_tokenizer_json(std::string_view text, const std::string& where, Pipeline& pipeline) {
  NIBBLE_TRY(Json root, parse_json(text, where));
  NIBBLE_TRY(JsonReader reader, JsonReader::open(root, where));
  NIBBLE_TRY(std::string version, reader.string("version", "1.0"));
  if (version != "1.0")
    return fail(ErrorCode::unsupported, "{}: \"version\" is \"{}\", supported is \"1.0\"", where, version);
  reader.ignore({"truncation", "padding"});
  NIBBLE_TRY(JsonReader model, reader.object("model"));
  NIBBLE_DO(read_model(model, pipeline));
  NIBBLE_DO(read_stages(reader, pipeline));
  std::string added_key = where + ", \"added_tokens\"";
  NIBBLE_TRY(pipeline.added, read_added_tokens(reader.find("added_tokens"), added_key));
  NIBBLE_DO(pipeline.index_added_tokens(added_key));
  NIBBLE_DO(check_numbering(pipeline.added, pipeline.vocabulary, added_key));
  const Json* post = reader.find("post_processor");
  auto is_id = [&](int64_t id) { return pipeline.token(id) != nullptr; };
  NIBBLE_TRY(pipeline.around, read_post_processor(post ? *post : Json(), is_id, where + ", \"post_processor\""));
  return reader.refuse_unknown();
}

Status read_tokenizer_json(const std::filesystem::path& file, Pipeline& pipeline) {
  NIBBLE_TRY(std::string text, read_text(file, kMaxFile));
  return parse_tokenizer_json(text, file.string(), pipeline);
}

}  // namespace nibble
