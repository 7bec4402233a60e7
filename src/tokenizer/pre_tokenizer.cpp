#include "tokenizer/pre_tokenizer.h"

#include <algorithm>

#include "tokenizer/component.h"
#include "tokenizer/regex.h"
#include "tokenizer/unicode.h"

namespace nibble {
namespace {

using Made = Result<std::unique_ptr<PreTokenizer>>;

constexpr std::string_view kGpt2Words = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Words =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// What becomes of the matches of a splitting pattern ("delimiters").
enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

Result<Behavior> read_behavior(JsonReader& reader, std::optional<std::string> fallback = std::nullopt) {
  NIBBLE_TRY(std::string name, reader.string("behavior", std::move(fallback)));
  if (name == "Removed") return Behavior::removed;
  if (name == "Isolated") return Behavior::isolated;
  if (name == "MergedWithPrevious") return Behavior::merged_with_previous;
  if (name == "MergedWithNext") return Behavior::merged_with_next;
  if (name == "Contiguous") return Behavior::contiguous;
  return fail(ErrorCode::unsupported,
              "{}: \"behavior\" is \"{}\", supported are Removed, Isolated, MergedWithPrevious, MergedWithNext and "
              "Contiguous",
              reader.where(), name);
}

std::vector<Span> merged_forward(const std::vector<Span>& spans, Behavior behavior) {
  std::vector<Span> out;
  bool match_before = false;
  for (const Span& span : spans) {
    bool joins = behavior == Behavior::contiguous ? span.match == match_before : span.match && !match_before;
    if (joins && !out.empty())
      out.back().end = span.end;
    else
      out.push_back(span);
    match_before = span.match;
  }
  return out;
}

std::vector<Span> merged_backward(const std::vector<Span>& spans) {
  std::vector<Span> out;
  bool match_after = false;
  for (auto span = spans.rbegin(); span != spans.rend(); ++span) {
    if (span->match && !match_after && !out.empty())
      out.back().begin = span->begin;
    else
      out.push_back(*span);
    match_after = span->match;
  }
  std::reverse(out.begin(), out.end());
  return out;
}

// Turns the spans of a pattern into the pieces that the behavior asks for.
std::vector<Span> behaved(std::vector<Span> spans, Behavior behavior) {
  switch (behavior) {
    case Behavior::isolated: return spans;
    case Behavior::removed: std::erase_if(spans, [](const Span& span) { return span.match; }); return spans;
    case Behavior::merged_with_previous:
    case Behavior::contiguous: return merged_forward(spans, behavior);
    case Behavior::merged_with_next: return merged_backward(spans);
  }
  return spans;
}

// Replaces every piece by the non-empty ones of split(text) -> spans.
template <class Split>
void split_pieces(Pieces& pieces, Split split) {
  std::vector<Piece> out;
  out.reserve(pieces.list.size());
  for (const Piece& piece : pieces.list)
    for (const Span& span : split(piece.text))
      if (span.end > span.begin)
        out.push_back({piece.text.substr(span.begin, span.end - span.begin), piece.at_start && span.begin == 0});
  pieces.list = std::move(out);
}

// Replaces the text of every piece by rewrite(piece).
template <class Rewrite>
void rewrite_pieces(Pieces& pieces, Rewrite rewrite) {
  std::vector<size_t> ends;
  ends.reserve(pieces.list.size());
  std::string& store = pieces.rewritten.emplace_back();
  for (const Piece& piece : pieces.list) {
    rewrite(piece, store);
    ends.push_back(store.size());
  }
  size_t begin = 0;
  for (size_t i = 0; i < ends.size(); ++i) {
    pieces.list[i].text = std::string_view(store).substr(begin, ends[i] - begin);
    begin = ends[i];
  }
}

// Spans of single characters that have a property and of the stretches without it.
template <class Property>
std::vector<Span> find_characters(std::string_view text, Property has) {
  std::vector<Span> spans;
  for (size_t offset = 0; offset < text.size();) {
    size_t begin = offset;
    bool match = has(next_code_point(text, offset));
    if (match || spans.empty() || spans.back().match)
      spans.push_back({begin, offset, match});
    else
      spans.back().end = offset;
  }
  return spans;
}

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, std::optional<Regex> words) : prefix_(add_prefix_space), words_(std::move(words)) {}
  void apply(Pieces& pieces, Work& work) const override {
    if (prefix_) {
      rewrite_pieces(pieces, [](const Piece& piece, std::string& out) {
        if (piece.text[0] != ' ') out += ' ';
        out += piece.text;
      });
    }
    if (words_) split_pieces(pieces, [&](std::string_view text) { return words_->find(text, work); });
    rewrite_pieces(pieces, [](const Piece& piece, std::string& out) {
      for (char c : piece.text) out += byte_symbol(static_cast<unsigned char>(c));
    });
  }
  double growth() const override { return prefix_ ? 4 : 2; }
  static Made read(JsonReader& reader) {
    NIBBLE_TRY(bool prefix, reader.boolean("add_prefix_space"));
    NIBBLE_TRY(bool use_regex, reader.boolean("use_regex", true));
    reader.ignore({"trim_offsets"});
    if (!use_regex) return std::make_unique<ByteLevel>(prefix, std::nullopt);
    NIBBLE_TRY(Regex words, Regex::compile(kGpt2Words, reader.where()));
    return std::make_unique<ByteLevel>(prefix, std::move(words));
  }

