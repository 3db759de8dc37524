// AVX-512 with VBMI2 and VNNI but without BF16 (Ice Lake): bf16 weights are widened to float32.
#include <immintrin.h>

#include "fine.h"
#include "kernels.h"

namespace owled {
namespace {

#define OWLED_LANES 16
#define OWLED_TILE_ROWS 8
#define OWLED_TILE_PANELS 3
#include "ops.inl"
#include "tiles_f32.inl"
#include "avx512_int8.inl"
#include "avx512_int4.inl"

// halves: per 32 columns the 16 even ones, then the 16 odd ones, as float32.
void prepare_bf16(Activation* a, int columns) {
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  float* out = reinterpret_cast<float*>(a->halves);
  for (int i = 0; i < columns; i += 32) {
    const __m512 low = _mm512_loadu_ps(a->x + i), high = _mm512_loadu_ps(a->x + i + 16);
    _mm512_storeu_ps(out + i, _mm512_permutex2var_ps(low, even, high));
    _mm512_storeu_ps(out + i + 16, _mm512_permutex2var_ps(low, odd, high));
  }
}

void prepare(Activation* a, const Matrix& m) {
  const int columns = m.padded_columns();
  if (m.narrow()) {
    prepare_codes_avx2(a, m, kHalfByHalf);
  } else if (m.int8() && !a->fixed_ready) {
    prepare_int8(a, columns);
    a->fixed_ready = true;
  } else if (!m.int8() && !a->halves_ready) {
    prepare_bf16(a, columns);
    a->halves_ready = true;
  }
}

template <bool kSparse, int kWidth>
inline __attribute__((always_inline)) void add_group_bf16(
  const uint64_t** mask, const uint16_t** values, const float* x, __m512* sums) {
  const __m512i top = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  const uint16_t* v = *values;
  prefetch_lines(v, (kSparse ? 7 : 16) * kWidth);
  if (kSparse) prefetch_lines(*mask, kWidth);
#pragma GCC unroll 8
  for (int r = 0; r < kBlockRows; ++r)
    for (int h = 0; h < 2 * kWidth; ++h) {
      __m512i w = load_apart(v);
      if (kSparse) {
        const uint32_t bits = static_cast<uint32_t>((*mask)[r * kWidth + h / 2] >> (32 * (h % 2)));
        w = expand_words(w, bits);
        v += _mm_popcnt_u32(bits);
      } else {
        v += 32;
      }
      sums[r] = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(w, 16)), _mm512_loadu_ps(x + 32 * h), sums[r]);
      sums[r] = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(w, top)), _mm512_loadu_ps(x + 32 * h + 16), sums[r]);
    }
  *values = v;
  *mask += kBlockRows * kWidth;
}

template <bool kSparse>
void gemv_bf16(const Matrix& m, const Activation& a, float* y, int begin, int end) {
  for (int b = begin; b < end; ++b) {
    const uint64_t* mask = m.mask + static_cast<size_t>(b) * m.chunks * kBlockRows;
    const uint16_t* values = reinterpret_cast<const uint16_t*>(m.values + m.block_offset[b]);
    __m512 sums[kBlockRows];
    for (auto& sum : sums) sum = _mm512_setzero_ps();
    const float* x = reinterpret_cast<const float*>(a.halves);
    for (int g = 0; g < m.chunks / 2; ++g, x += kGroup) add_group_bf16<kSparse, 2>(&mask, &values, x, sums);
    if (m.chunks % 2 != 0) add_group_bf16<kSparse, 1>(&mask, &values, x, sums);
    _mm256_storeu_ps(y + b * kBlockRows, sum_rows(sums));
  }
}

void gemv(const Matrix& m, const Activation& a, float* y, int begin, int end) {
  if (m.narrow()) return gemv_int4_avx512(m, a, y, begin, end);
  switch (m.format) {
    case Format::kSparseInt8: return gemv_int8<true>(m, a, y, begin, end);
    case Format::kDenseInt8: return gemv_int8<false>(m, a, y, begin, end);
    case Format::kSparseBf16: return gemv_bf16<true>(m, a, y, begin, end);
    default: return gemv_bf16<false>(m, a, y, begin, end);
  }
}

}  // namespace

void gemv_int4_avx512(const Matrix& m, const Activation& a, float* y, int begin, int end) {
  switch (m.format) {
    case Format::kDenseInt4: return gemv_int4<Format::kDenseInt4>(m, a, y, begin, end);
    case Format::kDenseInt3: return gemv_int4<Format::kDenseInt3>(m, a, y, begin, end);
    case Format::kDenseInt2: return gemv_int4<Format::kDenseInt2>(m, a, y, begin, end);
    case Format::kSparseInt4: return gemv_int4<Format::kSparseInt4>(m, a, y, begin, end);
    case Format::kEvenInt4: return gemv_int4<Format::kEvenInt4>(m, a, y, begin, end);
    default: return gemv_int4<Format::kPairedInt4>(m, a, y, begin, end);
  }
}

void unpack_sparse_int4_avx512(const Matrix& m, int block, float* out) {
  const size_t columns = static_cast<size_t>(m.padded_columns());
  Int4Stream s(m, block);
  for (size_t column = 0; column < columns; column += kUnit) {
    const uint16_t* scales = scales_of(m, block, static_cast<int>(column));
    const __m512i first = spread_half(&s), second = spread_half(&s);
    // Two columns of each in turn: 128 bits are a row, even rows in one register, odd ones in the other.
    alignas(64) uint8_t rows[2][4][kUnit];
    _mm512_store_si512(rows[0], _mm512_unpacklo_epi16(first, second));
    _mm512_store_si512(rows[1], _mm512_unpackhi_epi16(first, second));
    for (int r = 0; r < kBlockRows; ++r) {
      const __m512i codes = _mm512_sub_epi32(_mm512_cvtepu8_epi32(load_sixteen(rows[r % 2][r / 2])), _mm512_set1_epi32(8));
      const __m512 scale = _mm512_set1_ps(bf16_to_float(scales[r]));
      _mm512_storeu_ps(out + static_cast<size_t>(r) * columns + column, _mm512_mul_ps(_mm512_cvtepi32_ps(codes), scale));
    }
  }
}

const Kernels kAvx512Kernels = {
  "avx512", false, prepare, gemv, panel_bytes_f32, tile_bytes_f32, pack_panel_f32, gemm_f32, unpack_block,
  rms_norm, rms_scale, swiglu, attend, log_sum_exp,
};

}  // namespace owled
