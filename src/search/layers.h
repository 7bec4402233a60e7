// The blocks of a model with some of its linears in other formats, packed as they would run.
//
// Weights are solved by the steps of a recipe: rounded, or with what an observer sees of the float model's inputs. What
// has been packed is kept as long as a quarter of the machine's free memory lasts: a search asks for the same layers
// again and again.
#pragma once

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <tuple>
#include <vector>

#include "model/model.h"
#include "quantize/observe/sensitivity.h"
#include "quantize/recipe/plan.h"
#include "quantize/recipe/recipe.h"
#include "quantize/solve/layer.h"
#include "runtime/model.h"
#include "search/observer.h"
#include "search/variables.h"

namespace nibble::search {

// By role, the numbers of the palette's formats; kAsStored: as the checkpoint has the weights, with float inputs. And
// what attention is computed in.
inline constexpr int kAsStored = -1;
struct BlockSetting {
  std::array<int, kRoles> weights, activations;
  AttentionFormats attention;
  BlockSetting() {
    weights.fill(kAsStored);
    activations.fill(kAsStored);
  }
  // Of weights, activations or attention, as the variable says.
  void set(const Space& space, const Variable& variable, int candidate);
};
// What a choice means for one block; attention that is not chosen is as the space says.
BlockSetting setting_of(const Space& space, const Choice& choice, int64_t block);

// A block as it would run.
struct TriedBlock {
  PackedBlock linears;
  AttentionFormats attention;
};

class Layers {
 public:
  // `steps`: "steps" of a recipe. All must outlive this, and `model` be the one that `source` holds. `usage` when the
  // steps need calibration text.
  static Result<Layers> make(const ModelSource& source, const Model& model, const Palette& palette, const Json& steps);

  // As recipes solve them: one for each format of the palette's weights, in that order, which gives it to all linears;
  // inputs are what the recipe makes them, whatever a setting says. `observer` and `sensitivities`: null where no step
  // reads them. `usage` for steps that change the whole model.
  static Result<Layers> make(const ModelSource& source, const Model& model, const Palette& palette,
                             std::vector<Recipe> recipes, Observer* observer, const SensitivityFile* sensitivities);

  // Every pair of formats on every width of input of the model: `unsupported` naming the pair that no kernel runs,
  // `usage` for one that the width does not allow.
  Status check_pairs(ThreadPool& pool);
  // A pair runs: for weights whose activations are not chosen.
  bool runs(int weights, int activations, ThreadPool& pool);

  Result<TriedBlock> block(int64_t index, const BlockSetting& setting, ThreadPool& pool);

  // Between the two, blocks are asked for in order, as parts of one model: what a site leaves over of the bits for its
  // channels, or takes more, is handed on to the next, as when a model is written.
  void begin_model();
  void end_model();

  // Of packed layers that are kept for the next time.
  void keep_at_most(int64_t bytes) { room_ = std::min(room_, bytes); }

  // One more format, which the palette has as its last by now.
  void add(Recipe recipe) { recipes_.push_back(std::move(recipe)); }

 private:
  using Key = std::tuple<int64_t, Role, int, int>;
  Layers(const ModelSource& source, const Model& model, const Palette& palette, Json steps);
  // A linear, and its site.
  struct Planned {
    int64_t block = 0;
    size_t number = 0;               // of the site
    std::vector<unsigned> observed;  // by site of the block
    SitePlan site;
    LinearPlan linear;
  };
  // The site of the linear solved last, as its steps left it: what solvers find out serves its other linears and
  // formats. With other bits for its channels the steps are applied anew, to the same statistics.
  struct CurrentSite {
    std::tuple<int64_t, size_t, std::string> key{-1, 0, ""};  // block, number, input and steps
    std::string bits;                                         // steps that give bits to channels
    SiteStatistics statistics;
    SiteWork work;
  };
  Result<Planned> plan(int64_t block, Role role, int weights, int activations) const;
  Result<SiteWork*> prepare_site(const Planned& planned, ThreadPool& pool);
  void open(const Planned& planned, SiteWork& work, ThreadPool& pool);
  Status read(int64_t block);
  Result<LinearWeight> solve(const Planned& planned, const FloatLayer& layer, ThreadPool& pool);
  Result<PackedLinear> linear(const Key& key, ThreadPool& pool);
  Result<const FloatLayer*> original(int64_t block, Role role, ThreadPool& pool);
  Status try_pair(Role role, int weights, int activations, ThreadPool& pool);

  const ModelSource* source_;
  const Model* model_;
  const Palette* palette_;
  Json steps_;
  std::vector<Recipe> recipes_;  // by format; none: rounding by steps_
  Observer* observer_ = nullptr;
  const SensitivityFile* sensitivities_ = nullptr;
  CurrentSite site_;
  std::optional<double> left_over_;  // of the model that is being made
  int64_t room_;                     // bytes of packed layers that may still be kept
  std::map<Key, PackedLinear> kept_;
  int64_t read_ = -1;  // the block in `weights_`
  BlockWeights weights_;
  FloatLayer layer_;  // of that block, the one asked for last
};

}  // namespace nibble::search
