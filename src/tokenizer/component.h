// How the stages of tokenizer.json are read: every stage is an object with a "type", and a list of rows says which
// types there are.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "core/result.h"

namespace nibble {

// No real tokenizer has a chain of stages that makes text more than a few dozen times longer; a hostile one could
// fill any memory.
constexpr double kMaxGrowth = 4096;
constexpr size_t kMaxSequence = 256;

template <class T>
double total_growth(const std::vector<std::unique_ptr<T>>& parts) {
  double product = 1;
  for (const auto& part : parts) product *= part->growth();
  return product;
}

template <class T>
struct ComponentRow {
  std::string_view type;
  Result<std::unique_ptr<T>> (*read)(JsonReader& reader);
};

template <class T>
Result<std::unique_ptr<T>> read_component(const Json& value, const std::string& where,
                                          std::span<const ComponentRow<T>> rows) {
  if (value.is_null()) return std::unique_ptr<T>();
  NIBBLE_TRY(JsonReader reader, JsonReader::open(value, where));
  NIBBLE_TRY(std::string type, reader.string("type"));
  for (const ComponentRow<T>& row : rows) {
    if (row.type != type) continue;
    NIBBLE_TRY(std::unique_ptr<T> component, row.read(reader));
    NIBBLE_DO(reader.refuse_unknown());
    if (component->growth() > kMaxGrowth)
      return fail(ErrorCode::unsupported, "{}: may make text more than {} times longer", where, kMaxGrowth);
    return component;
  }
  std::string known;
  for (const ComponentRow<T>& row : rows) known += (known.empty() ? "" : ", ") + std::string(row.type);
  return fail(ErrorCode::unsupported, "{}: type \"{}\" is not supported; supported are {}", where, type, known);
}

// The members of a Sequence, read by `read_one(value, where)`.
template <class T, class ReadOne>
Result<std::vector<std::unique_ptr<T>>> read_sequence(JsonReader& reader, std::string_view key, ReadOne read_one) {
  const Json* list = reader.find(key);
  if (list == nullptr || !list->is_array())
    return fail(ErrorCode::corrupt, "{}: \"{}\" must be a list", reader.where(), key);
  if (list->size() > kMaxSequence)
    return fail(ErrorCode::unsupported, "{}: \"{}\" has {} parts, supported are {}", reader.where(), key, list->size(),
                kMaxSequence);
  std::vector<std::unique_ptr<T>> parts;
  for (size_t i = 0; i < list->size(); ++i) {
    std::string where = fmt::format("{}, \"{}\"[{}]", reader.where(), key, i);
    NIBBLE_TRY(std::unique_ptr<T> part, read_one((*list)[i], where));
    if (part == nullptr) return fail(ErrorCode::corrupt, "{} is null, expected an object", where);
    parts.push_back(std::move(part));
    if (total_growth(parts) > kMaxGrowth)
      return fail(ErrorCode::unsupported, "{}: up to here the parts may make text more than {} times longer", where,
                  kMaxGrowth);
  }
  return parts;
}

}  // namespace nibble
