#include "tokenizer/normalizer.h"

#include <algorithm>
#include <vector>

#include "tokenizer/component.h"
#include "tokenizer/regex.h"
#include "tokenizer/unicode.h"

namespace nibble {
namespace {

using Made = Result<std::unique_ptr<Normalizer>>;

class Form : public Normalizer {
 public:
  explicit Form(NormalForm form) : form_(form) {}
  void apply(NormalText& text, Work&) const override { text.text = normalized(text.text, form_); }
  double growth() const override { return form_ == NormalForm::nfc || form_ == NormalForm::nfd ? 4 : 12; }
  template <NormalForm kForm>
  static Made read(JsonReader&) {
    return std::make_unique<Form>(kForm);
  }

 private:
  NormalForm form_;
};

class Lowercase : public Normalizer {
 public:
  void apply(NormalText& text, Work&) const override { text.text = lowercased(text.text); }
  double growth() const override { return 1.5; }
  static Made read(JsonReader&) { return std::make_unique<Lowercase>(); }
};

class ByteSymbols : public Normalizer {
 public:
  void apply(NormalText& text, Work&) const override { text.text = to_byte_symbols(text.text); }
  double growth() const override { return 2; }
  static Made read(JsonReader&) { return std::make_unique<ByteSymbols>(); }
};

class StripAccents : public Normalizer {
 public:
  void apply(NormalText& text, Work&) const override {
    std::string kept;
    for (size_t offset = 0; offset < text.text.size();) {
      size_t begin = offset;
      if (!is_mark(next_code_point(text.text, offset)))
        kept.append(text.text, begin, offset - begin);
      else if (begin == 0)
        text.at_start = false;
    }
    text.text = std::move(kept);
  }
  static Made read(JsonReader&) { return std::make_unique<StripAccents>(); }
};

class Strip : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  void apply(NormalText& text, Work&) const override {
    size_t begin = text.text.size(), end = 0;
    for (size_t offset = 0; offset < text.text.size();) {
      size_t at = offset;
      if (is_whitespace(next_code_point(text.text, offset))) continue;
      begin = std::min(begin, at);
      end = offset;
    }
    if (!left_) begin = 0;
    if (!right_) end = text.text.size();
    if (begin > 0) text.at_start = false;
    text.text = begin < end ? text.text.substr(begin, end - begin) : "";
  }
  static Made read(JsonReader& reader) {
    NIBBLE_TRY(bool left, reader.boolean("strip_left"));
    NIBBLE_TRY(bool right, reader.boolean("strip_right"));
    return std::make_unique<Strip>(left, right);
  }

 private:
  bool left_, right_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string what) : what_(std::move(what)) {}
  void apply(NormalText& text, Work&) const override {
    if (!text.text.empty()) text.text.insert(0, what_);
  }
  double growth() const override { return 1 + static_cast<double>(what_.size()); }
  static Made read(JsonReader& reader) {
    NIBBLE_TRY(std::string what, reader.string("prepend"));
    return std::make_unique<Prepend>(std::move(what));
  }

 private:
  std::string what_;
};

class Replace : public Normalizer {
 public:
  Replace(Pattern pattern, std::string content) : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void apply(NormalText& text, Work& work) const override {
    std::string out;
    out.reserve(text.text.size());
    for (const Span& span : pattern_.find(text.text, work)) {
      if (!span.match)
        out.append(text.text, span.begin, span.end - span.begin);
      else
        out += content_;
      if (span.match && content_.empty() && span.begin == 0 && span.end > 0) text.at_start = false;
    }
    text.text = std::move(out);
  }
  double growth() const override { return pattern_.growth(content_); }
  static Made read(JsonReader& reader) {
    const Json* value = reader.find("pattern");
    NIBBLE_TRY(Pattern pattern, Pattern::read(value ? *value : Json(), reader.where() + ", \"pattern\""));
    NIBBLE_TRY(std::string content, reader.string("content"));
    return std::make_unique<Replace>(std::move(pattern), std::move(content));
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class Sequence : public Normalizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<Normalizer>> parts) : parts_(std::move(parts)) {}
  void apply(NormalText& text, Work& work) const override {
    for (const auto& part : parts_) part->apply(text, work);
  }
  double growth() const override { return total_growth(parts_); }
  static Made read(JsonReader& reader) {
    NIBBLE_TRY(auto parts, read_sequence<Normalizer>(reader, "normalizers", read_normalizer));
    return std::make_unique<Sequence>(std::move(parts));
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> parts_;
};

constexpr ComponentRow<Normalizer> kRows[] = {
    {"Sequence", Sequence::read},
    {"NFC", Form::read<NormalForm::nfc>},
    {"NFD", Form::read<NormalForm::nfd>},
    {"NFKC", Form::read<NormalForm::nfkc>},
    {"NFKD", Form::read<NormalForm::nfkd>},
    {"Lowercase", Lowercase::read},
    {"Strip", Strip::read},
    {"StripAccents", StripAccents::read},
    {"Prepend", Prepend::read},
    {"Replace", Replace::read},
    {"ByteLevel", ByteSymbols::read},
};

}  // namespace

Result<std::unique_ptr<Normalizer>> read_normalizer(const Json& value, const std::string& where) {
  return read_component<Normalizer>(value, where, kRows);
}

std::unique_ptr<Normalizer> make_nfc() { return std::make_unique<Form>(NormalForm::nfc); }

}  // namespace nibble
