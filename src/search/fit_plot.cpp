// Pictures of a fit: a table of characters for the terminal, and curves as SVG.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <map>

#include "core/markup.h"
#include "search/fit.h"

namespace nibble::search {
namespace {

// Pixels: two fields side by side.
constexpr double kWidth = 1180, kHeight = 520, kTop = 96, kBottom = 452;
constexpr double kFieldWidth = 470, kFirst = 84, kSecond = 676;
constexpr int kTicks = 6;

constexpr const char* kStyle = R"(<style>
:root { color-scheme: light dark; }
svg { font: 13px system-ui, "Segoe UI", sans-serif; }
.ground { fill: #ffffff; } .ink { fill: #1d2329; } .soft { fill: #5a646f; } .grid { stroke: #e3e7eb; }
.curve { stroke: #0b62c4; fill: none; stroke-width: 2; }
.uniform { fill: #b4530a; } .chosen { stroke: #1d2329; stroke-width: 2; fill: none; }
.head { font-size: 17px; font-weight: 600; }
@media (prefers-color-scheme: dark) {
  .ground { fill: #14181c; } .ink { fill: #e6eaee; } .soft { fill: #a3adb7; } .grid { stroke: #2b3238; }
  .curve { stroke: #6cb0ff; } .uniform { fill: #f5a05a; } .chosen { stroke: #e6eaee; }
}
</style>
)";

using Measure = std::function<double(const FitPlan&)>;

// 1, 2 or 5 times a power of ten, so that a field has a few ticks.
double tick_of(double range) {
  const double least = range / kTicks, power = std::pow(10, std::floor(std::log10(least)));
  for (double factor : {1.0, 2.0, 5.0})
    if (factor * power >= least) return factor * power;
  return 10 * power;
}

class Drawing {
 public:
  Drawing(const FitReport& report, const std::string& title) : report_(report) {
    double least = 1e300, most = 0;
    for (const auto* plans : {&report.curve, &report.uniform})
      for (const FitPlan& plan : *plans)
        if (plan.predicted_kl > 0) {
          least = std::min(least, plan.predicted_kl);
          most = std::max(most, plan.predicted_kl);
        }
    if (most == 0) least = 0.1, most = 1;
    low_ = std::max(std::floor(std::log10(least)), std::floor(std::log10(most)) - 5);
    high_ = std::max(low_ + 1, std::ceil(std::log10(most)));
    put("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" "
        "role=\"img\">\n",
        kWidth, kHeight);
    put("<title>{}</title>\n", escaped(title));
    out_ += kStyle;
    put("<rect class=\"ground\" width=\"{}\" height=\"{}\"/>\n", kWidth, kHeight);
    put("<text class=\"ink head\" x=\"{}\" y=\"32\">{}</text>\n", kFirst, escaped(title));
    put("<text class=\"soft\" x=\"{}\" y=\"54\">line: optima of all budgets; dots: one format in all linears; ring: "
        "the "
        "one chosen, {:.3f} bits, predicted KL {:.5f}</text>\n",
        kFirst, report.chosen.bits, report.chosen.predicted_kl);
  }

  void field(double left, const std::string& name, const Measure& across) {
    left_ = left;
    first_ = 1e300, last_ = 0;
    for (const auto* plans : {&report_.curve, &report_.uniform})
      for (const FitPlan& plan : *plans) {
        first_ = std::min(first_, across(plan));
        last_ = std::max(last_, across(plan));
      }
    const double step = tick_of(std::max(last_ - first_, 1e-9));
    first_ = std::floor(first_ / step) * step;
    last_ = std::ceil(last_ / step) * step;
    grid(name, step);
    std::string path;
    for (const FitPlan& plan : report_.curve)
      if (drawable(plan))
        path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", x(across(plan)), y(plan.predicted_kl));
    if (!path.empty()) put("<path class=\"curve\" d=\"{}\"/>\n", path);
    for (const FitPlan& plan : report_.uniform)
      if (drawable(plan))
        put("<circle class=\"uniform\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\"><title>{}: {:.3f} bits, predicted KL "
            "{:.5f}</title></circle>\n",
            x(across(plan)), y(plan.predicted_kl), format_of(plan), plan.bits, plan.predicted_kl);
    if (drawable(report_.chosen))
      put("<circle class=\"chosen\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"8\"><title>chosen</title></circle>\n",
          x(across(report_.chosen)), y(report_.chosen.predicted_kl));
  }

  std::string end() { return out_ + "</svg>\n"; }

 private:
  template <class... Args>
  void put(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
  }
  double x(double value) const { return left_ + (value - first_) / (last_ - first_) * kFieldWidth; }
  double y(double kl) const { return kBottom - (std::log10(kl) - low_) / (high_ - low_) * (kBottom - kTop); }
  bool drawable(const FitPlan& plan) const { return plan.predicted_kl >= std::pow(10, low_); }

  std::string format_of(const FitPlan& plan) const {
    for (size_t i = 0; i < plan.choice.size(); ++i)
      if (report_.space.variables[i].operand == Operand::weights)
        return report_.space.palette.name(static_cast<size_t>(plan.choice[i]));
    return "";
  }

  void grid(const std::string& name, double step) {
    for (double at = first_; at <= last_ + step / 2; at += step) {
      put("<path class=\"grid\" d=\"M{:.1f} {}V{}\"/>", x(at), kTop, kBottom);
      put("<text class=\"soft\" text-anchor=\"middle\" x=\"{:.1f}\" y=\"{}\">{:g}</text>\n", x(at), kBottom + 19, at);
    }
    for (double power = low_; power <= high_; ++power) {
      const double at = y(std::pow(10, power));
      put("<path class=\"grid\" d=\"M{} {:.1f}H{}\"/>", left_, at, left_ + kFieldWidth);
      put("<text class=\"soft\" text-anchor=\"end\" x=\"{}\" y=\"{:.1f}\">{:g}</text>\n", left_ - 8, at + 4,
          std::pow(10, power));
    }
    put("<text class=\"soft\" text-anchor=\"middle\" x=\"{}\" y=\"{}\">{}</text>\n", left_ + kFieldWidth / 2,
        kBottom + 42, escaped(name));
    put("<text class=\"soft\" x=\"{}\" y=\"{}\">predicted mean KL, nats</text>\n", left_ - 68, kTop - 12);
  }

  const FitReport& report_;
  double low_, high_, left_ = 0, first_ = 0, last_ = 1;  // powers of ten of the KL; pixels; values across
  std::string out_;
};

// By name of what is used a sign: the bits of a format where no other used one has as many, else a letter; an average
// is its own.
std::map<std::string, std::string> signs_of(const std::map<std::string, std::pair<NumberFormat, double>>& used) {
  std::map<int, int> users;
  bool averages = false;
  for (const auto& [name, of] : used) {
    ++users[of.first.bits];
    averages = averages || of.second > 0;
  }
  std::map<std::string, std::string> out;
  char letter = 'a';
  for (const auto& [name, of] : used) {
    const auto& [format, average] = of;
    const bool digit = !averages && format.bits <= 9 && users[format.bits] == 1;
    if (average > 0) {
      out[name] = fmt::format("{}", average);
    } else if (digit || format.is_float()) {
      out[name] = digit ? fmt::format("{}", format.bits) : "F";
    } else {
      out[name] = std::string(1, letter++);
    }
  }
  return out;
}

}  // namespace

std::string picture(const FitReport& report) {
  const Space& space = report.space;
  std::map<std::pair<int64_t, Role>, std::string> names;
  std::map<std::string, std::pair<NumberFormat, double>> used;
  std::map<std::string, int64_t> values;
  int64_t all = 0;
  for (size_t i = 0; i < report.chosen.choice.size(); ++i) {
    const Variable& variable = space.variables[i];
    if (variable.operand != Operand::weights) continue;
    const auto k = static_cast<size_t>(report.chosen.choice[i]);
    const std::string name = space.name(variable, report.chosen.choice[i]);
    for (Role role : variable.roles) names[{variable.block, role}] = name;
    used[name] = {space.palette.weights[k], variable.averages.empty() ? 0 : variable.averages[k]};
    values[name] += variable.values;
    all += variable.values;
  }
  const auto signs = signs_of(used);
  std::string out = "  block ";
  for (Role role : kAllRoles)
    if (names.contains({0, role})) out += fmt::format(" {:>4}", name_of(role));
  // Blocks that look alike in one line.
  std::string last;
  int64_t from = 0;
  const auto line = [&](int64_t end) {
    if (!last.empty())
      out += fmt::format("\n  {:<6}{}", end - from == 1 ? fmt::format("{}", from) : fmt::format("{}-{}", from, end - 1),
                         last);
  };
  for (int64_t block = 0; block < report.spec.layers; ++block) {
    std::string row;
    for (Role role : kAllRoles)
      if (const auto found = names.find({block, role}); found != names.end())
        row += fmt::format(" {:>4}", signs.at(found->second));
    if (row == last) continue;
    line(block);
    last = row;
    from = block;
  }
  line(report.spec.layers);
  out += "\n ";
  // Averages say what they are.
  const auto part = [&](int64_t count) { return 100.0 * static_cast<double>(count) / static_cast<double>(all); };
  std::map<std::string, int64_t> open;
  for (const auto& [name, of] : used)
    if (of.second > 0) open[to_string(of.first)] += values[name];
  for (const auto& [format, count] : open)
    out += fmt::format(" numbers = {}, stored bits on average ({:.1f} %)", format, part(count));
  for (const auto& [name, sign] : signs)
    if (used[name].second == 0) out += fmt::format(" {} = {} ({:.1f} %)", sign, name, part(values[name]));
  return out + "\n";
}

std::string fit_svg(const FitReport& report, const std::string& title, double bandwidth) {
  Drawing drawing(report, title);
  drawing.field(kFirst, "stored bits of a weight of the blocks' linears",
                [](const FitPlan& plan) { return plan.bits; });
  if (bandwidth > 0)
    drawing.field(kSecond,
                  fmt::format("tokens per second, a model: {:.1f} GB/s over the packed weights", bandwidth / 1e9),
                  [&](const FitPlan& plan) { return bandwidth / static_cast<double>(plan.bytes.read_per_token); });
  return drawing.end();
}

}  // namespace nibble::search
