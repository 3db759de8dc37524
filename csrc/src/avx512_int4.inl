// AVX-512 (VBMI2, VNNI): int4 weights times 8-bit activations with a step per 32 columns.
//
// Included by kernels_avx512.cpp inside its unnamed namespace, after avx512_int8.inl. A step's whole numbers and what becomes of them
// are those of int4_avx2.inl: both kernels give the same bits. Codes of the activations: kHalfByHalf of fine.h.

inline __m128i load_sixteen(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m256i load_thirty_two(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

// In every sixteen bytes: those of one plane, for four rows at a time.
inline __m512i plane_bytes(int plane) {
  const int first = plane / 2 * 8 + plane % 2;
  return _mm512_set1_epi32(first | (first + 2) << 8 | (first + 4) << 16 | (first + 6) << 24);
}

// 64 halves of bytes, each a byte.
inline __attribute__((always_inline)) __m512i bytes_of_halves(__m256i packed) {
  const __m512i words = _mm512_cvtepu8_epi16(packed);
  return _mm512_ternarylogic_epi32(words, _mm512_slli_epi16(words, 4), _mm512_set1_epi8(15), 0xa8);  // (a | b) & c
}

// 64 places of half a unit, each row's eight side by side; where no bit of the mask is set, 8, which is zero.
inline __attribute__((always_inline)) __m512i spread_half(Int4Stream* s) {
  static constexpr uint64_t kOdd[2] = {0, 4};
  const uint64_t mask = *s->mask++;
  const uint8_t* from = s->values + s->nibble / 2;
  const __m256i odd = _mm256_set1_epi64x(static_cast<int64_t>(kOdd[s->nibble % 2]));
  const __m256i packed = _mm256_shrdv_epi64(load_thirty_two(from), load_thirty_two(from + 8), odd);
  s->nibble += static_cast<uint64_t>(_mm_popcnt_u64(mask));
  return _mm512_mask_expand_epi8(_mm512_set1_epi8(8), mask, bytes_of_halves(packed));
}

// 16 columns of four rows, of which each keeps as many; 8 where no bit of the mask is set.
inline __attribute__((always_inline)) __m512i spread_rows(Int4Stream* s) {
  const __m512i kept = bytes_of_halves(load_thirty_two(s->values));
  s->values += 4 * s->row_bytes;
  return _mm512_mask_expand_epi8(_mm512_set1_epi8(8), *s->mask++, kept);
}

// Adds 32 columns that are evenly kept: the sums of eight rows.
inline __attribute__((always_inline)) __m256i dot_even_tile(Int4Stream* s, const int8_t* codes) {
  __m512i sums[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
#pragma GCC unroll 2
  for (int u = 0; u < 2; ++u) {
    const __m512i x = _mm512_broadcast_i32x4(load_sixteen(codes + u * kUnit));
    sums[0] = _mm512_dpbusd_epi32(sums[0], spread_rows(s), x);
    sums[1] = _mm512_dpbusd_epi32(sums[1], spread_rows(s), x);
  }
  // Four neighbours belong to a row: even places take from the first four rows, odd ones from the others.
  const __m512i halves = _mm512_add_epi32(_mm512_unpacklo_epi32(sums[0], sums[1]), _mm512_unpackhi_epi32(sums[0], sums[1]));
  const __m512i whole = _mm512_add_epi32(halves, _mm512_shuffle_epi32(halves, _MM_PERM_DCDC));
  return _mm512_castsi512_si256(_mm512_permutexvar_epi32(_mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 13, 9, 5, 1, 12, 8, 4, 0), whole));
}

// Where the columns that a pair keeps lie among a unit's activations, by the four bits of its mask and, 16 further each, its group.
struct PairTable {
  alignas(64) uint8_t first[64];
  alignas(64) uint8_t second[64];
  constexpr PairTable() : first(), second() {
    for (int i = 0; i < 64; ++i) {
      const int group = i / 16, mask = i % 16;
      int from = 0, to = 3;
      while (from < 3 && (mask >> from & 1) == 0) ++from;
      while (to > 0 && (mask >> to & 1) == 0) --to;
      first[i] = place_of(4 * group + from);
      second[i] = place_of(4 * group + to);
    }
  }
  static constexpr uint8_t place_of(int column) {
    uint8_t place = 0;
    while (kHalfByHalf[place] != column) ++place;
    return place;
  }
};
constexpr PairTable kPairs;

// Sixteen bytes of each of two units, twice: the lower half of a register is one unit, the upper one the next.
inline __m512i twice(__m256i units) {
  return _mm512_permutexvar_epi64(_mm512_set_epi64(3, 2, 3, 2, 1, 0, 1, 0), _mm512_castsi256_si512(units));
}

// Four bits for every place of two units, in the lower halves of the bytes.
inline __attribute__((always_inline)) __m512i next_places(Int4Stream* s) {
  const __m512i halves = _mm512_set_epi32(4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0);
  const __m512i places = _mm512_srlv_epi32(twice(load_thirty_two(s->mask)), halves);
  s->mask += 4;
  return places;
}

// Adds 32 columns of which two of four are kept: the activations are fetched to the values. Sums of a row lie 8 apart.
inline __attribute__((always_inline)) __m512i dot_pairs(Int4Stream* s, const int8_t* codes) {
  const __m512i low = _mm512_set1_epi8(15);
  const __m512i v = _mm512_loadu_si512(s->values), x = twice(load_thirty_two(codes));
  s->values += 2 * kPlaceCount;
  const __m512i pairs = _mm512_ternarylogic_epi32(next_places(s), low, _mm512_set1_epi32(0x30201000), 0xea);  // (a & b) | c
  const __m512i first = _mm512_shuffle_epi8(x, _mm512_permutexvar_epi8(pairs, _mm512_load_si512(kPairs.first)));
  const __m512i second = _mm512_shuffle_epi8(x, _mm512_permutexvar_epi8(pairs, _mm512_load_si512(kPairs.second)));
  __m512i sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_and_si512(v, low), first);
  __m512i eights = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(8), first);
  sums = _mm512_dpbusd_epi32(sums, _mm512_and_si512(_mm512_srli_epi16(v, 4), low), second);
  eights = _mm512_dpbusd_epi32(eights, _mm512_set1_epi8(8), second);
  return _mm512_sub_epi32(sums, eights);
}

