// AVX2 (BMI2): int4 weights times 8-bit activations with a step per 32 columns.
//
// Included by kernels_avx2.cpp inside its unnamed namespace. A register holds one plane of a unit: 8 rows, a 32-bit lane
// each, so one scale per lane serves all rows at once and nothing is summed across a register. Of evenly kept columns it
// holds 16 of two rows, which are summed once per 32 columns.

struct Planes {
  __m256i plane[4];                   // bytes 0 .. 15: the code plus 8
};

inline __m256i load_bytes(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline __m256i low_halves(__m256i v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
inline __m256i high_halves(__m256i v) { return low_halves(_mm256_srli_epi16(v, 4)); }

// 16 kept values at their places, where a bit of the mask is set; others become 8, which is zero.
inline __attribute__((always_inline)) uint64_t deposit(Int4Stream* s, uint64_t mask) {
  const uint64_t places = _pdep_u64(mask, 0x1111111111111111u) * 15;
  const uint8_t* from = s->values + s->nibble / 2;
  const uint64_t odd = s->nibble % 2 * 4, ninth = from[8];
  uint64_t packed;
  __builtin_memcpy(&packed, from, 8);
  const uint64_t kept = packed >> odd | ninth << 1 << (63 - odd);
  s->nibble += static_cast<uint64_t>(_mm_popcnt_u64(mask));
  return _pdep_u64(kept ^ 0x8888888888888888u, places) ^ 0x8888888888888888u;
}

inline __attribute__((always_inline)) __m256i deposit_half(Int4Stream* s) {
  const uint64_t mask = *s->mask++;
  const uint64_t a = deposit(s, mask & 0xffff), b = deposit(s, mask >> 16 & 0xffff);
  const uint64_t c = deposit(s, mask >> 32 & 0xffff), d = deposit(s, mask >> 48);
  return _mm256_set_epi64x(static_cast<int64_t>(d), static_cast<int64_t>(c), static_cast<int64_t>(b), static_cast<int64_t>(a));
}

// Shuffles for the 16 columns of a row by the two bytes of its mask. The sum of both tells for every column, in the order of the 8-bit
// activations, where its value lies: what the second byte keeps lies behind what the first one keeps, and an odd row's values behind
// eight of an even one.
struct SixteenTable {
  alignas(16) uint8_t first[2][256][kUnit];
  alignas(16) uint8_t second[256][kUnit];
  constexpr SixteenTable() : first(), second() {
    for (int mask = 0; mask < 256; ++mask)
      for (int i = 0; i < 8; ++i) {
        const int here = place_of(kHalfByHalf[i]), there = place_of(kHalfByHalf[i + 8]);
        const uint64_t from = kSpread.bytes[mask] >> (8 * i) & 0xff;  // 0x80 and more makes a zero
        for (int odd = 0; odd < 2; ++odd) {
          first[odd][mask][here] = static_cast<uint8_t>(from + 8 * odd);
          first[odd][mask][there] = static_cast<uint8_t>(__builtin_popcount(static_cast<unsigned>(mask)) + 8 * odd);
        }
        second[mask][there] = static_cast<uint8_t>(from);
      }
  }
  static constexpr int place_of(int column) {
    int place = 0;
    while (kPlaneByPlane[place] != column) ++place;
    return place;
  }
};
constexpr SixteenTable kSixteens;

inline __m256i load_both(const void* low, const void* high) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(load_sixteen(low)), load_sixteen(high), 1);
}

// In each half of a register: four bytes for each of four rows that have fewer.
inline __m256i apart(int row_bytes) {
  alignas(16) uint8_t from[kUnit];
  for (int i = 0; i < kUnit; ++i) from[i] = static_cast<uint8_t>(i % 4 < row_bytes ? i / 4 * row_bytes + i % 4 : 0x80);
  return load_both(from, from);
}

// A unit whose rows keep as many columns each: rows r and r + 4, code plus 8, in the order of the 8-bit activations.
inline __attribute__((always_inline)) void next_rows(Int4Stream* s, __m256i apart, __m256i* rows) {
  const __m256i packed = _mm256_shuffle_epi8(load_both(s->values, s->values + 4 * s->row_bytes), apart);
  const __m256i codes = _mm256_xor_si256(packed, _mm256_set1_epi8(static_cast<char>(0x88)));
  const __m256i low = low_halves(codes), high = high_halves(codes);
  const __m256i kept[2] = {_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)};  // two rows in each half
  const uint8_t* mask = reinterpret_cast<const uint8_t*>(s->mask);
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    const auto& first = kSixteens.first[r % 2];
    const __m256i from = _mm256_add_epi8(
      load_both(first[mask[2 * r]], first[mask[2 * r + 8]]),
      load_both(kSixteens.second[mask[2 * r + 1]], kSixteens.second[mask[2 * r + 9]]));
    rows[r] = _mm256_xor_si256(_mm256_shuffle_epi8(kept[r / 2], from), _mm256_set1_epi8(8));
  }
  s->mask += 2;
  s->values += kBlockRows * s->row_bytes;
}

