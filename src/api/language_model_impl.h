// What a LanguageModel owns.
#pragma once

#include <nibble/language_model.h>

#include <memory>
#include <mutex>
#include <vector>

#include "core/threads.h"
#include "runtime/model.h"
#include "tokenizer/tokenizer.h"

namespace nibble {

struct LanguageModel::Impl {
  std::unique_ptr<ThreadPool> pool;
  Model model;
  TextTokenizer tokenizer;
  std::vector<int32_t> stop_tokens;
  std::mutex lock;  // the pool serves one caller at a time
};

}  // namespace nibble
