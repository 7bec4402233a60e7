#include "eval/report/page.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "eval/report/plot.h"
#include "eval/report/scale.h"
#include "eval/report/sections.h"
#include "eval/report/text.h"

namespace nibble {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity(), kNan = std::numeric_limits<double>::quiet_NaN();

size_t occurrences(std::string_view text, std::string_view part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string_view::npos; at = text.find(part, at + part.size())) ++found;
  return found;
}

// A small reader of HTML that knows no forgiveness: tags are balanced, attributes are quoted, ids are unique, text
// holds no stray < or &.
class WellFormed {
 public:
  explicit WellFormed(std::string_view page) : rest_(page) {}

  // Empty, or what is wrong.
  std::string problem() {
    while (problem_.empty() && !rest_.empty()) rest_.starts_with('<') ? tag() : text();
    if (problem_.empty() && !open_.empty()) problem_ = "not closed: " + open_.back();
    return problem_;
  }

 private:
  void text() {
    const std::string_view part = take(rest_.find('<'));
    for (size_t at = part.find('&'); at != std::string_view::npos; at = part.find('&', at + 1))
      if (part.find(';', at) > at + 6) problem_ = "stray &: " + std::string(part.substr(at, 30));
    if (part.find('>') != std::string_view::npos) problem_ = "stray >: " + std::string(part.substr(0, 60));
  }

  void tag() {
    const std::string_view all = take(rest_.find('>') + 1);
    if (all.starts_with("<!")) return;
    const bool closing = all.starts_with("</"), empty = all.ends_with("/>");
    std::string_view inside = all.substr(closing ? 2 : 1, all.size() - (closing ? 3 : empty ? 3 : 2));
    const std::string name(inside.substr(0, inside.find_first_of(" \n")));
    if (closing) return close(name);
    attributes(inside.substr(name.size()));
    static const std::set<std::string> kVoid = {"meta", "link", "input"};
    if (empty || kVoid.contains(name)) return;
    if (name == "style" || name == "script") {
      take(rest_.find("</" + name + ">"));
    }
    open_.push_back(name);
  }

  void close(const std::string& name) {
    if (open_.empty() || open_.back() != name) problem_ = "closed but not open: " + name;
    if (problem_.empty()) open_.pop_back();
  }

  void attributes(std::string_view text) {
    while (!text.empty() && problem_.empty()) {
      if (!text.starts_with(' ')) problem_ = "no space before attribute: " + std::string(text);
      const size_t equals = text.find('='), space = text.find(' ', 1);
      if (equals > space || equals == std::string_view::npos) {  // without a value
        text.remove_prefix(std::min(space, text.size()));
        continue;
      }
      const std::string name(text.substr(1, equals - 1));
      const size_t end = text.find('"', equals + 2);
      if (text[equals + 1] != '"' || end == std::string_view::npos) problem_ = "unquoted: " + std::string(text);
      const std::string value(text.substr(equals + 2, end - equals - 2));
      if (name == "id" && !ids_.insert(value).second) problem_ = "id twice: " + value;
      if (name.starts_with("on") || value.find('<') != std::string::npos) problem_ = "attribute " + name + "=" + value;
      text.remove_prefix(end + 1);
    }
  }

  std::string_view take(size_t size) {
    const std::string_view part = rest_.substr(0, size);
    rest_.remove_prefix(part.size());
    return part;
  }

  std::string_view rest_;
  std::vector<std::string> open_;
  std::set<std::string> ids_;
  std::string problem_;
};

void expect_sound(const std::string& page) {
  EXPECT_EQ(WellFormed(page).problem(), "");
  const std::string text = page.substr(0, page.find("<script>"));
  // Numbers that are none would break the plot they stand in.
  for (const std::string_view strange : {"\"nan", "\"inf", "\"-nan", " nan", "Vnan", "Lnan", "nan%", "inf%", " inf "})
    EXPECT_EQ(text.find(strange), std::string::npos) << strange;
  for (const std::string_view request : {"http:", "https:", "url(", "@import", "src=", "fetch(", "XMLHttp"})
    EXPECT_EQ(page.find(request), std::string::npos) << request;
}

