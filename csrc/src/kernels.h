// The inner loops, one table of functions per instruction set; chosen when a model is opened (dispatch.cpp).
//
// Letters: K columns of a matrix padded to 64, D head size padded to 16. Every buffer is padded with zeros.
// A panel is [rows][16 tokens] float32: activations of 16 tokens, the layout of everything in prefill.
#pragma once

#include <cstddef>
#include <cstdint>

#include "packed.h"

namespace owled {

constexpr int kPanel = 16;            // tokens of a panel and positions of a key block
constexpr int kMaxQueries = 8;        // queries that attend() takes at once
constexpr int kTileBlocks = 4;        // row blocks that gemm() expands at once

// One vector prepared for gemv: the same numbers in the forms that the two families of kernels multiply with.
struct Activation {
  const float* x = nullptr;           // [K]
  uint8_t* fixed = nullptr;           // 16-bit fixed point, 2 * K bytes, layout private to a kernel table
  uint16_t* halves = nullptr;         // bf16 parts or a reordered copy, 4 * K bytes, layout private
  uint8_t* fine = nullptr;            // for fine matrices, 4 * K bytes: 16-bit fixed point, then 8-bit (fine.h)
  float step = 0;                     // value of one unit of the fixed point
  float fine_step = 0;
  bool fixed_ready = false, halves_ready = false, words_ready = false, codes_ready = false;

  OWLED_INLINE void forget() { fixed_ready = halves_ready = words_ready = codes_ready = false; }
};

// Attention of `count` queries that share one key/value head.
struct Attention {
  int count;
  int dim;                            // D
  const float* queries;               // [D][count], scaled
  const float* keys;                  // [position / 16][D][16]
  const float* values;                // [position][D]
  const int* first;                   // [count], first position seen
  const int* end;                     // [count], one past the last
  float* scores;                      // [count][stride]
  int stride;                         // multiple of 16
  float* out;                         // [count][D]
};

struct Kernels {
  const char* name;
  // Sparse int8 or int4 takes longer than dense as long as a few threads have the memory to themselves.
  bool spreads_slowly;
  void (*prepare)(Activation* activation, const Matrix& matrix);
  // y[8 * begin .. 8 * end) = rows of these blocks times the vector; no bias.
  void (*gemv)(const Matrix& matrix, const Activation& activation, float* y, int begin, int end);
  // Bytes of one packed panel of K rows, and of the scratch that gemm expands into.
  size_t (*panel_bytes)(int columns);
  size_t (*tile_bytes)(int columns);
  // Packs [K][16] float32, multiplied by weight[row] (may be null) and by scale[16 tokens] (may be null). `exact`
  // keeps 16 bits of mantissa where a kernel packs bf16: gemm with bf16 matrices needs it, with int8 it does not.
  void (*pack_panel)(
    const float* panel, int columns, int padded, const float* weight, const float* scale, bool exact, void* out);
  // y panels (stride: rows of a y panel) = these blocks times `panels` packed panels.
  void (*gemm)(const Matrix& matrix, const void* x, int panels, float* y, int stride, int begin, int end, void* tile);
  // [8][K] float32 of one block.
  void (*unpack)(const Matrix& matrix, int block, float* out);
  void (*rms_norm)(const float* x, const float* weight, int n, float epsilon, float* y);
  void (*rms_scale)(const float* panel, int rows, float epsilon, float* scale);   // scale[16]
  void (*swiglu)(float* gate, const float* up, size_t n);                        // gate = silu(gate) * up
  void (*attend)(const Attention& attention);
  // log(sum(exp(x))) and the place of the largest entry; -1 when something is not finite.
  int (*log_sum_exp)(const float* x, int n, float scale, float* result);
};

extern const Kernels kScalarKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels, kAvx512Kernels, kAvx512Bf16Kernels;
#elif defined(__aarch64__)
extern const Kernels kNeonKernels;
#endif

// All tables compiled in, best first; null past the end.
const Kernels* kernels_at(int index);
bool kernels_usable(const Kernels& kernels);
// By name or "auto". Throws Error when this CPU lacks the instructions.
const Kernels& choose_kernels(const char* name);

}  // namespace owled
