// Tokenizers against what Hugging Face tokenizers makes of the same files, and properties that need no oracle.
#include "tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>
#include <sstream>
#include <thread>

#include "core/file.h"
#include "core/json.h"
#include "core/testing.h"
#include "tokenizer/unicode.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<int32_t>;
using testing::expect_error;
using testing::put;
using testing::shared_folder;
using testing::TemporaryFolder;

Tokenizer loaded(const fs::path& folder) {
  auto tokenizer = Tokenizer::load(folder);
  EXPECT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  return *std::move(tokenizer);
}

Tokenizer parsed(const Json& document) {
  auto tokenizer = Tokenizer::parse(dump_json(document), "test");
  EXPECT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  return *std::move(tokenizer);
}

// Feeds the ids one by one and checks that every part is whole code points.
std::string streamed(const Tokenizer& tokenizer, const Ids& ids, bool skip) {
  StreamDecoder decoder(tokenizer, skip);
  std::string all;
  for (int32_t id : ids) {
    std::string part = decoder.push(id);
    EXPECT_TRUE(is_utf8(part));
    all += part;
  }
  return all + decoder.finish();
}

void expect_streaming_equals_batch(const Tokenizer& tokenizer, int sequences, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int32_t> any(-2, static_cast<int32_t>(tokenizer.vocabulary_size()) + 1);
  for (int i = 0; i < sequences; ++i) {
    Ids ids(random() % 40);
    for (int32_t& id : ids) id = any(random);
    for (bool skip : {false, true}) ASSERT_EQ(streamed(tokenizer, ids, skip), tokenizer.decode(ids, skip));
  }
}

// ---- components: tests/golden/tokenizer/components.json, written by tools/oracle_tokenizer/make_golden.py

const Json& golden() {
  static const Json kGolden = [] {
    auto json = read_json(fs::path(NIBBLE_SOURCE_DIR) / "tests" / "golden" / "tokenizer" / "components.json");
    NIBBLE_CHECK(json.has_value());
    return *std::move(json);
  }();
  return kGolden;
}

Json document_of(const Json& test_case) {
  Json document = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}};
  for (const char* key : {"added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder"})
    document[key] = test_case[key];
  document["model"] = golden()["models"][test_case["model"].get<std::string>()];
  return document;
}

void check_encodings(const Tokenizer& tokenizer, const Json& test_case, const Json& first) {
  const Json& strings = golden()["strings"];
  for (size_t i = 0; i < strings.size(); ++i) {
    auto text = strings[i].get<std::string>();
    const Json& ids = test_case["encoded"][i].is_null() ? first["encoded"][i] : test_case["encoded"][i];
    const Json& plain = test_case["plain"].is_null() ? ids : test_case["plain"][i];
    EXPECT_EQ(tokenizer.encode(text), ids.get<Ids>()) << "text: " << strings[i];
    EXPECT_EQ(tokenizer.encode(text, false), plain.get<Ids>()) << "text: " << strings[i];
  }
}

void check_decodings(const Tokenizer& tokenizer, const Json& test_case) {
  for (const Json& decoding : test_case["decodings"]) {
    Ids ids = decoding[0].get<Ids>();
    EXPECT_EQ(tokenizer.decode(ids, false), decoding[1].get<std::string>()) << "ids: " << decoding[0];
    EXPECT_EQ(tokenizer.decode(ids, true), decoding[2].get<std::string>()) << "ids: " << decoding[0];
    EXPECT_EQ(streamed(tokenizer, ids, false), decoding[1].get<std::string>()) << "ids: " << decoding[0];
  }
}

TEST(Components, EqualTheReference) {
  std::map<std::string, const Json*> first;
  for (const Json& test_case : golden()["cases"]) {
    Json document = document_of(test_case);
    Json shown = document;
    shown.erase("model");
    SCOPED_TRACE(test_case["model"].get<std::string>() + " " + dump_json(shown));
    Tokenizer tokenizer = parsed(document);
    check_encodings(tokenizer, test_case, *first.emplace(test_case["model"], &test_case).first->second);
    check_decodings(tokenizer, test_case);
  }
  EXPECT_GE(golden()["cases"].size(), 140u);
}

TEST(Components, StreamingEqualsBatch) {
  for (const Json& test_case : golden()["cases"])
    if (test_case["model"] == "odd" || test_case["model"] == "byte-level")
      expect_streaming_equals_batch(parsed(document_of(test_case)), 200, 11);
}

// ---- golden ids beside the repository

