// bf16 weights times bf16 input in tiles: tdpbf16ps multiplies 16 tokens x 32 inputs with 32 inputs x 16 outputs in 16
// cycles. Its second operand is 16 rows of a pair of inputs of 16 outputs: sixteen pairs of a panel as they are packed.
//
// Blocking: up to 512 tokens and 256 outputs, whose sums (512 KiB) rest in the L2 cache between chunks of 512 inputs,
// beside the chunk's input of all those tokens (512 KiB); inside a chunk, strips of two panels, whose weights (32 KiB)
// stay in the L1 cache; inside, tiles of 32 tokens x 32 outputs. Tile registers: 4 sums, 2 inputs, 2 weights of 8, so
// that four loads, two of them from the L2 cache, feed four multiplications; their lines, and the next tile's sums, are
// asked for ahead, and so are the weights of the next strip and the input of the next chunk. Resting in memory changes
// no bit.
//
// Coded weights are opened to the same tiles when a strip's turn in a chunk comes, once for all of the tokens. Up to 32
// tokens run in linear_coded.cpp.
#include "kernels/amx/intrinsics.h"
#include "kernels/amx/rows.h"
#include "kernels/amx/tiles.h"

namespace nibble::amx {
namespace {

constexpr int kPanels = 2, kHalves = 2;  // of a tile: outputs and tokens come in halves of 16
constexpr int64_t kHalfTokens = 16, kTileTokens = 32;
constexpr int64_t kTileInputs = 32, kTileBytes = 1024, kLine = 64;
constexpr int64_t kChunkBlocks = 16;             // of 32 inputs
constexpr int64_t kMostTiles = 16, kStrips = 8;  // whose sums rest together, on the stack
constexpr int64_t kAhead = 4;  // tiles of weights asked for before they are used, where no tile before did so

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// The sums of a tile, by half of the tokens and panel: one vector of 16 outputs for every token.
struct Sums {
  __m512 at[kHalves][kPanels][kHalfTokens];
};

// The tokens of a tile: those of the first half, which is full or as full as the second, and all.
struct Tokens {
  int64_t first, half, count;
  int64_t count_of(int h) const { return h == 0 ? half : count - half; }
  int64_t first_of(int h) const { return first + h * half; }
};

// Tile registers: the sums of both halves of the tokens with the first panel (0, 2) and the second (1, 3), the input of
// both halves (4, 5), the weights of both panels (6, 7).
void configure(const Tokens& tokens) {
  TileShapes shapes;
  for (int tile = 0; tile < 8; ++tile) {
    const int half = tile == 2 || tile == 3 || tile == 5 ? 1 : 0;
    const int64_t rows = tile > 5 ? 16 : tokens.count_of(half);
    shapes.row_bytes[tile] = rows > 0 ? 64 : 0;
    shapes.rows[tile] = static_cast<uint8_t>(rows);
  }
  load_shapes(shapes);
}

// Into the cache of that level.
template <int kLevel>
[[gnu::always_inline]] inline void ask_for_tile(const uint8_t* weights) {
  for (int64_t line = 0; line < kTileBytes; line += kLine) __builtin_prefetch(weights + line, 0, 4 - kLevel);
}

[[gnu::always_inline]] inline void ask_for_lines(const uint8_t* from, int64_t stride, int64_t count) {
  for (; count > 0; --count, from += stride) asm volatile("prefetcht0 (%0)" : : "r"(from));
}

// A part of the inputs, in blocks of 32.
struct Chunk {
  int64_t begin, end;
};

// What the tiles of a strip ask for, a share each, since it is next: weights, and a part of the next chunk's input.
struct Ahead {
  const uint8_t* weights = nullptr;
  int64_t panel_bytes = 0, lines = 0;           // between panels, and of each of them
  int64_t share = 0;                            // of those lines, for each block of a tile of tokens
  int64_t inputs = 0, x_line = 0, x_lines = 0;  // bytes into the rows; lines of each
};

// Two panels.
struct Strip {
  const LinearArgs& args;
  int64_t panel;
  const bool coded = args.dense.type == PackedType::coded_tiles;
  const int64_t blocks = (args.dense.k + kTileInputs - 1) / kTileInputs;
  const int64_t stored_bytes = coded ? args.dense.panel_bytes : blocks * kTileBytes;  // of a panel
  const uint8_t* stored = static_cast<const uint8_t*>(args.dense.codes) + panel * stored_bytes;
  // What is multiplied: as stored, or opened, but always as if from the first block on.
  int64_t panel_bytes = stored_bytes;
  const uint8_t* weights = stored;
  const uint8_t* x = reinterpret_cast<const uint8_t*>(args.halves);
  const int64_t stride = args.x_stride * 2;

