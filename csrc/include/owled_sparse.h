/* The C interface of the sparse runtime: open a packed model, decode with it, multiply with its matrices.
 *
 * Needs nothing but a C++17 run time; the Python side (owled_ros/sparse/library.py) binds it with ctypes.
 * Every function that returns int returns OWLED_OK or an error code; owled_last_error() then tells, for the calling
 * thread, what was wrong. No exception crosses this border. All integers and floats are host-endian; packed files
 * are little-endian (docs/packed_format.md) and refused on a big-endian host.
 *
 * One model may be used from several threads: calls on it are serialised by a lock. Caches belong to one model and
 * must be freed before it.
 */
#ifndef OWLED_SPARSE_H_
#define OWLED_SPARSE_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define OWLED_API __attribute__((visibility("default")))
#define OWLED_ABI_VERSION 2

enum owled_status {
  OWLED_OK = 0,
  OWLED_BAD_FILE = 1,      /* not a packed model, damaged, or of another version */
  OWLED_BAD_ARGUMENT = 2,  /* token out of range, no room left in the cache, unknown kernel, ... */
  OWLED_NO_MEMORY = 3,
  OWLED_NOT_FINITE = 4,    /* NaN or infinity came in or out */
};

/* Where weights live: mapped from the file (shared between processes, loads at once), or copied into huge pages. */
enum owled_residence { OWLED_MAPPED = 0, OWLED_COPIED = 1 };

enum owled_finish { OWLED_STOP_TOKEN = 0, OWLED_LENGTH = 1, OWLED_CANCELLED = 2, OWLED_CALLBACK = 3 };

typedef struct owled_model owled_model;
typedef struct owled_cache owled_cache;

typedef struct owled_options {
  const char* kernel;      /* "auto" or a name from owled_kernel_name() */
  int32_t threads;         /* including the calling one; 1 starts no thread */
  int32_t residence;       /* enum owled_residence */
  int32_t verify;          /* non-zero: check the checksum over the whole file (reads it once) */
  int32_t spin_us;         /* how long an idle worker spins before it sleeps */
  const int32_t* cpus;     /* cpus[i] pins worker i (1 .. threads-1); NULL pins nothing; cpus[0] is not used */
} owled_options;

typedef struct owled_facts {
  int32_t has_decoder;     /* 0: the file holds single matrices only */
  int32_t hidden, intermediate, layers, heads, kv_heads, head_dim, vocabulary, max_positions, window;
  int32_t threads, matrices, residence;
  uint64_t file_bytes;     /* size on disk */
  uint64_t step_bytes;     /* bytes of weights that one decode step reads */
  uint64_t weights;        /* entries of all matrices, zeros included */
  uint64_t nonzeros;
  char kernel[32];
} owled_facts;

typedef struct owled_matrix_facts {
  char name[96];
  int32_t rows, columns, format;
  uint64_t nonzeros, bytes;
} owled_matrix_facts;

/* Called after each token with its natural-log probability; a non-zero return ends the generation. */
typedef int (*owled_on_token)(int32_t token, float log_probability, void* user);

OWLED_API int owled_abi_version(void);
OWLED_API const char* owled_last_error(void);

/* Kernels compiled in, best first; NULL past the end. owled_kernel_usable tells whether this CPU can run it. */
OWLED_API const char* owled_kernel_name(int index);
OWLED_API int owled_kernel_usable(int index);

OWLED_API int owled_open(const char* path, const owled_options* options, owled_model** model);
OWLED_API int owled_open_memory(const void* bytes, size_t size, const owled_options* options, owled_model** model);
OWLED_API void owled_close(owled_model* model);
OWLED_API int owled_model_facts(const owled_model* model, owled_facts* facts);

/* Single matrices: y (count, rows) = x (count, columns) times the transposed matrix, plus its bias. */
OWLED_API int owled_matrix_facts_at(const owled_model* model, int index, owled_matrix_facts* facts);
OWLED_API int owled_multiply(owled_model* model, int index, const float* x, int count, float* y);
/* The dense float32 (rows, columns) matrix that the kernels compute with. */
OWLED_API int owled_unpack(owled_model* model, int index, float* out);

OWLED_API int owled_cache_new(owled_model* model, int max_tokens, owled_cache** cache);
OWLED_API int owled_cache_copy(owled_model* model, const owled_cache* cache, owled_cache** copy);
OWLED_API void owled_cache_free(owled_cache* cache);
OWLED_API int owled_cache_length(const owled_cache* cache);
OWLED_API int owled_cache_truncate(owled_cache* cache, int length);
OWLED_API size_t owled_cache_bytes(const owled_cache* cache);

/* embeddings (count, hidden); logits (vocabulary) of the last position. */
OWLED_API int owled_embed(owled_model* model, const int32_t* tokens, int count, float* embeddings);
OWLED_API int owled_prefill(owled_model* model, owled_cache* cache, const float* embeddings, int count, float* logits);
/* The same with given rotary positions, (count, head_dim / 2) in the order of the frequencies, for models that place the
 * tokens of an image in three dimensions. What follows goes on from `next`, until the cache is cut back to nothing. */
OWLED_API int owled_prefill_at(
  owled_model* model, owled_cache* cache, const float* embeddings, const float* positions, int next, int count,
  float* logits);
OWLED_API int owled_step(owled_model* model, owled_cache* cache, int32_t token, float* logits);

/* Decode from `logits` (of the last position in the cache). Writes at most max_tokens tokens and log probabilities,
 * a stop token included; the last token is not fed to the cache. temperature 0 is greedy. `cancel` (may be NULL) is
 * looked at between tokens. */
OWLED_API int owled_generate(
  owled_model* model, owled_cache* cache, const float* logits, int max_tokens, const int32_t* stop_tokens,
  int stop_count, float temperature, uint64_t seed, const volatile int32_t* cancel, owled_on_token on_token,
  void* user, int32_t* tokens, float* log_probabilities, int32_t* produced, int32_t* finish);

/* Bytes per second at which `threads` threads read a buffer of that size, the best of `repeats`; 0 on failure. */
OWLED_API double owled_read_bandwidth(size_t bytes, int threads, int repeats);

#ifdef __cplusplus
}
#endif
#endif  /* OWLED_SPARSE_H_ */
