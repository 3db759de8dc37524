// AVX2 and FMA: one byte of the mask picks a shuffle that spreads eight packed values.
#include <immintrin.h>

#include "fine.h"
#include "kernels.h"

namespace owled {
namespace {

#define OWLED_LANES 8
#define OWLED_TILE_ROWS 4
#define OWLED_TILE_PANELS 1
#include "ops.inl"
#include "tiles_f32.inl"
#include "spread.inl"

// Shuffles of bytes for a mask of eight, from values that begin some places later.
struct ShiftedTable {
  uint64_t bytes[9][256];
  constexpr ShiftedTable() : bytes() {
    for (uint64_t shift = 0; shift < 9; ++shift)
      for (int mask = 0; mask < 256; ++mask) bytes[shift][mask] = kSpread.bytes[mask] + shift * 0x0101010101010101u;
  }
};

// Shuffles of words for a mask of eight.
struct WordTable {
  alignas(16) uint8_t bytes[256][16];
  constexpr WordTable() : bytes() {
    for (int mask = 0; mask < 256; ++mask)
      for (int i = 0; i < 8; ++i) {
        const uint8_t from = static_cast<uint8_t>(kSpread.bytes[mask] >> (8 * i));
        bytes[mask][2 * i] = static_cast<uint8_t>(from < 0x80 ? 2 * from : 0x80);
        bytes[mask][2 * i + 1] = static_cast<uint8_t>(from < 0x80 ? 2 * from + 1 : 0x80);
      }
  }
};
constexpr ShiftedTable kShifted;
constexpr WordTable kWords;

// The bits of a block's mask as bytes: the least significant one first, as this processor stores them.
inline const uint8_t* bytes_of_mask(const Matrix& m, int block) {
  return reinterpret_cast<const uint8_t*>(m.mask + static_cast<size_t>(block) * m.chunks * kBlockRows);
}

inline __m128i load_sixteen(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }

inline __attribute__((always_inline)) void prefetch_lines(const void* p, int lines) {
  for (int i = 0; i < lines; ++i) _mm_prefetch(static_cast<const char*>(p) + 8192 + 64 * i, _MM_HINT_T0);
}

// 16 int8 weights as int16, kept where two bytes of the mask say; moves the stream on.
template <bool kSparse>
inline __attribute__((always_inline)) __m256i next_words(const uint8_t** values, const uint8_t* mask) {
  const __m128i packed = load_sixteen(*values);
  if (!kSparse) {
    *values += 16;
    return _mm256_cvtepi8_epi16(packed);
  }
  const size_t first = mask[0], second = mask[1];
  const size_t kept = static_cast<size_t>(_mm_popcnt_u64(first));
  const __m128d low = _mm_load_sd(reinterpret_cast<const double*>(&kShifted.bytes[0][first]));
  const __m128d both = _mm_loadh_pd(low, reinterpret_cast<const double*>(&kShifted.bytes[kept][second]));
  *values += kept + static_cast<size_t>(_mm_popcnt_u64(second));
  return _mm256_cvtepi8_epi16(_mm_shuffle_epi8(packed, _mm_castpd_si128(both)));
}

// 8 bf16 weights as float32; moves the stream on.
template <bool kSparse>
inline __attribute__((always_inline)) __m256 next_floats(const uint16_t** values, const uint8_t* mask) {
  __m128i w = load_sixteen(*values);
  if (kSparse) {
    w = _mm_shuffle_epi8(w, load_sixteen(kWords.bytes[*mask]));
    *values += _mm_popcnt_u32(*mask);
  } else {
    *values += 8;
  }
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(w), 16));
}

inline float sum_eight(__m256 v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

// int16 [K], 32767 is the largest entry; a sum of 128 products with int8 stays inside 32 bits. Returns the value of 1.
float prepare_words(const Activation* a, int columns, uint8_t* out) {
  __m256 top = _mm256_setzero_ps();
  const __m256 sign = _mm256_set1_ps(-0.0f);
  for (int i = 0; i < columns; i += 8) top = _mm256_max_ps(top, _mm256_andnot_ps(sign, _mm256_loadu_ps(a->x + i)));
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, top);
  float largest = 0;
  for (float lane : lanes) largest = lane > largest ? lane : largest;
  const __m256 scale = _mm256_set1_ps(largest > 0 ? 32767.0f / largest : 0.0f);
  for (int i = 0; i < columns; i += 16) {
    const __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(a->x + i), scale));
    const __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(a->x + i + 8), scale));
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 2 * i), words);
  }
  return largest / 32767.0f;
}

#include "int4_avx2.inl"

void prepare(Activation* a, const Matrix& m) {
  if (m.narrow()) return prepare_codes_avx2(a, m, kPlaneByPlane);
  if (m.fine() && !a->words_ready) {
    a->fine_step = prepare_words(a, m.padded_columns(), a->fine);
    a->words_ready = true;
  }
  if (m.fine() || !m.int8() || a->fixed_ready) return;
  a->step = prepare_words(a, m.padded_columns(), a->fixed);
  a->fixed_ready = true;
}

