# Writes OUTPUT, a C++ source that holds the recipes of the folder RECIPES as strings, by name. Run at build time:
#   cmake -DRECIPES=... -DOUTPUT=... -P embed_recipes.cmake
file(GLOB files ${RECIPES}/*.json)
list(SORT files)
set(text "// Generated from recipes/*.json.\n#include \"quantize/recipe/recipe.h\"\n\nnamespace nibble {\n")
string(APPEND text "namespace {\n\nconstexpr ShippedRecipe kRecipes[] = {\n")
foreach(file ${files})
  get_filename_component(name ${file} NAME_WLE)
  file(READ ${file} json)
  # Brackets and semicolons mean something to CMake's lists; the text is never used as one.
  string(APPEND text "    {\"${name}\", R\"recipe(${json})recipe\"},\n")
endforeach()
string(APPEND text "};\n\n}  // namespace\n\nstd::span<const ShippedRecipe> shipped_recipes() { return kRecipes; }\n\n")
string(APPEND text "}  // namespace nibble\n")
file(WRITE ${OUTPUT} "${text}")