constexpr std::string_view kSites[] = {"qkv", "o", "gate_up", "down"};
constexpr std::string_view kRoles[] = {"q", "k", "v", "o", "gate", "up", "down"};

SiteRow site_row(int64_t block, std::string_view site, int64_t inputs) {
  SiteRow row;
  row.block = block;
  row.site = site;
  row.name = fmt::format("blocks.{}.{}", block, site);
  row.inputs = inputs;
  for (int64_t channel = 0; channel < inputs; ++channel)
    row.absmax.push_back(1 + 0.5f * static_cast<float>(std::sin(0.37 * static_cast<double>(channel * (block + 3)))));
  for (int32_t channel = 5; channel < inputs; channel += 67) {
    row.kept.push_back(channel);
    row.absmax[static_cast<size_t>(channel)] *= 20;
  }
  row.maximum = 30;
  row.median = 1;
  row.kurtosis = 12;
  return row;
}

LayerRow linear_row(int64_t block, std::string_view role) {
  LayerRow row;
  row.block = block;
  row.role = role;
  row.name = fmt::format("blocks.{}.{}", block, role);
  row.weights = "int4:row";
  row.activations = "int4:token:asym";
  row.rows = row.columns = 4096;
  row.stored_bytes = 9'961'472;
  row.bits_per_weight = 4.75;
  row.weight_error = 0.01 + 0.001 * static_cast<double>(block);
  row.output_error = 0.02 + 0.001 * static_cast<double>(block);
  row.output_cosine = 0.99;
  return row;
}

LayerReport report_of(int64_t blocks, int64_t hidden = 64, int64_t ffn = 150) {
  LayerReport report;
  report.model = "model-quik";
  report.family = "llama";
  report.recipe = "quik-4b";
  report.tool = "nibble 0.1.0";
  report.parameters = 6'738'415'616;
  report.file_bytes = 4'200'000'000;
  report.blocks = blocks;
  report.bits_per_weight = 4.98;
  report.quantized_bits_per_weight = 4.75;
  for (int64_t block = 0; block < blocks; ++block) {
    for (const std::string_view role : kRoles) report.linears.push_back(linear_row(block, role));
    for (const std::string_view site : kSites)
      report.sites.push_back(site_row(block, site, site == "down" ? ffn : hidden));
  }
  return report;
}

Divergence divergence_of(int64_t tokens) {
  Divergence divergence;
  divergence.tokens = tokens;
  for (int64_t token = 0; token < tokens; ++token)
    divergence.kl.push_back(static_cast<float>(std::exp(-4 + 2 * std::sin(static_cast<double>(token)))));
  divergence.mean_kl = {0.0412, 0.001};
  divergence.median_kl = {0.018, 0.001};
  divergence.p99_kl = {0.12, 0.001};
  divergence.p999_kl = {0.13, 0.001};
  divergence.max_kl = 0.14;
  divergence.top1_agreement = {0.9234, 0.001};
  divergence.reference_perplexity = 5.5;
  divergence.candidate_perplexity = 5.61;
  divergence.perplexity_ratio = {1.02, 0.001};
  return divergence;
}

TEST(Page, HoldsEverySection) {
  LayerReport report = report_of(3);
  report.reference = "model";
  report.protocol = "windows of 512";
  report.divergence = divergence_of(5000);
  const std::string page = report_page(report);
  expect_sound(page);
  for (const std::string_view id :
       {"findings", "channels", "depth", "maps", "text", "numbers", "map-bits", "map-output", "map-weight",
        "depth-output", "depth-weight", "text-kl", "kl-distribution"})
    EXPECT_EQ(occurrences(page, fmt::format("id=\"{}\"", id)), 1u) << id;
  EXPECT_EQ(occurrences(page, "class=\"absent\""), 0u);
  EXPECT_EQ(occurrences(page, "<b>Good:</b>"), 5u);
  EXPECT_NE(page.find("<b>0.0412</b>"), std::string::npos);
  EXPECT_NE(page.find("<b>92.3\u00A0%</b>"), std::string::npos);
  EXPECT_NE(page.find("<b>1.020</b>"), std::string::npos);
  EXPECT_NE(page.find("<b>blocks.2.q</b> has the largest output error: 2.2\u00A0%"), std::string::npos);
  EXPECT_EQ(page, report_page(report));
}

