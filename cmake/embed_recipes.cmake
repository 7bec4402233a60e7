# Writes OUTPUT, a C++ source that holds the recipes of the folder RECIPES, and the modifiers in its folder modifiers, as
# strings, by name. Run at build time:
#   cmake -DRECIPES=... -DOUTPUT=... -P embed_recipes.cmake
set(text "// Generated from recipes/*.json.\n#include \"quantize/recipe/recipe.h\"\n\nnamespace nibble {\n")
# The files of `folder` as the function `name`.
macro(embed folder name)
  file(GLOB files ${folder}/*.json)
  list(SORT files)
  string(APPEND text "namespace {\n\nconstexpr ShippedRecipe k_${name}[] = {\n")
  foreach(file ${files})
    get_filename_component(stem ${file} NAME_WLE)
    file(READ ${file} json)
    # Brackets and semicolons mean something to CMake's lists; the text is never used as one.
    string(APPEND text "    {\"${stem}\", R\"recipe(${json})recipe\"},\n")
  endforeach()
  string(APPEND text "};\n\n}  // namespace\n\nstd::span<const ShippedRecipe> ${name}() { return k_${name}; }\n\n")
endmacro()
embed(${RECIPES} shipped_recipes)
embed(${RECIPES}/modifiers shipped_modifiers)
string(APPEND text "}  // namespace nibble\n")
file(WRITE ${OUTPUT} "${text}")