TEST(TrainedModels, EqualTheGoldenIds) {
  fs::path shared = shared_folder();
  if (shared.empty()) GTEST_SKIP() << "needs the shared models (NIBBLE_SHARED)";
  for (const char* name : {"tiny-llama", "tiny-opt", "tiny-falcon"}) {
    auto json = read_json(shared / "models" / "golden" / (std::string(name) + ".json"));
    ASSERT_TRUE(json.has_value());
    Tokenizer tokenizer = loaded(shared / "models" / name);
    ASSERT_GE((*json)["tokenization"].size(), 20u);
    for (const Json& row : (*json)["tokenization"]) {
      auto text = row["text"].get<std::string>();
      EXPECT_EQ(tokenizer.encode(text), row["ids"].get<Ids>()) << name << ": " << row["text"];
      EXPECT_EQ(tokenizer.encode(text, false), row["ids_without_special"].get<Ids>()) << name << ": " << row["text"];
      EXPECT_EQ(tokenizer.decode(row["ids"].get<Ids>()), row["decoded"].get<std::string>()) << name;
    }
    EXPECT_EQ(tokenizer.vocabulary_size(), (*json)["vocab_size"].get<int64_t>());
  }
}

// The other files of the same folders say the same as tokenizer.json.
TEST(TrainedModels, OtherFormsOfTheSameTokenizerAgree) {
  fs::path shared = shared_folder();
  if (shared.empty()) GTEST_SKIP() << "needs the shared models (NIBBLE_SHARED)";
  auto check = [&](const char* name, std::initializer_list<const char*> files) {
    TemporaryFolder folder;
    for (const char* file : files) fs::copy_file(shared / "models" / name / file, folder / file);
    Tokenizer whole = loaded(shared / "models" / name), part = loaded(folder.path());
    auto text = read_text(shared / "models" / "eval" / "wikitext2_test_200k.txt");
    ASSERT_TRUE(text.has_value());
    EXPECT_EQ(whole.encode(*text), part.encode(*text)) << name;
    for (const Json& string : golden()["strings"]) {
      auto line = string.get<std::string>();
      EXPECT_EQ(whole.encode(line), part.encode(line)) << name << ": " << string;
      EXPECT_EQ(whole.decode(whole.encode(line)), part.decode(whole.encode(line))) << name << ": " << string;
    }
    EXPECT_EQ(whole.bos(), part.bos());
    EXPECT_EQ(whole.eos(), part.eos());
    EXPECT_EQ(part.files().size(), files.size() - (files.size() == 5));
  };
  check("tiny-opt", {"vocab.json", "merges.txt", "config.json", "tokenizer_config.json", "special_tokens_map.json"});
  check("tiny-opt", {"vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"});
}

TEST(TrainedModels, SentencePieceAgreesWithTokenizerJson) {
  fs::path shared = shared_folder();
  if (shared.empty()) GTEST_SKIP() << "needs the shared models (NIBBLE_SHARED)";
  TemporaryFolder folder;
  fs::copy_file(shared / "models/tiny-llama/tokenizer.model", folder / "tokenizer.model");
  Tokenizer whole = loaded(shared / "models/tiny-llama"), part = loaded(folder.path());
  auto text = read_text(shared / "models/eval/tinystories_heldout.txt");
  ASSERT_TRUE(text.has_value());
  EXPECT_EQ(whole.encode(*text), part.encode(*text));
  for (const Json& string : golden()["strings"]) {
    auto line = string.get<std::string>();
    EXPECT_EQ(whole.encode(line), part.encode(line)) << string;
    EXPECT_EQ(whole.decode(whole.encode(line)), part.decode(part.encode(line))) << string;
  }
}

// ---- real vocabularies: folders made by tools/oracle_tokenizer/make_tokenizer_json.py

fs::path tokenizer_folder(const std::string& family) {
  const char* named = std::getenv("NIBBLE_TOKENIZERS");
  fs::path path = named ? fs::path(named) : fs::path(NIBBLE_SOURCE_DIR) / "build" / "tokenizers";
  return shared_folder().empty() || !fs::exists(path / family) ? fs::path() : path / family;
}
#define SKIP_WITHOUT_TOKENIZERS(family) \
  if (tokenizer_folder(family).empty()) \
  GTEST_SKIP() << "needs the shared data and the folders of make_tokenizer_json.py (NIBBLE_TOKENIZERS)"

std::vector<std::string> split_at(const std::string& text, const std::string& mark) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t at; (at = text.find(mark, begin)) != std::string::npos; begin = at + mark.size())
    parts.push_back(text.substr(begin, at - begin));
  parts.push_back(text.substr(begin));
  return parts;
}

Ids numbers_in(const std::string& line) {
  Ids ids;
  std::istringstream stream(line);
  for (int32_t id; stream >> id;) ids.push_back(id);
  return ids;
}

