// Has the manifest of a quantized folder everything that quantizing writes into it? What is missing was taken out.
#pragma once

#include "core/json.h"
#include "core/result.h"
#include "model/model.h"

namespace nibble {

// `corrupt` naming the part of the manifest, or the file of the folder, that is not there. The Spec that the manifest
// keeps must be that of the folder; manifests of earlier versions keep none.
Status expect_whole(const Json& manifest, const ModelSource& source);

}  // namespace nibble
