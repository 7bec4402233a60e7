// The C++ interface: quantizes a model, compares perplexities, generates text.
//
//   example_cpp MODEL OUT TEXT
//
// MODEL is a Hugging Face folder, OUT the folder to create, TEXT a text file that the perplexity is measured on.
#include <nibble/nibble.h>

#include <fstream>
#include <iostream>
#include <sstream>

namespace {

int complain(const nibble::Error& error) {
  std::cerr << "example_cpp: " << error.message << "\n";
  return static_cast<int>(error.code);
}

std::string read(const char* path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

nibble::Result<double> perplexity_of(const std::filesystem::path& folder, const std::string& text) {
  const auto model = nibble::LanguageModel::load(folder);
  if (!model) return tl::unexpected(model.error());
  nibble::PerplexityOptions options;
  options.protocol.window = 32;
  const auto report = model->perplexity(text, options);
  if (!report) return tl::unexpected(report.error());
  return report->perplexity;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: example_cpp MODEL OUT TEXT\n";
    return 2;
  }
  nibble::QuantizeRequest request;
  request.model = argv[1];
  request.output = argv[2];
  request.recipe = "rtn-w8a8";  // needs no calibration text
  const auto outcome = nibble::quantize(request);
  if (!outcome) return complain(outcome.error());
  std::cout << "bits per weight: " << outcome->bits_per_weight << "\n";

  const std::string text = read(argv[3]);
  for (const char* folder : {argv[1], argv[2]}) {
    const auto perplexity = perplexity_of(folder, text);
    if (!perplexity) return complain(perplexity.error());
    std::cout << "perplexity of " << folder << ": " << *perplexity << "\n";
  }

  const auto model = nibble::LanguageModel::load(argv[2]);
  if (!model) return complain(model.error());
  nibble::GenerateOptions options;
  options.max_tokens = 16;
  const auto made = model->generate("Once upon a time", options, [](std::string_view piece) {
    std::cout << piece << std::flush;
    return true;  // go on
  });
  if (!made) return complain(made.error());
  std::cout << "\n" << made->token_ids.size() << " tokens\n";
  return 0;
}
