// Matrices of at most four bits, which came with format versions 2 and 3. Where a code lies, and a walk over a block for every processor.
//
// A block's codes come in units of 16 columns. In a unit a row's columns 4g + p (g, p = 0..3) lie apart: place 4 * row + g
// of plane p. Dense: two planes share 32 bytes, the even one in the low halves. Codes are stored with 8 added, so 8 is zero.
// Two and three bits: the low two of all four planes share 32 bytes, the third bits lie as the masks of pairs do; 2 and 4 are added.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.h"
#include "packed.h"

namespace owled {

constexpr int kTile = 32;             // columns that share one step of the 8-bit activations

// Activation::fine: words [K] int16 for int8, then for int4 codes [unit][16], steps [K / 32], sums [K / 32].
OWLED_INLINE int16_t* fine_words(const Activation& a) { return reinterpret_cast<int16_t*>(a.fine); }
OWLED_INLINE int8_t* fine_codes(const Activation& a, int columns) { return reinterpret_cast<int8_t*>(a.fine) + 2 * static_cast<size_t>(columns); }
OWLED_INLINE float* fine_steps(const Activation& a, int columns) {
  return reinterpret_cast<float*>(a.fine + 3 * static_cast<size_t>(columns));
}
OWLED_INLINE int32_t* fine_sums(const Activation& a, int columns) {
  return reinterpret_cast<int32_t*>(a.fine + 3 * static_cast<size_t>(columns)) + columns / kTile;
}

// Int4Stream and all below it serve two and three bits too. What is added to a code of int4 is 8: a right shift makes it of others.
constexpr int zero_shift(Format format) { return format == Format::kDenseInt2 ? 2 : format == Format::kDenseInt3 ? 1 : 0; }
constexpr int zero_of(Format format) { return 8 >> zero_shift(format); }
constexpr bool has_mask(Format format) { return format != Format::kDenseInt4 && format != Format::kDenseInt2; }

// The streams of one block.
struct Int4Stream {
  const uint64_t* mask;               // sparse: one word per half unit; paired: 16 bytes per unit; even: a word per four rows
  const uint8_t* values;
  uint64_t nibble = 0;                // sparse: halves of a byte that were used up
  size_t row_bytes;                   // even: bytes of a row's values of one unit