  __mmask16 lanes_of(int p) const {
    const int64_t left = smaller(args.dense.n, args.panel_end * kLanes) - (panel + p) * kLanes;
    if (left <= 0) return 0;
    return static_cast<__mmask16>(left >= kLanes ? 0xFFFF : (1u << left) - 1);
  }

  float* outputs(int64_t m, int p) const { return args.y + m * args.y_stride + (panel + p) * kLanes; }

  void begin(const Tokens& tokens, Sums& sums) const {
    for (int p = 0; p < kPanels; ++p) {
      const __mmask16 lanes = lanes_of(p);
      const __m512 bias =
          args.bias == nullptr ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(lanes, args.bias + (panel + p) * kLanes);
      for (int h = 0; h < kHalves; ++h)
        for (int64_t i = 0; i < tokens.count_of(h); ++i)
          sums.at[h][p][i] = args.begun ? _mm512_maskz_loadu_ps(lanes, outputs(tokens.first_of(h) + i, p)) : bias;
    }
  }

  void finish(const Tokens& tokens, const Sums& sums) const {
    for (int p = 0; p < kPanels; ++p) {
      const __mmask16 lanes = lanes_of(p);
      for (int h = 0; h < kHalves; ++h)
        for (int64_t i = 0; i < tokens.count_of(h); ++i)
          _mm512_mask_storeu_ps(outputs(tokens.first_of(h) + i, p), lanes, sums.at[h][p][i]);
    }
  }

  // Sums of one tile += input * weights over a chunk. `next`: the sums of the tile that follows. With kAlone, no tile
  // before has asked for the weights.
  template <int H, bool kAlone>
  void multiply(const Tokens& tokens, Sums& sums, const Sums* next, const Chunk& chunk, const Ahead& ahead,
                int64_t number) const {
    const uint8_t* rows = x + tokens.first * stride;
    const int64_t length = chunk.end - chunk.begin;
    load_tile<0>(sums.at[0][0], kLine);
    load_tile<1>(sums.at[0][1], kLine);
    if constexpr (H == 2) {
      load_tile<2>(sums.at[1][0], kLine);
      load_tile<3>(sums.at[1][1], kLine);
    }
    for (int64_t i = 0; i < length; ++i) {
      const int64_t block = chunk.begin + i;
      const uint8_t *at = weights + block * kTileBytes, *input = rows + block * kLine;
      load_tile<4>(input, stride);
      load_tile<6>(at, kLine);
      if constexpr (!kAlone) ask_for_lines(input + kLine, stride, kHalfTokens);
      multiply_tiles<0, 4, 6>();
      load_tile<7>(at + panel_bytes, kLine);
      if constexpr (kAlone) {
        ask_for_tile<1>(at + kAhead * kTileBytes);
        ask_for_tile<1>(at + panel_bytes + kAhead * kTileBytes);
      } else {
        const int64_t line = (number * kChunkBlocks + i) * ahead.share, end = smaller(line + ahead.share, ahead.lines);
        for (int64_t at_line = line; at_line < end; ++at_line) {
          __builtin_prefetch(ahead.weights + at_line * kLine, 0, 2);
          __builtin_prefetch(ahead.weights + ahead.panel_bytes + at_line * kLine, 0, 2);
        }
      }
      multiply_tiles<1, 4, 7>();
      if constexpr (H == 2) {
        load_tile<5>(input + tokens.half * stride, stride);
        if constexpr (!kAlone) ask_for_lines(input + tokens.half * stride + kLine, stride, kHalfTokens);
        multiply_tiles<2, 5, 6>();
        if (next != nullptr) ask_for_lines(reinterpret_cast<const uint8_t*>(next) + i * 4 * kLine, kLine, 4);
        multiply_tiles<3, 5, 7>();
      }
      for (int64_t m = tokens.count * i / length; m < tokens.count * (i + 1) / length; ++m)
        for (int64_t line = 0; line < ahead.x_lines; ++line)
          __builtin_prefetch(rows + m * stride + ahead.inputs + (ahead.x_line + line) * kLine, 0, 2);
    }
    store_tile<0>(sums.at[0][0], kLine);
    store_tile<1>(sums.at[0][1], kLine);
    if constexpr (H == 2) {
      store_tile<2>(sums.at[1][0], kLine);
      store_tile<3>(sums.at[1][1], kLine);
    }
  }
};

// Up to kMostTiles tiles of tokens and kStrips strips. Panels are packed in pairs, so that each has its second one.
struct Group {
  const LinearArgs& args;
  const int64_t count = args.m_end - args.m_begin, tiles = (count + kTileTokens - 1) / kTileTokens;
  const int64_t strips = (args.panel_end - args.panel_begin + kPanels - 1) / kPanels;
  int64_t configured = 0;
  uint16_t (&opened)[kPanels][kChunkBlocks * kTileBytes / 2];

