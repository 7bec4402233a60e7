#include "runtime/attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/random.h"
#include "runtime/random_source.h"

namespace nibble {
namespace {

Spec spec_of(int64_t heads, int64_t kv_heads, int64_t head_dim, Positions positions) {
  Spec spec = small_spec();
  spec.heads = heads;
  spec.kv_heads = kv_heads;
  spec.head_dim = head_dim;
  spec.layers = 2;
  spec.max_positions = 400;
  spec.positions = positions;
  return spec;
}

// Projections of one sequence's tokens, q, k and v of a token side by side.
struct Tokens {
  int64_t count, q_width, kv_width, stride;
  std::vector<float> values;

  Tokens(Random& random, const Spec& spec, int64_t tokens)
      : count(tokens),
        q_width(spec.heads * spec.head_dim),
        kv_width(spec.kv_heads * spec.head_dim),
        stride(q_width + 2 * kv_width) {
    for (int64_t i = 0; i < count * stride; ++i) values.push_back(random.normal());
  }
  Projections from(int64_t token) const {
    const float* const row = values.data() + token * stride;
    return {row, row + q_width, row + q_width + kv_width, stride, stride, stride};
  }
};

struct Runner {
  const Spec& spec;
  ThreadPool pool;
  AttentionScratch scratch;
  PositionTables tables;

  Runner(const Spec& of, int threads) : spec(of), pool(threads) { tables.reserve(spec, spec.max_positions); }

  // The segments' tokens lie side by side in `from`.
  std::vector<float> attend(std::vector<Segment> segments, const Projections& from) {
    for (const Segment& segment : segments) segment.sequence->reserve(segment.position + segment.count);
    std::vector<float> y(static_cast<size_t>(tokens_of(segments) * spec.heads * spec.head_dim));
    nibble::attend(spec, 1, segments, from, tables, detected_isa(), scratch, y.data(), pool);
    return y;
  }
};

// Row `token` of the tokens' attention in double precision.
std::vector<double> oracle(const Spec& spec, const PositionTables& tables, const Tokens& tokens, int64_t token) {
  const int64_t dim = spec.head_dim, half = dim / 2;
  const auto turned = [&](const float* head, int64_t position, int64_t d) {
    if (spec.positions != Positions::rotary) return static_cast<double>(head[d]);
    const double cosine = tables.cosines()[position * half + d % half],
                 sine = tables.sines()[position * half + d % half];
    return d < half ? head[d] * cosine - head[d + half] * sine : head[d] * cosine + head[d - half] * sine;
  };
  std::vector<double> y;
  for (int64_t head = 0; head < spec.heads; ++head) {
    const int64_t kv_head = head / (spec.heads / spec.kv_heads);
    std::vector<double> sums(static_cast<size_t>(dim));
    double total = 0;
    for (int64_t j = 0; j <= token; ++j) {
      double dot = 0;
      for (int64_t d = 0; d < dim; ++d)
        dot += turned(tokens.from(token).q + head * dim, token, d) * turned(tokens.from(j).k + kv_head * dim, j, d);
      const float* const bias = tables.bias(head);
      const double p = std::exp(dot / std::sqrt(static_cast<double>(dim)) + (bias != nullptr ? double{bias[j]} : 0));
      total += p;
      for (int64_t d = 0; d < dim; ++d) sums[static_cast<size_t>(d)] += p * tokens.from(j).v[kv_head * dim + d];
    }
    for (double sum : sums) y.push_back(sum / total);
  }
  return y;
}

TEST(Attend, IsSoftmaxOverTheSequenceForEveryGroupingOfHeads) {
  Random random(2);
  for (Positions positions : {Positions::rotary, Positions::alibi, Positions::none}) {
    for (const auto& [heads, kv_heads] : {std::pair<int64_t, int64_t>{3, 3}, {6, 2}, {13, 1}}) {
      const Spec spec = spec_of(heads, kv_heads, 10, positions);
      const Tokens tokens(random, spec, 70);
      Runner runner(spec, 2);
      Sequence sequence(spec, CacheType::f32);
      const auto y = runner.attend({{&sequence, tokens.count, 0}}, tokens.from(0));
      for (int64_t token : {0, 1, 33, 69}) {
        const auto expected = oracle(spec, runner.tables, tokens, token);
        for (size_t i = 0; i < expected.size(); ++i)
          ASSERT_NEAR(y[static_cast<size_t>(token) * expected.size() + i], expected[i], 1e-5) << "token " << token;
      }
    }
  }
}

// Long enough for several runs of queries and pages; decoding, chunks, batches and threads give the same bits.
TEST(Attend, BitsDependOnNothingButTheSequence) {
  Random random(3);
  const auto kv = [](const char* cache) { return *with_cache({}, cache, "test"); };
  AttentionFormats blocks = kv("bfp6:b16/bfp6:b32");
  blocks.q = *parse_format("mxfp8:b8");
  blocks.p = *parse_format("bfp8:b16");
  for (const AttentionFormats& formats :
       {kv("f32"), kv("f16"), kv("bf16"), kv("bfp4"), kv("f16/mxfp4:b64"), kv("e4m3"), blocks}) {
    const Spec spec = spec_of(6, 2, 24, Positions::rotary);
    // The second layer has larger blocks than the first, which is looked at.
    AttentionFormats larger = formats;
    if (formats == blocks) larger.v = *parse_format("bfp4:b64");
    const AttentionPlans type = plan_attention(spec, std::vector{formats, larger});
    const Tokens tokens(random, spec, 210);
    Runner one(spec, 1), two(spec, 2), four(spec, 4);
    Sequence whole(spec, type);
    const auto expected = one.attend({{&whole, 210, 0}}, tokens.from(0));
    SCOPED_TRACE(dump_json(to_json(formats)));
    for (Runner* runner : {&one, &two, &four}) {
      for (int64_t chunk : {1, 7, 64, 100}) {
        Sequence sequence(spec, type);
        std::vector<float> y;
        for (int64_t begin = 0; begin < tokens.count; begin += chunk) {
          const auto part =
              runner->attend({{&sequence, std::min(chunk, tokens.count - begin), begin}}, tokens.from(begin));
          y.insert(y.end(), part.begin(), part.end());
          sequence.advance(std::min(chunk, tokens.count - begin));
        }
        ASSERT_EQ(y, expected) << chunk;
      }
      // Tokens [0, 90) are there; [90, 150) run beside a sequence that begins with token 150.
      Sequence first(spec, type), other(spec, type), alone(spec, type);
      runner->attend({{&first, 90, 0}}, tokens.from(0));
      first.advance(90);
      auto both = runner->attend({{&first, 60, 90}, {&other, 60, 0}}, tokens.from(90));
      const auto second = one.attend({{&alone, 60, 0}}, tokens.from(150));
      const auto width = spec.heads * spec.head_dim;
      ASSERT_EQ(std::vector<float>(both.begin() + 60 * width, both.end()), second);
      both.resize(static_cast<size_t>(60 * width));
      ASSERT_EQ(both, std::vector<float>(expected.begin() + 90 * width, expected.begin() + 150 * width));
    }
  }
}

}  // namespace
}  // namespace nibble