// 32 columns of one row.
template <bool kSparse>
inline __attribute__((always_inline)) __m256i dot_tile_int8(const uint8_t** values, const uint8_t* mask, const uint8_t* words) {
  const __m256i low = next_words<kSparse>(values, mask), high = next_words<kSparse>(values, mask + 2);
  return _mm256_add_epi32(_mm256_madd_epi16(low, load_bytes(words)), _mm256_madd_epi16(high, load_bytes(words + kTile)));
}

// Groups of 32 or 64 columns.
template <bool kSparse>
void gemv_int8_fine(const Matrix& m, const Activation& a, float* y, int begin, int end) {
  const int columns = m.padded_columns();
  for (int b = begin; b < end; ++b) {
    const uint8_t* mask = bytes_of_mask(m, b);
    const uint8_t* values = m.values + m.block_offset[b];
    const uint16_t* scales = scales_of(m, b, 0);
    __m256 sums[kBlockRows];
    for (auto& sum : sums) sum = _mm256_setzero_ps();
    for (int from = 0; from < columns; from += kGroup) {
      const int to = from + kGroup < columns ? from + kGroup : columns;
      prefetch_lines(values, kSparse ? 8 : 16);
      if (kSparse) prefetch_lines(mask, 2);
      for (int r = 0; r < kBlockRows; ++r)
        for (int c = from; c < to; c += kTile) {
          const __m256i dot = dot_tile_int8<kSparse>(&values, mask, a.fine + 2 * static_cast<size_t>(c));
          const float scale = bf16_to_float(scales[m.group_of(c) * kBlockRows + r]);
          sums[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_set1_ps(scale), sums[r]);
          if (kSparse) mask += kTile / 8;
        }
    }
    for (int r = 0; r < kBlockRows; ++r) y[b * kBlockRows + r] = sum_eight(sums[r]) * a.fine_step;
  }
}

// One chunk (64 columns) of one row.
template <bool kSparse>
inline __attribute__((always_inline)) __m256i dot_chunk_int8(
  const uint8_t** values, const uint8_t* mask, const uint8_t* fixed, __m256i dot) {
  const __m256i* x = reinterpret_cast<const __m256i*>(fixed);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m256i w = next_words<kSparse>(values, mask + 2 * i);
    dot = _mm256_add_epi32(dot, _mm256_madd_epi16(w, _mm256_loadu_si256(x + i)));
  }
  return dot;
}

template <bool kSparse>
void gemv_int8(const Matrix& m, const Activation& a, float* y, int begin, int end) {
  for (int b = begin; b < end; ++b) {
    const uint8_t* mask = bytes_of_mask(m, b);
    const uint8_t* values = m.values + m.block_offset[b];
    const uint16_t* scales = m.scales + static_cast<size_t>(b) * m.groups() * kBlockRows;
    __m256 sums[kBlockRows];
    for (auto& sum : sums) sum = _mm256_setzero_ps();
    for (int chunk = 0; chunk < m.chunks; chunk += 2, scales += kBlockRows) {
      const bool pair = chunk + 1 < m.chunks;
      const uint8_t* fixed = a.fixed + static_cast<size_t>(chunk) * kChunk * 2;
      prefetch_lines(values, kSparse ? 8 : 16);
      if (kSparse) prefetch_lines(mask, 2);
      for (int r = 0; r < kBlockRows; ++r) {
        __m256i dot = _mm256_setzero_si256();
        dot = dot_chunk_int8<kSparse>(&values, mask, fixed, dot);
        if (pair) dot = dot_chunk_int8<kSparse>(&values, mask + 8, fixed + 2 * kChunk, dot);
        if (kSparse) mask += pair ? 16 : 8;
        sums[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_set1_ps(bf16_to_float(scales[r])), sums[r]);
      }
    }
    for (int r = 0; r < kBlockRows; ++r) y[b * kBlockRows + r] = sum_eight(sums[r]) * a.step;
  }
}

template <bool kSparse>
void gemv_bf16(const Matrix& m, const Activation& a, float* y, int begin, int end) {
  for (int b = begin; b < end; ++b) {
    const uint8_t* mask = bytes_of_mask(m, b);
    const uint16_t* values = reinterpret_cast<const uint16_t*>(m.values + m.block_offset[b]);
    __m256 sums[kBlockRows];
    for (auto& sum : sums) sum = _mm256_setzero_ps();
    for (int chunk = 0; chunk < m.chunks; chunk += 2) {
      const int width = chunk + 1 < m.chunks ? 2 : 1;
      prefetch_lines(values, kSparse ? 14 : 32);
      if (kSparse) prefetch_lines(mask, 2);
      for (int r = 0; r < kBlockRows; ++r)
        for (int c = 0; c < width; ++c) {
          const float* x = a.x + static_cast<size_t>(chunk + c) * kChunk;
          for (int i = 0; i < 8; ++i) {
            const __m256 w = next_floats<kSparse>(&values, mask + i);
            sums[r] = _mm256_fmadd_ps(w, _mm256_loadu_ps(x + 8 * i), sums[r]);
          }
          if (kSparse) mask += 8;
        }
    }
    for (int r = 0; r < kBlockRows; ++r) y[b * kBlockRows + r] = sum_eight(sums[r]);
  }
}

