// Decoders: turn the strings of tokens back into text, one token at a time.
//
// Each type of decoder in tokenizer.json maps a list of strings to a list of strings. Here it is a stage that
// receives its list piecemeal and passes on what is settled: a string may arrive in parts, end_token() says that
// it is complete, finish() that the list is. Decoding a whole list and streaming are the same code, so they agree.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.h"
#include "core/result.h"

namespace nibble {

class DecoderStage {
 public:
  virtual ~DecoderStage() = default;
  virtual void text(std::string_view part) = 0;  // whole code points
  virtual void end_token() = 0;
  virtual void finish() = 0;
};

// The settings of one decoder; immutable.
class Decoder {
 public:
  virtual ~Decoder() = default;
  // A stage that passes on to `next`, which must outlive it.
  virtual std::unique_ptr<DecoderStage> open(DecoderStage& next) const = 0;
  virtual double growth() const { return 1; }  // as Normalizer::growth
};
using DecoderChain = std::vector<std::unique_ptr<Decoder>>;

// Sequences are flattened. Null gives the chain that puts blanks between tokens.
Result<DecoderChain> read_decoders(const Json& value, const std::string& where);
// The chains of folders that have no tokenizer.json.
DecoderChain make_byte_level_decoders();
DecoderChain make_llama_decoders();

// A chain at work. text() accumulates in `out`.
class RunningDecoder {
 public:
  explicit RunningDecoder(const DecoderChain& chain);
  RunningDecoder(const RunningDecoder&) = delete;
  RunningDecoder& operator=(const RunningDecoder&) = delete;
  void token(std::string_view text) {
    first().text(text);
    first().end_token();
  }
  void finish() { first().finish(); }
  std::string take() { return std::exchange(out_.all, {}); }

 private:
  struct Output : DecoderStage {
    void text(std::string_view part) override { all += part; }
    void end_token() override {}
    void finish() override {}
    std::string all;
  };
  DecoderStage& first() { return stages_.empty() ? out_ : *stages_.back(); }
  Output out_;
  std::vector<std::unique_ptr<DecoderStage>> stages_;  // last one first
};

}  // namespace nibble