 private:
  bool prefix_;
  std::optional<Regex> words_;
};

class Split : public PreTokenizer {
 public:
  Split(Pattern pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}
  void apply(Pieces& pieces, Work& work) const override {
    split_pieces(pieces, [&](std::string_view text) {
      std::vector<Span> spans = pattern_.find(text, work);
      for (Span& span : spans) span.match ^= invert_;
      return behaved(std::move(spans), behavior_);
    });
  }
  static Made read(JsonReader& reader) {
    const Json* value = reader.find("pattern");
    NIBBLE_TRY(Pattern pattern, Pattern::read(value ? *value : Json(), reader.where() + ", \"pattern\""));
    NIBBLE_TRY(Behavior behavior, read_behavior(reader));
    NIBBLE_TRY(bool invert, reader.boolean("invert", false));
    return std::make_unique<Split>(std::move(pattern), behavior, invert);
  }

 private:
  Pattern pattern_;
  Behavior behavior_;
  bool invert_;
};

// Digits, Punctuation and WhitespaceSplit: single characters with a property.
class SplitCharacters : public PreTokenizer {
 public:
  SplitCharacters(bool (*property)(char32_t), Behavior behavior) : property_(property), behavior_(behavior) {}
  void apply(Pieces& pieces, Work&) const override {
    split_pieces(pieces, [&](std::string_view text) { return behaved(find_characters(text, property_), behavior_); });
  }
  static Made read_digits(JsonReader& reader) {
    NIBBLE_TRY(bool individual, reader.boolean("individual_digits", false));
    return std::make_unique<SplitCharacters>(is_numeric, individual ? Behavior::isolated : Behavior::contiguous);
  }
  static Made read_punctuation(JsonReader& reader) {
    NIBBLE_TRY(Behavior behavior, read_behavior(reader, "Isolated"));
    return std::make_unique<SplitCharacters>(is_punctuation, behavior);
  }
  static Made read_whitespace_split(JsonReader&) {
    return std::make_unique<SplitCharacters>(is_whitespace, Behavior::removed);
  }

 private:
  bool (*property_)(char32_t);
  Behavior behavior_;
};

// Words and runs of symbols, without the blanks between them.
class Whitespace : public PreTokenizer {
 public:
  void apply(Pieces& pieces, Work&) const override {
    split_pieces(pieces, [](std::string_view text) {
      std::vector<Span> spans;
      Kind last = Kind::blank;
      for (size_t offset = 0; offset < text.size();) {
        size_t begin = offset;
        Kind kind = kind_of(next_code_point(text, offset));
        if (kind != Kind::blank && kind == last)
          spans.back().end = offset;
        else if (kind != Kind::blank)
          spans.push_back({begin, offset, true});
        last = kind;
      }
      return spans;
    });
  }
  static Made read(JsonReader&) { return std::make_unique<Whitespace>(); }

 private:
  enum class Kind { blank, word, symbol };
  static Kind kind_of(char32_t code) {
    return is_word(code) ? Kind::word : is_whitespace(code) ? Kind::blank : Kind::symbol;
  }
};

