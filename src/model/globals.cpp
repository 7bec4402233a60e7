#include "model/globals.h"

namespace nibble {

std::string_view name_of(Global linear) {
  switch (linear) {
    case Global::embedding: return "embedding";
    case Global::head: return "head";
    case Global::project_in: return "project_in";
    case Global::project_out: return "project_out";
  }
  return {};
}

Shape shape_of(const Spec& spec, Global linear) {
  switch (linear) {
    case Global::embedding: return {spec.vocabulary, spec.embedding};
    case Global::head: return {spec.vocabulary, spec.embedding};
    case Global::project_in: return {spec.hidden, spec.embedding};
    case Global::project_out: return {spec.embedding, spec.hidden};
  }
  return {};
}

std::vector<Global> globals_of(const Spec& spec) {
  std::vector<Global> list = {Global::embedding};
  if (!spec.tied_head) list.push_back(Global::head);
  if (spec.embedding != spec.hidden) {
    list.push_back(Global::project_in);
    list.push_back(Global::project_out);
  }
  return list;
}

const LinearWeight* find_linear(const GlobalWeights& globals, Global linear) {
  const auto at = [](const std::optional<LinearWeight>& weight) { return weight ? &*weight : nullptr; };
  switch (linear) {
    case Global::embedding: return &globals.embedding;
    case Global::head: return at(globals.head);
    case Global::project_in: return at(globals.project_in);
    case Global::project_out: return at(globals.project_out);
  }
  return nullptr;
}

void set_linear(GlobalWeights& globals, Global linear, LinearWeight weight) {
  switch (linear) {
    case Global::embedding: globals.embedding = std::move(weight); break;
    case Global::head: globals.head = std::move(weight); break;
    case Global::project_in: globals.project_in = std::move(weight); break;
    case Global::project_out: globals.project_out = std::move(weight); break;
  }
}

int64_t position_rows_of(const Spec& spec) {
  return spec.positions == Positions::learned ? spec.max_positions + spec.position_offset : 0;
}

NormParts norm_parts_of(const Spec& spec) { return {spec.norm_affine, spec.norm_affine && spec.norm == Norm::layer}; }

}  // namespace nibble
