#include "tokenizer/decoder.h"

#include <charconv>
#include <optional>

#include "tokenizer/component.h"
#include "tokenizer/regex.h"
#include "tokenizer/unicode.h"

namespace nibble {
namespace {

using Made = Result<std::unique_ptr<Decoder>>;
constexpr std::string_view kReplacement = "\xEF\xBF\xBD", kBlank = "\xE2\x96\x81";

// A decoder whose stage is Stage(settings, next).
template <class Stage>
class DecoderOf : public Decoder {
 public:
  using Settings = typename Stage::Settings;
  explicit DecoderOf(Settings settings) : settings_(std::move(settings)) {}
  std::unique_ptr<DecoderStage> open(DecoderStage& next) const override {
    return std::make_unique<Stage>(settings_, next);
  }
  double growth() const override { return Stage::growth(settings_); }

 private:
  Settings settings_;
};

// Most stages look at one whole token after the other.
class TokenStage : public DecoderStage {
 public:
  explicit TokenStage(DecoderStage& next) : next_(next) {}
  void text(std::string_view part) override { buffer_ += part; }
  void end_token() override {
    token(buffer_);
    buffer_.clear();
  }
  void finish() override { next_.finish(); }

 protected:
  virtual void token(std::string_view token) = 0;
  void emit(std::string_view token) {
    next_.text(token);
    next_.end_token();
  }
  DecoderStage& next_;

 private:
  std::string buffer_;
};

struct NoSettings {};

// Bytes written as GPT-2's symbols; a token with any other character stands for its own bytes. One token comes out.
class ByteLevel : public TokenStage {
 public:
  using Settings = NoSettings;
  ByteLevel(const Settings&, DecoderStage& next) : TokenStage(next) {}
  static double growth(const Settings&) { return 3; }
  static Made read(JsonReader& reader) {
    reader.ignore({"add_prefix_space", "trim_offsets", "use_regex"});
    return std::make_unique<DecoderOf<ByteLevel>>(NoSettings{});
  }
  void token(std::string_view token) override {
    size_t before = bytes_.size();
    for (size_t offset = 0; offset < token.size();) {
      int byte = symbol_byte(next_code_point(token, offset));
      if (byte < 0) {
        bytes_.resize(before);
        bytes_ += token;
        break;
      }
      bytes_ += static_cast<char>(static_cast<unsigned char>(byte));
    }
    settle(false);
  }
  void finish() override {
    settle(true);
    next_.end_token();
    next_.finish();
  }

 private:
  void settle(bool final) {
    std::string whole;
    bytes_.erase(0, append_repaired(whole, bytes_, final));
    if (!whole.empty()) next_.text(whole);
  }
  std::string bytes_;  // not yet passed on
};

// Runs of <0x00> to <0xFF> are the bytes of characters. A run that is not UTF-8 as a whole becomes one U+FFFD per
// byte, so nothing of a run is settled before its end.
class ByteFallback : public TokenStage {
 public:
  using Settings = NoSettings;
  ByteFallback(const Settings&, DecoderStage& next) : TokenStage(next) {}
  static double growth(const Settings&) { return 1; }
  static Made read(JsonReader&) { return std::make_unique<DecoderOf<ByteFallback>>(NoSettings{}); }
  void token(std::string_view token) override {
    if (auto byte = byte_of(token)) {
      run_ += *byte;
      return;
    }
    flush();
    emit(token);
  }
  void finish() override {
    flush();
    next_.finish();
  }

 private:
  static std::optional<char> byte_of(std::string_view token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
    // One digit behind a plus sign is a number for the reference, too.
    const char *begin = token.data() + (token[3] == '+' ? 4 : 3), *end = token.data() + 5;
    unsigned value = 0;
    auto [stop, error] = std::from_chars(begin, end, value, 16);
    if (error != std::errc() || stop != end) return std::nullopt;
    return static_cast<char>(static_cast<unsigned char>(value));
  }
  void flush() {
    if (run_.empty()) return;
    if (is_utf8(run_)) {
      emit(run_);
    } else {
      for (size_t i = 0; i < run_.size(); ++i) emit(kReplacement);
    }
    run_.clear();
  }
  std::string run_;
};

class Fuse : public DecoderStage {
 public:
  using Settings = NoSettings;
  Fuse(const Settings&, DecoderStage& next) : next_(next) {}
  static double growth(const Settings&) { return 1; }
  static Made read(JsonReader&) { return std::make_unique<DecoderOf<Fuse>>(NoSettings{}); }
  void text(std::string_view part) override { next_.text(part); }
  void end_token() override {}
  void finish() override {
    next_.end_token();
    next_.finish();
  }

