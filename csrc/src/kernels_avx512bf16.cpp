// AVX-512 with VBMI2, VNNI and BF16 (Zen 4 and newer, Sapphire Rapids and newer): the fastest kernels.
#include <immintrin.h>

#include "fine.h"
#include "kernels.h"

namespace owled {
namespace {

#define OWLED_LANES 16
#include "ops.inl"
#include "avx512_int8.inl"

// halves: per 32 columns the bf16 value, then the bf16 of what that left over: 16 bits of mantissa in two products.
void prepare_bf16(Activation* a, int columns) {
  for (int i = 0; i < columns; i += 32) {
    const __m512 x0 = _mm512_loadu_ps(a->x + i), x1 = _mm512_loadu_ps(a->x + i + 16);
    const __m512i head = (__m512i)_mm512_cvtne2ps_pbh(x1, x0);
    const __m512i h0 = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(head)), 16);
    const __m512i h1 = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(head, 1)), 16);
    const __m512i rest = (__m512i)_mm512_cvtne2ps_pbh(
      _mm512_sub_ps(x1, _mm512_castsi512_ps(h1)), _mm512_sub_ps(x0, _mm512_castsi512_ps(h0)));
    _mm512_storeu_si512(a->halves + 2 * i, head);
    _mm512_storeu_si512(a->halves + 2 * i + 32, rest);
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
  const uint64_t** mask, const uint16_t** values, const uint16_t* halves, __m512* sums) {
  __m512bh x[4 * kWidth];
  for (int i = 0; i < 4 * kWidth; ++i) x[i] = (__m512bh)_mm512_loadu_si512(halves + 32 * i);
  const uint16_t* v = *values;
  prefetch_lines(v, (kSparse ? 7 : 16) * kWidth);
  if (kSparse) prefetch_lines(*mask, kWidth);
#pragma GCC unroll 8
  for (int r = 0; r < kBlockRows; ++r) {
#pragma GCC unroll 4
    for (int h = 0; h < 2 * kWidth; ++h) {
      __m512i w = load_apart(v);
      if (kSparse) {
        const uint32_t bits = static_cast<uint32_t>((*mask)[r * kWidth + h / 2] >> (32 * (h % 2)));
        w = expand_words(w, bits);
        v += _mm_popcnt_u32(bits);
      } else {
        v += 32;
      }
      sums[r] = _mm512_dpbf16_ps(sums[r], (__m512bh)w, x[2 * h]);
      sums[r] = _mm512_dpbf16_ps(sums[r], (__m512bh)w, x[2 * h + 1]);
    }
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
    const uint16_t* halves = a.halves;
    for (int g = 0; g < m.chunks / 2; ++g, halves += 2 * kGroup) add_group_bf16<kSparse, 2>(&mask, &values, halves, sums);
    if (m.chunks % 2 != 0) add_group_bf16<kSparse, 1>(&mask, &values, halves, sums);
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

// --- prefill: bf16 tiles ---------------------------------------------------------------------------------------

// A panel is [K / 2][16 tokens][2] bf16: two neighbouring rows side by side, as vdpbf16ps sums them. Behind it the
// same again for what the rounding left over; int8 weights have no use for it, bf16 weights get 16 bits of mantissa.
size_t panel_bytes(int columns) { return static_cast<size_t>(columns) * kPanel * 2 * 2; }
// Tiles of bf16, and one block of float32 on the way to them.
size_t tile_bytes(int columns) { return static_cast<size_t>(columns) * kBlockRows * (2 * kTileBlocks + 4); }

inline __m512 widen(__m256bh halves) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)halves), 16));
}

inline __m512i side_by_side(__m256bh even, __m256bh odd) {
  const __m512i low = _mm512_cvtepu16_epi32((__m256i)even), high = _mm512_cvtepu16_epi32((__m256i)odd);
  return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

void pack_panel(
  const float* panel, int columns, int padded, const float* weight, const float* scale, bool exact, void* out_bytes) {
  __m512i* out = static_cast<__m512i*>(out_bytes);
  __m512i* rest = out + padded / 2;
  const __m512 tokens = scale != nullptr ? _mm512_loadu_ps(scale) : _mm512_set1_ps(1.0f);
  for (int k = 0; k < padded; k += 2) {
    __m512 row[2];
    for (int i = 0; i < 2; ++i) {
      row[i] = k + i < columns ? _mm512_loadu_ps(panel + static_cast<size_t>(k + i) * kPanel) : _mm512_setzero_ps();
      row[i] = _mm512_mul_ps(row[i], tokens);
      if (weight != nullptr && k + i < columns) row[i] = _mm512_mul_ps(row[i], _mm512_set1_ps(weight[k + i]));
    }
    const __m256bh even = _mm512_cvtneps_pbh(row[0]), odd = _mm512_cvtneps_pbh(row[1]);
    _mm512_storeu_si512(out + k / 2, side_by_side(even, odd));
    if (!exact) continue;
    const __m256bh even_rest = _mm512_cvtneps_pbh(_mm512_sub_ps(row[0], widen(even)));
    const __m256bh odd_rest = _mm512_cvtneps_pbh(_mm512_sub_ps(row[1], widen(odd)));
    _mm512_storeu_si512(rest + k / 2, side_by_side(even_rest, odd_rest));
  }
}

// One block as rows of bf16, [8][K]; `wide` is room for it in float32.
void expand_tile(const Matrix& m, int block, uint16_t* tile, float* wide) {
  const size_t columns = m.padded_columns();
  if (m.narrow()) {
    unpack_block(m, block, wide);
    for (size_t i = 0; i < columns * kBlockRows; i += 32)
      _mm512_storeu_si512(
        tile + i, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(wide + i + 16), _mm512_loadu_ps(wide + i)));
    return;
  }
  const auto put_int8 = [&](int row, int column, const __m512* part) {
    uint16_t* to = tile + row * columns + column;
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(part[1], part[0]));
    _mm512_storeu_si512(to + 32, (__m512i)_mm512_cvtne2ps_pbh(part[3], part[2]));
  };
  const auto put_bf16 = [&](int row, int column, __m512i w) { _mm512_storeu_si512(tile + row * columns + column, w); };
  switch (m.format) {
    case Format::kSparseInt8: return expand_block_int8<true>(m, block, put_int8);
    case Format::kDenseInt8: return expand_block_int8<false>(m, block, put_int8);
    case Format::kSparseBf16: return expand_block_bf16<true>(m, block, put_bf16);
    default: return expand_block_bf16<false>(m, block, put_bf16);
  }
}