TEST(RealVocabularies, EqualTheGgufVectors) {
  SKIP_WITHOUT_TOKENIZERS("falcon");
  const std::map<std::string, std::vector<std::string>> kFamilies = {{"gpt-2", {"gpt2", "gpt2-files"}},
                                                                     {"falcon", {"falcon"}},
                                                                     {"llama-bpe", {"llama3"}},
                                                                     {"llama-spm", {"llama2", "llama2-spm"}},
                                                                     {"qwen2", {"qwen2", "qwen2-files"}}};
  for (const auto& [vector, folders] : kFamilies) {
    fs::path base = shared_folder() / "data/vectors/gguf-vocab" / ("ggml-vocab-" + vector + ".gguf");
    auto inputs = split_at(testing::get(base.string() + ".inp"), "\n__ggml_vocab_test__\n");
    auto outputs = split_at(testing::get(base.string() + ".out"), "\n");
    ASSERT_GE(inputs.size(), 46u);
    ASSERT_GE(outputs.size(), inputs.size() - 1);
    for (const std::string& folder : folders) {
      Tokenizer tokenizer = loaded(tokenizer_folder(folder));
      for (size_t i = 0; i + 1 < inputs.size(); ++i)
        EXPECT_EQ(tokenizer.encode(inputs[i], false), numbers_in(outputs[i])) << folder << ": " << inputs[i];
    }
  }
}

// A second, independent set. Some of its expectations are of other models with the same vocabulary, which shows in
// the special tokens only.
TEST(RealVocabularies, EqualTheSwiftVectors) {
  SKIP_WITHOUT_TOKENIZERS("falcon");
  fs::path folder = shared_folder() / "data/tokenizers/swift-transformers_vectors";
  const std::map<std::string, std::string> kTexts = {{"gpt2_encoded_tokens", "gpt2"},
                                                     {"falcon_encoded", "falcon"},
                                                     {"llama_encoded", "llama2"},
                                                     {"llama_3.2_encoded", "llama3"}};
  for (const auto& [file, family] : kTexts) {
    auto json = read_json(folder / (file + ".json"));
    ASSERT_TRUE(json.has_value());
    Tokenizer tokenizer = loaded(tokenizer_folder(family));
    Ids ids = (*json)["token_ids"].get<Ids>();
    EXPECT_EQ(tokenizer.encode((*json)["text"].get<std::string>()), ids) << family;
    EXPECT_EQ(tokenizer.decode(ids, false), (*json)["decoded_text"].get<std::string>()) << family;
  }
  const std::map<std::string, std::string> kCases = {{"distilgpt2", "gpt2"},
                                                     {"coreml-projects/Llama-2-7b-chat-coreml", "llama2"},
                                                     {"tiiuae/falcon-7b", "falcon"},
                                                     {"pcuenq/Llama-3.2-1B-Instruct-tokenizer", "llama3"}};
  auto json = read_json(folder / "tokenizer_tests.json");
  ASSERT_TRUE(json.has_value());
  for (const auto& [name, family] : kCases) {
    Tokenizer tokenizer = loaded(tokenizer_folder(family));
    for (const Json& row : (*json)[name]) {
      Ids ids = row["encoded"]["input_ids"].get<Ids>();
      EXPECT_EQ(tokenizer.encode(row["input"].get<std::string>()), ids) << family << ": " << row["input"];
    }
  }
}

TEST(RealVocabularies, StreamingEqualsBatch) {
  SKIP_WITHOUT_TOKENIZERS("falcon");
  for (const char* family : {"opt", "neox", "llama2", "llama2-spm", "llama3", "falcon", "qwen2"})
    expect_streaming_equals_batch(loaded(tokenizer_folder(family)), 2000, 5);
}

// ---- small tokenizers made here

// Byte-level BPE with a token for every doubling of "a" (as in "aaaa") and of the blank.
Json doubling_document(Json pre_tokenizer) {
  Json vocabulary, merges = Json::array();
  for (int b = 0; b < 256; ++b) vocabulary[std::string(byte_symbol(static_cast<unsigned char>(b)))] = b;
  for (const std::string& symbol : {std::string("a"), to_byte_symbols(" ")}) {
    std::string run = symbol;
    for (int i = 0; i < 10; ++i, run += run) {
      merges.push_back({run, run});
      vocabulary[run + run] = static_cast<int>(vocabulary.size());
    }
  }
  return {{"added_tokens", Json::array()},
          {"pre_tokenizer", pre_tokenizer},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", merges}}}};
}

Json byte_level(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", use_regex}};
}

TEST(Cost, OneMegabyteOfOneCharacterTakesLinearlyManySteps) {
  constexpr size_t kLength = 1 << 20;
  for (auto [use_regex, character] : {std::pair(false, 'a'), std::pair(true, ' ')}) {
    Tokenizer tokenizer = parsed(doubling_document(byte_level(use_regex)));
    std::string text(kLength, character);
    EncodeCost cost, eighth;
    Ids ids = tokenizer.encode(text, true, cost);
    EXPECT_LE(cost.merge_steps, static_cast<int64_t>(3 * kLength));
    EXPECT_FALSE(cost.regex_exhausted);
    EXPECT_EQ(ids.size(), kLength >> 10);
    EXPECT_EQ(tokenizer.decode(ids), text);
    tokenizer.encode(text.substr(0, kLength / 8), true, eighth);
    EXPECT_LE(cost.merge_steps, 8 * eighth.merge_steps + 1000);
  }
}

// A piece of many words is merged word by word where no merge can reach across; the ids are those of one big merge.
TEST(Cost, StretchesThatCannotGrowTogetherChangeNothing) {
  Json vocabulary, merges = Json::array();
  for (const char* token : {"a", "b", "c", "_", "?", "ab", "_a", "_ab", "bc", "c_", "__"})
    vocabulary[token] = static_cast<int>(vocabulary.size());
  for (const char* merge : {"a b", "_ a", "_ ab", "b c", "_ _"}) merges.push_back(merge);
  Json document = {{"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", merges}, {"unk_token", "?"}}}};
  // The same with a suffix that never occurs, which turns the short cut off.
  Json slow = document;
  slow["model"]["end_of_word_suffix"] = "never";
  Tokenizer quick = parsed(document), whole = parsed(slow);
  std::mt19937 random(4);
  for (int i = 0; i < 3000; ++i) {
    std::string text;
    for (size_t n = random() % 40; n > 0; --n) text += "abc__x"[random() % 6];
    text += "?";  // the last character is "?never" for the slow one: unknown, so "?" as well
    ASSERT_EQ(quick.encode(text), whole.encode(text)) << text;
  }
}