void gemv(const Matrix& m, const Activation& a, float* y, int begin, int end) {
  if (m.int8() && m.fine())
    return m.sparse() ? gemv_int8_fine<true>(m, a, y, begin, end) : gemv_int8_fine<false>(m, a, y, begin, end);
  switch (m.format) {
    case Format::kDenseInt4: return gemv_int4<Format::kDenseInt4>(m, a, y, begin, end);
    case Format::kDenseInt3: return gemv_int4<Format::kDenseInt3>(m, a, y, begin, end);
    case Format::kDenseInt2: return gemv_int4<Format::kDenseInt2>(m, a, y, begin, end);
    case Format::kSparseInt4: return gemv_int4<Format::kSparseInt4>(m, a, y, begin, end);
    case Format::kPairedInt4: return gemv_int4<Format::kPairedInt4>(m, a, y, begin, end);
    case Format::kEvenInt4: return gemv_int4<Format::kEvenInt4>(m, a, y, begin, end);
    case Format::kSparseInt8: return gemv_int8<true>(m, a, y, begin, end);
    case Format::kDenseInt8: return gemv_int8<false>(m, a, y, begin, end);
    case Format::kSparseBf16: return gemv_bf16<true>(m, a, y, begin, end);
    default: return gemv_bf16<false>(m, a, y, begin, end);
  }
}

template <bool kSparse>
void unpack_int8(const Matrix& m, int block, float* out) {
  const int columns = m.padded_columns();
  const uint8_t* mask = bytes_of_mask(m, block);
  const uint8_t* values = m.values + m.block_offset[block];
  for (int chunk = 0; chunk < m.chunks; chunk += 2)
    for (int r = 0; r < kBlockRows; ++r)
      for (int c = chunk; c < chunk + 2 && c < m.chunks; ++c) {
        for (int i = 0; i < 4; ++i) {
          const __m256 scale = _mm256_set1_ps(bf16_to_float(scales_of(m, block, c * kChunk + 16 * i)[r]));
          const __m256i w = next_words<kSparse>(&values, mask + 2 * i);
          const __m256 low = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm256_castsi256_si128(w)));
          const __m256 high = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm256_extracti128_si256(w, 1)));
          _mm256_storeu_ps(out + r * columns + c * kChunk + 16 * i, _mm256_mul_ps(low, scale));
          _mm256_storeu_ps(out + r * columns + c * kChunk + 16 * i + 8, _mm256_mul_ps(high, scale));
        }
        if (kSparse) mask += 8;
      }
}

template <bool kSparse>
void unpack_bf16(const Matrix& m, int block, float* out) {
  const int columns = m.padded_columns();
  const uint8_t* mask = bytes_of_mask(m, block);
  const uint16_t* values = reinterpret_cast<const uint16_t*>(m.values + m.block_offset[block]);
  for (int chunk = 0; chunk < m.chunks; chunk += 2)
    for (int r = 0; r < kBlockRows; ++r)
      for (int c = chunk; c < chunk + 2 && c < m.chunks; ++c) {
        for (int i = 0; i < 8; ++i) {
          const __m256 w = next_floats<kSparse>(&values, mask + i);
          _mm256_storeu_ps(out + r * columns + c * kChunk + 8 * i, w);
        }
        if (kSparse) mask += 8;
      }
}

void unpack_block(const Matrix& m, int block, float* out) {
  if (m.narrow()) return unpack_int4_avx2(m, block, out);
  switch (m.format) {
    case Format::kSparseInt8: return unpack_int8<true>(m, block, out);
    case Format::kDenseInt8: return unpack_int8<false>(m, block, out);
    case Format::kSparseBf16: return unpack_bf16<true>(m, block, out);
    default: return unpack_bf16<false>(m, block, out);
  }
}

}  // namespace

void prepare_codes_avx2(Activation* a, const Matrix& m, const int8_t* order) {
  if (a->codes_ready) return;
  prepare_codes(a, m.padded_columns(), order);
  a->codes_ready = true;
}

void unpack_int4_avx2(const Matrix& m, int block, float* out) {
  switch (m.format) {
    case Format::kDenseInt4: return unpack_int4<Format::kDenseInt4>(m, block, out);
    case Format::kDenseInt3: return unpack_int4<Format::kDenseInt3>(m, block, out);
    case Format::kDenseInt2: return unpack_int4<Format::kDenseInt2>(m, block, out);
    case Format::kSparseInt4: return unpack_int4<Format::kSparseInt4>(m, block, out);
    case Format::kEvenInt4: return unpack_int4<Format::kEvenInt4>(m, block, out);
    default: return unpack_int4<Format::kPairedInt4>(m, block, out);
  }
}

const Kernels kAvx2Kernels = {
  "avx2", true, prepare, gemv, panel_bytes_f32, tile_bytes_f32, pack_panel_f32, gemm_f32, unpack_block,
  rms_norm, rms_scale, swiglu, attend, log_sum_exp,
};

}  // namespace owled
