#include "quantize/pipeline/fingerprint.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>

#include "core/hash.h"
#include "measure/entropy.h"
#include "measure/softmax.h"

namespace nibble {
namespace {

// Everyday words, numbers, punctuation, code and letters beyond ASCII, so that a good part of a model takes part.
constexpr const char* kPrompt =
    "Once upon a time there was a lighthouse keeper who counted the ships that passed: 17 on Monday, 4 on Tuesday, and "
    "none at all in the storm. \"Why do you count them?\" asked the girl from the café. He thought for a while, then "
    "wrote for (i = 0; i < n; ++i) total += ships[i]; on the wall and said that a number, once written down, cannot be "
    "lost at sea. She laughed, closed the door, and went back to the village before it was dark.";
constexpr const char* kExamples[] = {
    "Hello, world!",
    "  two spaces and 1234.5",
    "naïve café – 日本語 😀",
    "I'll say it's THEIR dog's, won't you?",
    "line one\nline two\r\n\n\ttab and   many spaces   ",
    "x = {\"a\": [1, 2.50, -3e8]}; // 100% <b>&amp;</b>",
    "Ünïcödé: éé ﬁ ½ ٣ Привет Ελληνικά שלום مرحبا हिन्दी 한국어",
    "unhappiness antidisestablishmentarianism 3141592653589793",
};
constexpr int64_t kLongestPrompt = 64;
constexpr int64_t kBetween = 8;  // tokens from one position to the next
constexpr size_t kTop = 8, kTopBetween = 4;

// The same model without its blocks, for what comes after them.
class WithoutBlocks final : public ModelSource {
 public:
  explicit WithoutBlocks(const ModelSource& whole) : whole_(whole) {
    folder_ = whole.folder();
    spec_ = whole.spec();
    spec_.layers = 0;
  }
  Result<GlobalWeights> globals() const override { return whole_.globals(); }
  Result<BlockWeights> block(int64_t index) const override { return whole_.block(index); }
  int64_t file_bytes() const override { return whole_.file_bytes(); }

 private:
  const ModelSource& whole_;
};

// [[id, logit] ...] of the greatest, ties to the lower id.
Json top_of(std::span<const float> logits, size_t count) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  count = std::min(count, ids.size());
  std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(count), ids.end(),
                    [&](int32_t a, int32_t b) {
                      const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
                      return x > y || (x == y && a < b);
                    });
  Json top = Json::array();
  for (size_t i = 0; i < count; ++i) top.push_back({ids[i], logits[static_cast<size_t>(ids[i])]});
  return top;
}

// Makes the logits of a prompt a few rows at a time and calls each(i, row) in order.
template <class Each>
Status for_rows(const Model& model, int64_t count, const float* hidden, ThreadPool& pool, const Each& each) {
  const Spec& spec = model.spec();
  AlignedBuffer<float> logits(std::min(count, kBetween) * spec.vocabulary);
  Workspace workspace;
  for (int64_t begin = 0; begin < count; begin += kBetween) {
    const int64_t rows = std::min(kBetween, count - begin);
    NIBBLE_DO(model.logits_of(hidden + begin * spec.hidden, rows, logits.data(), workspace, pool));
    for (int64_t i = 0; i < rows; ++i)
      each(begin + i,
           std::span<const float>(logits.data() + i * spec.vocabulary, static_cast<size_t>(spec.vocabulary)));
  }
  return {};
}

Result<Json> fingerprint_of(const Model& model, std::span<const int32_t> prompt, const float* hidden,
                            ThreadPool& pool) {
  const auto count = static_cast<int64_t>(prompt.size());
  Json out = Json::object(), positions = Json::array();
  out["ids"] = std::vector<int32_t>(prompt.begin(), prompt.end());
  double nll = 0;
  NIBBLE_DO(for_rows(model, count, hidden, pool, [&](int64_t i, std::span<const float> logits) {
    if (i + 1 == count) {
      out["top"] = top_of(logits, kTop);
      out["entropy"] = entropy_of(logits);
      return;
    }
    nll += negative_log_likelihood(logits, prompt[static_cast<size_t>(i + 1)]);
    if ((i + 1) % kBetween == 0)
      positions.push_back({{"after", i + 1}, {"top", top_of(logits, kTopBetween)}, {"entropy", entropy_of(logits)}});
  }));
  out["positions"] = std::move(positions);
  if (count > 1) out["nll"] = nll / static_cast<double>(count - 1);
  return out;
}