TEST(Cost, AHostilePatternIsStoppedWithADefinedResult) {
  Json split = {{"type", "Split"}, {"pattern", {{"Regex", "(x+x+)+y"}}}, {"behavior", "Isolated"}, {"invert", false}};
  Json sequence = {{"type", "Sequence"}, {"pretokenizers", {split, byte_level(false)}}};
  Tokenizer tokenizer = parsed(doubling_document(sequence));
  EncodeCost cost;
  Ids good = tokenizer.encode("xxxxya", true, cost);
  EXPECT_FALSE(cost.regex_exhausted);
  std::string text = std::string(60, 'x') + "aa";
  Ids ids = tokenizer.encode(text, true, cost);
  EXPECT_TRUE(cost.regex_exhausted);
  EXPECT_EQ(ids, parsed(doubling_document(byte_level(false))).encode(text));
  EXPECT_EQ(tokenizer.encode("xxxxya", true, cost), good);  // the next call starts afresh
}

TEST(Threads, EncodeAndDecodeAtTheSameTime) {
  Tokenizer tokenizer = parsed(doubling_document(byte_level(true)));
  std::vector<std::string> results(8);
  std::vector<std::thread> threads;
  for (std::string& result : results)
    threads.emplace_back([&result, tokenizer] {
      for (int i = 0; i < 50; ++i) result += tokenizer.decode(tokenizer.encode("aaaa \xC3\xA9 don't  12 aaa"));
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::string& result : results) EXPECT_EQ(result, results[0]);
}

TEST(IllFormedText, CountsAsReplacementCharacters) {
  Tokenizer tokenizer = parsed(doubling_document(byte_level(true)));
  const std::map<std::string, std::string> kTexts = {
      {"a\xFF", "a\uFFFD"},         {"\xC3", "\uFFFD"},
      {"\xC0\xAF", "\uFFFD\uFFFD"}, {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},
      {"\xE2\x82z", "\uFFFDz"},     {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
      {"\xF0\x9F\x98", "\uFFFD"}};
  for (const auto& [text, repaired] : kTexts) {
    EXPECT_EQ(tokenizer.encode(text), tokenizer.encode(repaired));
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), repaired);
  }
  std::mt19937 random(3);
  for (int i = 0; i < 2000; ++i) {
    std::string text(random() % 30, '\0');
    for (char& c : text) c = static_cast<char>(random());
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), repaired_utf8(text));
  }
}

TEST(Vocabulary, LooksUpTokensAndIds) {
  Json document = doubling_document(byte_level(true));
  document["added_tokens"] = {{{"id", 276}, {"content", "<s>"}, {"special", true}}};
  Tokenizer tokenizer = parsed(document);
  EXPECT_EQ(tokenizer.vocabulary_size(), 277);
  EXPECT_EQ(tokenizer.token(276), "<s>");
  EXPECT_EQ(tokenizer.id("<s>"), 276);
  EXPECT_EQ(tokenizer.id("aa"), 256);
  EXPECT_EQ(tokenizer.id("no such"), std::nullopt);
  EXPECT_EQ(tokenizer.token(277), std::nullopt);
  EXPECT_EQ(tokenizer.token(-1), std::nullopt);
  EXPECT_TRUE(tokenizer.is_special(276));
  EXPECT_FALSE(tokenizer.is_special(3));
  EXPECT_FALSE(tokenizer.is_special(-1));
  EXPECT_FALSE(tokenizer.is_special(1 << 30));
  EXPECT_EQ(tokenizer.decode(Ids{97, 276, -5, 1 << 30}), "a");
  EXPECT_EQ(tokenizer.decode(Ids{97, 276}, false), "a<s>");
}

// ---- folders

void put_json(const fs::path& path, const Json& value) { put(path, dump_json(value)); }

