// AVX-512 (VBMI2, VNNI): int8 weights times 16-bit fixed-point activations, sparse and dense.
//
// Included by kernels_avx512.cpp and kernels_avx512bf16.cpp inside their unnamed namespace, after ops.inl.
// The activation x is stored as (x + 32768) split into a high and a low byte, both unsigned as vpdpbusd wants its
// first operand; two dot products give high and low, 256 * high + low is exact in 32 bits over one group, and the
// offset is taken back with Matrix::correction. On Zen 4 a zero-masked vpexpand waits for its old destination and
// its memory form is microcoded: load first, then expand in place.

inline __m512i load_apart(const void* p) {
  __m512i v = _mm512_loadu_si512(p);
  __asm__("" : "+v"(v));
  return v;
}

inline __m512i expand_bytes(__m512i v, uint64_t mask) {
  __asm__("vpexpandb %0,%0%{%1%}%{z%}" : "+v"(v) : "Yk"(static_cast<__mmask64>(mask)));
  return v;
}

inline __m512i expand_words(__m512i v, uint32_t mask) {
  __asm__("vpexpandw %0,%0%{%1%}%{z%}" : "+v"(v) : "Yk"(static_cast<__mmask32>(mask)));
  return v;
}

inline __attribute__((always_inline)) void prefetch_lines(const void* p, int lines) {
  for (int i = 0; i < lines; ++i) _mm_prefetch(static_cast<const char*>(p) + 8192 + 64 * i, _MM_HINT_T0);
}

// Sums of 8 registers.
inline __m256 sum_rows(const __m512* a) {
  __m256 t[8];
  for (int i = 0; i < 8; ++i) t[i] = _mm256_add_ps(_mm512_castps512_ps256(a[i]), _mm512_extractf32x8_ps(a[i], 1));
  const __m256 low = _mm256_hadd_ps(_mm256_hadd_ps(t[0], t[1]), _mm256_hadd_ps(t[2], t[3]));
  const __m256 high = _mm256_hadd_ps(_mm256_hadd_ps(t[4], t[5]), _mm256_hadd_ps(t[6], t[7]));
  return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}

// fixed: [chunk][64 high bytes, 64 low bytes].
void prepare_int8(Activation* a, int columns) {
  __m512 top = _mm512_setzero_ps();
  for (int i = 0; i < columns; i += 16) top = _mm512_max_ps(top, _mm512_abs_ps(_mm512_loadu_ps(a->x + i)));
  const float largest = _mm512_reduce_max_ps(top);
  a->step = largest / 32767.0f;
  const __m512 scale = _mm512_set1_ps(largest > 0 ? 32767.0f / largest : 0.0f);
  for (int i = 0; i < columns; i += 16) {
    const __m512i q = _mm512_add_epi32(
      _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(a->x + i), scale)), _mm512_set1_epi32(32768));
    uint8_t* out = a->fixed + i / kChunk * 2 * kChunk + i % kChunk;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8(_mm512_srli_epi32(q, 8)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + kChunk), _mm512_cvtepi32_epi8(q));
  }
}

inline __m256 load_scales(const uint16_t* scales) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(scales));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

// The streams of one block, moving forward group by group.
struct Int8Stream {
  const uint64_t* mask;
  const uint8_t* values;
  const uint16_t* scales;
};

// The scales of one chunk of one row, where kSpan columns share one; scales: [columns / kSpan][row].
template <int kSpan>
inline __attribute__((always_inline)) __m512 chunk_scales(const float* scales, int chunk, int row) {
  const float* first = scales + chunk * (kChunk / kSpan) * kBlockRows + row;
  const __m512 both = _mm512_set1_ps(*first);
  return kSpan == kChunk ? both : _mm512_mask_broadcastss_ps(both, 0xff00, _mm_load_ss(first + kBlockRows));
}

