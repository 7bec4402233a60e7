// A step of a recipe: one general operation on a model, on a site or on a linear, with its parameters read and checked.
//
// Adding one is a file with a class and its reader, and a row in recipe/steps.cpp.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "core/result.h"
#include "core/threads.h"
#include "format/number_format.h"
#include "model/channel_order.h"
#include "quantize/observe/statistics.h"
#include "quantize/solve/layer.h"

namespace nibble {

// A linear that leaves it open how many bits each of its columns, or groups of them, has.
struct OpenLinear {
  NumberFormat format;
  int64_t rows = 0;
  int64_t sparse = 0;                         // single weights that will be kept apart, at most
  std::function<Result<FloatLayer>()> layer;  // its original weights
};

// A site on its way through the steps: what is known of its input and what has been decided about it.
struct SiteWork {
  std::string name;                            // "blocks.3.gate_up"
  int64_t inputs = 0;                          // K
  int64_t hidden = 0;                          // width of the model
  bool sparse24 = false;                       // some linear of the site will store a 2:4 pattern
  const SiteStatistics* statistics = nullptr;  // of the calibration text; null without any
  std::vector<int32_t> kept;                   // ascending columns that stay in 16 bits
  // What the linears of the site can share of a solver's work, by a name that the solver chooses.
  std::map<std::string, std::shared_ptr<const void>, std::less<>> shared;
  Levels kept_levels = Levels::f16;  // what kept columns are stored as: f16 or bf16
  NumberFormat activations;          // of the site's quantized linears
  int64_t rotation = 0;              // block of the Hadamard rotation of the columns that are not kept; 0: none
  std::vector<OpenLinear> open{};    // with learned levels: those that share their widths
  std::vector<uint8_t> widths{};     // of the dense columns of open linears
  double left_over = 0;              // bits that sites, or linears, before were below their budget; negative: above
};

// A model on its way through the steps, before any of its weights is quantized.
struct ModelWork {
  const ModelSource& source;
  const ModelStatistics* statistics = nullptr;  // of the calibration text; null without any
  ChannelOrder order;                           // in which it will be stored
};

// A linear on its way through the steps.
struct LinearWork {
  SiteWork& site;
  const FloatLayer& layer;  // original weights, rotated where the site is
  NumberFormat weights, activations;
  std::optional<LinearWeight> solved;
  double damping = -1;  // that a solver really used; negative: none
  // Decided before solving: bits of each dense column where the format leaves them open, and for learned levels the
  // tables, and the places of single weights that are kept apart (row_ends and columns).
  std::vector<uint8_t> widths{};
  LearnedLevels learned{};
  SparseWeights sparse{};
  // [N x K], of the file of sensitivities; only where a step asks for them.
  std::vector<float> sensitivities{};
};

// How the linear is to be stored, as far as its site and its formats say: a format's outer scale is that of the
// weights, and fixed point without a fraction gets the one that just holds the largest weight, or the largest input on
// the calibration text (`usage` error when there is none).
Result<LayerForm> form_of(const LinearWork& work, bool sparse24);

class Step {
 public:
  virtual ~Step() = default;
  // Statistics of the site that this step makes available to the steps after it, and those it reads (sets of
  // Statistics).
  virtual unsigned observes() const { return kNoStatistics; }
  virtual unsigned needs() const { return kNoStatistics; }
  // Reads LinearWork::sensitivities.
  virtual bool needs_sensitivities() const { return false; }
  // Single weights that it keeps apart of so many dense ones, at most; for layers in learned levels.
  virtual int64_t most_sparse(int64_t /*weights*/) const { return 0; }
  // Of steps that give bits to the columns of linears in such a format, which leaves them open: about how many are
  // stored for all weights of the only open linear of a site, and whether the site's open linears, or this one, can do
  // with them
  // (`usage`, naming the least).
  virtual bool gives_bits(const NumberFormat& /*weights*/) const { return false; }
  virtual double open_bits(const SiteWork&) const { return 0; }
  // What the site's open linears take together at least, and the widths of its dense columns if all were alike.
  virtual double least_open_bits(const SiteWork&) const { return 0; }
  virtual std::vector<uint8_t> even_widths(const SiteWork&) const { return {}; }
  virtual Status check_open(const SiteWork&) const { return {}; }
  // Some columns of the site are kept; its input is rotated.
  virtual bool keeps() const { return false; }
  virtual bool turns() const { return false; }
  // The solved weights have a 2:4 pattern.
  virtual bool sparse24() const { return false; }
  // What can be said before any work about a linear in these formats. `where` starts the message.
  virtual Status check(const NumberFormat& weights, const NumberFormat& activations, int64_t inputs,
                       std::string_view where) const;
  // One of the three does the work, as the row's scope says.
  virtual Status apply_to_model(ModelWork&, ThreadPool&) const { return {}; }
  virtual Status apply_to_site(SiteWork&, ThreadPool&) const { return {}; }
  virtual Status apply_to_linear(LinearWork&, ThreadPool&) const { return {}; }
};
using StepPointer = std::shared_ptr<const Step>;

// "pattern": "2:4", or absent or null for none.
Result<bool> read_pattern(JsonReader& parameters);

}  // namespace nibble
