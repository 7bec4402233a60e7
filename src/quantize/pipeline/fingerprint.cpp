#include "quantize/pipeline/fingerprint.h"

#include <algorithm>
#include <numeric>

#include "runtime/model.h"

namespace nibble {
namespace {

constexpr const char* kPrompt = "Once upon a time there was";
constexpr const char* kExamples[] = {"Hello, world!", "  two spaces and 1234.5", "naïve café – 日本語 😀"};
constexpr int64_t kLongestPrompt = 16;
constexpr size_t kTop = 8;

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

}  // namespace

Samples fingerprint_prompt(const Tokenizer* tokenizer, const Spec& spec) {
  std::vector<int32_t> ids;
  if (tokenizer != nullptr) ids = tokenizer->encode(kPrompt);
  const bool fits =
      !ids.empty() && std::all_of(ids.begin(), ids.end(), [&](int32_t id) { return id < spec.vocabulary; });
  if (!fits) {
    ids.resize(8);
    std::iota(ids.begin(), ids.end(), 0);
    for (int32_t& id : ids) id = static_cast<int32_t>(id % spec.vocabulary);
  }
  ids.resize(static_cast<size_t>(std::min({static_cast<int64_t>(ids.size()), spec.max_positions, kLongestPrompt})));
  return {1, static_cast<int64_t>(ids.size()), ids, ""};
}

Result<Json> logit_fingerprint(const ModelSource& quantized, const Samples& prompt, const std::vector<float>& hidden,
                               ThreadPool& pool) {
  NIBBLE_TRY(const Model model, Model::load(WithoutBlocks(quantized), {}, pool));
  const Spec& spec = quantized.spec();
  std::vector<float> logits(static_cast<size_t>(spec.vocabulary));
  Workspace workspace;
  NIBBLE_DO(model.logits_of(hidden.data() + (prompt.length - 1) * spec.hidden, 1, logits.data(), workspace, pool));
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const size_t count = std::min(kTop, ids.size());
  std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(count), ids.end(),
                    [&](int32_t a, int32_t b) {
                      const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
                      return x > y || (x == y && a < b);
                    });
  Json out = Json::object();
  out["ids"] = prompt.tokens;
  out["top"] = Json::array();
  for (size_t i = 0; i < count; ++i) out["top"].push_back({ids[i], logits[static_cast<size_t>(ids[i])]});
  return out;
}

Json tokenizer_examples(const Tokenizer& tokenizer) {
  Json out = Json::array();
  for (const char* text : kExamples) {
    Json entry = Json::object();
    entry["text"] = text;
    entry["ids"] = tokenizer.encode(text);
    out.push_back(std::move(entry));
  }
  return out;
}

}  // namespace nibble
