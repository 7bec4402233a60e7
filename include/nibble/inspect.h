// What is in a model folder, and how to get ordinary floats out of it.
#pragma once

#include <nibble/language_model.h>
#include <nibble/result.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace nibble {

// One matrix of the model: a linear layer with everything that is stored for it but its bias, or an embedding.
struct WeightInfo {
  std::string name;            // "blocks.3.down", "embedding", "head"
  int64_t rows = 0;            // N outputs
  int64_t columns = 0;         // K inputs
  std::string weights;         // format of the dense part, e.g. "int4:row" (docs/formats.md)
  std::string activations;     // format of its input, "f32" when it is not quantized
  bool sparse24 = false;       // two of every four dense columns are stored
  int64_t kept_columns = 0;    // columns kept in 16-bit floats
  int64_t rotation = 0;        // block of the Hadamard rotation of its input's other columns; 0: none
  int64_t stored_bytes = 0;    // codes, pattern, scales, offsets, kept columns and their indices
  double bits_per_weight = 0;  // 8 x stored_bytes / (rows x columns)
};

struct Inspection {
  std::string family;  // "llama", "opt", ...
  bool quantized = false;
  std::string recipe;  // name; empty when not quantized
  int64_t vocabulary = 0, hidden = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0, positions = 0;
  bool tied_head = false;
  // What attention is computed in, "q f32, k bfp8:b16, p f32, v bfp8:b16", and bits per cached number, scales included.
  std::string attention;
  double cache_bits = 0;
  int64_t parameters = 0;      // all weights, biases, norms and embeddings (a tied head once)
  int64_t file_bytes = 0;      // of the weight files, headers included
  int64_t tensor_bytes = 0;    // of all tensors in them
  double bits_per_weight = 0;  // 8 x tensor_bytes / parameters
  // Stored bits (scales, offsets, patterns, kept columns and their indices counted, biases not) over weights, of the
  // quantized linears; of a model that has none, of all linears in the blocks.
  double quantized_bits_per_weight = 0;
  std::vector<WeightInfo> matrices;  // globals first, then block by block in execution order
  int64_t other_bytes = 0;           // norms, biases, learned positions: tensor_bytes less those of the matrices
};

// Reads everything once, so every tensor has been checked when it returns. Errors as LanguageModel::load().
Result<Inspection> inspect(const std::filesystem::path& folder);

struct DequantizeOptions {
  FloatType type = FloatType::f32;  // f32 holds the effective weights exactly
  bool force = false;               // replace an existing output
};

// Writes the effective weights as an ordinary float Hugging Face folder, tokenizer included, that other software can
// load. `out` appears only when it is complete. `usage` when it exists and `force` is not set.
Status dequantize(const std::filesystem::path& folder, const std::filesystem::path& out,
                  const DequantizeOptions& options = {});

}  // namespace nibble
