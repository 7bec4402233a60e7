// How far the predictions are from the reference's, over the text and as a distribution.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "eval/report/plot.h"
#include "eval/report/sections.h"
#include "eval/report/text.h"

namespace nibble::page {
namespace {

constexpr int kHeight = 200;
constexpr size_t kMostBins = 240;
constexpr int kBars = 48;
constexpr double kLeast = 1e-8;  // nats: below, float32 logits of equal models differ as well

// A stretch of the text.
struct Bin {
  size_t first = 0, last = 0;  // tokens [first, last)
  double mean = 0, most = 0;
};

double kl_of(float value) { return std::isnan(value) ? HUGE_VAL : static_cast<double>(value); }

std::vector<Bin> bins_of(const std::vector<float>& kl) {
  const size_t bins = std::min(kl.size(), kMostBins);
  std::vector<Bin> out;
  for (size_t index = 0; index < bins; ++index) {
    Bin bin{index * kl.size() / bins, (index + 1) * kl.size() / bins};
    for (size_t token = bin.first; token < bin.last; ++token) {
      bin.mean += kl_of(kl[token]) / static_cast<double>(bin.last - bin.first);
      bin.most = std::max(bin.most, kl_of(kl[token]));
    }
    out.push_back(bin);
  }
  return out;
}

// From the smallest mean on: the maxima lie above it.
LogScale scale_of(const std::vector<Bin>& bins) {
  std::vector<double> values;
  for (const Bin& bin : bins) values.insert(values.end(), {bin.mean, bin.most});
  return LogScale(values, kLeast);
}

std::string hover(const std::vector<Bin>& bins) {
  std::string out;
  const auto width = 1 / static_cast<double>(bins.size());
  for (size_t index = 0; index < bins.size(); ++index) {
    const Bin& bin = bins[index];
    out += fmt::format(
        "<rect class=\"hover\" x=\"{}\" width=\"{}\" height=\"{}\"><title>tokens {} to {}: mean {}, "
        "largest {}</title></rect>",
        share(static_cast<double>(index) * width), share(width), kHeight, count(static_cast<int64_t>(bin.first)),
        count(static_cast<int64_t>(bin.last) - 1), number(bin.mean), number(bin.most));
  }
  return out;
}

constexpr LegendEntry kLegend[] = {{"sw-mean", "mean of a stretch"}, {"sw-most", "its largest"}};

std::string over_text(const Divergence& divergence) {
  const std::vector<Bin> bins = bins_of(divergence.kl);
  const LogScale scale = scale_of(bins);
  std::vector<double> most;
  std::vector<Place> means;
  for (const Bin& bin : bins) {
    most.push_back(scale.at(bin.most));
    means.push_back({static_cast<double>(means.size()) + 0.5, scale.at(bin.mean)});
  }
  Plot plot;
  plot.id = "text-kl";
  plot.title = "KL divergence over the text";
  plot.note = "nats per token";
  plot.description = "Mean and largest KL divergence from the reference along the text.";
  plot.height = kHeight;
  plot.x = linear_ticks(static_cast<double>(divergence.kl.size()), 6);
  plot.y = scale.ticks();
  plot.x_label = "predicted token";
  plot.marks = stretched(static_cast<double>(bins.size()), kHeight,
                         fmt::format("<path class=\"most\" d=\"{}\"/><path class=\"mean\" d=\"{}\"/>",
                                     skyline_path(most, kHeight), line_path(means, kHeight)));
  plot.marks += hover(bins);
  plot.after = legend(kLegend);
  return figure(plot);
}

// The histogram leaves room above its bars for the names of the marks.
constexpr double kBarRoom = 0.72;

std::vector<int64_t> histogram(const std::vector<float>& kl, const LogScale& scale) {
  std::vector<int64_t> bars(kBars, 0);
  for (const float value : kl) ++bars[std::min<size_t>(static_cast<size_t>(scale.at(kl_of(value)) * kBars), kBars - 1)];
  return bars;
}

std::string bars_of(const std::vector<int64_t>& bars, double most) {
  std::string out;
  for (size_t index = 0; index < bars.size(); ++index) {
    if (bars[index] == 0) continue;
    const double height = std::max(1.0, static_cast<double>(bars[index]) / most * kBarRoom * kHeight);
    out +=
        fmt::format("<rect class=\"bar\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"><title>{} tokens</title></rect>",
                    share((static_cast<double>(index) + 0.06) / kBars), coordinate(kHeight - height),
                    share(0.88 / kBars), coordinate(height), count(bars[index]));
  }
  return out;
}

struct Mark {
  const char* name;
  double value;
};

std::string marks_of(const std::vector<Mark>& marks, const LogScale& scale) {
  std::string out;
  int line = 0;
  for (const Mark& mark : marks) {
    const double at = scale.at(mark.value);
    const int top = 4 + line++ * 14;
    out += fmt::format("<line class=\"mark\" x1=\"{0}\" x2=\"{0}\" y1=\"{1}\" y2=\"{2}\"/>", share(at), top, kHeight);
    // On the left of its line: later, larger marks stand lower and further right.
    out += fmt::format("<text class=\"mark {}\" x=\"{}\" y=\"{}\" dx=\"{}\">{} {}</text>", at < 0.3 ? "start" : "end",
                       share(at), top + 5, at < 0.3 ? 5 : -5, mark.name, number(mark.value));
  }
  return out;
}

std::string distribution(const Divergence& divergence) {
  std::vector<double> values;
  for (const float value : divergence.kl) values.push_back(kl_of(value));
  const LogScale scale(values, kLeast);
  const std::vector<int64_t> bars = histogram(divergence.kl, scale);
  const auto most = static_cast<double>(*std::max_element(bars.begin(), bars.end()));
  Plot plot;
  plot.id = "kl-distribution";
  plot.title = "Its distribution";
  plot.note = "part of all tokens";
  plot.description =
      "Histogram of the KL divergence per token, on a logarithmic axis, with median, mean and quantiles.";
  plot.height = kHeight;
  plot.x = scale.ticks();
  plot.y = percent_ticks(most / static_cast<double>(values.size()), 4);
  for (Tick& tick : plot.y) tick.at *= kBarRoom;
  plot.x_label = "KL divergence of a token, nats";
  plot.marks = bars_of(bars, most) + marks_of({{"median", divergence.median_kl.value},
                                               {"mean", divergence.mean_kl.value},
                                               {"99 %", divergence.p99_kl.value},
                                               {"99.9 %", divergence.p999_kl.value}},
                                              scale);
  return figure(plot);
}

std::string why_absent(const LayerReport& report) {
  if (report.reference.empty())
    return "Not measured: no reference was given. <code>--against REFERENCE --text FILE</code> measures it.";
  return "Not measured: no text was given. <code>--text FILE</code> measures it.";
}

bool all_zero(const std::vector<float>& kl) {
  return std::all_of(kl.begin(), kl.end(), [](float value) { return value == 0; });
}

}  // namespace

std::string text_section(const LayerReport& report) {
  constexpr std::string_view kTitle = "Divergence from the reference";
  if (!report.divergence || report.divergence->kl.empty())
    return section("text", kTitle, "", absent(why_absent(report)));
  const Divergence& divergence = *report.divergence;
  if (all_zero(divergence.kl))
    return section("text", kTitle, "",
                   absent(fmt::format("None: the predictions of all {} tokens are exactly the reference's.",
                                      count(std::ssize(divergence.kl)))));
  return section("text", kTitle,
                 "<b>Good:</b> a level band over the whole text, and a single hump far to the left of 1 nat. "
                 "<b>Bad:</b> stretches that "
                 "rise above the rest, or a second hump at the right: tokens on which the model has changed its mind.",
                 "<div class=\"panels\">" + over_text(divergence) + distribution(divergence) + "</div>");
}

}  // namespace nibble::page
