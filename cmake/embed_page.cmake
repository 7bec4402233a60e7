# Writes OUTPUT, a C++ source that holds page.css and page.js of the folder PAGE as strings. Run at build time:
#   cmake -DPAGE=... -DOUTPUT=... -P embed_page.cmake
set(text "// Generated from page.css and page.js.\n#include \"eval/report/assets.h\"\n\nnamespace nibble::page {\n\n")
foreach(asset "style;css" "script;js")
  list(GET asset 0 name)
  list(GET asset 1 extension)
  # Brackets and semicolons mean something to CMake's lists; the text is never used as one.
  file(READ ${PAGE}/page.${extension} content)
  string(APPEND text "std::string_view page_${name}() {\n  return R\"page(${content})page\";\n}\n\n")
endforeach()
string(APPEND text "}  // namespace nibble::page\n")
file(WRITE ${OUTPUT} "${text}")