TEST(Page, OneBlockNeedsNoSlider) {
  const std::string page = report_page(report_of(1));
  expect_sound(page);
  EXPECT_EQ(page.find("type=\"range\""), std::string::npos);
  EXPECT_NE(report_page(report_of(2)).find("type=\"range\""), std::string::npos);
}

TEST(Page, EmptyReportSaysWhatIsAbsent) {
  const std::string page = report_page({});
  expect_sound(page);
  EXPECT_EQ(occurrences(page, "class=\"absent\""), 5u);
  EXPECT_EQ(occurrences(page, "<figure"), 0u);
  EXPECT_EQ(page.find("What stands out"), std::string::npos);
}

TEST(Page, WithoutReferenceOrTextSaysHowToGetOne) {
  LayerReport report = report_of(2);
  EXPECT_NE(report_page(report).find("no reference was given"), std::string::npos);
  EXPECT_NE(report_page(report).find("Not compared with the original"), std::string::npos);
  report.reference = "model";
  EXPECT_NE(report_page(report).find("no text was given"), std::string::npos);
  report.divergence = divergence_of(0);
  EXPECT_NE(report_page(report).find("no text was given"), std::string::npos);
}

TEST(Page, WithoutCalibrationSaysSo) {
  LayerReport report = report_of(2);
  for (LayerRow& row : report.linears) row.output_error = row.output_cosine = std::nullopt;
  for (SiteRow& row : report.sites) row.absmax.clear();
  const std::string page = report_page(report);
  expect_sound(page);
  EXPECT_NE(page.find("Output errors were not measured"), std::string::npos);
  EXPECT_NE(page.find("quantized without a calibration text"), std::string::npos);
  EXPECT_EQ(page.find("depth-output"), std::string::npos);
  EXPECT_NE(page.find("depth-weight"), std::string::npos);
  EXPECT_NE(page.find("has the largest weight error"), std::string::npos);
}

TEST(Page, PeaksOfUnquantizedInputsAreNoFinding) {
  LayerReport report = report_of(2);
  for (SiteRow& row : report.sites) row.absmax[1] = 500;
  EXPECT_NE(report_page(report).find("The highest peak that is not kept is channel 1 of <b>blocks."),
            std::string::npos);
  for (LayerRow& row : report.linears) row.activations = "bfp4:b16";
  EXPECT_NE(report_page(report).find("The highest peak that is not kept"), std::string::npos);
  for (LayerRow& row : report.linears) row.activations = "f32";
  EXPECT_EQ(report_page(report).find("The highest peak"), std::string::npos);
  EXPECT_NE(report_page(report).find("not quantized: its peaks cost nothing"), std::string::npos);
}

TEST(Page, EqualModelsDivergeNowhere) {
  LayerReport report = report_of(2);
  report.reference = "model";
  report.divergence = divergence_of(1234);
  std::fill(report.divergence->kl.begin(), report.divergence->kl.end(), 0.0f);
  const std::string page = report_page(report);
  expect_sound(page);
  EXPECT_NE(page.find("all 1,234 tokens are exactly the reference's"), std::string::npos);
}

TEST(Page, EscapesWhateverComesFromAFolder) {
  const std::string hostile = "</title><script>alert(1)</script>\"'&\x01\xFF onload=x";
  LayerReport report = report_of(2);
  report.model = report.reference = report.family = report.recipe = report.tool = report.protocol = hostile;
  report.divergence = divergence_of(100);
  for (LayerRow& row : report.linears) row.name = row.role = row.weights = row.activations = hostile;
  for (SiteRow& row : report.sites) row.name = row.site = hostile;
  report.linears[3].output_error = kNan;
  const std::string page = report_page(report);
  expect_sound(page);
  EXPECT_EQ(occurrences(page, "<script"), 1u);
  EXPECT_EQ(occurrences(page, "</title>"), 1u + occurrences(page, "<title>") - 1);
  EXPECT_EQ(page.find("alert(1)</script>"), std::string::npos);
  EXPECT_EQ(page.find('\x01'), std::string::npos);
  EXPECT_EQ(page.find('\xFF'), std::string::npos);
  EXPECT_NE(page.find("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;\uFFFD\uFFFD onload=x"), std::string::npos);
}

