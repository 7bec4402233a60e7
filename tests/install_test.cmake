# Installs the build into PREFIX, builds examples/ against it with find_package(nibble), and runs what came out.
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE code OUTPUT_VARIABLE out ERROR_VARIABLE out)
  if(NOT code EQUAL 0)
    message(FATAL_ERROR "${ARGN}\nended with ${code}:\n${out}")
  endif()
  set(out "${out}" PARENT_SCOPE)
endfunction()

file(REMOVE_RECURSE ${PREFIX})
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${PREFIX})
run(${PREFIX}/bin/nibble --version)
foreach(header nibble.h nibble_c.h result.h)
  if(NOT EXISTS ${PREFIX}/include/nibble/${header})
    message(FATAL_ERROR "include/nibble/${header} was not installed")
  endif()
endforeach()

if(SANITIZE)
  set(flags -fsanitize=${SANITIZE})
endif()
run(${CMAKE_COMMAND} -S ${SOURCE}/examples -B ${PREFIX}/examples -DCMAKE_PREFIX_PATH=${PREFIX}
    -DCMAKE_C_COMPILER=${C_COMPILER} -DCMAKE_CXX_COMPILER=${CXX_COMPILER} "-DNIBBLE_SANITIZE=${SANITIZE}" -DCMAKE_C_FLAGS=${flags}
    -DCMAKE_CXX_FLAGS=${flags})
run(${CMAKE_COMMAND} --build ${PREFIX}/examples)
# Without arguments both say how they are used, with code 2: they started, so the library was found.
foreach(example example_c example_cpp)
  execute_process(COMMAND ${PREFIX}/examples/${example} RESULT_VARIABLE code OUTPUT_QUIET ERROR_QUIET)
  if(NOT code EQUAL 2)
    message(FATAL_ERROR "${example} ended with ${code}, expected 2")
  endif()
endforeach()
