// bf16 weights times bf16 input: vdpbf16ps multiplies a pair of inputs (broadcast) with a pair of every lane and adds
// both products to the lane's float32, in the order that kernels/abi defines.
//
// A tile is M tokens x P panels. Registers of 12 x 32 (P = 2): 24 accumulators + 2 weights + 1 broadcast = 27 of 32.
// Fewer tokens take more panels, so that enough independent sums hide the instruction's latency. A strip of two panels
// (a pair of inputs is 128 bytes, so 256 KiB for 4096) stays in the L2 cache while all tokens pass.
#include "kernels/avx512bf16/intrinsics.h"
#include "kernels/avx512bf16/rows.h"

namespace nibble::avx512bf16 {
namespace {

// body(0), body(1) .. body(N - 1) with constants: an array that only such bodies index stays in registers.
template <int I>
struct Constant {
  constexpr operator int() const { return I; }
};

template <int N, int I = 0, class Body>
[[gnu::always_inline]] inline void unrolled(const Body& body) {
  if constexpr (I < N) {
    body(Constant<I>());
    unrolled<N, I + 1>(body);
  }
}

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Outputs from N on do not exist in y.
inline __mmask16 lanes_of(const LinearArgs& args, int64_t panel) {
  const int64_t left = smaller(args.dense.n - panel * kLanes, kLanes);
  return static_cast<__mmask16>((1u << left) - 1);
}

// acc += both products of every lane. In assembly because g++ 12, given the intrinsic, keeps two copies of every
// accumulator of a large tile and spills one.
[[gnu::always_inline]] inline void dot2(__m512& acc, __m512i x, __m512i w) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
}

inline __m512i broadcast2(const uint16_t* x) {
  int32_t pair;
  __builtin_memcpy(&pair, x, sizeof pair);
  return _mm512_set1_epi32(pair);
}

// Weights come from the L2 cache for every tile of tokens, and from memory when there are few tokens: ask for them
// early.
constexpr int64_t kPrefetchValues = 512;

template <int M, int P>
[[gnu::noinline]] void tile(const LinearArgs& args, int64_t m, int64_t panel) {
  const int64_t pairs = (args.dense.k + 1) / 2, panel_values = pairs * 2 * kLanes;
  const uint16_t* weights = static_cast<const uint16_t*>(args.dense.codes) + panel * panel_values;
  __m512 acc[M][P];
  unrolled<P>([&](auto p) __attribute__((always_inline)) {
    const __mmask16 lanes = lanes_of(args, panel + p);
    const float* from = args.y + m * args.y_stride + (panel + p) * kLanes;
    const __m512 bias = args.bias == nullptr ? _mm512_setzero_ps() : _mm512_loadu_ps(args.bias + (panel + p) * kLanes);
    unrolled<M>([&](auto i) __attribute__((always_inline)) {
      acc[i][p] = args.begun ? _mm512_maskz_loadu_ps(lanes, from + i * args.y_stride) : bias;
    });
  });
  // Three tokens are addressed from one pointer: more pointers than that do not fit the registers.
  const int64_t stride = args.x_stride;
  const uint16_t* x[4];
  unrolled<(M + 2) / 3>([&](auto i) { x[i] = args.halves + (m + 3 * i) * stride; });
  for (int64_t pair = 0; pair < pairs; ++pair, weights += 2 * kLanes) {
    __m512i w[P];
    unrolled<P>([&](auto p) __attribute__((always_inline)) {
      _mm_prefetch(reinterpret_cast<const char*>(weights + p * panel_values + kPrefetchValues), _MM_HINT_T0);
      w[p] = _mm512_loadu_si512(weights + p * panel_values);
    });
    unrolled<M>([&](auto i) __attribute__((always_inline)) {
      const __m512i value = broadcast2(x[i / 3] + i % 3 * stride);
      unrolled<P>([&](auto p) __attribute__((always_inline)) { dot2(acc[i][p], value, w[p]); });
    });
    unrolled<(M + 2) / 3>([&](auto i) __attribute__((always_inline)) { x[i] += 2; });
  }
  unrolled<P>([&](auto p) __attribute__((always_inline)) {
    const __mmask16 lanes = lanes_of(args, panel + p);
    float* to = args.y + m * args.y_stride + (panel + p) * kLanes;
    unrolled<M>([&](auto i) __attribute__((always_inline)) {
      _mm512_mask_storeu_ps(to + i * args.y_stride, lanes, acc[i][p]);
    });
  });
}

using Tile = void (*)(const LinearArgs&, int64_t m, int64_t panel);
constexpr int64_t kTileTokens = 12;

// All tokens, P panels at a time as long as there are that many; the next panel.
template <int P>
int64_t run_strips(const LinearArgs& args, const Tile* tile_of, int64_t panel) {
  const int64_t m = args.m_end - args.m_begin, tiles = (m + kTileTokens - 1) / kTileTokens;
  for (; panel + P <= args.panel_end; panel += P)
    for (int64_t i = 0; i < tiles; ++i) {
      // Tiles as equal as can be: seven and six tokens rather than twelve and one.
      const int64_t begin = m * i / tiles, end = m * (i + 1) / tiles;
      tile_of[end - begin](args, args.m_begin + begin, panel);
    }
  return panel;
}

template <int P>
constexpr Tile kTiles[] = {nullptr,    tile<1, P>, tile<2, P>, tile<3, P>,  tile<4, P>,  tile<5, P>, tile<6, P>,
                           tile<7, P>, tile<8, P>, tile<9, P>, tile<10, P>, tile<11, P>, tile<12, P>};
constexpr Tile kFourPanels[] = {nullptr, tile<1, 4>, tile<2, 4>, tile<3, 4>, tile<4, 4>, tile<5, 4>, tile<6, 4>};

}  // namespace

void linear_bf16_pairs(const LinearArgs& args) {
  int64_t panel = args.panel_begin;
  if (args.m_end - args.m_begin <= 6) panel = run_strips<4>(args, kFourPanels, panel);
  panel = run_strips<2>(args, kTiles<2>, panel);
  run_strips<1>(args, kTiles<1>, panel);
}

// Panels that are multiplied together are opened together, 32 KiB at a time, and multiplied from there; sums rest in y.
void linear_coded_pairs(const LinearArgs& args) {
  constexpr int64_t kValues = 16384;
  alignas(64) uint16_t pairs[kValues + kUnitInputs * kLanes];  // a last unit may reach beyond
  const int64_t together = args.m_end - args.m_begin <= 6 ? 4 : 2, inputs = kValues / kLanes / together;
  for (int64_t panel = args.panel_begin; panel < args.panel_end; panel += together) {
    LinearArgs part = args;
    part.panel_begin = 0;
    part.panel_end = smaller(together, args.panel_end - panel);
    part.dense.n -= panel * kLanes;
    if (part.bias != nullptr) part.bias += panel * kLanes;
    part.y += panel * kLanes;
    part.dense.codes = pairs;
    for (int64_t k = 0; k < args.dense.k; k += inputs) {
      part.dense.k = smaller(inputs, args.dense.k - k);
      const int64_t panel_values = (part.dense.k + 1) / 2 * 2 * kLanes;
      for (int64_t p = 0; p < part.panel_end; ++p)
        args.open(args.dense, panel + p, k, k + part.dense.k, pairs + p * panel_values);
      linear_bf16_pairs(part);
      part.begun = true;
      part.halves += inputs;
    }
  }
}

}  // namespace nibble::avx512bf16
