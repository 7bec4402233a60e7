// Coded weights times bf16 input of up to 32 tokens, in tiles.
//
// Tile registers: 4 sums, of one half of the tokens and four panels or of two halves and two panels; the input of each
// half; 2 weights. Codes of a panel are opened 64 inputs at a time into scratch in the first-level cache, and
// multiplied beside the next 64 of it: a tile that is loaded from stores still on their way waits for them, a sum
// waits 52 cycles for the one before, and the unit that multiplies tiles works while the vector units open codes.
#include "kernels/amx/intrinsics.h"
#include "kernels/amx/rows.h"
#include "kernels/amx/tiles.h"

namespace nibble::amx {
namespace {

constexpr int64_t kHalfTokens = 16, kLine = 64, kTileBytes = 1024;
constexpr int64_t kTurnInputs = 64, kTurnTiles = kTurnInputs / kUnitInputs;
constexpr int64_t kAhead = 2048;  // bytes of a panel's codes

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

template <int N, int I = 0, class Body>
[[gnu::always_inline]] inline void unrolled(const Body& body) {
  if constexpr (I < N) {
    body.template operator()<I>();
    unrolled<N, I + 1>(body);
  }
}

// Halves of the tokens, and how many panels side by side.
template <int H>
struct Tile {
  static constexpr int kPanels = H == 1 ? 4 : 2;
  const LinearArgs& args;
  int64_t panel;
  const PackedDense& dense = args.dense;
  const int64_t count = args.m_end - args.m_begin, half = H == 1 ? count : (count + 1) / 2;
  const int64_t inputs = (dense.k + kUnitInputs - 1) / kUnitInputs * kUnitInputs, stride = args.x_stride * 2;
  const int64_t unit_bytes = inputs > 0 ? dense.panel_bytes* kUnitInputs / inputs : 0;  // where widths differ, about
  const uint8_t* const x = reinterpret_cast<const uint8_t*>(args.halves + args.m_begin * args.x_stride);

  // Two turns' tiles of every panel. What is stored and what is loaded at a time are in different halves of a page: a
  // load that has the lowest twelve bits of its address in common with a store before it waits for that.
  struct Turns {
    alignas(4096) uint16_t weights[kPanels][2][kTurnTiles][kTileBytes / 2];
  };

  int64_t count_of(int h) const { return h == 0 ? half : count - half; }

  void configure() const {
    TileShapes shapes;
    for (int tile = 0; tile < 8; ++tile) {
      const int64_t rows = tile > 5 ? 16 : tile < 4 ? count_of(tile / kPanels) : tile - 4 < H ? count_of(tile - 4) : 0;
      shapes.row_bytes[tile] = rows > 0 ? 64 : 0;
      shapes.rows[tile] = static_cast<uint8_t>(rows);
    }
    load_shapes(shapes);
  }

  // Panels that there are not are opened as the last one.
  void open(int64_t k, int p, Turns& turns) const {
    const int64_t end = smaller(inputs, k + kTurnInputs), from = smaller(panel + p, args.panel_end - 1);
    const auto* codes = static_cast<const char*>(dense.codes) + from * dense.panel_bytes + k / kUnitInputs * unit_bytes;
    for (int64_t line = 0; line < kTurnTiles * unit_bytes; line += kLine)
      __builtin_prefetch(codes + kAhead + line, 0, 3);
    args.open(dense, from, k, end, turns.weights[p][k / kTurnInputs % 2][0]);
  }

  // Unit i of a turn, all panels.
  void multiply(int64_t k, int64_t i, const Turns& turns) const {
    if (k + i * kUnitInputs >= inputs) return;
    const uint8_t* input = x + k * 2 + i * kLine;
    load_tile<4>(input, stride);
    if constexpr (H == 2) load_tile<5>(input + half * stride, stride);
    unrolled<kPanels>([&]<int p>() {
      load_tile<6 + p % 2>(turns.weights[p][k / kTurnInputs % 2][i], kLine);
      multiply_tiles<p, 4, 6 + p % 2>();
      if constexpr (H == 2) multiply_tiles<2 + p, 5, 6 + p % 2>();
    });
  }

  // Sums of tile register T: of 16 tokens, 16 outputs each.
  __mmask16 lanes_of(int t) const {
    const int64_t left = smaller(dense.n, args.panel_end * kLanes) - (panel + t % kPanels) * kLanes;
    if (left <= 0) return 0;
    return static_cast<__mmask16>(left >= kLanes ? 0xFFFF : (1u << left) - 1);
  }
  float* outputs(int t, int64_t i) const {
    const int64_t m = args.m_begin + t / kPanels * half + i;
    return args.y + m * args.y_stride + (panel + t % kPanels) * kLanes;
  }

  template <int T>
  void begin(__m512 (&rows)[kHalfTokens]) const {
    const __mmask16 lanes = lanes_of(T);
    const int64_t n = (panel + T % kPanels) * kLanes;
    const __m512 bias = args.bias == nullptr ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(lanes, args.bias + n);
    for (int64_t i = 0; i < count_of(T / kPanels); ++i)
      rows[i] = args.begun ? _mm512_maskz_loadu_ps(lanes, outputs(T, i)) : bias;
    load_tile<T>(rows, kLine);
  }

  template <int T>
  void finish(__m512 (&rows)[kHalfTokens]) const {
    store_tile<T>(rows, kLine);
    for (int64_t i = 0; i < count_of(T / kPanels); ++i) _mm512_mask_storeu_ps(outputs(T, i), lanes_of(T), rows[i]);
  }

  void run() const {
    Turns turns;
    __m512 rows[kHalfTokens];
    unrolled<4>([&]<int t>() { begin<t>(rows); });
    constexpr int kOpenings = kPanels / kTurnTiles;  // beside a unit of the turn before
    int64_t k = 0;
    for (; k < inputs; k += kTurnInputs)
      for (int i = 0; i < kTurnTiles; ++i) {
        for (int p = i * kOpenings; p < (i + 1) * kOpenings; ++p) open(k, p, turns);
        if (k > 0) multiply(k - kTurnInputs, i, turns);
      }
    for (int i = 0; k > 0 && i < kTurnTiles; ++i) multiply(k - kTurnInputs, i, turns);
    unrolled<4>([&]<int t>() { finish<t>(rows); });
  }

  static void run_all(const LinearArgs& args) {
    Tile tile{args, args.panel_begin};
    tile.configure();
    for (; tile.panel < args.panel_end; tile.panel += kPanels) tile.run();
    release_tiles();
  }
};

}  // namespace

void linear_coded_tile(const LinearArgs& args) {
  const int64_t count = args.m_end - args.m_begin;
  if (count > 0) (count > kHalfTokens ? Tile<2>::run_all : Tile<1>::run_all)(args);
}

}  // namespace nibble::amx