 private:
  DecoderStage& next_;
};

struct ReplaceSettings {
  Pattern pattern;
  std::string content;
};

class Replace : public TokenStage {
 public:
  using Settings = ReplaceSettings;
  Replace(const Settings& settings, DecoderStage& next) : TokenStage(next), settings_(settings) {}
  static double growth(const Settings& settings) { return settings.pattern.growth(settings.content); }
  static Made read(JsonReader& reader) {
    const Json* value = reader.find("pattern");
    NIBBLE_TRY(Pattern pattern, Pattern::read(value ? *value : Json(), reader.where() + ", \"pattern\""));
    NIBBLE_TRY(std::string content, reader.string("content"));
    return std::make_unique<DecoderOf<Replace>>(Settings{std::move(pattern), std::move(content)});
  }
  void token(std::string_view token) override {
    Work work(token.size());
    emit(settings_.pattern.replace(token, settings_.content, work));
  }

 private:
  const Settings& settings_;
};

struct StripSettings {
  char32_t content;
  int64_t start, stop;  // at most so many characters at the beginning and at the end of each token
};

class Strip : public DecoderStage {
 public:
  using Settings = StripSettings;
  Strip(const Settings& settings, DecoderStage& next) : settings_(settings), next_(next), leading_(settings.start) {}
  static double growth(const Settings&) { return 1; }
  static Made read(JsonReader& reader) {
    NIBBLE_TRY(std::string content, reader.string("content"));
    NIBBLE_TRY(int64_t start, reader.integer("start", 0, 1 << 20));
    NIBBLE_TRY(int64_t stop, reader.integer("stop", 0, 1 << 20));
    size_t offset = 0;
    char32_t code = content.empty() ? U'\0' : next_code_point(content, offset);
    if (content.empty() || offset != content.size())
      return fail(ErrorCode::corrupt, "{}: \"content\" is \"{}\", expected one character", reader.where(), content);
    return std::make_unique<DecoderOf<Strip>>(Settings{code, start, stop});
  }
  void text(std::string_view part) override {
    std::string passed;
    for (size_t offset = 0; offset < part.size();) {
      size_t begin = offset;
      char32_t code = next_code_point(part, offset);
      if (leading_ > 0 && code == settings_.content) {
        --leading_;
        continue;
      }
      leading_ = 0;
      // Up to `stop` characters to be stripped are held back until it is known whether they are the last ones.
      if (code == settings_.content && held_ < settings_.stop) {
        ++held_;
        continue;
      }
      if (code == settings_.content) {
        append_code_point(passed, code);  // one in, one out
        continue;
      }
      release(passed);
      passed.append(part, begin, offset - begin);
    }
    if (!passed.empty()) next_.text(passed);
  }
  void end_token() override {
    held_ = 0;
    leading_ = settings_.start;
    next_.end_token();
  }
  void finish() override { next_.finish(); }

 private:
  void release(std::string& out) {
    for (; held_ > 0; --held_) append_code_point(out, settings_.content);
  }
  const Settings& settings_;
  DecoderStage& next_;
  int64_t leading_, held_ = 0;
};

struct MetaspaceSettings {
  std::string symbol;
  bool prepended;  // the first token's symbols were put there by the encoder
};

class Metaspace : public TokenStage {
 public:
  using Settings = MetaspaceSettings;
  Metaspace(const Settings& settings, DecoderStage& next) : TokenStage(next), settings_(settings) {}
  static double growth(const Settings&) { return 1; }
  static Made read(JsonReader& reader) {
    NIBBLE_TRY(std::string symbol, reader.string("replacement"));
    NIBBLE_TRY(bool prefix, reader.boolean("add_prefix_space", true));
    NIBBLE_TRY(std::string scheme, reader.string("prepend_scheme", prefix ? "always" : "never"));
    reader.ignore({"split", "str_rep"});
    if (symbol.empty()) return fail(ErrorCode::corrupt, "{}: \"replacement\" is empty", reader.where());
    if (scheme != "always" && scheme != "first" && scheme != "never")
      return fail(ErrorCode::unsupported, "{}: \"prepend_scheme\" is \"{}\", supported are always, first and never",
                  reader.where(), scheme);
    if (!prefix && scheme != "never")
      return fail(ErrorCode::corrupt, "{}: \"add_prefix_space\" is false but \"prepend_scheme\" is \"{}\"",
                  reader.where(), scheme);
    return std::make_unique<DecoderOf<Metaspace>>(Settings{std::move(symbol), scheme != "never"});
  }
  void token(std::string_view token) override {
    std::string_view instead = first_ && settings_.prepended ? "" : " ";
    first_ = false;
    Work work(token.size());
    emit(Pattern::literal(settings_.symbol).replace(token, instead, work));
  }