// OPT's first ids are fixed: <s> 0, <pad> 1, </s> 2, <unk> 3.
void put_opt_files(const TemporaryFolder& folder) {
  Json vocabulary = {{"<s>", 0}, {"<pad>", 1}, {"</s>", 2}, {"<unk>", 3}};
  for (int b = 0; b < 256; ++b) vocabulary[std::string(byte_symbol(static_cast<unsigned char>(b)))] = 4 + b;
  vocabulary[to_byte_symbols(" a")] = 260;
  put_json(folder / "vocab.json", vocabulary);
  put(folder / "merges.txt", "#version: 0.2\n" + to_byte_symbols(" ") + " a\n");
}

TEST(Folders, OptFilesPutTheEndTokenInFront) {
  TemporaryFolder folder;
  put_opt_files(folder);
  put(folder / "config.json", R"({"model_type": "opt"})");
  Tokenizer opt = loaded(folder.path());
  EXPECT_EQ(opt.encode(" a a<pad>"), (Ids{2, 260, 260, 1}));
  EXPECT_EQ(opt.encode(" a", false), (Ids{260}));
  EXPECT_EQ(opt.decode(Ids{2, 260, 1}), " a");
  EXPECT_EQ(opt.files(), (std::vector<std::string>{"vocab.json", "merges.txt"}));
  put(folder / "tokenizer_config.json",
      R"({"add_bos_token": false, "bos_token": {"content": "</s>"}, "eos_token": "</s>"})");
  Tokenizer without = loaded(folder.path());
  EXPECT_EQ(without.encode(" a"), (Ids{260}));
  EXPECT_EQ(without.bos(), 2);
  EXPECT_EQ(without.eos(), 2);
  put(folder / "config.json", R"({"model_type": "gpt2"})");
  EXPECT_EQ(loaded(folder.path()).encode(" a"), (Ids{260}));
}

TEST(Folders, Qwen2FilesNormalize) {
  TemporaryFolder folder;
  put_opt_files(folder);
  put(folder / "config.json", R"({"model_type": "qwen2"})");
  put(folder / "tokenizer_config.json",
      R"({"tokenizer_class": "Qwen2TokenizerFast",
          "added_tokens_decoder": {"261": {"content": "<|end|>", "special": true}}, "eos_token": "<|end|>"})");
  Tokenizer tokenizer = loaded(folder.path());
  EXPECT_EQ(tokenizer.encode("e\u0301<|end|>"), tokenizer.encode("\u00e9<|end|>"));
  EXPECT_EQ(tokenizer.encode("<|end|>"), (Ids{261}));
  EXPECT_EQ(tokenizer.eos(), 261);
}

// A SentencePiece model in the protobuf wire format: pieces are (text, score, type).
struct TestPiece {
  std::string text;
  float score;
  char type;  // 1 normal, 2 unknown, 3 control, 6 byte
};
std::string sentence_piece_model(const std::vector<TestPiece>& pieces, char model_type, bool charsmap = false) {
  auto field = [](char key, const std::string& bytes) {
    std::string out(1, key);
    size_t size = bytes.size();
    for (; size >= 0x80; size >>= 7) out += static_cast<char>((size & 0x7F) | 0x80);
    return out + static_cast<char>(size) + bytes;
  };
  std::string model;
  for (const TestPiece& piece : pieces) {
    std::string score(sizeof piece.score, '\0');
    std::memcpy(score.data(), &piece.score, sizeof piece.score);
    model += field(0x0A, field(0x0A, piece.text) + '\x15' + score + '\x18' + piece.type);
  }
  model += field(0x12, std::string("\x18") + model_type + std::string("\x98\x02\x01", 3));  // byte_fallback
  std::string normalizer = field(0x0A, "identity") + std::string("\x18\x01\x20\x00\x28\x01", 6);
  if (charsmap) normalizer += field(0x12, "some map");
  return model + field(0x1A, normalizer);
}
std::vector<TestPiece> llama_pieces() {
  std::vector<TestPiece> pieces = {{"<unk>", 0, 2}, {"<s>", 0, 3}, {"</s>", 0, 3}};
  for (int b = 0; b < 256; ++b) pieces.push_back({fmt::format("<0x{:02X}>", b), 0, 6});
  float score = 0;
  for (const char* text : {"ab", "\u2581ab", "\u2581", "a", "b"}) pieces.push_back({text, score--, 1});
  return pieces;
}

