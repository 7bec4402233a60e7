// Does text still become the ids that the model was trained on?
#include <algorithm>

#include "eval/verify/checks.h"
#include "quantize/pipeline/fingerprint.h"

namespace nibble {
namespace {

constexpr size_t kMostText = 200'000;  // bytes of a user's text that both tokenizers encode

tl::unexpected<Error> bad(const std::string& message) { return fail(ErrorCode::verification, "{}", message); }

std::string quoted_token(const Tokenizer& tokenizer, int32_t id) {
  const std::optional<std::string> token = tokenizer.token(id);
  return token ? dump_json(Json(*token)) : "nothing";
}

std::string list_of(const std::vector<int32_t>& ids) { return ids.empty() ? "none" : dump_json(Json(ids)); }

// "tokenizer" of the manifest, in either form; nullptr when there is none.
const Json* recorded(const std::optional<Json>& manifest) {
  if (!manifest) return nullptr;
  const auto found = manifest->find("tokenizer");
  return found == manifest->end() || found->is_null() ? nullptr : &*found;
}

Status compare_examples(const Tokenizer& tokenizer, const Json& examples) {
  if (!examples.is_array()) return bad("the manifest's examples of the tokenizer are malformed");
  for (const Json& example : examples) {
    const auto text = example.find("text"), ids = example.find("ids"), decoded = example.find("decoded");
    if (text == example.end() || !text->is_string() || ids == example.end())
      return bad("the manifest's examples of the tokenizer are malformed");
    const auto now = tokenizer.encode(text->get<std::string>());
    if (Json(now) != *ids)
      return bad(fmt::format("{} becomes the ids {}, the manifest says {}", dump_json(*text), dump_json(Json(now)),
                             dump_json(*ids)));
    if (decoded != example.end() && Json(tokenizer.decode(now)) != *decoded)
      return bad(fmt::format("the ids of {} become {}, the manifest says {}", dump_json(*text),
                             dump_json(Json(tokenizer.decode(now))), dump_json(*decoded)));
  }
  return {};
}

Status compare_id(const char* name, std::optional<int32_t> now, const Json& fields) {
  const auto then = fields.find(name);
  const Json found = now ? Json(*now) : Json();
  const Json expected = then == fields.end() ? Json() : *then;
  if (found == expected) return {};
  return bad(fmt::format("{} is {}, the manifest says {}", name, found.is_null() ? "missing" : dump_json(found),
                         expected.is_null() ? "none" : dump_json(expected)));
}

Status compare_manifest(const Opened& opened, const Json& fields) {
  const Tokenizer& tokenizer = *opened.tokenizer;
  if (fields.is_array()) return compare_examples(tokenizer, fields);  // of an earlier version
  if (!fields.is_object() || !fields.contains("examples")) return bad("the manifest's \"tokenizer\" is malformed");
  NIBBLE_DO(compare_examples(tokenizer, fields["examples"]));
  if (const auto digest = fields.find("vocabulary"); digest != fields.end())
    if (const Json now = vocabulary_digest(tokenizer); now != *digest)
      return bad(fmt::format("the vocabulary is not the manifest's: {} tokens with SHA-256 {}, the manifest says {}",
                             dump_json(now["size"]), dump_json(now["sha256"]), dump_json(*digest)));
  NIBBLE_DO(compare_id("bos", tokenizer.bos(), fields));
  NIBBLE_DO(compare_id("eos", tokenizer.eos(), fields));
  const auto ends = fields.find("end_tokens");
  const std::vector<int32_t>& now = opened.end_tokens;
  if (ends == fields.end() || *ends == Json(now)) return {};
  // The manifest holds what the folder says; where that is nothing, open_folder() asked the tokenizer.
  const std::optional<int32_t> eos = tokenizer.eos();
  if (ends->empty() && eos && now == std::vector{*eos}) return {};
  return bad(fmt::format("the tokens that end a text are {}, the manifest says {}", list_of(now), dump_json(*ends)));
}

Status compare_vocabulary(const Tokenizer& mine, const Tokenizer& reference) {
  if (mine.vocabulary_size() != reference.vocabulary_size())
    return bad(fmt::format("{} tokens, the reference has {}", mine.vocabulary_size(), reference.vocabulary_size()));
  for (int64_t i = 0; i < mine.vocabulary_size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    if (mine.token(id) != reference.token(id))
      return bad(
          fmt::format("token {} is {}, the reference has {}", id, quoted_token(mine, id), quoted_token(reference, id)));
    if (mine.is_special(id) != reference.is_special(id))
      return bad(fmt::format("token {} is {}special, unlike the reference's", id, mine.is_special(id) ? "" : "not "));
  }
  return {};
}

Status compare_reference(const Opened& mine, const Opened& reference, const std::string& text) {
  const Tokenizer &a = *mine.tokenizer, &b = *reference.tokenizer;
  NIBBLE_DO(compare_vocabulary(a, b));
  std::vector<std::string> texts = tokenizer_strings();
  texts.push_back(text.substr(0, kMostText));
  for (const std::string& sample : texts) {
    const auto ids = a.encode(sample);
    if (ids != b.encode(sample))
      return bad(fmt::format("{} becomes other ids than in the reference",
                             &sample == &texts.back() ? "the text" : dump_json(Json(sample))));
    if (a.decode(ids) != b.decode(ids))
      return bad(fmt::format("the ids of {} become another text than in the reference",
                             &sample == &texts.back() ? "the text" : dump_json(Json(sample))));
  }
  if (a.bos() != b.bos() || a.eos() != b.eos()) return bad("bos or eos are not the reference's");
  if (mine.end_tokens != reference.end_tokens)
    return bad(fmt::format("the tokens that end a text are {}, the reference has {}", list_of(mine.end_tokens),
                           list_of(reference.end_tokens)));
  return {};
}

Status check_ids(const Opened& opened) {
  const Tokenizer& tokenizer = *opened.tokenizer;
  const int64_t vocabulary = opened.source->spec().vocabulary;
  for (const std::string& text : tokenizer_strings())
    for (int32_t id : tokenizer.encode(text))
      if (id >= vocabulary)
        return bad(
            fmt::format("{} has the id {}, the model's vocabulary is {}", dump_json(Json(text)), id, vocabulary));
  for (int32_t id : opened.end_tokens)
    if (id >= vocabulary)
      return bad(fmt::format("the end token {} is outside the model's vocabulary of {}", id, vocabulary));
  const std::string plain = "Hello, world!", back = tokenizer.decode(tokenizer.encode(plain));
  if (back.find("ello") == std::string::npos || back.find("orld") == std::string::npos)
    return bad(fmt::format("{} comes back as {}", dump_json(Json(plain)), dump_json(Json(back))));
  return {};
}

}  // namespace

Result<Finding> check_tokenizer(Examination& examination) {
  const Opened& mine = examination.candidate;
  const Json* manifest = recorded(examination.manifest);
  const bool expected = manifest != nullptr || (examination.reference && examination.reference->tokenizer);
  if (!mine.tokenizer)
    return expected ? failed(ErrorCode::corrupt, mine.no_tokenizer) : skipped("the folder has no tokenizer");
  NIBBLE_DO(check_ids(mine));
  if (manifest != nullptr) NIBBLE_DO(compare_manifest(mine, *manifest));
  const bool compared = examination.reference && examination.reference->tokenizer;
  if (compared) NIBBLE_DO(compare_reference(mine, *examination.reference, examination.options.text));
  std::string evidence = fmt::format("{} tokens; {} strings there and back", mine.tokenizer->vocabulary_size(),
                                     tokenizer_strings().size());
  if (manifest != nullptr) evidence += ", as the manifest says";
  if (compared) evidence += ", every token as in the reference";
  evidence += fmt::format("; end tokens {}", list_of(mine.end_tokens));
  return passed(evidence);
}

}  // namespace nibble
