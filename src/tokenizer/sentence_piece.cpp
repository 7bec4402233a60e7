// tokenizer.model: a serialized SentencePiece model, here only byte-pair encodings as LLaMA has them. The library
// splits; special tokens, byte fallback in decoding and what is put around a text follow the LLaMA tokenizer.
#include <sentencepiece_processor.h>

#include <algorithm>

#include "core/file.h"
#include "tokenizer/pipeline.h"

namespace nibble {
namespace {

constexpr size_t kMaxFile = size_t{256} << 20;

// Just enough of the protobuf wire format to see what kind of model this is before the library gets it.
class Wire {
 public:
  explicit Wire(std::string_view bytes) : bytes_(bytes) {}

  // The next field; false at the end or at damage.
  bool next() {
    uint64_t key = 0;
    if (bytes_.empty() || !varint(key)) return false;
    field_ = key >> 3;
    value_ = 0;
    message_ = {};
    switch (key & 7) {
      case 0: return varint(value_);
      case 1: return skip(8);
      case 2: return varint(value_) && skip(value_);
      case 5: return skip(4);
      default: return damage();
    }
  }
  bool damaged() const { return damaged_; }
  uint64_t field() const { return field_; }
  uint64_t value() const { return value_; }              // of a varint field
  std::string_view message() const { return message_; }  // of a length-delimited field

 private:
  bool damage() {
    damaged_ = true;
    return false;
  }
  bool varint(uint64_t& out) {
    out = 0;
    for (int shift = 0; shift < 64 && !bytes_.empty(); shift += 7) {
      auto byte = static_cast<unsigned char>(bytes_[0]);
      bytes_.remove_prefix(1);
      out |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return true;
    }
    return damage();
  }
  bool skip(uint64_t count) {
    if (count > bytes_.size()) return damage();
    message_ = bytes_.substr(0, count);
    bytes_.remove_prefix(count);
    return true;
  }
  std::string_view bytes_, message_;
  uint64_t field_ = 0, value_ = 0;
  bool damaged_ = false;
};

struct ModelKind {
  uint64_t type = 1;  // trainer_spec.model_type: 1 unigram, 2 byte pairs, 3 words, 4 characters
  bool has_charsmap = false;
};

Result<ModelKind> model_kind(std::string_view bytes, const std::string& where) {
  enum : uint64_t { kTrainer = 2, kNormalizer = 3, kDenormalizer = 5, kModelType = 3, kCharsMap = 2 };
  ModelKind kind;
  bool damaged = false;
  Wire model(bytes);
  while (model.next()) {
    Wire part(model.field() == kTrainer || model.field() == kNormalizer || model.field() == kDenormalizer
                  ? model.message()
                  : std::string_view());
    while (part.next()) {
      if (model.field() == kTrainer && part.field() == kModelType) kind.type = part.value();
      if (model.field() != kTrainer && part.field() == kCharsMap && !part.message().empty()) kind.has_charsmap = true;
    }
    damaged |= part.damaged();
  }
  if (damaged || model.damaged())
    return fail(ErrorCode::corrupt, "{}: not a SentencePiece model: its protobuf message is damaged", where);
  return kind;
}

Status check_kind(std::string_view bytes, const std::string& where) {
  NIBBLE_TRY(ModelKind kind, model_kind(bytes, where));
  constexpr std::string_view kNames[] = {"?", "UNIGRAM", "BPE", "WORD", "CHAR"};
  if (kind.type != 2)
    return fail(ErrorCode::unsupported, "{}: trainer_spec.model_type is {} ({}), supported is BPE", where, kind.type,
                kind.type < 5 ? kNames[kind.type] : "?");
  if (kind.has_charsmap)
    return fail(ErrorCode::unsupported, "{}: normalizer_spec.precompiled_charsmap is not supported", where);
  return {};
}

// A rank file is lines of a base64 token, a blank and its rank.
bool is_rank_file(std::string_view text) {
  std::string_view line = text.substr(0, text.find('\n'));
  size_t blank = line.find(' ');
  auto is_base64 = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '+' || c == '/' || c == '=';
  };
  auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  if (blank == std::string_view::npos || blank == 0 || blank + 1 >= line.size()) return false;
  std::string_view token = line.substr(0, blank), rank = line.substr(blank + 1);
  if (rank.back() == '\r') rank.remove_suffix(1);
  return std::all_of(token.begin(), token.end(), is_base64) && std::all_of(rank.begin(), rank.end(), is_digit);
}

using Processor = sentencepiece::SentencePieceProcessor;

Result<std::unique_ptr<Processor>> open_processor(std::string_view bytes, const std::string& where) {
  auto processor = std::make_unique<Processor>();
  auto status = processor->LoadFromSerializedProto(bytes);
  if (!status.ok()) return fail(ErrorCode::corrupt, "{}: not a SentencePiece model: {}", where, status.message());
  return processor;
}

class SentencePieceModel : public TokenModel {
 public:
  // `inner` is for stretches behind a special token; null: they are treated as the first one.
  SentencePieceModel(std::unique_ptr<Processor> first, std::unique_ptr<Processor> inner)
      : first_(std::move(first)), inner_(std::move(inner)) {}
  void encode(std::span<const Piece> pieces, std::vector<int32_t>& ids, Work& work) const override {
    std::vector<int> part;
    for (const Piece& piece : pieces) {
      const Processor& processor = piece.at_start || inner_ == nullptr ? *first_ : *inner_;
      // Memory is all that can be lacking for text that is UTF-8.
      if (!processor.Encode(piece.text, &part).ok()) part.clear();
      ids.insert(ids.end(), part.begin(), part.end());
      work.merge_steps += static_cast<int64_t>(piece.text.size());
    }
  }