// One group of kWidth chunks: adds its 8 rows to sums. kSpan columns share a scale.
template <bool kSparse, int kSpan, int kWidth>
inline __attribute__((always_inline)) void add_group_int8(Int8Stream* s, const uint8_t* fixed, __m512* sums) {
  __m512i high[kWidth], low[kWidth];
  for (int c = 0; c < kWidth; ++c) {
    high[c] = _mm512_loadu_si512(fixed + c * 2 * kChunk);
    low[c] = _mm512_loadu_si512(fixed + c * 2 * kChunk + kChunk);
  }
  constexpr int kScales = kSpan == kGroup ? 1 : kWidth * kChunk / kSpan;
  alignas(32) float scales[kScales * kBlockRows];
  for (int i = 0; i < kScales * kBlockRows; i += kBlockRows) _mm256_store_ps(scales + i, load_scales(s->scales + i));
  // As many lines as this group uses up: the hardware alone stays 10 to 15 % behind.
  prefetch_lines(s->values, (kSparse ? 4 : 8) * kWidth);
  if (kSparse) prefetch_lines(s->mask, kWidth);
#pragma GCC unroll 8
  for (int r = 0; r < kBlockRows; ++r) {
    __m512i dot_high = _mm512_setzero_si512(), dot_low = _mm512_setzero_si512();
#pragma GCC unroll 2
    for (int c = 0; c < kWidth; ++c) {
      __m512i w = load_apart(s->values);
      if (kSparse) {
        const uint64_t mask = s->mask[r * kWidth + c];
        w = expand_bytes(w, mask);
        s->values += _mm_popcnt_u64(mask);
      } else {
        s->values += kChunk;
      }
      dot_high = _mm512_dpbusd_epi32(dot_high, high[c], w);
      dot_low = _mm512_dpbusd_epi32(dot_low, low[c], w);
      if (kSpan < kGroup) {
        const __m512i dot = _mm512_add_epi32(_mm512_slli_epi32(dot_high, 8), dot_low);
        sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), chunk_scales<kSpan>(scales, c, r), sums[r]);
        dot_high = dot_low = _mm512_setzero_si512();
      }
    }
    if (kSpan < kGroup) continue;
    const __m512i dot = _mm512_add_epi32(_mm512_slli_epi32(dot_high, 8), dot_low);
    sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_set1_ps(scales[r]), sums[r]);
  }
  s->mask += kBlockRows * kWidth;
  s->scales += kScales * kBlockRows;
}

template <bool kSparse, int kSpan>
void gemv_int8_of(const Matrix& m, const Activation& a, float* y, int begin, int end) {
  const __m256 step = _mm256_set1_ps(a.step), offset = _mm256_set1_ps(32768.0f);
  for (int b = begin; b < end; ++b) {
    Int8Stream s{m.mask + static_cast<size_t>(b) * m.chunks * kBlockRows, m.values + m.block_offset[b],
                 m.scales + static_cast<size_t>(b) * m.groups() * kBlockRows};
    __m512 sums[kBlockRows];
    for (auto& sum : sums) sum = _mm512_setzero_ps();
    const uint8_t* fixed = a.fixed;
    for (int g = 0; g < m.chunks / 2; ++g, fixed += 4 * kChunk) add_group_int8<kSparse, kSpan, 2>(&s, fixed, sums);
    if (m.chunks % 2 != 0) add_group_int8<kSparse, kSpan, 1>(&s, fixed, sums);
    const __m256 rows = _mm256_fnmadd_ps(offset, _mm256_loadu_ps(m.correction + b * kBlockRows), sum_rows(sums));
    _mm256_storeu_ps(y + b * kBlockRows, _mm256_mul_ps(rows, step));
  }
}

template <bool kSparse>
void gemv_int8(const Matrix& m, const Activation& a, float* y, int begin, int end) {
  switch (m.group) {
    case 32: return gemv_int8_of<kSparse, 32>(m, a, y, begin, end);
    case 64: return gemv_int8_of<kSparse, 64>(m, a, y, begin, end);
    default: return gemv_int8_of<kSparse, kGroup>(m, a, y, begin, end);
  }
}