 private:
  const Settings& settings_;
  bool first_ = true;
};

// An end-of-word suffix becomes a blank, at the very end nothing. With no suffix at all: blanks between tokens.
class WordEnds : public DecoderStage {
 public:
  using Settings = std::string;
  WordEnds(const Settings& suffix, DecoderStage& next) : suffix_(suffix), next_(next) {}
  static double growth(const Settings&) { return 2; }
  static Made read(JsonReader& reader) {
    NIBBLE_TRY(std::string suffix, reader.string("suffix"));
    if (suffix.empty()) return fail(ErrorCode::unsupported, "{}: \"suffix\" is empty", reader.where());
    return std::make_unique<DecoderOf<WordEnds>>(std::move(suffix));
  }
  void text(std::string_view part) override {
    if (complete_) pass(" ");
    held_ += part;
  }
  void end_token() override {
    if (complete_) pass(" ");
    complete_ = true;
  }
  void finish() override {
    if (complete_) pass("");
    next_.finish();
  }

 private:
  void pass(std::string_view instead) {
    if (suffix_.empty()) {
      next_.text(held_);
      next_.text(instead);
    } else {
      Work work(held_.size());
      next_.text(Pattern::literal(suffix_).replace(held_, instead, work));
    }
    next_.end_token();
    held_.clear();
    complete_ = false;
  }
  const Settings& suffix_;
  DecoderStage& next_;
  std::string held_;  // the last token: it is treated differently when nothing follows
  bool complete_ = false;
};

constexpr ComponentRow<Decoder> kRows[] = {
    {"ByteLevel", ByteLevel::read}, {"ByteFallback", ByteFallback::read},
    {"Fuse", Fuse::read},           {"Replace", Replace::read},
    {"Strip", Strip::read},         {"Metaspace", Metaspace::read},
    {"BPEDecoder", WordEnds::read},
};

bool is_sequence(const Json& value) {
  return value.is_object() && value.contains("type") && value["type"] == "Sequence";
}

Status read_into(DecoderChain& chain, const Json& value, const std::string& where) {
  if (!is_sequence(value)) {
    NIBBLE_TRY(std::unique_ptr<Decoder> decoder, read_component<Decoder>(value, where, kRows));
    if (decoder == nullptr) return fail(ErrorCode::corrupt, "{} is null, expected an object", where);
    chain.push_back(std::move(decoder));
  } else {
    NIBBLE_TRY(JsonReader reader, JsonReader::open(value, where));
    const Json* list = reader.find("decoders");
    reader.ignore({"type"});
    NIBBLE_DO(reader.refuse_unknown());
    if (list == nullptr || !list->is_array()) return fail(ErrorCode::corrupt, "{}: \"decoders\" must be a list", where);
    for (size_t i = 0; i < list->size(); ++i)
      NIBBLE_DO(read_into(chain, (*list)[i], fmt::format("{}, \"decoders\"[{}]", where, i)));
  }
  if (chain.size() > kMaxSequence || total_growth(chain) > kMaxGrowth)
    return fail(ErrorCode::unsupported, "{}: more than {} decoders, or text more than {} times longer", where,
                kMaxSequence, kMaxGrowth);
  return {};
}

}  // namespace

Result<DecoderChain> read_decoders(const Json& value, const std::string& where) {
  DecoderChain chain;
  if (value.is_null()) {
    chain.push_back(std::make_unique<DecoderOf<WordEnds>>(std::string()));
    return chain;
  }
  NIBBLE_DO(read_into(chain, value, where));
  return chain;
}

DecoderChain make_byte_level_decoders() {
  DecoderChain chain;
  chain.push_back(std::make_unique<DecoderOf<ByteLevel>>(NoSettings{}));
  return chain;
}

DecoderChain make_llama_decoders() {
  DecoderChain chain;
  chain.push_back(std::make_unique<DecoderOf<Replace>>(ReplaceSettings{Pattern::literal(std::string(kBlank)), " "}));
  chain.push_back(std::make_unique<DecoderOf<ByteFallback>>(NoSettings{}));
  chain.push_back(std::make_unique<DecoderOf<Fuse>>(NoSettings{}));
  chain.push_back(std::make_unique<DecoderOf<Strip>>(StripSettings{U' ', 1, 0}));
  return chain;
}

RunningDecoder::RunningDecoder(const DecoderChain& chain) {
  DecoderStage* next = &out_;
  for (auto decoder = chain.rbegin(); decoder != chain.rend(); ++decoder) {
    stages_.push_back((*decoder)->open(*next));
    next = stages_.back().get();
  }
}

}  // namespace nibble
