// Solved examples in front of a question, drawn as lm-evaluation-harness draws them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "eval/tasks/task.h"

namespace nibble {

// The solved item as it stands in a prompt, with the blank line that ends it.
std::string example_text(const Task& task, const Item& item);

// The examples before each of `items`, in order: one text per item, empty when shots is 0. Drawn from `pool`; an item
// that is itself in the pool is never its own example. Every item takes its draws from one sequence of random numbers,
// so a prefix of the items gets the same examples. `usage` when the pool has not enough items.
Result<std::vector<std::string>> examples_for(const Task& task, std::span<const Item> items, std::span<const Item> pool,
                                              bool pool_has_items, int64_t shots, uint64_t seed);

}  // namespace nibble