TEST(Page, ExtremeValuesStayInside) {
  const double values[] = {0, kNan, kInfinity, -kInfinity, 1e-320, 1e308, -1, 0.5};
  LayerReport report = report_of(8);
  size_t next = 0;
  for (LayerRow& row : report.linears) {
    row.weight_error = row.output_error = row.output_cosine = values[next++ % 8];
    row.bits_per_weight = values[next % 8];
  }
  for (SiteRow& row : report.sites) {
    for (float& x : row.absmax) x = static_cast<float>(values[next++ % 8]);
    row.maximum = row.median = row.kurtosis = values[next % 8];
    row.kept = {-1, 3, 1'000'000};
  }
  report.divergence = divergence_of(1000);
  for (float& x : report.divergence->kl) x = static_cast<float>(values[next++ % 8]);
  report.divergence->mean_kl = {kNan, kInfinity};
  const std::string page = report_page(report);
  expect_sound(page);
  EXPECT_NE(page.find("are not finite</strong>"), std::string::npos);
  EXPECT_NE(page.find("shade-bad"), std::string::npos);
}

TEST(Page, AllZeroAndAllEqualHaveScales) {
  LayerReport report = report_of(3);
  for (LayerRow& row : report.linears) row.output_error = 0, row.weight_error = 0.01;
  for (SiteRow& row : report.sites) std::fill(row.absmax.begin(), row.absmax.end(), 0.0f);
  report.divergence = divergence_of(50);
  std::fill(report.divergence->kl.begin(), report.divergence->kl.end(), 0.25f);
  expect_sound(report_page(report));
}

TEST(Page, StrangeBlockNumbersDoNotMakeItHuge) {
  LayerReport report = report_of(2);
  report.linears[0].block = std::numeric_limits<int64_t>::max() - 1;
  report.linears[1].block = -5;
  report.blocks = int64_t{1} << 60;
  EXPECT_LT(report_page(report).size(), 1'000'000u);
}