// 8 rows times P panels: 8 * P sums stay in registers over all columns.
template <int P, bool kExact>
void multiply_tile(const uint16_t* tile, int columns, const uint16_t* x, float* y, size_t y_step) {
  __m512 sum[kBlockRows][P];
  for (auto& row : sum)
    for (auto& s : row) s = _mm512_setzero_ps();
  const size_t rest = static_cast<size_t>(columns) * kPanel, x_step = 2 * rest;
  for (int k = 0; k < columns; k += 2) {
    __m512bh token[P], left[P];
    for (int p = 0; p < P; ++p) {
      const uint16_t* from = x + p * x_step + static_cast<size_t>(k) * kPanel;
      token[p] = (__m512bh)_mm512_loadu_si512(from);
      if (kExact) left[p] = (__m512bh)_mm512_loadu_si512(from + rest);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kBlockRows; ++r) {
      int32_t pair;
      __builtin_memcpy(&pair, tile + static_cast<size_t>(r) * columns + k, 4);
      const __m512bh weight = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 3
      for (int p = 0; p < P; ++p) {
        sum[r][p] = _mm512_dpbf16_ps(sum[r][p], weight, token[p]);
        if (kExact) sum[r][p] = _mm512_dpbf16_ps(sum[r][p], weight, left[p]);
      }
    }
  }
  for (int r = 0; r < kBlockRows; ++r)
    for (int p = 0; p < P; ++p) _mm512_storeu_ps(y + p * y_step + r * kPanel, sum[r][p]);
}

template <bool kExact>
void multiply_block(const uint16_t* rows, int columns, const uint16_t* x, int panels, float* y, size_t y_step) {
  if (panels == 3) multiply_tile<3, kExact>(rows, columns, x, y, y_step);
  if (panels == 2) multiply_tile<2, kExact>(rows, columns, x, y, y_step);
  if (panels == 1) multiply_tile<1, kExact>(rows, columns, x, y, y_step);
}

void gemm(const Matrix& m, const void* x_bytes, int panels, float* y, int stride, int begin, int end, void* scratch) {
  const int columns = m.padded_columns();
  const uint16_t* x = static_cast<const uint16_t*>(x_bytes);
  uint16_t* tile = static_cast<uint16_t*>(scratch);
  const size_t x_step = 2 * static_cast<size_t>(columns) * kPanel, y_step = static_cast<size_t>(stride) * kPanel;
  const size_t block_size = static_cast<size_t>(kBlockRows) * columns;
  for (int b = begin; b < end; b += kTileBlocks) {
    const int blocks = end - b < kTileBlocks ? end - b : kTileBlocks;
    for (int i = 0; i < blocks; ++i) expand_tile(m, b + i, tile + i * block_size, reinterpret_cast<float*>(tile + kTileBlocks * block_size));
    for (int p = 0; p < panels;) {
      const int left = panels - p;
      const int take = left == 4 || left == 2 ? 2 : left >= 3 ? 3 : 1;
      for (int i = 0; i < blocks; ++i) {
        float* to = y + p * y_step + static_cast<size_t>(b + i) * kBlockRows * kPanel;
        if (m.coarse()) multiply_block<false>(tile + i * block_size, columns, x + p * x_step, take, to, y_step);
        else multiply_block<true>(tile + i * block_size, columns, x + p * x_step, take, to, y_step);
      }
      p += take;
    }
  }
}

}  // namespace

const Kernels kAvx512Bf16Kernels = {
  "avx512bf16", false, prepare, gemv, panel_bytes, tile_bytes, pack_panel, gemm, unpack_block,
  rms_norm, rms_scale, swiglu, attend, log_sum_exp,
};

}  // namespace owled