// Where the columns that a pair keeps lie among a unit's activations, by the four bits of its mask; a group's lie one further.
struct PairTable {
  alignas(16) uint8_t first[kUnit];
  alignas(16) uint8_t second[kUnit];
  constexpr PairTable() : first(), second() {
    for (int mask = 0; mask < kUnit; ++mask) {
      int from = 0, to = 3;
      while (from < 3 && (mask >> from & 1) == 0) ++from;
      while (to > 0 && (mask >> to & 1) == 0) --to;
      first[mask] = static_cast<uint8_t>(4 * from);
      second[mask] = static_cast<uint8_t>(4 * to);
    }
  }
};
constexpr PairTable kPairs;

// Two bits of each plane, and a third from where others have a mask.
inline __attribute__((always_inline)) Planes next_few(Int4Stream* s, bool third) {
  const __m256i v = load_bytes(s->values), low = _mm256_set1_epi8(3);
  s->values += kPlaceCount;
  Planes w{{_mm256_and_si256(v, low), _mm256_and_si256(_mm256_srli_epi16(v, 2), low), _mm256_and_si256(_mm256_srli_epi16(v, 4), low),
            _mm256_and_si256(_mm256_srli_epi16(v, 6), low)}};
  if (!third) return w;
  const __m256i halves = _mm256_set_epi32(4, 4, 4, 4, 0, 0, 0, 0), four = _mm256_set1_epi8(4);
  const __m256i bits = _mm256_srlv_epi32(_mm256_broadcastsi128_si256(load_sixteen(s->mask)), halves);
  s->mask += 2;
  w.plane[0] = _mm256_or_si256(w.plane[0], _mm256_and_si256(_mm256_slli_epi16(bits, 2), four));
  w.plane[1] = _mm256_or_si256(w.plane[1], _mm256_and_si256(_mm256_slli_epi16(bits, 1), four));
  w.plane[2] = _mm256_or_si256(w.plane[2], _mm256_and_si256(bits, four));
  w.plane[3] = _mm256_or_si256(w.plane[3], _mm256_and_si256(_mm256_srli_epi16(bits, 1), four));
  return w;
}

template <Format kFormat>
inline __attribute__((always_inline)) Planes next_unit(Int4Stream* s) {
  if (kFormat == Format::kPairedInt4) {
    const __m256i v = load_bytes(s->values), a = low_halves(v), b = high_halves(v), zero = _mm256_set1_epi8(8);
    const __m128i packed = load_sixteen(s->mask);
    // The upper half of the register takes the high halves of the same 16 bytes; a blend looks at the highest bit of a byte.
    const __m256i mask = _mm256_srlv_epi32(_mm256_broadcastsi128_si256(packed), _mm256_set_epi32(4, 4, 4, 4, 0, 0, 0, 0));
    const __m256i first = _mm256_slli_epi16(mask, 7), second = _mm256_slli_epi16(mask, 6);
    const __m256i third = _mm256_slli_epi16(mask, 5), fourth = _mm256_slli_epi16(mask, 4);
    s->values += kPlaceCount;
    s->mask += 2;
    return {{_mm256_blendv_epi8(zero, a, first), _mm256_blendv_epi8(zero, _mm256_blendv_epi8(a, b, first), second),
             _mm256_blendv_epi8(zero, _mm256_blendv_epi8(b, a, fourth), third), _mm256_blendv_epi8(zero, b, fourth)}};
  }
  if (kFormat == Format::kDenseInt2 || kFormat == Format::kDenseInt3) return next_few(s, kFormat == Format::kDenseInt3);
  __m256i v, w;
  if (kFormat == Format::kSparseInt4) {
    v = deposit_half(s);
    w = deposit_half(s);
  } else {
    v = load_bytes(s->values);
    w = load_bytes(s->values + kPlaceCount);
    s->values += 2 * kPlaceCount;
  }
  return {{low_halves(v), high_halves(v), low_halves(w), high_halves(w)}};
}