 private:
  std::unique_ptr<Processor> first_, inner_;
};

// The unknown token, the control tokens and those that the configuration names are special.
Status declare_tokens(const Processor& processor, const TokenizerConfig& config, const std::string& where,
                      Pipeline& pipeline) {
  pipeline.added = config.added;
  for (int32_t id = 0; id < processor.GetPieceSize(); ++id) {
    const std::string& piece = processor.IdToPiece(id);
    if (!pipeline.vocabulary.add(piece, id))
      return fail(ErrorCode::corrupt, "{}: piece {} (\"{}\") is there twice, or there are more than {}", where, id,
                  piece, kMaxTokenId);
    if (processor.IsControl(id) || processor.IsUnknown(id)) pipeline.declare_special(piece);
  }
  for (const auto* token : {&config.bos, &config.eos, &config.unknown, &config.pad})
    if (*token) pipeline.declare_special((*token)->content);
  return {};
}

}  // namespace

Status read_sentence_piece(const std::filesystem::path& file, const TokenizerConfig& config, Pipeline& pipeline) {
  std::string where = file.string();
  NIBBLE_TRY(std::string bytes, read_text(file, kMaxFile));
  if (is_rank_file(bytes))
    return fail(ErrorCode::unsupported,
                "{}: a rank file (tiktoken text: base64 token and rank per line) is not supported; convert the model "
                "with Hugging Face transformers so that the folder has a tokenizer.json",
                where);
  NIBBLE_DO(check_kind(bytes, where));
  NIBBLE_TRY(std::unique_ptr<Processor> first, open_processor(bytes, where));
  NIBBLE_DO(declare_tokens(*first, config, where, pipeline));
  std::unique_ptr<Processor> inner;
  if (!config.legacy.value_or(true)) {
    // Protobuf merges a message that comes again into the first: normalizer_spec { add_dummy_prefix: false }.
    NIBBLE_TRY(inner, open_processor(bytes + std::string("\x1A\x02\x18\x00", 4), where));
  }
  pipeline.model = std::make_unique<SentencePieceModel>(std::move(first), std::move(inner));
  pipeline.decoders = make_llama_decoders();
  NIBBLE_DO(pipeline.index_added_tokens(where));
  NIBBLE_TRY(pipeline.around, pipeline.surroundings(config, "<s>", "</s>", true, where));
  return {};
}

}  // namespace nibble
