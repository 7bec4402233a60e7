// What the build says about itself.
#pragma once

// The version of project() and the commit, both set by the build (apps/CMakeLists.txt).
#ifndef NIBBLE_VERSION
#define NIBBLE_VERSION "unknown"
#endif
#ifndef NIBBLE_COMMIT
#define NIBBLE_COMMIT ""
#endif