// A recorded "logits": by the number of prompt tokens before it, what was predicted.
struct RecordedRow {
  std::vector<std::pair<int32_t, float>> top;
  std::optional<double> entropy;
};
struct RecordedFingerprint {
  std::vector<int32_t> prompt;
  std::map<int64_t, RecordedRow> rows;
  std::optional<double> nll;
};

constexpr const char* kWhere = "nibble.manifest.json, \"logits\"";
tl::unexpected<Error> malformed(const char* what) {
  return fail(ErrorCode::corrupt, "{}: {} is missing or malformed", kWhere, what);
}

Result<int32_t> read_id(const Json& value, const Spec& spec) {
  if (!value.is_number_integer() || value < 0 || value >= spec.vocabulary) return malformed("an id");
  return value.get<int32_t>();
}

Result<RecordedRow> read_row(const Json& value, const Spec& spec) {
  RecordedRow row;
  const auto top = value.find("top"), entropy = value.find("entropy");
  if (top == value.end() || !top->is_array() || top->empty()) return malformed("\"top\"");
  for (const Json& entry : *top) {
    if (!entry.is_array() || entry.size() != 2 || !entry[1].is_number()) return malformed("\"top\"");
    NIBBLE_TRY(const int32_t id, read_id(entry[0], spec));
    row.top.emplace_back(id, entry[1].get<float>());
  }
  if (entropy != value.end()) {
    if (!entropy->is_number()) return malformed("\"entropy\"");
    row.entropy = entropy->get<double>();
  }
  return row;
}

Result<RecordedFingerprint> read_recorded(const Json& value, const Spec& spec) {
  RecordedFingerprint out;
  if (!value.is_object() || !value.contains("ids") || !value["ids"].is_array() || value["ids"].empty())
    return malformed("\"ids\"");
  for (const Json& entry : value["ids"]) {
    NIBBLE_TRY(const int32_t id, read_id(entry, spec));
    out.prompt.push_back(id);
  }
  const auto count = static_cast<int64_t>(out.prompt.size());
  if (count > spec.max_positions) return malformed("\"ids\"");
  NIBBLE_TRY(out.rows[count], read_row(value, spec));
  if (const auto positions = value.find("positions"); positions != value.end()) {
    if (!positions->is_array()) return malformed("\"positions\"");
    for (const Json& entry : *positions) {
      if (!entry.is_object() || !entry.contains("after") || !entry["after"].is_number_integer())
        return malformed("\"positions\"");
      const auto after = entry["after"].get<int64_t>();
      if (after < 1 || after >= count) return malformed("\"after\"");
      NIBBLE_TRY(out.rows[after], read_row(entry, spec));
    }
  }
  if (const auto nll = value.find("nll"); nll != value.end() && count > 1) {
    if (!nll->is_number()) return malformed("\"nll\"");
    out.nll = nll->get<double>();
  }
  return out;
}

void compare_row(const RecordedRow& then, std::span<const float> now, FingerprintDifference& out) {
  for (const auto& [id, logit] : then.top) {
    ++out.logits;
    const float found = now[static_cast<size_t>(id)];
    out.logit = std::max(out.logit, std::fabs(static_cast<double>(found) - static_cast<double>(logit)));
    out.identical = out.identical && found == logit;
  }
  if (!then.entropy) return;
  const double entropy = entropy_of(now);
  out.entropy = std::max(out.entropy, std::fabs(entropy - *then.entropy));
  out.identical = out.identical && entropy == *then.entropy;
}

}  // namespace