  OWLED_INLINE Int4Stream(const Matrix& m, int block)
  : mask(m.mask + static_cast<size_t>(block) * m.chunks * kBlockRows), values(m.values + m.block_offset[block]),
    row_bytes(static_cast<size_t>(m.row_bytes)) {}
};

OWLED_INLINE const uint16_t* scales_of(const Matrix& m, int block, int column) {
  return m.scales + (static_cast<size_t>(block) * m.groups() + m.group_of(column)) * kBlockRows;
}

// The codes of the next unit: planes [4][32].
static OWLED_INLINE void next_unit_plainly(const Matrix& m, Int4Stream* s, int8_t* planes) {
  if (m.format == Format::kDenseInt4) {
    for (int i = 0; i < 2 * kPlaceCount; ++i) {
      int8_t* out = planes + i / kPlaceCount * 2 * kPlaceCount + i % kPlaceCount;
      out[0] = static_cast<int8_t>((s->values[i] & 15) - 8);
      out[kPlaceCount] = static_cast<int8_t>((s->values[i] >> 4) - 8);
    }
    s->values += 2 * kPlaceCount;
  } else if (m.below4()) {
    const uint8_t* thirds = reinterpret_cast<const uint8_t*>(s->mask);
    for (int p = 0; p < 4; ++p)
      for (int i = 0; i < kPlaceCount; ++i) {
        int code = s->values[i] >> (2 * p) & 3;
        if (m.format == Format::kDenseInt3) code |= (thirds[i % 16] >> (i / 16 * 4 + p) & 1) << 2;
        planes[p * kPlaceCount + i] = static_cast<int8_t>(code - zero_of(m.format));
      }
    s->values += kPlaceCount;
    if (m.format == Format::kDenseInt3) s->mask += 2;
  } else if (m.format == Format::kSparseInt4) {
    for (int half = 0; half < 2; ++half) {
      const uint64_t bits = *s->mask++;
      for (int i = 0; i < 64; ++i) {
        int8_t* out = planes + (2 * half + i % 2) * kPlaceCount + i / 2;
        *out = 0;
        if ((bits >> i & 1) == 0) continue;
        *out = static_cast<int8_t>((s->values[s->nibble / 2] >> (4 * (s->nibble % 2)) & 15) - 8);
        ++s->nibble;
      }
    }
  } else if (m.format == Format::kEvenInt4) {
    for (int row = 0; row < kBlockRows; ++row, s->values += s->row_bytes) {
      const uint64_t bits = s->mask[row / 4] >> (kUnit * (row % 4));
      for (int i = 0, next = 0; i < kUnit; ++i) {  // two neighbours are two planes of one place
        int8_t* out = planes + (i / 8 * 2 + i % 2) * kPlaceCount + 4 * row + i % 8 / 2;
        *out = 0;
        if ((bits >> i & 1) == 0) continue;
        *out = static_cast<int8_t>((s->values[next / 2] >> (4 * (next % 2)) & 15) - 8);
        ++next;
      }
    }
    s->mask += 2;
  } else {
    const uint8_t* mask = reinterpret_cast<const uint8_t*>(s->mask);
    for (int i = 0; i < kPlaceCount; ++i) {
      const int bits = mask[i % 16] >> (i / 16 * 4) & 15;
      const int8_t a = static_cast<int8_t>((s->values[i] & 15) - 8), b = static_cast<int8_t>((s->values[i] >> 4) - 8);
      planes[i] = (bits & 1) != 0 ? a : int8_t{0};
      planes[kPlaceCount + i] = (bits & 2) == 0 ? int8_t{0} : (bits & 1) != 0 ? b : a;
      planes[2 * kPlaceCount + i] = (bits & 4) == 0 ? int8_t{0} : (bits & 8) != 0 ? a : b;
      planes[3 * kPlaceCount + i] = (bits & 8) != 0 ? b : int8_t{0};
    }
    s->mask += 2;
    s->values += kPlaceCount;
  }
}

// One code of a dense matrix.
static OWLED_INLINE int dense_code(const Matrix& m, int row, int column) {
  const int plane = column % 4, unit = column / kUnit, place = row % kBlockRows * 4 + column % kUnit / 4;
  const uint8_t* units = m.values + m.block_offset[row / kBlockRows];
  if (!m.below4()) return (units[unit * 2 * kPlaceCount + plane / 2 * kPlaceCount + place] >> (plane % 2 * 4) & 15) - 8;
  int code = units[unit * kPlaceCount + place] >> (2 * plane) & 3;
  if (m.format == Format::kDenseInt3) {
    const uint8_t* thirds = reinterpret_cast<const uint8_t*>(Int4Stream(m, row / kBlockRows).mask + 2 * unit);
    code |= (thirds[place % 16] >> (place / 16 * 4 + plane) & 1) << 2;
  }
  return code - zero_of(m.format);
}

#if defined(__x86_64__)
// The order of a unit's columns among the 8-bit activations: plane by plane, or both planes of a half unit in turn.
constexpr int8_t kPlaneByPlane[kUnit] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
constexpr int8_t kHalfByHalf[kUnit] = {0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15};

// For the AVX-512 kernels too: their processors have AVX2.
void prepare_codes_avx2(Activation* activation, const Matrix& matrix, const int8_t* order);
void gemv_int4_avx512(const Matrix& matrix, const Activation& activation, float* y, int begin, int end);
void unpack_int4_avx2(const Matrix& matrix, int block, float* out);
void unpack_sparse_int4_avx512(const Matrix& matrix, int block, float* out);
#endif

}  // namespace owled