  void run(Sums* sums) {
    const int64_t blocks = Strip{args, 0}.blocks;
    Chunk chunk{0, 0};
    do {  // once even without inputs: y must become r
      chunk.begin = chunk.end;
      chunk.end = smaller(blocks, tiles == 1 && strips == 1 ? blocks : chunk.begin + kChunkBlocks);
      for (int64_t s = 0; s < strips; ++s) run_strip(s, chunk, sums + s * tiles);
    } while (chunk.end < blocks);
  }

  void run_strip(int64_t s, const Chunk& chunk, Sums* sums) {
    Strip strip{args, args.panel_begin + s * kPanels};
    if (strip.coded) open(chunk, strip);
    const Ahead ahead = ahead_of(strip, s, chunk);
    for (int64_t tile = 0; tile < tiles; ++tile) {  // as equal as can be
      const int64_t first = count * tile / tiles, in_tile = count * (tile + 1) / tiles - first;
      const Tokens tokens{args.m_begin + first, in_tile > kHalfTokens ? (in_tile + 1) / 2 : in_tile, in_tile};
      if (configured != in_tile) configure(tokens);
      configured = in_tile;
      if (chunk.begin == 0) strip.begin(tokens, sums[tile]);
      const Sums* next = chunk.begin > 0 && tile + 1 < tiles ? &sums[tile + 1] : nullptr;
      const auto multiply = in_tile > kHalfTokens
                                ? (tiles == 1 ? &Strip::multiply<2, true> : &Strip::multiply<2, false>)
                                : (tiles == 1 ? &Strip::multiply<1, true> : &Strip::multiply<1, false>);
      (strip.*multiply)(tokens, sums[tile], next, chunk, ahead, tile);
      if (chunk.end == strip.blocks) strip.finish(tokens, sums[tile]);
    }
  }

  void open(const Chunk& chunk, Strip& strip) {
    strip.panel_bytes = kChunkBlocks * kTileBytes;
    for (int p = 0; p < kPanels; ++p)
      args.open(args.dense, strip.panel + p, chunk.begin * kTileInputs, chunk.end * kTileInputs, opened[p]);
    strip.weights = reinterpret_cast<const uint8_t*>(opened) - chunk.begin * kTileBytes;
  }

  // The next strip's part of the chunk; after the last one the next chunk, and after that the panels that follow.
  Ahead ahead_of(const Strip& strip, int64_t s, const Chunk& chunk) const {
    Ahead ahead;
    if (tiles == 1) return ahead;
    const bool last_chunk = chunk.end == strip.blocks;
    const Strip following{args, s + 1 < strips || last_chunk ? strip.panel + kPanels : args.panel_begin};
    const int64_t block = s + 1 < strips ? chunk.begin : last_chunk ? 0 : chunk.end;
    const int64_t block_bytes = strip.blocks > 0 ? strip.stored_bytes / strip.blocks : 0;  // codes: about
    ahead.weights = following.stored + block * block_bytes;
    ahead.panel_bytes = strip.stored_bytes;
    ahead.lines = kChunkBlocks * block_bytes / kLine;
    ahead.share = (ahead.lines + tiles * kChunkBlocks - 1) / (tiles * kChunkBlocks);
    if (last_chunk) return ahead;
    ahead.inputs = chunk.end * kLine;
    ahead.x_line = kChunkBlocks * s / strips;
    ahead.x_lines = kChunkBlocks * (s + 1) / strips - ahead.x_line;
    return ahead;
  }
};

}  // namespace

void linear_bf16_tiles(const LinearArgs& args) {
  Sums sums[kMostTiles * kStrips];
  alignas(64) uint16_t opened[kPanels][kChunkBlocks * kTileBytes / 2];
  const int64_t count = args.m_end - args.m_begin,
                cuts = (count + kMostTiles * kTileTokens - 1) / (kMostTiles * kTileTokens);
  // Few tokens: the weights are read once, in order.
  const int64_t width = kPanels * (count <= kTileTokens ? 1 : kStrips);
  LinearArgs part = args;
  for (int64_t cut = 0; cut < cuts; ++cut) {  // as equal as can be
    part.m_begin = args.m_begin + count * cut / cuts;
    part.m_end = args.m_begin + count * (cut + 1) / cuts;
    for (part.panel_begin = args.panel_begin; part.panel_begin < args.panel_end; part.panel_begin += width) {
      part.panel_end = smaller(args.panel_end, part.panel_begin + width);
      Group{.args = part, .opened = opened}.run(sums);
    }
  }
  release_tiles();
}

void linear_coded_tiles(const LinearArgs& args) {
  (args.m_end - args.m_begin <= kTileTokens ? linear_coded_tile : linear_bf16_tiles)(args);
}

}  // namespace nibble::amx