TEST(Folders, SentencePieceAsLlamaDoesIt) {
  TemporaryFolder folder;
  put(folder / "tokenizer.model", sentence_piece_model(llama_pieces(), 2));
  Tokenizer tokenizer = loaded(folder.path());
  EXPECT_EQ(tokenizer.vocabulary_size(), 264);
  EXPECT_EQ(tokenizer.encode("ab"), (Ids{1, 260}));
  EXPECT_EQ(tokenizer.encode("abab b", false), (Ids{260, 259, 261, 263}));
  EXPECT_EQ(tokenizer.encode("\u00e9", false), (Ids{261, 3 + 0xC3, 3 + 0xA9}));
  EXPECT_EQ(tokenizer.encode("", true), (Ids{1}));
  EXPECT_EQ(tokenizer.encode("b</s>", false), (Ids{261, 263, 2}));
  EXPECT_EQ(tokenizer.decode(Ids{1, 261, 3 + 0xC3, 3 + 0xA9, 260, 2}), "\u00e9 ab");
  EXPECT_EQ(tokenizer.decode(Ids{3 + 0xC3, 260}), "\uFFFD ab");
  EXPECT_TRUE(tokenizer.is_special(1));
  expect_streaming_equals_batch(tokenizer, 500, 2);
  // Behind a special token the text gets another blank in front, unless "legacy" is false.
  EXPECT_EQ(tokenizer.encode("ab</s>ab"), (Ids{1, 260, 2, 260}));
  put(folder / "tokenizer_config.json", R"({"add_bos_token": false, "add_eos_token": true, "legacy": false})");
  Tokenizer newer = loaded(folder.path());
  EXPECT_EQ(newer.encode("ab</s>ab"), (Ids{260, 2, 259, 2}));
  EXPECT_EQ(newer.encode("</s>ab"), (Ids{2, 259, 2}));
  EXPECT_EQ(newer.decode(newer.encode("ab</s>ab"), false), "ab</s>ab</s>");
}

// ---- bad input

TEST(BadFolders, AreRefusedByName) {
  auto refused = [](std::initializer_list<std::pair<const char*, std::string>> files, ErrorCode code,
                    auto... fragments) {
    TemporaryFolder folder;
    for (const auto& [name, text] : files) put(folder / name, text);
    expect_error(Tokenizer::load(folder.path()), code, fragments...);
  };
  std::string vocabulary = R"({"a": 0, "b": 1, "ab": 2})", merges = "a b\n";
  refused({}, ErrorCode::io, "has no tokenizer");
  refused({{"vocab.json", vocabulary}}, ErrorCode::io, "merges.txt");
  refused({{"merges.txt", merges}}, ErrorCode::io, "vocab.json");
  refused({{"tokenizer.json", ""}}, ErrorCode::corrupt, "tokenizer.json", "JSON");
  refused({{"tokenizer.json", "{\"model\": \xFF}"}}, ErrorCode::corrupt, "tokenizer.json");
  refused({{"tokenizer.json", "{}"}}, ErrorCode::corrupt, "tokenizer.json", "\"model\"");
  refused({{"tokenizer.model", "IQ== 0\nIg== 1\n"}}, ErrorCode::unsupported, "rank file", "tokenizer.json");
  refused({{"tokenizer.model", "no model at all"}}, ErrorCode::corrupt, "tokenizer.model", "SentencePiece");
  refused({{"tokenizer.model", ""}}, ErrorCode::unsupported, "tokenizer.model");
  refused({{"tokenizer.model", sentence_piece_model(llama_pieces(), 1)}}, ErrorCode::unsupported, "UNIGRAM", "BPE");
  refused({{"tokenizer.model", sentence_piece_model(llama_pieces(), 2, true)}}, ErrorCode::unsupported,
          "precompiled_charsmap");
  refused({{"tokenizer.model", sentence_piece_model({}, 2)}}, ErrorCode::corrupt, "tokenizer.model");
  refused({{"tokenizer.model", sentence_piece_model(llama_pieces(), 2)}, {"tokenizer_config.json", "[]"}},
          ErrorCode::corrupt, "tokenizer_config.json");
  refused({{"tokenizer.model", sentence_piece_model(llama_pieces(), 2)},
           {"tokenizer_config.json", R"({"bos_token": "<bos>"})"}},
          ErrorCode::corrupt, "<bos>");
  refused({{"vocab.json", vocabulary}, {"merges.txt", "a b c\n"}}, ErrorCode::corrupt, "merges.txt", "line 1");
  refused({{"vocab.json", vocabulary}, {"merges.txt", "#version: 0.2\na c\n"}}, ErrorCode::corrupt, "\"c\"");
  refused({{"vocab.json", "[1]"}, {"merges.txt", merges}}, ErrorCode::corrupt, "vocab.json");
  refused({{"vocab.json", vocabulary}, {"merges.txt", merges}, {"config.json", R"({"model_type": "roberta"})"}},
          ErrorCode::unsupported, "roberta", "GPT2Tokenizer");
  refused({{"vocab.json", vocabulary}, {"merges.txt", merges}, {"config.json", R"({"model_type": "opt"})"}},
          ErrorCode::corrupt, "</s>");
  refused({{"vocab.json", vocabulary}, {"merges.txt", merges}, {"tokenizer_config.json", R"({"eos_token": 7})"}},
          ErrorCode::corrupt, "eos_token");
  refused({{"vocab.json", vocabulary},
           {"merges.txt", merges},
           {"tokenizer_config.json", R"({"added_tokens_decoder": {"x1": {"content": "y"}}})"}},
          ErrorCode::corrupt, "\"x1\"");
  refused({{"vocab.json", vocabulary}, {"merges.txt", merges}, {"added_tokens.json", R"({"c": 99999999999})"}},
          ErrorCode::corrupt, "added_tokens.json");
}

