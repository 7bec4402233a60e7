/* The C interface: loads a model, measures its perplexity on a prompt, continues it.
 *
 *   example_c MODEL PROMPT
 */
#include <nibble/nibble_c.h>
#include <stdio.h>
#include <string.h>

static int complain(nibble_code code) {
  fprintf(stderr, "example_c: %s\n", nibble_last_error());
  return (int)code;
}

static int on_text(const char* text, size_t length, void* user) {
  fwrite(text, 1, length, (FILE*)user);
  return 1; /* go on */
}

static nibble_code generate(nibble_model* model, const char* prompt) {
  nibble_generate_options options;
  nibble_generation made;
  nibble_code code;
  nibble_generate_defaults(&options);
  options.max_tokens = 16;
  options.on_text = on_text;
  options.user = stdout;
  code = nibble_generate(model, prompt, &options, &made);
  if (code != NIBBLE_OK) return code;
  printf("\n%zu tokens after a prompt of %ld\n", made.token_count, (long)made.prompt_tokens);
  nibble_generation_free(&made);
  return NIBBLE_OK;
}

static nibble_code measure(nibble_model* model, const char* text) {
  nibble_perplexity_result result;
  nibble_code code = nibble_perplexity(model, text, strlen(text), 4, &result);
  if (code != NIBBLE_OK) return code;
  printf("perplexity %.4f over %ld tokens\n", result.perplexity, (long)result.tokens);
  return NIBBLE_OK;
}

int main(int argc, char** argv) {
  nibble_model* model = NULL;
  nibble_code code;
  if (argc != 3) {
    fprintf(stderr, "usage: example_c MODEL PROMPT\n");
    return 2;
  }
  printf("nibble %s\n", nibble_version());
  code = nibble_load(argv[1], NULL, &model);
  if (code == NIBBLE_OK) code = generate(model, argv[2]);
  if (code == NIBBLE_OK) code = measure(model, argv[2]);
  nibble_free(model);
  return code == NIBBLE_OK ? 0 : complain(code);
}