// A unit of which two of four are kept: the activations are fetched to the values. Words: two neighbours belong to a row.
inline __attribute__((always_inline)) __m256i dot_pairs(Int4Stream* s, const int8_t* x) {
  const __m256i v = load_bytes(s->values), codes = load_both(x, x), eight = _mm256_set1_epi8(8);
  const __m256i halves = _mm256_set_epi32(4, 4, 4, 4, 0, 0, 0, 0);  // the upper half takes the high halves of the same 16 bytes
  const __m256i mask = low_halves(_mm256_srlv_epi32(_mm256_broadcastsi128_si256(load_sixteen(s->mask)), halves));
  s->values += kPlaceCount;
  s->mask += 2;
  const __m256i group = _mm256_set1_epi32(0x03020100);
  const __m256i first = _mm256_shuffle_epi8(codes, _mm256_or_si256(_mm256_shuffle_epi8(load_both(kPairs.first, kPairs.first), mask), group));
  const __m256i second = _mm256_shuffle_epi8(codes, _mm256_or_si256(_mm256_shuffle_epi8(load_both(kPairs.second, kPairs.second), mask), group));
  const __m256i sums = _mm256_add_epi16(_mm256_maddubs_epi16(low_halves(v), first), _mm256_maddubs_epi16(high_halves(v), second));
  return _mm256_sub_epi16(sums, _mm256_add_epi16(_mm256_maddubs_epi16(eight, first), _mm256_maddubs_epi16(eight, second)));
}

// codes: 127 is the largest entry of 32 columns; sums: of 32 codes, times 8, what the offset of the weights adds.
void prepare_codes(Activation* a, int columns, const int8_t* order) {
  int8_t* codes = fine_codes(*a, columns);
  float* steps = fine_steps(*a, columns);
  int32_t* sums = fine_sums(*a, columns);
  const __m256 sign = _mm256_set1_ps(-0.0f);
  const __m128i apart = load_sixteen(order);
  for (int t = 0; t < columns / kTile; ++t) {
    __m256 x[4], top = _mm256_setzero_ps();
    for (int i = 0; i < 4; ++i) {
      x[i] = _mm256_loadu_ps(a->x + t * kTile + 8 * i);
      top = _mm256_max_ps(top, _mm256_andnot_ps(sign, x[i]));
    }
    __m128 most = _mm_max_ps(_mm256_castps256_ps128(top), _mm256_extractf128_ps(top, 1));
    most = _mm_max_ps(most, _mm_movehl_ps(most, most));
    const float largest = _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
    steps[t] = largest / 127.0f;
    const __m256 scale = _mm256_set1_ps(largest > 1e-30f ? 127.0f / largest : 0.0f);
    __m256i q[4], total = _mm256_setzero_si256();
    for (int i = 0; i < 4; ++i) {
      q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(x[i], scale));
      total = _mm256_add_epi32(total, q[i]);
    }
    for (int i = 0; i < 2; ++i) {
      const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(q[2 * i], q[2 * i + 1]), 0xd8);
      const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + t * kTile + kUnit * i), _mm_shuffle_epi8(bytes, apart));
    }
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
    sums[t] = _mm_cvtsi128_si32(_mm_slli_epi32(sum, 3));  // times 8; numbers that are none may wrap, as the sum did
  }
}

inline __m256 eight_scales(const uint16_t* scales) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_sixteen(scales)), 16));
}

inline __m256i four_codes(const int8_t* codes) {
  int32_t four;
  __builtin_memcpy(&four, codes, 4);
  return _mm256_set1_epi32(four);
}

// Adds 32 columns: the sums of eight rows. `offset` is what was added to every code.
template <Format kFormat>
inline __attribute__((always_inline)) __m256i dot_tile(Int4Stream* s, __m256i apart, const int8_t* x, int32_t offset) {
  const __m256i ones = _mm256_set1_epi16(1);
  if (kFormat == Format::kEvenInt4) {
    const __m256i low = load_both(x, x), high = load_both(x + kUnit, x + kUnit);
    __m256i first[4], second[4], dots[4];  // rows r and r + 4
    next_rows(s, apart, first);
    next_rows(s, apart, second);
    // 16 bits hold a sum of 4 products: 4 * 15 * 127 = 7620.
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r)
      dots[r] = _mm256_madd_epi16(_mm256_add_epi16(_mm256_maddubs_epi16(first[r], low), _mm256_maddubs_epi16(second[r], high)), ones);
    const __m256i rows = _mm256_hadd_epi32(_mm256_hadd_epi32(dots[0], dots[1]), _mm256_hadd_epi32(dots[2], dots[3]));
    return _mm256_sub_epi32(rows, _mm256_set1_epi32(offset));
  }
  if (kFormat == Format::kPairedInt4) {
    const __m256i first = dot_pairs(s, x), second = dot_pairs(s, x + kUnit);
    return _mm256_madd_epi16(_mm256_add_epi16(first, second), ones);
  }
  // 16 bits hold a sum of 8 products of pairs: 8 * 2 * 15 * 127 = 30480.
  __m256i words = _mm256_setzero_si256();
