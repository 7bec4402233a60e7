// bf16 weights times bf16 input in tiles: tdpbf16ps multiplies 16 tokens x 32 inputs with 32 inputs x 16 outputs in 16
// cycles. Its second operand is 16 rows of a pair of inputs of 16 outputs: sixteen pairs of a panel as they are packed.
//
// Blocking: up to 512 tokens, as many as their input fits a share of the L2 cache; inside, strips of two panels;
// inside, chunks of 512 inputs, whose weights (32 KiB) stay in the L1 cache; inside, tiles of 32 tokens x 32 outputs.
// Tile registers: 4 sums, 2 inputs, 2 weights of 8, so that four loads, two of them from the L2 cache, feed four
// multiplications. While a chunk is multiplied, the next one is asked for, a share with every tile. Between chunks the
// sums rest in memory, which changes no bit.
#include "kernels/amx/intrinsics.h"
#include "kernels/amx/rows.h"
#include "kernels/amx/tiles.h"

namespace nibble::amx {
namespace {

constexpr int kPanels = 2, kHalves = 2;  // of a tile: outputs and tokens come in halves of 16
constexpr int64_t kHalfTokens = 16, kTileTokens = 32;
constexpr int64_t kInputBytes = 1 << 20;  // of a block of tokens
constexpr int64_t kTileInputs = 32, kTileBytes = 1024, kLine = 64;
constexpr int64_t kChunkBlocks = 16, kMostTiles = 16;
constexpr int64_t kAhead = 4;  // tiles of weights asked for before they are used, where no tile before did so

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

template <int Sums, int Inputs, int Weights>
[[gnu::always_inline]] inline void multiply_tiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sums), "i"(Inputs), "i"(Weights));
}

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

// A part of the inputs of a strip, and what to ask for while it is multiplied: how many tiles of the next chunk with
// every tile of tokens, from each of its panels. Negative: there is one tile only, which asks for its own.
struct Chunk {
  int64_t begin, end, share;  // blocks of inputs
};

struct Strip {
  const LinearArgs& args;
  int64_t panel;
  const int64_t blocks = (args.dense.k + kTileInputs - 1) / kTileInputs;
  const int64_t panel_bytes = blocks * kTileBytes;
  const uint8_t* weights = static_cast<const uint8_t*>(args.dense.codes) + panel * panel_bytes;

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

  // The next chunk follows this one in both panels, and after the last one the next strip does.
  const uint8_t* after(const Chunk& chunk) const {
    return weights + (chunk.end < blocks ? chunk.end * kTileBytes : kPanels * panel_bytes);
  }

  // Sums of tile number `number` += input * weights over a chunk.
  template <int H>
  void multiply(const Tokens& tokens, Sums& sums, const Chunk& chunk, int64_t number) const {
    const int64_t stride = args.x_stride * 2;
    const auto* x = reinterpret_cast<const uint8_t*>(args.halves) + tokens.first * stride;
    load_tile<0>(sums.at[0][0], kLine);
    load_tile<1>(sums.at[0][1], kLine);
    if constexpr (H == 2) {
      load_tile<2>(sums.at[1][0], kLine);
      load_tile<3>(sums.at[1][1], kLine);
    }
    const uint8_t* next = after(chunk) + number * chunk.share * kTileBytes;
    for (int64_t block = chunk.begin; block < chunk.end; ++block) {
      const uint8_t* at = weights + block * kTileBytes;
      load_tile<4>(x + block * kLine, stride);
      load_tile<6>(at, kLine);
      multiply_tiles<0, 4, 6>();
      load_tile<7>(at + panel_bytes, kLine);
      multiply_tiles<1, 4, 7>();
      if constexpr (H == 2) {
        load_tile<5>(x + tokens.half * stride + block * kLine, stride);
        multiply_tiles<2, 5, 6>();
        multiply_tiles<3, 5, 7>();
      }
      if (chunk.share < 0) {
        ask_for_tile<1>(at + kAhead * kTileBytes);
        ask_for_tile<1>(at + panel_bytes + kAhead * kTileBytes);
      } else if (block - chunk.begin < chunk.share) {
        ask_for_tile<2>(next);
        ask_for_tile<2>(next + panel_bytes);
        next += kTileBytes;
      }
    }
    store_tile<0>(sums.at[0][0], kLine);
    store_tile<1>(sums.at[0][1], kLine);
    if constexpr (H == 2) {
      store_tile<2>(sums.at[1][0], kLine);
      store_tile<3>(sums.at[1][1], kLine);
    }
  }

  // Tokens [m_begin, m_end), at most kMostTiles tiles. Panels are packed in pairs, so that there always is a second
  // one.
  void run(int64_t m_begin, int64_t m_end) const {
    const int64_t count = m_end - m_begin, tiles = (count + kTileTokens - 1) / kTileTokens;
    Sums sums[kMostTiles];
    int64_t configured = 0;
    Chunk chunk{0, 0, tiles == 1 ? -1 : (kChunkBlocks + tiles - 1) / tiles};
    do {  // once even without inputs: y must become r
      chunk.begin = chunk.end;
      chunk.end = smaller(blocks, tiles == 1 ? blocks : chunk.begin + kChunkBlocks);
      for (int64_t tile = 0; tile < tiles; ++tile) {  // as equal as can be
        const int64_t first = count * tile / tiles, in_tile = count * (tile + 1) / tiles - first;
        const Tokens tokens{m_begin + first, in_tile > kHalfTokens ? (in_tile + 1) / 2 : in_tile, in_tile};
        if (configured != in_tile) configure(tokens);
        configured = in_tile;
        if (chunk.begin == 0) begin(tokens, sums[tile]);
        if (in_tile > kHalfTokens) {
          multiply<2>(tokens, sums[tile], chunk, tile);
        } else {
          multiply<1>(tokens, sums[tile], chunk, tile);
        }
        if (chunk.end == blocks) finish(tokens, sums[tile]);
      }
    } while (chunk.end < blocks);
  }
};

}  // namespace

void linear_bf16_tiles(const LinearArgs& args) {
  const int64_t row_bytes = args.x_stride * 2;
  const int64_t tiles = kInputBytes / (kTileTokens * (row_bytes > 0 ? row_bytes : 1));
  const int64_t tokens = kTileTokens * smaller(kMostTiles, tiles > 0 ? tiles : 1);
  for (int64_t m = args.m_begin; m < args.m_end; m += tokens)
    for (int64_t panel = args.panel_begin; panel < args.panel_end; panel += kPanels)
      Strip{args, panel}.run(m, smaller(m + tokens, args.m_end));
  release_tiles();
}

}  // namespace nibble::amx
