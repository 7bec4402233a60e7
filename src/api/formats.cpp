#include <nibble/formats.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "api/guard.h"
#include "core/half.h"
#include "core/random.h"
#include "format/block_scale.h"
#include "format/density.h"
#include "format/linear_weight.h"
#include "model/model.h"
#include "quantize/solve/kmeans.h"

namespace nibble {
namespace {

constexpr size_t kNumbers = 98304, kWidth = 4096;
constexpr float kDeviation = 0.02f;

// Rows of kWidth numbers.
std::vector<float> normal_numbers() {
  Random random(1);
  std::vector<float> x(kNumbers);
  for (float& value : x) value = kDeviation * random.normal();
  return x;
}

// Student's t with 4 degrees of freedom.
std::vector<float> student_numbers() {
  Random random(2);
  std::vector<float> x(kNumbers);
  for (float& value : x) {
    double squares = 0;
    const double normal = static_cast<double>(random.normal());
    for (int i = 0; i < 4; ++i) squares += std::pow(static_cast<double>(random.normal()), 2);
    value = static_cast<float>(static_cast<double>(kDeviation) * normal / std::sqrt(squares / 4));
  }
  return x;
}

float absmax_of(std::span<const float> x) {
  float most = 0;
  for (float value : x) most = std::max(most, std::fabs(value));
  return most;
}

float rounded_float(float x, Levels levels) {
  if (levels == Levels::f16) return f16_to_f32(f32_to_f16(x));
  return levels == Levels::bf16 ? bf16_to_f32(f32_to_bf16(x)) : x;
}

// `table`: room for learned levels.
Grid grid_of(std::span<const float> values, const NumberFormat& format, float outer, std::vector<float>& table) {
  if (format.is_learned()) {
    KMeans kmeans;
    kmeans.solve(values, {}, static_cast<int>(table.size()));
    kmeans.levels(static_cast<int>(table.size()), table);
    return Grid::of_table(table.data(), format.bits);
  }
  if (format.is_block()) return choose_block_grid(values, format, outer);
  const Grid fitted = fit_grid(range_of(values), format.bits, format.offset);
  return Grid::make(round_scale(fitted.scale, format.scale), fitted.offset, format.bits);
}

double signal_to_noise(std::span<const float> x, size_t width, const NumberFormat& wanted) {
  const float most = absmax_of(x);
  const NumberFormat format = wanted.is_profiled() ? with_fraction(wanted, most) : wanted;
  const float outer = outer_scale(format, most);
  std::vector<float> table(format.is_learned() ? static_cast<size_t>(format.levels_count()) : 0);
  double signal = 0, noise = 0;
  for (size_t row = 0; row < x.size(); row += width) {
    const auto values = x.subspan(row, width);
    const auto size = format.is_float() ? width : static_cast<size_t>(format.group_size(static_cast<int64_t>(width)));
    for (size_t begin = 0; begin < width; begin += size) {
      const auto block = values.subspan(begin, std::min(size, width - begin));
      const Grid grid = format.is_float() ? Grid() : grid_of(block, format, outer, table);
      for (float value : block) {
        const float rounded = format.is_float() ? rounded_float(value, format.levels) : grid.round(value);
        signal += std::pow(static_cast<double>(value), 2);
        noise += std::pow(static_cast<double>(rounded) - static_cast<double>(value), 2);
      }
    }
  }
  return noise > 0 ? 10 * std::log10(signal / noise) : std::numeric_limits<double>::infinity();
}

double bits_of(const NumberFormat& format) {
  if (format.is_float()) return format.bits;
  return (8.0 * static_cast<double>(row_sizes(format, kWidth, false).bytes()) +
          8.0 * static_cast<double>(format.table_bytes(1, kWidth))) /
         kWidth;
}

// arXiv 2310.05079, abstract: 6-bit block floating point has 19 times the arithmetic density of float32, and 2.5 times
// that of 8-bit integers.
std::optional<double> published(const NumberFormat& format) {
  if (format == *parse_format("bfp6:b16")) return 19;
  if (format == *parse_format("int8:row")) return 19 / 2.5;
  return std::nullopt;
}

struct Matrix {
  std::vector<float> values;
  size_t width = 1;
};

Result<Matrix> read_matrix(const FormatFiguresOptions& options) {
  NIBBLE_TRY(const std::unique_ptr<ModelSource> source, open_model(options.model));
  for (int64_t index = 0; index < source->spec().layers; ++index)
    for (Role role : kAllRoles) {
      const std::string name = linear_name(index, role);
      const bool wanted = options.linear.empty() ? shape_of(source->spec(), role).rows > 0 : name == options.linear;
      if (!wanted || shape_of(source->spec(), role).rows == 0) continue;
      NIBBLE_TRY(const BlockWeights block, source->block(index));
      const LinearWeight& weight = block[role];
      Matrix matrix{std::vector<float>(static_cast<size_t>(weight.rows * weight.columns)),
                    static_cast<size_t>(weight.columns)};
      for (int64_t n = 0; n < weight.rows; ++n)
        decode_row(weight, n, std::span(matrix.values).subspan(static_cast<size_t>(n) * matrix.width, matrix.width));
      return matrix;
    }
  return fail(ErrorCode::usage, "{} has no linear \"{}\"; expected a name such as {}", options.model.string(),
              options.linear, linear_name(0, Role::q));
}

Result<std::vector<NumberFormat>> wanted_formats(const std::vector<std::string>& names) {
  std::vector<NumberFormat> formats;
  for (const std::string& name : names) {
    NIBBLE_TRY(const NumberFormat format, parse_format(name));
    if (format.is_integer() && format.sharing == Sharing::tensor)
      return fail(ErrorCode::usage, "\"{}\": neither weights nor activations have one integer scale for everything",
                  name);
    if (format.sharing == Sharing::column)
      return fail(ErrorCode::usage, "\"{}\": tables of columns are as long as a matrix has rows; see {}:row", name,
                  name.substr(0, name.find(':')));
    if (format.bits == 0)
      return fail(ErrorCode::usage, "\"{}\" is no single size: groups have 1 to 8 bits each; see int3:g{}", name,
                  format.group);
    formats.push_back(format);
  }
  if (!names.empty()) return formats;
  for (const LevelsRow* row = begin_levels(); row != end_levels(); ++row) {
    NumberFormat format = *parse_format(row->name);
    if (format.sharing == Sharing::column || format.bits == 0) continue;
    formats.push_back(format);
    if (format.is_integer()) formats.push_back(*parse_format(std::string(row->name) + ":g128"));
  }
  return formats;
}

std::string kind_of(const NumberFormat& format) {
  for (const LevelsRow* row = begin_levels(); row != end_levels(); ++row)
    if (to_string(format).substr(0, to_string(format).find(':')) == row->name) return std::string(row->what);
  return "";
}

}  // namespace

Result<std::vector<FormatFigures>> format_figures(const FormatFiguresOptions& options) {
  return guarded([&]() -> Result<std::vector<FormatFigures>> {
    NIBBLE_TRY(const std::vector<NumberFormat> formats, wanted_formats(options.formats));
    std::optional<Matrix> matrix;
    if (!options.model.empty()) {
      NIBBLE_TRY(matrix, read_matrix(options));
    }
    const std::vector<float> normal = normal_numbers(), student = student_numbers();
    const double single = multiply_add_gates(NumberFormat());
    std::vector<FormatFigures> all;
    for (const NumberFormat& format : formats) {
      FormatFigures figures;
      figures.name = to_string(format);
      figures.kind = kind_of(format);
      figures.bits = bits_of(format);
      figures.memory_density = 32 / figures.bits;
      figures.snr_normal = signal_to_noise(normal, kWidth, format);
      figures.snr_student = signal_to_noise(student, kWidth, format);
      if (matrix) figures.snr_weights = signal_to_noise(matrix->values, matrix->width, format);
      figures.arithmetic_density = single / multiply_add_gates(format);
      figures.published_density = published(format);
      all.push_back(std::move(figures));
    }
    return all;
  });
}

}  // namespace nibble