// Adds 32 columns. Of 16 sums, sparse: two neighbours belong to a row; others: those 8 apart do.
template <Format kFormat>
inline __attribute__((always_inline)) __m512i dot_tile_int4(Int4Stream* s, const int8_t* codes) {
  const __m512i low = _mm512_set1_epi8(15);
  __m512i sums = _mm512_setzero_si512();
  if (kFormat == Format::kSparseInt4) {
#pragma GCC unroll 4
    for (int half = 0; half < 4; ++half) {
      int64_t eight;
      __builtin_memcpy(&eight, codes + 8 * half, 8);
      sums = _mm512_dpbusd_epi32(sums, spread_half(s), _mm512_set1_epi64(eight));
    }
  } else if (kFormat == Format::kDenseInt4) {
    const __m512i even = _mm512_inserti64x4(plane_bytes(0), _mm512_castsi512_si256(plane_bytes(2)), 1);
    const __m512i odd = _mm512_inserti64x4(plane_bytes(1), _mm512_castsi512_si256(plane_bytes(3)), 1);
#pragma GCC unroll 2
    for (int u = 0; u < 2; ++u) {
      const __m512i v = _mm512_loadu_si512(s->values), x = _mm512_broadcast_i32x4(load_sixteen(codes + u * kUnit));
      s->values += 2 * kPlaceCount;
      sums = _mm512_dpbusd_epi32(sums, _mm512_and_si512(v, low), _mm512_shuffle_epi8(x, even));
      sums = _mm512_dpbusd_epi32(sums, _mm512_and_si512(_mm512_srli_epi16(v, 4), low), _mm512_shuffle_epi8(x, odd));
    }
  }
  if (kFormat == Format::kDenseInt3 || kFormat == Format::kDenseInt2) {
    const __m512i v = _mm512_loadu_si512(s->values), three = _mm512_set1_epi8(3), x = twice(load_thirty_two(codes));
    s->values += 2 * kPlaceCount;
    __m512i plane[4] = {_mm512_and_si512(v, three), _mm512_and_si512(_mm512_srli_epi16(v, 2), three),
                        _mm512_and_si512(_mm512_srli_epi16(v, 4), three), _mm512_and_si512(_mm512_srli_epi16(v, 6), three)};
    if (kFormat == Format::kDenseInt3) {
      const __m512i bits = next_places(s), four = _mm512_set1_epi8(4);
      const __m512i third[4] = {_mm512_slli_epi16(bits, 2), _mm512_slli_epi16(bits, 1), bits, _mm512_srli_epi16(bits, 1)};
      for (int p = 0; p < 4; ++p) plane[p] = _mm512_ternarylogic_epi32(third[p], four, plane[p], 0xea);  // (a & b) | c
    }
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) sums = _mm512_dpbusd_epi32(sums, plane[p], _mm512_shuffle_epi8(x, plane_bytes(p)));
  }
  return sums;
}

