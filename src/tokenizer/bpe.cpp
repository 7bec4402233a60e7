#include "tokenizer/bpe.h"

#include <algorithm>
#include <array>
#include <bit>

#include "tokenizer/unicode.h"

namespace nibble {
namespace {

struct Merge {
  uint32_t rank;
  int32_t id;  // of the merged token
};

// (left id, right id) -> merge: open addressing in a power of two slots, at most half full.
class MergeTable {
 public:
  explicit MergeTable(size_t count) : slots_(std::bit_ceil(std::max<size_t>(2 * count, 16))) {}

  void put(int32_t left, int32_t right, Merge merge) { slots_[place(key(left, right))] = {key(left, right), merge}; }
  const Merge* find(int32_t left, int32_t right) const {
    const Slot& slot = slots_[place(key(left, right))];
    return slot.key == kEmpty ? nullptr : &slot.merge;
  }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  struct Slot {
    uint64_t key = kEmpty;
    Merge merge{};
  };
  static uint64_t key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t place(uint64_t wanted) const {
    uint64_t hash = wanted * 0x9E3779B97F4A7C15u;
    hash = (hash ^ hash >> 32) * 0xD6E8FEB86659FD93u;
    for (size_t i = (hash ^ hash >> 32) & (slots_.size() - 1);; i = (i + 1) & (slots_.size() - 1))
      if (slots_[i].key == wanted || slots_[i].key == kEmpty) return i;
  }
  std::vector<Slot> slots_;
};

// Where tokens can grow together: the pairs (last character of the left token, first character of the right one) of
// all merges. Between two characters that are no such pair nothing ever merges, so a long piece falls into stretches
// that can be merged one after the other, in memory that stays in the cache.
class Junctions {
 public:
  explicit Junctions(size_t count) : pairs_(count) {}
  void put(int32_t left, int32_t right) { pairs_.put(left, right, {}); }
  bool has(int32_t left, int32_t right) const { return pairs_.find(left, right) != nullptr; }

 private:
  MergeTable pairs_;
};

// A doubly linked list of symbols in one array. A symbol that was merged into its left neighbour is dead.
struct Symbol {
  int32_t id;
  int32_t previous, next;  // -1: none
  bool alive;
};

// A pair that was mergeable when it was queued. It may be out of date when its turn comes.
struct Candidate {
  uint32_t rank;
  int32_t left;  // position of the left symbol
  int32_t id;    // what it would become
};
bool comes_later(const Candidate& a, const Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.left > b.left;
}

struct Scratch {
  std::vector<Symbol> symbols;
  std::vector<Candidate> queue;  // a heap
  std::string key;
};

class Bpe : public TokenModel {
 public:
  Bpe(const Vocabulary& vocabulary, MergeTable merges, std::optional<Junctions> junctions, BpeOptions options);
  void encode(std::span<const Piece> pieces, std::vector<int32_t>& ids, Work& work) const override;

 private:
  void split(std::string_view piece, Scratch& scratch) const;
  std::optional<int32_t> symbol_id(std::string_view character, bool first, bool last, std::string& key) const;
  bool add_bytes(std::string_view symbol, std::vector<Symbol>& symbols) const;
  void propose(int32_t left, Scratch& scratch) const;
  void merge_all(Scratch& scratch, Work& work) const;
  void merge_stretch(int32_t begin, int32_t end, Scratch& scratch, Work& work) const;