// SentencePiece's treatment of blanks: they become a visible symbol, one is put in front, words begin with it.
class Metaspace : public PreTokenizer {
 public:
  enum class Prepend { always, never, first };
  Metaspace(std::string symbol, Prepend prepend, bool split)
      : symbol_(std::move(symbol)), prepend_(prepend), split_(split) {}
  void apply(Pieces& pieces, Work& work) const override {
    rewrite_pieces(pieces, [&](const Piece& piece, std::string& out) {
      size_t begin = out.size();
      if (wants_symbol(piece)) out += symbol_;
      for (char c : piece.text) c == ' ' ? out += symbol_ : out += c;
      NIBBLE_CHECK(out.size() > begin);
    });
    if (!split_) return;
    Pattern symbol = Pattern::literal(symbol_);
    split_pieces(pieces,
                 [&](std::string_view text) { return behaved(symbol.find(text, work), Behavior::merged_with_next); });
  }
  double growth() const override { return 1 + static_cast<double>(symbol_.size()); }
  static Made read(JsonReader& reader);

 private:
  bool wants_symbol(const Piece& piece) const {
    if (piece.text[0] == ' ' || piece.text.starts_with(symbol_)) return false;
    return prepend_ == Prepend::always || (prepend_ == Prepend::first && piece.at_start);
  }
  std::string symbol_;
  Prepend prepend_;
  bool split_;
};

Made Metaspace::read(JsonReader& reader) {
  NIBBLE_TRY(std::string symbol, reader.string("replacement"));
  size_t offset = 0;
  if (!symbol.empty()) next_code_point(symbol, offset);
  if (symbol.empty() || offset != symbol.size())
    return fail(ErrorCode::corrupt, "{}: \"replacement\" is \"{}\", expected one character", reader.where(), symbol);
  // Older files say add_prefix_space, newer ones prepend_scheme; both may be there when they agree.
  NIBBLE_TRY(bool prefix, reader.boolean("add_prefix_space", true));
  NIBBLE_TRY(std::string scheme, reader.string("prepend_scheme", prefix ? "always" : "never"));
  NIBBLE_TRY(bool split, reader.boolean("split", true));
  reader.ignore({"str_rep"});
  if (!prefix && scheme != "never")
    return fail(ErrorCode::corrupt, "{}: \"add_prefix_space\" is false but \"prepend_scheme\" is \"{}\"",
                reader.where(), scheme);
  if (scheme == "always") return std::make_unique<Metaspace>(std::move(symbol), Prepend::always, split);
  if (scheme == "first") return std::make_unique<Metaspace>(std::move(symbol), Prepend::first, split);
  if (scheme == "never") return std::make_unique<Metaspace>(std::move(symbol), Prepend::never, split);
  return fail(ErrorCode::unsupported, "{}: \"prepend_scheme\" is \"{}\", supported are always, first and never",
              reader.where(), scheme);
}

class Sequence : public PreTokenizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<PreTokenizer>> parts) : parts_(std::move(parts)) {}
  void apply(Pieces& pieces, Work& work) const override {
    for (const auto& part : parts_) part->apply(pieces, work);
  }
  double growth() const override { return total_growth(parts_); }
  static Made read(JsonReader& reader) {
    NIBBLE_TRY(auto parts, read_sequence<PreTokenizer>(reader, "pretokenizers", read_pre_tokenizer));
    return std::make_unique<Sequence>(std::move(parts));
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> parts_;
};

constexpr ComponentRow<PreTokenizer> kRows[] = {
    {"Sequence", Sequence::read},
    {"ByteLevel", ByteLevel::read},
    {"Split", Split::read},
    {"Digits", SplitCharacters::read_digits},
    {"Punctuation", SplitCharacters::read_punctuation},
    {"Whitespace", Whitespace::read},
    {"WhitespaceSplit", SplitCharacters::read_whitespace_split},
    {"Metaspace", Metaspace::read},
};

// For patterns of our own, which compile.
Regex own(std::string_view pattern) {
  auto regex = Regex::compile(pattern, "built-in pattern");
  NIBBLE_CHECK(regex.has_value());
  return *std::move(regex);
}

}  // namespace

Result<std::unique_ptr<PreTokenizer>> read_pre_tokenizer(const Json& value, const std::string& where) {
  return read_component<PreTokenizer>(value, where, kRows);
}

std::unique_ptr<PreTokenizer> make_gpt2_pre_tokenizer(bool add_prefix_space) {
  return std::make_unique<ByteLevel>(add_prefix_space, own(kGpt2Words));
}

std::unique_ptr<PreTokenizer> make_qwen2_pre_tokenizer() {
  std::vector<std::unique_ptr<PreTokenizer>> parts;
  parts.push_back(std::make_unique<Split>(Pattern::regex(own(kQwen2Words)), Behavior::isolated, false));
  parts.push_back(std::make_unique<ByteLevel>(false, std::nullopt));
  return std::make_unique<Sequence>(std::move(parts));
}

}  // namespace nibble