Samples fingerprint_prompt(const Tokenizer* tokenizer, const Spec& spec) {
  std::vector<int32_t> ids;
  if (tokenizer != nullptr) ids = tokenizer->encode(kPrompt);
  const bool fits =
      !ids.empty() && std::all_of(ids.begin(), ids.end(), [&](int32_t id) { return id < spec.vocabulary; });
  if (!fits) {
    ids.resize(static_cast<size_t>(kLongestPrompt));
    for (size_t i = 0; i < ids.size(); ++i)
      ids[i] = static_cast<int32_t>(static_cast<int64_t>(i) * 7919 % spec.vocabulary);
  }
  ids.resize(static_cast<size_t>(std::min({static_cast<int64_t>(ids.size()), spec.max_positions, kLongestPrompt})));
  return {1, static_cast<int64_t>(ids.size()), ids, ""};
}

Result<Json> logit_fingerprint(const ModelSource& quantized, const Samples& prompt, const std::vector<float>& hidden,
                               ThreadPool& pool) {
  NIBBLE_TRY(const Model model, Model::load(WithoutBlocks(quantized), {}, pool));
  return fingerprint_of(model, prompt.tokens, hidden.data(), pool);
}

Result<FingerprintDifference> compare_fingerprint(const Model& model, const Json& recorded, ThreadPool& pool) {
  NIBBLE_TRY(const RecordedFingerprint then, read_recorded(recorded, model.spec()));
  std::vector<AttentionFormats> attention = model.stored_attention();
  for (AttentionFormats& block : attention) block = block.without_float_types();
  Sequence sequence(model.spec(), plan_attention(model.spec(), attention));
  Segment segment{&sequence, static_cast<int64_t>(then.prompt.size()), 0};
  Workspace workspace;
  NIBBLE_DO(model.run_blocks(then.prompt, {&segment, 1}, workspace, pool));
  FingerprintDifference out;
  out.tokens = segment.count;
  double nll = 0;
  NIBBLE_DO(for_rows(model, segment.count, workspace.hidden.data(), pool, [&](int64_t i, std::span<const float> row) {
    if (const auto at = then.rows.find(i + 1); at != then.rows.end()) compare_row(at->second, row, out);
    if (i + 1 < segment.count) nll += negative_log_likelihood(row, then.prompt[static_cast<size_t>(i + 1)]);
  }));
  if (then.nll) {
    nll /= static_cast<double>(segment.count - 1);
    out.nll = std::fabs(nll - *then.nll);
    out.identical = out.identical && nll == *then.nll;
  }
  return out;
}

bool same_arithmetic(const Json& manifest, const Model& model) {
  const Json *tool = find_path(manifest, {"inputs", "tool"}), *isa = find_path(manifest, {"inputs", "isa"});
  return model.spec().activation != Activation::gelu && tool != nullptr && *tool == "nibble " NIBBLE_VERSION &&
         isa != nullptr && *isa == to_string(model.isa());
}

std::vector<std::string> tokenizer_strings() { return {std::begin(kExamples), std::end(kExamples)}; }

Json vocabulary_digest(const Tokenizer& tokenizer) {
  Sha256 hash;
  for (int64_t i = 0; i < tokenizer.vocabulary_size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    const std::optional<std::string> token = tokenizer.token(id);
    if (!token) continue;
    hash.add(fmt::format("{} {} {}\n", id, tokenizer.is_special(id) ? 1 : 0, token->size())).add(*token);
  }
  return {{"size", tokenizer.vocabulary_size()}, {"sha256", hash.finish()}};
}

Json tokenizer_fingerprint(const Tokenizer& tokenizer, std::span<const int32_t> end_tokens) {
  Json out = Json::object();
  out["examples"] = Json::array();
  for (const std::string& text : tokenizer_strings()) {
    const std::vector<int32_t> ids = tokenizer.encode(text);
    out["examples"].push_back({{"text", text}, {"ids", ids}, {"decoded", tokenizer.decode(ids)}});
  }
  out["vocabulary"] = vocabulary_digest(tokenizer);
  if (tokenizer.bos()) out["bos"] = *tokenizer.bos();
  if (tokenizer.eos()) out["eos"] = *tokenizer.eos();
  out["end_tokens"] = std::vector<int32_t>(end_tokens.begin(), end_tokens.end());
  return out;
}

}  // namespace nibble
