#include "eval/tasks/few_shot.h"

#include "core/python_random.h"

namespace nibble {

std::string example_text(const Task& task, const Item& item) {
  const auto gold = static_cast<size_t>(item.gold);
  return fmt::format("{}{}{}\n\n", item.context(gold), task.example_separator, item.choice(gold));
}

namespace {

// Draws examples for one item after the other.
class ExampleDraw {
 public:
  ExampleDraw(const Task& task, std::span<const Item> pool, int64_t shots, uint64_t seed)
      : task_(task), pool_(pool), shots_(static_cast<size_t>(shots)), random_(seed) {}

  // `exclude`: the item may be in the pool; one more is drawn, and the item left out.
  Result<std::string> examples_before(const Item& item, bool exclude) {
    const size_t drawn = shots_ + (exclude ? 1 : 0);
    if (drawn > pool_.size()) return too_few(pool_.size() - (exclude ? 1 : 0));
    std::vector<size_t> chosen = random_.sample(pool_.size(), drawn);
    if (exclude) std::erase_if(chosen, [&](size_t i) { return pool_[i].same_as(item); });
    return chosen.size() < shots_ ? from_all_but(item) : text_of(chosen);
  }

 private:
  // Copies of the item were drawn: once more, among the others.
  Result<std::string> from_all_but(const Item& item) {
    std::vector<size_t> others, chosen;
    for (size_t i = 0; i < pool_.size(); ++i)
      if (!pool_[i].same_as(item)) others.push_back(i);
    if (shots_ > others.size()) return too_few(others.size());
    for (size_t i : random_.sample(others.size(), shots_)) chosen.push_back(others[i]);
    return text_of(chosen);
  }

  std::string text_of(std::span<const size_t> chosen) const {
    std::string text;
    for (size_t i : chosen.first(shots_)) text += example_text(task_, pool_[i]);
    return text;
  }

  tl::unexpected<Error> too_few(size_t others) const {
    return fail(ErrorCode::usage, "{}: {} examples asked for, but the file has only {} items to draw them from",
                task_.name, shots_, others);
  }

  const Task& task_;
  std::span<const Item> pool_;
  size_t shots_;
  PythonRandom random_;
};

}  // namespace

Result<std::vector<std::string>> examples_for(const Task& task, std::span<const Item> items, std::span<const Item> pool,
                                              bool pool_has_items, int64_t shots, uint64_t seed) {
  std::vector<std::string> out(items.size());
  if (shots == 0) return out;
  ExampleDraw draw(task, pool, shots, seed);
  for (size_t i = 0; i < items.size(); ++i) {
    NIBBLE_TRY(out[i], draw.examples_before(items[i], pool_has_items || task.draws_one_more));
  }
  return out;
}

}  // namespace nibble