// Calls put(row, column of the chunk, 4 registers of 16 float32 values) for every chunk of a block.
template <bool kSparse, typename Put>
inline __attribute__((always_inline)) void expand_block_int8(const Matrix& m, int block, Put put) {
  const uint64_t* mask = m.mask + static_cast<size_t>(block) * m.chunks * kBlockRows;
  const uint8_t* values = m.values + m.block_offset[block];
  for (int chunk = 0; chunk < m.chunks; chunk += 2) {
    const int width = chunk + 1 < m.chunks ? 2 : 1;
    for (int r = 0; r < kBlockRows; ++r)
      for (int c = 0; c < width; ++c) {
        __m512i w = load_apart(values);
        if (kSparse) {
          w = expand_bytes(w, *mask);
          values += _mm_popcnt_u64(*mask++);
        } else {
          values += kChunk;
        }
        const int column = (chunk + c) * kChunk;
        const __m512 first = _mm512_set1_ps(bf16_to_float(scales_of(m, block, column)[r]));
        const __m512 second = _mm512_set1_ps(bf16_to_float(scales_of(m, block, column + kChunk / 2)[r]));
        __m512 part[4];
        part[0] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm512_castsi512_si128(w)));
        part[1] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm512_extracti32x4_epi32(w, 1)));
        part[2] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm512_extracti32x4_epi32(w, 2)));
        part[3] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm512_extracti32x4_epi32(w, 3)));
        for (int i = 0; i < 4; ++i) part[i] = _mm512_mul_ps(part[i], i < 2 ? first : second);
        put(r, column, part);
      }
  }
}

// Calls put(row, column, 32 bf16 values) for every half chunk of a block.
template <bool kSparse, typename Put>
inline __attribute__((always_inline)) void expand_block_bf16(const Matrix& m, int block, Put put) {
  const uint64_t* mask = m.mask + static_cast<size_t>(block) * m.chunks * kBlockRows;
  const uint16_t* values = reinterpret_cast<const uint16_t*>(m.values + m.block_offset[block]);
  for (int chunk = 0; chunk < m.chunks; chunk += 2) {
    const int width = chunk + 1 < m.chunks ? 2 : 1;
    for (int r = 0; r < kBlockRows; ++r)
      for (int c = 0; c < width; ++c) {
        const uint64_t bits = kSparse ? *mask++ : ~uint64_t{0};
        for (int half = 0; half < 2; ++half) {
          const uint32_t part = static_cast<uint32_t>(bits >> (32 * half));
          __m512i w = load_apart(values);
          if (kSparse) w = expand_words(w, part);
          values += kSparse ? _mm_popcnt_u32(part) : 32;
          put(r, (chunk + c) * kChunk + 32 * half, w);
        }
      }
  }
}

void unpack_block(const Matrix& m, int block, float* out) {
  if (m.format == Format::kSparseInt4) return unpack_sparse_int4_avx512(m, block, out);
  if (m.narrow()) return unpack_int4_avx2(m, block, out);
  const int columns = m.padded_columns();
  const auto put_int8 = [&](int row, int column, const __m512* part) {
    for (int i = 0; i < 4; ++i) _mm512_storeu_ps(out + row * columns + column + 16 * i, part[i]);
  };
  const auto put_bf16 = [&](int row, int column, __m512i w) {
    float* to = out + row * columns + column;
    const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(w));
    const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(w, 1));
    _mm512_storeu_ps(to, _mm512_castsi512_ps(_mm512_slli_epi32(low, 16)));
    _mm512_storeu_ps(to + 16, _mm512_castsi512_ps(_mm512_slli_epi32(high, 16)));
  };
  switch (m.format) {
    case Format::kSparseInt8: return expand_block_int8<true>(m, block, put_int8);
    case Format::kDenseInt8: return expand_block_int8<false>(m, block, put_int8);
    case Format::kSparseBf16: return expand_block_bf16<true>(m, block, put_bf16);
    default: return expand_block_bf16<false>(m, block, put_bf16);
  }
}
