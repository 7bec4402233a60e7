/* Nibble's C interface: load, generate, perplexity, quantize.
 *
 * Every function that can fail returns a nibble_code: NIBBLE_OK or the code of an error whose message
 * nibble_last_error() gives. No C++ exception leaves these functions, and callbacks must not throw or longjmp out of
 * them.
 *
 * Threads: nibble_last_error() is per thread. Calls on one model from several threads wait for each other; a callback
 * must not use its own model. Different models are independent. A model must not be freed while a call uses it.
 *
 * Options: fill a struct with its nibble_..._defaults() function first, then change what you need. Programs stay
 * compatible when later versions add fields at the end, because `size` says how much of the struct they know.
 * All texts are UTF-8, ended by a zero byte unless a length is given.
 */
#ifndef NIBBLE_NIBBLE_C_H
#define NIBBLE_NIBBLE_C_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The values are those of the program's exit codes. */
typedef enum nibble_code {
  NIBBLE_OK = 0,
  NIBBLE_FAILURE = 1,      /* failure at run time */
  NIBBLE_USAGE = 2,        /* arguments, recipe, or impossible budget */
  NIBBLE_CORRUPT = 3,      /* corrupt or mismatching files */
  NIBBLE_UNSUPPORTED = 4,  /* model, format or machine that is not supported */
  NIBBLE_RESOURCES = 5,    /* out of memory or disk */
  NIBBLE_VERIFICATION = 6, /* a quality check failed */
  NIBBLE_IO = 7            /* any other input or output error */
} nibble_code;

typedef struct nibble_model nibble_model;

/* "0.1.0". Never null; never freed. */
const char* nibble_version(void);
/* The message of the last error on this thread, "" when there was none. Valid until the next call on this thread. */
const char* nibble_last_error(void);

/* ---- loading --------------------------------------------------------------------------------------------------- */

typedef struct nibble_load_options {
  size_t size;
  int32_t threads;     /* 0: NIBBLE_THREADS, or else one per usable processor */
  const char* cache;   /* of keys and values, as LoadOptions::cache: "f16", "bfp8"; null: as the model says */
  const char* weights; /* convert float weights to "f32", "f16" or "bf16"; null: as stored */
} nibble_load_options;
void nibble_load_defaults(nibble_load_options* options);

/* Loads a Hugging Face folder or a quantized one. options may be null. On success *model is a new handle that
 * nibble_free() frees; on failure it is null. */
nibble_code nibble_load(const char* folder, const nibble_load_options* options, nibble_model** model);
void nibble_free(nibble_model* model); /* null is allowed */

/* ---- generating ------------------------------------------------------------------------------------------------ */

/* Gets text as it appears: whole code points, `length` bytes without a zero at the end. Non-zero goes on, 0 stops. */
typedef int (*nibble_text_callback)(const char* text, size_t length, void* user);

typedef struct nibble_generate_options {
  size_t size;
  int64_t max_tokens; /* 128 */
  double temperature; /* 0: greedy */
  int64_t top_k;      /* 0: off */
  double top_p;       /* 1: off */
  double min_p;       /* 0: off */
  uint64_t seed;
  const char* stop; /* a text that ends the generation; null: none */
  int32_t ignore_eos;
  nibble_text_callback on_text; /* null: none */
  void* user;                   /* handed to on_text */
} nibble_generate_options;
void nibble_generate_defaults(nibble_generate_options* options);

typedef struct nibble_generation {
  char* text;         /* the generated text, zero-ended; null after a failure */
  int32_t* token_ids; /* generated ids */
  size_t token_count;
  int64_t prompt_tokens;
} nibble_generation;

/* options may be null. Fills *generation, whose memory nibble_generation_free() frees. */
nibble_code nibble_generate(nibble_model* model, const char* prompt, const nibble_generate_options* options,
                            nibble_generation* generation);
void nibble_generation_free(nibble_generation* generation);

/* ---- measuring ------------------------------------------------------------------------------------------------- */

typedef struct nibble_perplexity_result {
  double perplexity;
  double nll;            /* nats per predicted token */
  double standard_error; /* of the nll */
  int64_t tokens;        /* predicted */
  int64_t window, windows;
} nibble_perplexity_result;

/* text: `length` bytes. window: tokens, 0 for min(2048, the model's positions). */
nibble_code nibble_perplexity(nibble_model* model, const char* text, size_t length, int64_t window,
                              nibble_perplexity_result* result);

/* ---- quantizing ------------------------------------------------------------------------------------------------ */

/* done: fraction of the whole, 0 to 1; seconds_left: negative while it is not known. */
typedef void (*nibble_progress_callback)(const char* what, double done, double seconds_left, void* user);

typedef struct nibble_quantize_options {
  size_t size;
  const char* model; /* the Hugging Face folder */
  const char* output;
  const char* recipe;             /* a name or a file */
  const char* const* calibration; /* text files */
  size_t calibration_count;
  const char* const* sets; /* "STEP.KEY=VALUE" */
  size_t set_count;
  const char* const* overrides; /* "REGEX=WEIGHTS[/ACTIVATIONS]" */
  size_t override_count;
  int64_t samples; /* 128 */
  int64_t length;  /* tokens per sample; 0: min(2048, the model's positions) */
  uint64_t seed;
  int32_t threads;                      /* 0: as in nibble_load_options */
  int64_t memory_limit;                 /* bytes; 0: none */
  int32_t force;                        /* replace an existing output */
  int32_t resume;                       /* go on from OUTPUT.partial */
  nibble_progress_callback on_progress; /* null: none */
  void* user;                           /* handed to on_progress */
} nibble_quantize_options;
void nibble_quantize_defaults(nibble_quantize_options* options);

typedef struct nibble_quantize_result {
  double bits_per_weight;           /* all stored bits over all parameters */
  double quantized_bits_per_weight; /* over the quantized linears */
  int64_t file_bytes;
  int64_t peak_memory_bytes;
  double seconds;
} nibble_quantize_result;

/* result may be null. */
nibble_code nibble_quantize(const nibble_quantize_options* options, nibble_quantize_result* result);

#ifdef __cplusplus
}
#endif

#endif /* NIBBLE_NIBBLE_C_H */