// A document that is fine, for the cases below to break.
Json fine() {
  return Json::parse(R"({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
    "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})");
}
Json broken(const char* pointer, const char* value) {
  Json document = fine();
  document[Json::json_pointer(pointer)] = Json::parse(value);
  return document;
}

struct BadCase {
  const char *pointer, *value;
  ErrorCode code;
  std::vector<std::string> fragments;
};

TEST(BadTokenizerJson, IsRefusedWithTheKey) {
  constexpr auto kCorrupt = ErrorCode::corrupt, kUnsupported = ErrorCode::unsupported;
  const std::vector<BadCase> kCases = {
      {"/version", R"("2.0")", kUnsupported, {"version", "2.0"}},
      {"/surprise", "1", kCorrupt, {"surprise"}},
      {"/model", "[]", kCorrupt, {"model"}},
      {"/model/type", R"("Unigram")", kUnsupported, {"Unigram", "BPE"}},
      {"/model/type", R"("WordPiece")", kUnsupported, {"WordPiece", "BPE"}},
      {"/model/dropout", "0.1", kUnsupported, {"dropout"}},
      {"/model/surprise", "1", kCorrupt, {"surprise"}},
      {"/model/unk_token", R"("<unk>")", kCorrupt, {"<unk>"}},
      {"/model/vocab", "[]", kCorrupt, {"vocab"}},
      {"/model/vocab/ab", "1", kCorrupt, {"\"b\"", "\"ab\"", "same id 1"}},
      {"/model/vocab/ab", "-1", kCorrupt, {"\"ab\"", "-1"}},
      {"/model/vocab/ab", "1.5", kCorrupt, {"\"ab\""}},
      {"/model/vocab/ab", "4194304", kCorrupt, {"\"ab\"", "4194304"}},
      {"/model/vocab/ab", "18446744073709551615", kCorrupt, {"\"ab\""}},
      {"/model/merges", "{}", kCorrupt, {"merges"}},
      {"/model/merges", R"(["a"])", kCorrupt, {"\"merges\"[0]"}},
      {"/model/merges", R"(["a b", "a b c"])", kCorrupt, {"\"merges\"[1]"}},
      {"/model/merges", R"([["a"]])", kCorrupt, {"\"merges\"[0]"}},
      {"/model/merges", R"([7])", kCorrupt, {"\"merges\"[0]"}},
      {"/model/merges", R"([["a", "c"]])", kCorrupt, {"\"c\""}},
      {"/model/merges", R"([["b", "a"]])", kCorrupt, {"\"ba\""}},
      {"/added_tokens", "{}", kCorrupt, {"added_tokens"}},
      {"/added_tokens", R"([{"id": 3}])", kCorrupt, {"\"added_tokens\"[0]", "content"}},
      {"/added_tokens", R"([{"id": 3, "content": ""}])", kCorrupt, {"added_tokens"}},
      {"/added_tokens", R"([{"id": 3, "content": "x", "weight": 1}])", kCorrupt, {"weight"}},
      {"/added_tokens", R"([{"id": 1, "content": "x"}])", kCorrupt, {"\"x\"", "\"b\""}},
      {"/added_tokens", R"([{"id": 3, "content": "a"}])", kCorrupt, {"\"a\"", "vocabulary"}},
      {"/added_tokens", R"([{"id": 5, "content": "x"}])", kCorrupt, {"\"x\"", "5", "3"}},
      {"/added_tokens", R"([{"id": 3, "content": "x"}, {"id": 3, "content": "y"}])", kCorrupt, {"\"y\"", "twice"}},
      {"/added_tokens", R"([{"id": 3, "content": "x"}, {"id": 4, "content": "x"}])", kCorrupt, {"\"x\"", "twice"}},
      {"/added_tokens", R"([{"id": 99999999999, "content": "x"}])", kCorrupt, {"\"id\""}},
      {"/normalizer", "7", kCorrupt, {"normalizer"}},
      {"/normalizer", "{}", kCorrupt, {"normalizer", "type"}},
      {"/normalizer", R"({"type": "Precompiled", "precompiled_charsmap": ""})", kUnsupported, {"Precompiled", "NFC"}},
      {"/normalizer", R"({"type": "NFC", "form": 1})", kCorrupt, {"form"}},
      {"/normalizer", R"({"type": "Replace", "pattern": {"Regex": "("}, "content": ""})", kCorrupt, {"pattern"}},
      {"/normalizer", R"({"type": "Replace", "pattern": {"Glob": "*"}, "content": ""})", kCorrupt, {"pattern"}},
      {"/normalizer", R"({"type": "Sequence", "normalizers": [null]})", kCorrupt, {"\"normalizers\"[0]"}},
      {"/normalizer", R"({"type": "Sequence", "normalizers": 1})", kCorrupt, {"normalizers"}},
      {"/pre_tokenizer", R"({"type": "BertPreTokenizer"})", kUnsupported, {"BertPreTokenizer", "ByteLevel"}},
      {"/pre_tokenizer", R"({"type": "ByteLevel", "add_prefix_space": "no"})", kCorrupt, {"add_prefix_space"}},
      {"/pre_tokenizer",
       R"({"type": "Split", "pattern": {"String": " "}, "behavior": "Shred"})",
       kUnsupported,
       {"Shred"}},
      {"/pre_tokenizer", R"({"type": "Metaspace", "replacement": "ab"})", kCorrupt, {"replacement"}},
      {"/pre_tokenizer",
       R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "last"})",
       kUnsupported,
       {"last"}},
      {"/pre_tokenizer",
       R"({"type": "Metaspace", "replacement": "_", "add_prefix_space": false, "prepend_scheme": "first"})",
       kCorrupt,
       {"add_prefix_space", "first"}},
      {"/post_processor", R"({"type": "Magic"})", kUnsupported, {"Magic"}},
      {"/post_processor",
       R"({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "B"}}]})",
       kUnsupported,
       {"B"}},
      {"/post_processor", R"({"type": "TemplateProcessing", "single": []})", kUnsupported, {"0 times"}},
      {"/post_processor",
       R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}]})",
       kCorrupt,
       {"\"x\""}},
      {"/post_processor", R"({"type": "RobertaProcessing", "cls": ["a", 0], "sep": ["x", 9]})", kCorrupt, {"sep", "9"}},
      {"/post_processor",
       R"({"type": "Sequence", "processors": [{"type": "BertProcessing", "cls": ["a", 0], "sep": ["a", 0]},
                                              {"type": "BertProcessing", "cls": ["a", 0], "sep": ["a", 0]}]})",
       kUnsupported,
       {"\"processors\"[1]", "second"}},
      {"/decoder", R"({"type": "WordPiece"})", kUnsupported, {"WordPiece", "ByteFallback"}},
      {"/decoder", R"({"type": "Strip", "content": "ab", "start": 1, "stop": 0})", kCorrupt, {"content"}},
      {"/decoder", R"({"type": "Strip", "content": "a", "start": -1, "stop": 0})", kCorrupt, {"start"}},
      {"/decoder", R"({"type": "Sequence", "decoders": [{"type": "CTC"}]})", kUnsupported, {"\"decoders\"[0]", "CTC"}},
  };
  ASSERT_TRUE(Tokenizer::parse(dump_json(fine()), "fine").has_value());
  for (const BadCase& bad : kCases) {
    SCOPED_TRACE(std::string(bad.pointer) + " = " + bad.value);
    auto result = Tokenizer::parse(dump_json(broken(bad.pointer, bad.value)), "some/tokenizer.json");
    expect_error(result, bad.code, "some/tokenizer.json");
    for (const std::string& fragment : bad.fragments) expect_error(result, bad.code, fragment);
  }
}