TEST(Page, ALargeModelIsAFewMegabytes) {
  LayerReport report = report_of(80, 8192, 28672);
  report.divergence = divergence_of(300'000);
  const std::string page = report_page(report);
  EXPECT_LT(page.size(), 4'000'000u);
  EXPECT_EQ(WellFormed(page).problem(), "");
  // Every linear and every site has its row, and every site its drawing.
  EXPECT_EQ(occurrences(page, "<th scope=\"row\""), 80u * 11);
  EXPECT_EQ(occurrences(page, "<g class=\"of-block"), 80u * 4);
}

TEST(WellFormedness, IsNotBlind) {
  EXPECT_EQ(WellFormed("<p>a &amp; b</p><meta x=\"1\"><g/>").problem(), "");
  for (const std::string_view wrong : {"<p>", "<p></b>", "<p>a & b</p>", "<p>a > b</p>", "<p id=1></p>", "</p>",
                                       "<p id=\"a\"></p><p id=\"a\"></p>", "<p onclick=\"a\"></p>"})
    EXPECT_NE(WellFormed(wrong).problem(), "") << wrong;
}

TEST(Text, NumbersAsPeopleWriteThem) {
  using namespace page;
  EXPECT_EQ(number(0), "0");
  EXPECT_EQ(number(4.5312), "4.53");
  EXPECT_EQ(number(0.012345), "0.0123");
  EXPECT_EQ(number(12345.6), "12,346");
  EXPECT_EQ(number(999.7), "1,000");
  EXPECT_EQ(number(-0.5), "-0.500");
  EXPECT_EQ(number(1.234e-6), "1.23e-6");
  EXPECT_EQ(number(kNan), "not a number");
  EXPECT_EQ(number(-kInfinity), "-infinite");
  EXPECT_EQ(exact(0.1), "0.1");
  EXPECT_EQ(exact(kInfinity), "Infinity");
  EXPECT_EQ(percent(0.9183), "91.8\u00A0%");
  EXPECT_EQ(percent(1), "100\u00A0%");
  EXPECT_EQ(percent(0.99996), "99.99\u00A0%");  // not quite all is not all
  EXPECT_EQ(percent(0), "0\u00A0%");
  EXPECT_EQ(count(1234567), "1,234,567");
  EXPECT_EQ(count(-1234), "-1,234");
  EXPECT_EQ(count(999), "999");
  EXPECT_EQ(bytes(11'546'984), "11.5\u00A0MB");
  EXPECT_EQ(bytes(999'999), "1.00\u00A0MB");
  EXPECT_EQ(parameters(5'770'496), "5.77\u00A0million");
  EXPECT_EQ(power_of_ten(-12), "10⁻¹²");
  EXPECT_EQ(coordinate(12.5), "12.5");
  EXPECT_EQ(coordinate(-0.001), "0");
  EXPECT_EQ(share(1.0 / 3), "33.33%");
}

TEST(LogScale, KeepsOrderAndPlacesZero) {
  const double values[] = {0, 1e-4, 1e-2, 1};
  const page::LogScale scale(values);
  EXPECT_GT(scale.at(0), 0);
  EXPECT_LT(scale.at(0), scale.base());
  EXPECT_GE(scale.at(1e-4), scale.base());
  EXPECT_LT(scale.at(1e-4), scale.at(1e-2));
  EXPECT_LT(scale.at(1e-2), scale.at(1));
  EXPECT_NEAR(scale.at(1e-2) - scale.at(1e-4), scale.at(1) - scale.at(1e-2), 1e-12);
  EXPECT_EQ(scale.at(kInfinity), 1);
  EXPECT_EQ(scale.at(kNan), 1);
  EXPECT_EQ(scale.ticks().front().text, "0");
}

TEST(LogScale, HasAtLeastTwoLabelsAndNotTooMany) {
  for (const double low : {1e-300, 1e-9, 0.0123, 0.4, 7.7, 1e5})
    for (const double factor : {1.0, 1.5, 4.0, 30.0, 1e3, 1e9, 1e200}) {
      const double values[] = {low, low * factor};
      const size_t labels = page::LogScale(values).ticks().size();
      EXPECT_GE(labels, 1u) << low << " " << factor;
      EXPECT_LE(labels, 8u) << low << " " << factor;
    }
}

TEST(Plot, LabelsAreSpreadWithoutLosingTheirOrder) {
  const std::vector<double> places = page::spread({50, 51, 52, 3, 99}, 10, 5, 100);
  EXPECT_EQ(places, (std::vector<double>{41, 51, 61, 5, 99}));
  const std::vector<double> crowded = page::spread({99, 98, 97}, 10, 0, 100);
  EXPECT_EQ(crowded, (std::vector<double>{100, 90, 80}));
  // Those that touch move around their middle; what does not touch stays.
  EXPECT_EQ(page::spread({20, 24, 28, 90}, 10, 0, 100), (std::vector<double>{14, 24, 34, 90}));
}

TEST(Plot, PathsBreakWhereNothingIsAndMergeEqualColumns) {
  const page::Place places[] = {{0, 1.0}, {1, 0.5}, {2, std::nullopt}, {3, 0.0}};
  EXPECT_EQ(page::line_path(places, 100), "M0 0L1 50M3 100");
  const double heights[] = {0.5, 0.5, 1, 0};
  EXPECT_EQ(page::skyline_path(heights, 10), "M0 10V5h2V0h1V10h1V10z");
}

TEST(Sections, RolesAndSitesHaveNames) {
  EXPECT_EQ(page::site_title("qkv"), "q, k, v");
  EXPECT_EQ(page::site_title("gate_up"), "gate, up");
  EXPECT_EQ(page::site_title("<b>"), "&lt;b&gt;");
  EXPECT_EQ(page::role_class("down"), "role-down");
  EXPECT_EQ(page::role_class("\" onload"), "role-other");
  LayerReport report = report_of(1);
  std::reverse(report.linears.begin(), report.linears.end());
  report.linears.push_back(linear_row(0, "experts"));
  EXPECT_EQ(page::roles_of(report), (std::vector<std::string>{"q", "k", "v", "o", "gate", "up", "down", "experts"}));
}

}  // namespace
}  // namespace nibble
