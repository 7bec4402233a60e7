#include "format/linear_weight.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <set>

#include "core/half.h"
#include "core/random.h"

namespace nibble {
namespace {

TEST(Codes, PackingIsLowBitsFirst) {
  const std::vector<uint8_t> codes = {1, 2, 3, 4, 5, 6, 7, 0, 5};
  Bytes packed(static_cast<size_t>(packed_bytes(9, 3)));
  pack_codes(codes, 3, packed);
  // 27 bits, code i in bits 3 i .. 3 i + 2 of the little-endian number.
  uint32_t number = 0;
  for (size_t i = 0; i < codes.size(); ++i) number |= static_cast<uint32_t>(codes[i]) << (3 * i);
  ASSERT_EQ(packed.size(), 4u);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(std::to_integer<uint32_t>(packed[i]), number >> (8 * i) & 255u);
  Bytes nibbles(2);
  pack_codes(std::vector<uint8_t>{0xA, 0xB, 0xC}, 4, nibbles);
  EXPECT_EQ(nibbles, (Bytes{std::byte{0xBA}, std::byte{0x0C}}));
}

TEST(Codes, UnpackingInvertsPackingForEveryWidthAndLength) {
  Random random(1);
  for (int bits = 1; bits <= 8; ++bits) {
    for (int64_t count = 0; count < 70; ++count) {
      std::vector<uint8_t> codes(static_cast<size_t>(count)), back(codes.size(), 99);
      for (uint8_t& code : codes) code = static_cast<uint8_t>(random.below(uint64_t{1} << bits));
      Bytes packed(static_cast<size_t>(packed_bytes(count, bits)), std::byte{255});
      pack_codes(codes, bits, packed);
      unpack_codes(packed, bits, back);
      ASSERT_EQ(back, codes) << bits << " bits, " << count << " codes";
      const int64_t used = count * bits % 8;
      if (used != 0) {
        EXPECT_EQ(std::to_integer<unsigned>(packed.back()) >> used, 0u) << "unused bits are zero";
      }
    }
  }
}

TEST(DenseColumns, AreTheOthersInOrder) {
  EXPECT_EQ(dense_columns_of(5, std::vector<int32_t>{1, 4}), (std::vector<int32_t>{0, 2, 3}));
  EXPECT_EQ(dense_columns_of(2, {}), (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(dense_columns_of(2, std::vector<int32_t>{0, 1}), std::vector<int32_t>());
}

TEST(Scales, AreRoundedToTheirCodec) {
  EXPECT_EQ(round_scale(0.1f, ScaleCodec::f32), 0.1f);
  EXPECT_EQ(round_scale(0.1f, ScaleCodec::f16), f16_to_f32(f32_to_f16(0.1f)));
  EXPECT_NE(round_scale(0.1f, ScaleCodec::f16), 0.1f);
}

TEST(WriteFloats, NamesTheFirstValueThatDoesNotFit) {
  const std::vector<float> values = {1, -0.1f, 65519, 65520, 3e38f};  // 65520 is the first above f16
  const auto write = [](std::span<const float> some, Levels levels, size_t bytes) {
    Bytes out(some.size() * bytes);
    const auto misfit = write_floats(some, levels, out.data());
    return std::pair(out, misfit);
  };
  const auto [whole, all_fit] = write(std::span(values).first(4), Levels::f32, 4);
  EXPECT_FALSE(all_fit);
  EXPECT_EQ(std::memcmp(whole.data(), values.data(), whole.size()), 0);
  const auto [halves, too_large] = write(values, Levels::f16, 2);
  EXPECT_EQ(too_large, 65520.0f);
  EXPECT_FALSE(write(std::span(values).first(3), Levels::f16, 2).second);
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t half;
    std::memcpy(&half, halves.data() + 2 * i, 2);
    EXPECT_EQ(half, f32_to_f16(values[i])) << i;
  }
  const std::vector<float> large = {3e38f, 3.4e38f, INFINITY};  // the second rounds to infinity in bf16
  EXPECT_EQ(write(large, Levels::bf16, 2).second, 3.4e38f);
  EXPECT_EQ(write(large, Levels::f32, 4).second, INFINITY);
}

// A weight whose every number is written down here as well: effective[n][k] is what decode_row must give.
struct Known {
  LinearWeight weight;
  std::vector<std::vector<float>> effective;
};

Known known_weight(Random& random, std::string_view format, int64_t rows, std::vector<int32_t> kept, int64_t columns) {
  Known known;
  LinearWeight& w = known.weight;
  w.rows = rows;
  w.columns = columns;
  w.format = *parse_format(format);
  w.kept_columns = std::move(kept);
  const std::vector<int32_t> dense = dense_columns_of(columns, w.kept_columns);
  const int64_t size = w.format.group_size(w.dense_columns());
  const auto bits_of = [&](int64_t g) { return w.format.bits > 0 ? w.format.bits : 1 + static_cast<int>(g % 8); };
  for (int64_t i = 0; w.format.bits == 0 && i < w.dense_columns(); ++i)
    w.widths.push_back(static_cast<uint8_t>(bits_of(i / size)));
  for (int64_t n = 0; n < rows; ++n) {
    auto& row = known.effective.emplace_back(static_cast<size_t>(columns));
    for (int64_t g = 0; g < w.groups(); ++g) {
      w.scales.push_back(round_scale(0.01f + random.uniform(), w.format.scale));
      const uint64_t offsets = bits_of(g) == 1 ? 15 : uint64_t{1} << bits_of(g);
      if (w.format.offset) w.offsets.push_back(static_cast<uint8_t>(random.below(offsets)));
    }
    std::vector<uint8_t> codes;
    std::vector<bool> bits_of_row;
    for (size_t i = 0; i < dense.size(); ++i) {
      const size_t at = static_cast<size_t>(n * w.groups()) + i / static_cast<size_t>(size);
      const int bits = bits_of(static_cast<int64_t>(i) / size), step = bits == 1 ? 14 : 1;
      const int offset = w.format.offset ? w.offsets[at] : bits == 1 ? 7 : 1 << (bits - 1);
      codes.push_back(static_cast<uint8_t>(random.below(uint64_t{1} << bits)));
      row[static_cast<size_t>(dense[i])] = w.scales[at] * static_cast<float>(step * codes.back() - offset);
      for (int bit = 0; bit < bits; ++bit) bits_of_row.push_back((codes.back() >> bit & 1) != 0);
    }
    Bytes packed((bits_of_row.size() + 7) / 8);
    for (size_t i = 0; i < bits_of_row.size(); ++i)
      packed[i / 8] |= static_cast<std::byte>(int{bits_of_row[i]} << i % 8);
    w.codes.append(packed);
    for (int32_t column : w.kept_columns) {
      w.kept.push_back(f32_to_f16(random.normal()));
      row[static_cast<size_t>(column)] = f16_to_f32(w.kept.back());
    }
  }
  return known;
}

// Learned levels, integers times a power of two of each table. `widths`: of columns, for code:col.
Known learned_weight(Random& random, std::string_view format, int64_t rows, int64_t columns,
                     std::vector<uint8_t> widths = {}) {
  Known known;
  LinearWeight& w = known.weight;
  w.rows = rows;
  w.columns = columns;
  w.format = *parse_format(format);
  w.widths = widths;
  const auto table = [&](int bits, float unit) {
    std::vector<float> levels;
    float level = -100;
    for (int i = 0; i < 1 << bits; ++i) levels.push_back(unit * (level += static_cast<float>(random.below(14))));
    return levels;
  };
  // The values that a code can have, by table.
  std::vector<std::vector<float>> values;
  const bool by_column = w.format.sharing == Sharing::column;
  const int64_t tables = by_column ? columns : rows * w.groups();
  for (int64_t t = 0; t < tables; ++t) {
    const int bits = widths.empty() ? w.format.bits : widths[static_cast<size_t>(t)];
    w.exponents.push_back(static_cast<int8_t>(t % 5 - 9));
    const float unit = std::ldexp(1.0f, w.exponents.back());
    if (bits <= 4) {
      values.push_back(table(bits, unit));
      w.levels.insert(w.levels.end(), values.back().begin(), values.back().end());
      continue;
    }
    values.emplace_back();
    for (int code = 0; code < 1 << bits; ++code)
      values.back().push_back(unit * static_cast<float>((code << (8 - bits)) - 128));
  }
  for (int64_t n = 0; n < rows; ++n) {
    auto& row = known.effective.emplace_back();
    std::vector<bool> bits_of_row;
    for (int64_t k = 0; k < columns; ++k) {
      const int64_t t = by_column ? k : n * w.groups() + k / w.format.group_size(columns);
      const auto& of = values[static_cast<size_t>(t)];
      const uint64_t code = random.below(of.size());
      row.push_back(of[code]);
      for (uint64_t bit = 1; bit < of.size(); bit *= 2) bits_of_row.push_back((code & bit) != 0);
    }
    Bytes packed((bits_of_row.size() + 7) / 8);
    for (size_t i = 0; i < bits_of_row.size(); ++i)
      packed[i / 8] |= static_cast<std::byte>(int{bits_of_row[i]} << i % 8);
    w.codes.append(packed);
  }
  return known;
}

// Weight (n, n) of every second row that has one.
void add_sparse(Known& known) {
  LinearWeight& w = known.weight;
  for (int64_t n = 0; n < w.rows; ++n) {
    if (n % 2 == 0 && n < w.columns) {
      w.sparse.columns.push_back(static_cast<int32_t>(n));
      w.sparse.values.push_back(0.5f);
      known.effective[static_cast<size_t>(n)][static_cast<size_t>(n)] += 0.5f;
    }
    w.sparse.row_ends.push_back(static_cast<int32_t>(w.sparse.values.size()));
  }
}

void expect_decodes(const Known& known, std::string_view what) {
  ASSERT_TRUE(known.weight.validate("w")) << what;
  std::vector<float> row(static_cast<size_t>(known.weight.columns));
  for (int64_t n = 0; n < known.weight.rows; ++n) {
    decode_row(known.weight, n, row);
    EXPECT_EQ(row, known.effective[static_cast<size_t>(n)]) << what << " row " << n;
  }
}

TEST(LinearWeight, DecodesIntegerRows) {
  Random random(2);
  for (const char* format : {"int:g3", "int:g2:asym", "int:g64:asym"})
    for (int64_t columns : {1, 13, 32}) expect_decodes(known_weight(random, format, 3, {}, columns), format);
  expect_decodes(known_weight(random, "int:g3:asym", 3, {0, 5, 6}, 23), "groups of the columns that are not kept");
  for (const char* levels : {"int2", "int3", "int4", "int5", "int8"})
    for (const char* sharing : {":row", ":row:asym", ":g4", ":g5:asym", ":g64", ":tensor"})
      for (int64_t columns : {1, 13, 32})
        expect_decodes(known_weight(random, std::string(levels) + sharing, 3, {}, columns), levels);
}

TEST(LinearWeight, DecodesLearnedLevels) {
  Random random(5);
  for (const char* format : {"code1:row", "code2:g4", "code3:row", "code3:col", "code4:col", "code4:g5"})
    for (int64_t columns : {1, 13, 32}) {
      Known known = learned_weight(random, format, 3, columns);
      expect_decodes(known, format);
      add_sparse(known);
      expect_decodes(known, format);
    }
  const Known mixed = learned_weight(random, "code:col", 5, 8, {3, 1, 8, 2, 4, 5, 3, 2});
  expect_decodes(mixed, "code:col");
  EXPECT_EQ(mixed.weight.matrix_bytes(), 5 * 4 + (8 + 2 + 4 + 16 + 8 + 4) + 8 + 8);
  EXPECT_EQ(levels_of_integers(mixed.weight, integers_of_levels(mixed.weight)), mixed.weight.levels);
}

TEST(LinearWeight, RefusesTablesThatAreNone) {
  Random random(6);
  const auto refuse = [](LinearWeight weight, std::string_view part) {
    const Status status = weight.validate("w");
    ASSERT_FALSE(status) << part;
    EXPECT_NE(status.error().message.find(part), std::string::npos) << status.error().message;
  };
  Known good = learned_weight(random, "code:col", 5, 8, {3, 1, 8, 2, 4, 5, 3, 2});
  add_sparse(good);
  LinearWeight bad = good.weight;
  std::swap(bad.levels[0] = -101 * 0x1p-9f, bad.levels[1]);
  refuse(bad, "level 1 of table 0 is -101");
  (bad = good.weight).levels.pop_back();
  refuse(bad, "levels has 41 entries, expected 42");
  (bad = good.weight).exponents.pop_back();
  refuse(bad, "exponents has 7 entries, expected 8");
  (bad = good.weight).exponents[2] = 101;
  refuse(bad, "the exponent of table 2 is 101, expected -100 to 100");
  (bad = good.weight).levels[0] = -128 * 0x1p-9f;
  refuse(bad, "level 0 of table 0 is -128; expected ascending integers of -127 to 127");
  (bad = good.weight).levels[0] = -100.5f * 0x1p-9f;
  refuse(bad, "level 0 of table 0 is -100.5; expected");
  (bad = good.weight).widths[3] = 9;
  refuse(bad, "column 3 has 9 bits");
  (bad = good.weight).sparse.columns[1] = 8;
  refuse(bad, "sparse column 8 of row 2 is out of order or not below 8");
  (bad = good.weight).sparse.row_ends[1] = 0;
  refuse(bad, "sparse row 1 is from 1 to 0 of 3");
  (bad = good.weight).sparse.row_ends[0] = 1 << 30;
  refuse(bad, "sparse row 0 is from 0 to 1073741824 of 3");
  (bad = good.weight).sparse.row_ends[4] = 99;
  refuse(bad, "the sparse rows hold 99 weights, not 3");
}

TEST(LinearWeight, DecodesKeptColumnsInPlace) {
  Random random(3);
  expect_decodes(known_weight(random, "int4", 4, {0, 3, 9}, 10), "ends and middle");
  expect_decodes(known_weight(random, "int4:g4:asym", 4, {2, 3, 4}, 13), "groups of the dense columns");
  expect_decodes(known_weight(random, "int8", 2, {0, 1, 2}, 3), "all kept");
}

TEST(LinearWeight, DecodesFloats) {
  const std::vector<float> values = {1.5f, -2.25f, 0.0f, 100.0f, -0.125f, 3.0f};
  for (Levels levels : {Levels::f32, Levels::f16, Levels::bf16}) {
    Bytes bytes;
    for (float value : values) {
      const uint16_t half = levels == Levels::f16 ? f32_to_f16(value) : f32_to_bf16(value);
      const auto* from = levels == Levels::f32 ? reinterpret_cast<const std::byte*>(&value)
                                               : reinterpret_cast<const std::byte*>(&half);
      bytes.insert(bytes.end(), from, from + (levels == Levels::f32 ? 4 : 2));
    }
    const LinearWeight weight = float_linear(2, 3, levels, bytes, {7, 8});
    ASSERT_TRUE(weight.validate("w"));
    EXPECT_EQ(weight.stored_bytes(), static_cast<int64_t>(bytes.size()) + 8);
    std::vector<float> row(3);
    decode_row(weight, 1, row);
    EXPECT_EQ(row, std::vector<float>(values.begin() + 3, values.end()));
  }
}

// Two of every four dense columns present; the present codes of a row in order, positions in nibbles.
Known sparse_weight(Random& random, std::string_view format, std::vector<int32_t> kept, int64_t columns) {
  Known known = known_weight(random, format, 3, std::move(kept), columns);
  LinearWeight& w = known.weight;
  w.sparse24 = true;
  const std::vector<int32_t> dense = dense_columns_of(columns, w.kept_columns);
  Bytes all_codes;
  for (int64_t n = 0; n < w.rows; ++n) {
    std::vector<uint8_t> codes(dense.size()), present;
    const auto row_bytes = static_cast<size_t>(packed_bytes(w.dense_columns(), w.format.bits));
    unpack_codes(std::span(w.codes).subspan(static_cast<size_t>(n) * row_bytes, row_bytes), w.format.bits, codes);
    std::vector<uint8_t> nibbles;
    for (size_t quad = 0; quad < dense.size() / 4; ++quad) {
      const size_t first = random.below(3), second = first + 1 + random.below(3 - first);
      nibbles.push_back(static_cast<uint8_t>(first | second << 2));
      for (size_t i = 0; i < 4; ++i) {
        const size_t at = quad * 4 + i;
        if (i == first || i == second)
          present.push_back(codes[at]);
        else
          known.effective[static_cast<size_t>(n)][static_cast<size_t>(dense[at])] = 0;
      }
    }
    Bytes packed(static_cast<size_t>(packed_bytes(static_cast<int64_t>(present.size()), w.format.bits)));
    pack_codes(present, w.format.bits, packed);
    all_codes.insert(all_codes.end(), packed.begin(), packed.end());
    Bytes pattern((nibbles.size() + 1) / 2);
    pack_codes(nibbles, 4, pattern);
    w.pattern.insert(w.pattern.end(), pattern.begin(), pattern.end());
  }
  w.codes = all_codes;
  return known;
}

TEST(LinearWeight, DecodesSparseRows) {
  Random random(4);
  for (const char* format : {"int4", "int8", "int3:asym", "int4:g4:asym", "int4:g6:asym", "int8:g8"})
    for (int64_t columns : {4, 12, 20}) expect_decodes(sparse_weight(random, format, {}, columns), format);
  expect_decodes(sparse_weight(random, "int4:g8:asym", {1, 7}, 18), "kept columns");
}

TEST(LinearWeight, SparseGapsHoldTheCodeOfZero) {
  Random random(5);
  const Known known = sparse_weight(random, "int4:g4:asym", {}, 12);
  std::vector<uint8_t> codes(12);
  decode_codes(known.weight, 2, codes);
  for (int64_t k = 0; k < 12; ++k)
    if (known.effective[2][static_cast<size_t>(k)] == 0) {
      EXPECT_EQ(codes[static_cast<size_t>(k)], known.weight.offsets[static_cast<size_t>(2 * 3 + k / 4)]);
    }
}

TEST(LinearWeight, StoredBytesCountEverything) {
  Random random(6);
  Known known = sparse_weight(random, "int4:g8:asym", {1, 7}, 18);
  known.weight.bias = {1, 2, 3};
  // 3 rows: 8 codes of 4 bits; 4 patterns of 4 bits; 2 scales of 2 bytes and 2 offsets of 1; 2 kept of 2 bytes;
  // the kept columns' 2 indices of 4; 3 biases of 4.
  EXPECT_EQ(known.weight.stored_bytes(), 3 * (4 + 2 + 4 + 2 + 4) + 8 + 12);
  EXPECT_EQ(known.weight.matrix_bytes(), known.weight.stored_bytes() - 12);
  EXPECT_EQ(known_weight(random, "int8", 2, {}, 5).weight.stored_bytes(), 2 * (5 + 4));
}

// Applies `damage` to a valid weight; validation must fail with a message that contains `part`.
template <class Damage>
void expect_refused(const Known& known, Damage damage, std::string_view part) {
  LinearWeight weight = known.weight;
  ASSERT_TRUE(weight.validate("blocks.3.q"));
  damage(weight);
  const Status status = weight.validate("blocks.3.q");
  ASSERT_FALSE(status) << part;
  EXPECT_EQ(status.error().code, ErrorCode::corrupt);
  EXPECT_NE(status.error().message.find("blocks.3.q"), std::string::npos) << status.error().message;
  EXPECT_NE(status.error().message.find(part), std::string::npos) << status.error().message;
}

TEST(LinearWeight, ValidateNamesWhatIsWrong) {
  Random random(7);
  const Known plain = known_weight(random, "int4:g4:asym", 3, {0, 5}, 14);
  expect_refused(
      plain, [](LinearWeight& w) { w.codes.resize(w.codes.size() - 1); }, "codes has 17 entries, expected 18");
  expect_refused(
      plain, [](LinearWeight& w) { w.codes.resize(w.codes.size() + 1); }, "codes");
  expect_refused(
      plain, [](LinearWeight& w) { w.scales.pop_back(); }, "scales");
  expect_refused(
      plain, [](LinearWeight& w) { w.offsets.pop_back(); }, "offsets");
  expect_refused(
      plain, [](LinearWeight& w) { w.kept.pop_back(); }, "kept");
  expect_refused(
      plain,
      [](LinearWeight& w) {
        w.bias = {1, 2};
      },
      "bias has 2 entries, expected 3");
  expect_refused(
      plain, [](LinearWeight& w) { w.pattern.push_back({}); }, "pattern");
  expect_refused(
      plain, [](LinearWeight& w) { w.scales[4] = 0; }, "scale 4 is 0");
  expect_refused(
      plain, [](LinearWeight& w) { w.scales[4] = NAN; }, "scale 4 is nan");
  expect_refused(
      plain, [](LinearWeight& w) { w.scales[4] = INFINITY; }, "scale 4 is inf");
  expect_refused(
      plain,
      [](LinearWeight& w) {
        w.kept_columns = {5, 0};
      },
      "kept column 0");
  expect_refused(
      plain,
      [](LinearWeight& w) {
        w.kept_columns = {5, 5};
      },
      "kept column 5");
  expect_refused(
      plain,
      [](LinearWeight& w) {
        w.kept_columns = {0, 14};
      },
      "kept column 14");
  expect_refused(
      plain,
      [](LinearWeight& w) {
        w.kept_columns = {-1, 5};
      },
      "kept column -1");
}

TEST(LinearWeight, GroupsWithBitsOfTheirOwnAreValidated) {
  Random random(9);
  const Known open = known_weight(random, "int:g4:asym", 3, {}, 14);  // 1, 2, 3 and 4 bits
  EXPECT_EQ(open.weight.stored_bytes(), 3 * (4 + 4 * (2 + 1)) + 4);
  expect_refused(
      open, [](LinearWeight& w) { w.widths[1] = 2; }, "column 1 has 2 bits in a group of 1");
  expect_refused(
      open, [](LinearWeight& w) { w.widths.pop_back(); }, "widths has 13 entries, expected 14");
  expect_refused(
      open, [](LinearWeight& w) { w.widths[13] = w.widths[12] = 9; }, "column 12 has 9 bits");
  expect_refused(
      open, [](LinearWeight& w) { w.offsets[4] = 15; }, "offset 4 is 15, expected less than 15");
  expect_refused(
      open, [](LinearWeight& w) { w.offsets[5] = 4; }, "offset 5 is 4, expected less than 4");
  expect_refused(
      open, [](LinearWeight& w) { w.sparse24 = true; }, "open bits have none");
}

TEST(LinearWeight, ValidateIsNotFooledBySizesThatWrapAround) {
  LinearWeight hostile;  // 2^32 rows of 2^30 floats are 2^64 bytes: none, modulo 2^64
  hostile.rows = int64_t{1} << 32;
  hostile.columns = int64_t{1} << 30;
  LinearWeight wide = hostile;  // within the limits of a shape, 2^31 x 2^33 bytes are not
  wide.rows = wide.columns = INT32_MAX;
  LinearWeight negative = hostile;
  negative.rows = negative.columns = -1;
  for (const LinearWeight& weight : {hostile, wide, negative}) {
    const Status status = weight.validate("w");
    ASSERT_FALSE(status) << weight.rows;
    EXPECT_EQ(status.error().code, ErrorCode::corrupt);
  }
}

TEST(LinearWeight, ValidateChecksSparsePatterns) {
  Random random(8);
  const Known sparse = sparse_weight(random, "int4", {}, 12);
  expect_refused(
      sparse, [](LinearWeight& w) { w.pattern.pop_back(); }, "pattern");
  for (unsigned nibble : {0u, 5u, 10u, 15u, 1u, 6u}) {  // equal or descending positions
    expect_refused(
        sparse, [&](LinearWeight& w) { w.pattern[3] = static_cast<std::byte>(nibble); }, "row 1, group 2");
  }
  const Known odd = known_weight(random, "int4", 3, {}, 10);
  expect_refused(
      odd,
      [](LinearWeight& w) {
        w.sparse24 = true;
        w.codes.resize(9);
        w.pattern.resize(3);
      },
      "which 4 does not divide");
  const LinearWeight floats = float_linear(1, 4, Levels::f32, Bytes(16), {});
  expect_refused(
      {floats, {}}, [](LinearWeight& w) { w.sparse24 = true; }, "needs codes");
}

}  // namespace
}  // namespace nibble