TEST(BadTokenizerJson, DuplicateKeysAndDepthAreRefused) {
  std::string twice = R"({"model": {"type": "BPE", "vocab": {"a": 0, "a": 1}, "merges": []}})";
  expect_error(Tokenizer::parse(twice, "t.json"), ErrorCode::corrupt, "t.json", "duplicate");
  Json nested = {{"type", "NFC"}};
  for (int i = 0; i < 1000; ++i) nested = {{"type", "Sequence"}, {"normalizers", {std::move(nested)}}};
  Json document = fine();
  document["normalizer"] = std::move(nested);
  expect_error(Tokenizer::parse(dump_json(document), "t.json"), ErrorCode::corrupt, "t.json", "128 levels");
}

TEST(BadTokenizerJson, TextCannotBeMadeToExplode) {
  Json doubling = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}};
  Json list = Json::array();
  for (int i = 0; i < 100; ++i) list.push_back(doubling);
  Json document = fine();
  document["normalizer"] = {{"type", "Sequence"}, {"normalizers", list}};
  expect_error(Tokenizer::parse(dump_json(document), "t.json"), ErrorCode::unsupported, "normalizers", "times longer");
  document = fine();
  document["decoder"] = {{"type", "Sequence"}, {"decoders", list}};
  expect_error(Tokenizer::parse(dump_json(document), "t.json"), ErrorCode::unsupported, "decoder", "times longer");
  document["decoder"] = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(100000, 'b')}};
  expect_error(Tokenizer::parse(dump_json(document), "t.json"), ErrorCode::unsupported, "decoder", "times longer");
}

TEST(BadTokenizerJson, AMillionAddedTokensLoad) {
  std::string text = R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": [)";
  constexpr int kCount = 1'000'000;
  for (int i = 1; i <= kCount; ++i) text += fmt::format("{}{{\"id\":{},\"content\":\"<{}>\"}}", i > 1 ? "," : "", i, i);
  auto tokenizer = Tokenizer::parse(text + "]}", "many.json");
  ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->vocabulary_size(), kCount + 1);
  EXPECT_EQ(tokenizer->encode("a<1000000><1>a<0>"), (Ids{0, kCount, 1, 0}));
}

}  // namespace
}  // namespace nibble