#pragma GCC unroll 2
  for (int u = 0; u < 2; ++u) {
    const Planes w = next_unit<kFormat>(s);
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p)
      words = _mm256_add_epi16(words, _mm256_maddubs_epi16(w.plane[p], four_codes(x + u * kUnit + 4 * p)));
  }
  return _mm256_sub_epi32(_mm256_madd_epi16(words, ones), _mm256_set1_epi32(offset));
}

template <Format kFormat>
void gemv_int4(const Matrix& m, const Activation& a, float* y, int begin, int end) {
  const int columns = m.padded_columns(), tiles = columns / kTile;
  const int8_t* codes = fine_codes(a, columns);
  const float* steps = fine_steps(a, columns);
  const int32_t* sums = fine_sums(a, columns);
  const __m256i spread = apart(m.row_bytes);
  const int shift = m.group == 32 ? 0 : m.group == 64 ? 1 : 2;
  for (int b = begin; b < end; ++b) {
    Int4Stream s(m, b);
    const uint16_t* scales = scales_of(m, b, 0);
    __m256 total = _mm256_setzero_ps();
    for (int t = 0; t < tiles; ++t) {
      prefetch_lines(kFormat == Format::kSparseInt4 ? s.values + s.nibble / 2 : s.values, kFormat == Format::kDenseInt4 ? 2 : 1);
      if (has_mask(kFormat)) prefetch_lines(s.mask, 1);
      const __m256i dot = dot_tile<kFormat>(&s, spread, codes + t * kTile, sums[t] >> zero_shift(kFormat));
      const __m256 scale = _mm256_mul_ps(eight_scales(scales + (t >> shift) * kBlockRows), _mm256_set1_ps(steps[t]));
      total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, total);
    }
    _mm256_storeu_ps(y + b * kBlockRows, total);
  }
}

// Four registers of 16 columns: rows r and r + 4 each.
inline void rows_of_unit(const Planes& w, __m256i* rows) {
  const __m256i low = _mm256_unpacklo_epi8(w.plane[0], w.plane[1]), high = _mm256_unpackhi_epi8(w.plane[0], w.plane[1]);
  const __m256i low2 = _mm256_unpacklo_epi8(w.plane[2], w.plane[3]), high2 = _mm256_unpackhi_epi8(w.plane[2], w.plane[3]);
  rows[0] = _mm256_unpacklo_epi16(low, low2);
  rows[1] = _mm256_unpackhi_epi16(low, low2);
  rows[2] = _mm256_unpacklo_epi16(high, high2);
  rows[3] = _mm256_unpackhi_epi16(high, high2);
}

template <Format kFormat>
void unpack_int4(const Matrix& m, int block, float* out) {
  const int columns = m.padded_columns();
  const __m256i spread = apart(m.row_bytes), in_order = load_both(kPlaneByPlane, kPlaneByPlane);
  Int4Stream s(m, block);
  for (int column = 0; column < columns; column += kUnit) {
    const uint16_t* scales = scales_of(m, block, column);
    __m256i rows[4];
    if (kFormat == Format::kEvenInt4) {
      next_rows(&s, spread, rows);
      for (auto& row : rows) row = _mm256_shuffle_epi8(row, in_order);  // the order plane by plane is its own inverse
    } else {
      rows_of_unit(next_unit<kFormat>(&s), rows);
    }
    for (int r = 0; r < kBlockRows; ++r) {
      const __m256i both = _mm256_sub_epi8(rows[r % 4], _mm256_set1_epi8(zero_of(kFormat)));
      const __m128i row = r < 4 ? _mm256_castsi256_si128(both) : _mm256_extracti128_si256(both, 1);
      const __m256 scale = _mm256_set1_ps(bf16_to_float(scales[r]));
      float* to = out + static_cast<size_t>(r) * columns + column;
      _mm256_storeu_ps(to, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(row)), scale));
      _mm256_storeu_ps(to + 8, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(row, 8))), scale));
    }
  }
}
