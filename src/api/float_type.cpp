#include "api/float_type.h"

namespace nibble {

Result<FloatType> float_type_named(std::string_view name) {
  if (name == "f32") return FloatType::f32;
  if (name == "f16") return FloatType::f16;
  if (name == "bf16") return FloatType::bf16;
  return fail(ErrorCode::usage, "float type \"{}\" is not known; expected f32, f16 or bf16", name);
}

std::string_view name_of(FloatType type) {
  switch (type) {
    case FloatType::f16: return "f16";
    case FloatType::bf16: return "bf16";
    case FloatType::f32: break;
  }
  return "f32";
}

Levels levels_of(FloatType type) {
  switch (type) {
    case FloatType::f16: return Levels::f16;
    case FloatType::bf16: return Levels::bf16;
    case FloatType::f32: break;
  }
  return Levels::f32;
}

}  // namespace nibble