inline __attribute__((always_inline)) __m256i add_neighbours(__m512i sums) {
  return _mm512_cvtepi64_epi32(_mm512_add_epi32(sums, _mm512_srli_epi64(sums, 32)));
}

inline __attribute__((always_inline)) __m256i add_halves(__m512i sums) {
  return _mm256_add_epi32(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64(sums, 1));
}

// Adds 32 columns: the sums of eight rows. `offset` is what was added to every code.
template <Format kFormat>
inline __attribute__((always_inline)) __m256i dot_rows(Int4Stream* s, const int8_t* codes, int32_t offset) {
  if (kFormat == Format::kPairedInt4) return add_halves(dot_pairs(s, codes));
  __m256i rows;
  if (kFormat == Format::kEvenInt4) {
    rows = dot_even_tile(s, codes);
  } else {
    const __m512i sums = dot_tile_int4<kFormat>(s, codes);
    rows = kFormat == Format::kSparseInt4 ? add_neighbours(sums) : add_halves(sums);
  }
  return _mm256_sub_epi32(rows, _mm256_set1_epi32(offset));
}

template <Format kFormat>
void gemv_int4(const Matrix& m, const Activation& a, float* y, int begin, int end) {
  const int columns = m.padded_columns(), tiles = columns / kTile;
  const int8_t* codes = fine_codes(a, columns);
  const float* steps = fine_steps(a, columns);
  const int32_t* offsets = fine_sums(a, columns);
  const int shift = m.group == 32 ? 0 : m.group == 64 ? 1 : 2;
  for (int b = begin; b < end; ++b) {
    Int4Stream s(m, b);
    const uint16_t* scales = scales_of(m, b, 0);
    __m256 total = _mm256_setzero_ps();
    for (int t = 0; t < tiles; ++t) {
      prefetch_lines(kFormat == Format::kSparseInt4 ? s.values + s.nibble / 2 : s.values, kFormat == Format::kDenseInt4 ? 2 : 1);
      if (has_mask(kFormat)) prefetch_lines(s.mask, 1);
      const __m256i dot = dot_rows<kFormat>(&s, codes + t * kTile, offsets[t] >> zero_shift(kFormat));
      const __m256 scale = _mm256_mul_ps(load_scales(scales + (t >> shift) * kBlockRows), _mm256_set1_ps(steps[t]));
      total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, total);
    }
    _mm256_storeu_ps(y + b * kBlockRows, total);
  }
}