  const Vocabulary& vocabulary_;
  MergeTable merges_;
  std::optional<Junctions> junctions_;
  BpeOptions options_;
  std::optional<int32_t> unknown_;
  bool plain_;                        // symbols are looked up as they are
  std::array<int32_t, 0x400> small_;  // ids of the first code points, -1: absent
  std::array<int32_t, 256> bytes_;    // ids of <0x00> to <0xFF>, -1: absent
};

Bpe::Bpe(const Vocabulary& vocabulary, MergeTable merges, std::optional<Junctions> junctions, BpeOptions options)
    : vocabulary_(vocabulary),
      merges_(std::move(merges)),
      junctions_(std::move(junctions)),
      options_(std::move(options)) {
  if (options_.unknown) unknown_ = vocabulary_.id(*options_.unknown);
  plain_ = options_.continuing_prefix.empty() && options_.end_suffix.empty();
  for (size_t code = 0; code < small_.size(); ++code) {
    std::string text;
    append_code_point(text, static_cast<char32_t>(code));
    small_[code] = vocabulary_.id(text).value_or(-1);
  }
  for (size_t byte = 0; byte < bytes_.size(); ++byte)
    bytes_[byte] = vocabulary_.id(fmt::format("<0x{:02X}>", byte)).value_or(-1);
}

std::optional<int32_t> Bpe::symbol_id(std::string_view character, bool first, bool last, std::string& key) const {
  if (plain_) {
    size_t offset = 0;
    char32_t code = next_code_point(character, offset);
    if (code >= small_.size()) return vocabulary_.id(character);
    return small_[code] < 0 ? std::nullopt : std::optional(small_[code]);
  }
  key.clear();
  if (!first) key += options_.continuing_prefix;
  key += character;
  if (last) key += options_.end_suffix;
  return vocabulary_.id(key);
}

// All bytes of the symbol as tokens, or nothing when one of them has none.
bool Bpe::add_bytes(std::string_view symbol, std::vector<Symbol>& symbols) const {
  auto id_of = [&](char c) { return bytes_[static_cast<unsigned char>(c)]; };
  if (!std::all_of(symbol.begin(), symbol.end(), [&](char c) { return id_of(c) >= 0; })) return false;
  for (char c : symbol) symbols.push_back({id_of(c), 0, 0, true});
  return true;
}

// The symbols of a piece. An unknown character waits until a known one follows, because others may fuse with it;
// bytes do not end the wait (a quirk of the reference that shows when only some bytes have tokens).
void Bpe::split(std::string_view piece, Scratch& scratch) const {
  std::vector<Symbol>& symbols = scratch.symbols;
  symbols.clear();
  bool waiting = false;
  auto flush = [&] {
    if (waiting) symbols.push_back({*unknown_, 0, 0, true});
    waiting = false;
  };
  for (size_t offset = 0; offset < piece.size();) {
    size_t begin = offset;
    next_code_point(piece, offset);
    bool last = offset == piece.size();
    std::string_view character = piece.substr(begin, offset - begin);
    if (auto id = symbol_id(character, begin == 0, last, scratch.key)) {
      flush();
      symbols.push_back({*id, 0, 0, true});
    } else if (!options_.byte_fallback || !add_bytes(plain_ ? character : scratch.key, symbols)) {
      if (!unknown_) continue;
      if (!options_.fuse_unknown) flush();
      waiting = true;
    }
  }
  flush();
  auto count = static_cast<int32_t>(symbols.size());
  for (int32_t i = 0; i < count; ++i) {
    symbols[static_cast<size_t>(i)].previous = i - 1;
    symbols[static_cast<size_t>(i)].next = i + 1 < count ? i + 1 : -1;
  }
}

void Bpe::propose(int32_t left, Scratch& scratch) const {
  if (left < 0) return;
  const Symbol& symbol = scratch.symbols[static_cast<size_t>(left)];
  if (symbol.next < 0) return;
  const Merge* merge = merges_.find(symbol.id, scratch.symbols[static_cast<size_t>(symbol.next)].id);
  if (merge == nullptr) return;
  scratch.queue.push_back({merge->rank, left, merge->id});
  std::push_heap(scratch.queue.begin(), scratch.queue.end(), comes_later);
}

void Bpe::merge_all(Scratch& scratch, Work& work) const {
  std::vector<Symbol>& symbols = scratch.symbols;
  auto count = static_cast<int32_t>(symbols.size());
  int32_t begin = 0;
  for (int32_t i = 1; junctions_ && i < count; ++i) {
    Symbol &left = symbols[static_cast<size_t>(i - 1)], &right = symbols[static_cast<size_t>(i)];
    if (junctions_->has(left.id, right.id)) continue;
    left.next = right.previous = -1;
    merge_stretch(begin, i, scratch, work);
    begin = i;
  }
  merge_stretch(begin, count, scratch, work);
}

// Every merge queues at most two candidates and n symbols allow n - 1 merges: at most 3 n steps.
void Bpe::merge_stretch(int32_t begin, int32_t end, Scratch& scratch, Work& work) const {
  std::vector<Symbol>& symbols = scratch.symbols;
  scratch.queue.clear();
  for (int32_t i = begin; i + 1 < end; ++i) propose(i, scratch);
  while (!scratch.queue.empty()) {
    ++work.merge_steps;
    std::pop_heap(scratch.queue.begin(), scratch.queue.end(), comes_later);
    Candidate candidate = scratch.queue.back();
    scratch.queue.pop_back();
    Symbol& left = symbols[static_cast<size_t>(candidate.left)];
    if (!left.alive || left.next < 0) continue;
    Symbol& right = symbols[static_cast<size_t>(left.next)];
    // Out of date when the pair has changed. A different pair that makes the same token is as good.
    const Merge* merge = merges_.find(left.id, right.id);
    if (merge == nullptr || merge->id != candidate.id) continue;
    left.id = candidate.id;
    left.next = right.next;
    right.alive = false;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = candidate.left;
    propose(left.previous, scratch);
    propose(candidate.left, scratch);
  }
}

void Bpe::encode(std::span<const Piece> pieces, std::vector<int32_t>& ids, Work& work) const {
  Scratch scratch;
  for (const Piece& piece : pieces) {
    if (options_.ignore_merges) {
      if (auto whole = vocabulary_.id(piece.text)) {
        ids.push_back(*whole);
        continue;
      }
    }
    split(piece.text, scratch);
    merge_all(scratch, work);
    for (const Symbol& symbol : scratch.symbols)
      if (symbol.alive) ids.push_back(symbol.id);
  }
}

bool is_inside_character(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

std::optional<int32_t> first_character(const Vocabulary& vocabulary, std::string_view token) {
  size_t end = 1;
  while (end < token.size() && is_inside_character(token[end])) ++end;
  return vocabulary.id(token.substr(0, end));
}

std::optional<int32_t> last_character(const Vocabulary& vocabulary, std::string_view token) {
  size_t begin = token.size() - 1;
  while (begin > 0 && is_inside_character(token[begin])) --begin;
  return vocabulary.id(token.substr(begin));
}

bool is_byte_token(std::string_view token) { return token.size() == 6 && token.starts_with("<0x") && token[5] == '>'; }

// Nothing when a piece does not start as the characters of which tokens are made.
std::optional<Junctions> find_junctions(const Vocabulary& vocabulary, const Merges& merges, const BpeOptions& options) {
  if (!options.continuing_prefix.empty() || !options.end_suffix.empty()) return std::nullopt;
  auto is_special = [&](const std::string& token) {
    return token.empty() || is_byte_token(token) || token == options.unknown;
  };
  Junctions junctions(merges.size());
  for (const auto& [left, right] : merges) {
    if (is_special(left) || is_special(right)) return std::nullopt;
    auto last = last_character(vocabulary, left), first = first_character(vocabulary, right);
    if (!last || !first) return std::nullopt;
    junctions.put(*last, *first);
  }
  return junctions;
}

}  // namespace

Result<std::unique_ptr<TokenModel>> make_bpe(const Vocabulary& vocabulary, const Merges& merges, BpeOptions options,
                                             const std::string& where) {
  MergeTable table(merges.size());
  if (options.unknown && !vocabulary.id(*options.unknown))
    return fail(ErrorCode::corrupt, "{}: the unknown token \"{}\" is not in the vocabulary", where, *options.unknown);
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string &left = merges[rank].first, &right = merges[rank].second;
    auto absent = [&](const std::string& token) {
      return fail(ErrorCode::corrupt, "{}: merge {} (\"{}\" + \"{}\") names \"{}\", which is not in the vocabulary",
                  where, rank, left, right, token);
    };
    auto left_id = vocabulary.id(left), right_id = vocabulary.id(right);
    if (!left_id) return absent(left);
    if (!right_id) return absent(right);
    if (right.size() < options.continuing_prefix.size())
      return fail(ErrorCode::corrupt, "{}: merge {}: \"{}\" lacks the prefix \"{}\"", where, rank, right,
                  options.continuing_prefix);
    std::string merged = left + right.substr(options.continuing_prefix.size());
    auto merged_id = vocabulary.id(merged);
    if (!merged_id) return absent(merged);
    // Of two equal pairs the later one counts.
    table.put(*left_id, *right_id, {static_cast<uint32_t>(rank), *merged_id});
  }
  auto junctions = find_junctions(vocabulary, merges, options);
  return std::make_unique<Bpe>(vocabulary, std::move(table), std::move(junctions), std::move(options));
}

}  // namespace nibble
