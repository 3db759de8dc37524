// NEON: int4 weights times 8-bit activations with a step per 32 columns.
//
// Included by kernels_neon.cpp inside its unnamed namespace. The layout of the AVX2 kernels: a plane of a unit is 8 rows
// of 4 bytes, here two registers; products are added up in 16 bits, pairs of them in 32 once per 32 columns.
#include "int4_plain.inl"

struct Planes {
  int8x16_t plane[4];                 // the codes of four rows
};

inline int8x16_t low_codes(uint8x16_t v) { return vsubq_s8(vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(15))), vdupq_n_s8(8)); }
inline int8x16_t high_codes(uint8x16_t v) { return vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(v, 4)), vdupq_n_s8(8)); }

// Four rows of a unit whose values begin at `v` (dense: the other two planes 32 bytes on).
inline Planes dense_planes(const uint8_t* v) {
  const uint8x16_t first = vld1q_u8(v), second = vld1q_u8(v + kPlaceCount);
  return {{low_codes(first), high_codes(first), low_codes(second), high_codes(second)}};
}

// The same of two or three bits, whose third ones are the lower halves of `third`.
template <Format kFormat>
inline Planes few_planes(const uint8_t* v, uint8x16_t third) {
  const uint8x16_t low = vld1q_u8(v), three = vdupq_n_u8(3), four = vdupq_n_u8(4);
  uint8x16_t code[4] = {vandq_u8(low, three), vandq_u8(vshrq_n_u8(low, 2), three), vandq_u8(vshrq_n_u8(low, 4), three), vshrq_n_u8(low, 6)};
  if (kFormat == Format::kDenseInt3) {
    code[0] = vorrq_u8(code[0], vandq_u8(vshlq_n_u8(third, 2), four));
    code[1] = vorrq_u8(code[1], vandq_u8(vshlq_n_u8(third, 1), four));
    code[2] = vorrq_u8(code[2], vandq_u8(third, four));
    code[3] = vorrq_u8(code[3], vandq_u8(vshrq_n_u8(third, 1), four));
  }
  Planes w;
  for (int p = 0; p < 4; ++p) w.plane[p] = vsubq_s8(vreinterpretq_s8_u8(code[p]), vdupq_n_s8(zero_of(kFormat)));
  return w;
}

inline Planes paired_planes(const uint8_t* v, uint8x16_t mask) {
  const uint8x16_t packed = vld1q_u8(v);
  const int8x16_t a = low_codes(packed), b = high_codes(packed), zero = vdupq_n_s8(0);
  const uint8x16_t first = vtstq_u8(mask, vdupq_n_u8(1)), second = vtstq_u8(mask, vdupq_n_u8(2));
  const uint8x16_t third = vtstq_u8(mask, vdupq_n_u8(4)), fourth = vtstq_u8(mask, vdupq_n_u8(8));
  return {{vbslq_s8(first, a, zero), vbslq_s8(second, vbslq_s8(first, b, a), zero),
           vbslq_s8(third, vbslq_s8(fourth, a, b), zero), vbslq_s8(fourth, b, zero)}};
}

// words[0], words[1]: rows 0, 1 and 2, 3 of four, 4 columns each.
inline void add_planes(const Planes& w, const int8_t* codes, int16x8_t* words) {
  for (int p = 0; p < 4; ++p) {
    const int8x8_t x = vreinterpret_s8_s32(vld1_dup_s32(reinterpret_cast<const int32_t*>(codes + 4 * p)));
    words[0] = vmlal_s8(words[0], vget_low_s8(w.plane[p]), x);
    words[1] = vmlal_s8(words[1], vget_high_s8(w.plane[p]), x);
  }
}

// 16 codes that follow each other.
inline int8x16_t kept_codes(const uint8_t* values) {
  const uint8x8_t packed = vld1_u8(values);
  const uint8x8x2_t halves = vzip_u8(vand_u8(packed, vdup_n_u8(15)), vshr_n_u8(packed, 4));
  return vsubq_s8(vreinterpretq_s8_u8(vcombine_u8(halves.val[0], halves.val[1])), vdupq_n_s8(8));
}

// Where eight columns find their codes, which begin some codes later; what is not kept stays outside the table.
inline uint8x8_t later(uint32_t mask, uint8_t codes) { return vadd_u8(pattern_of(mask), vdup_n_u8(codes)); }

// Adds a unit to eight sums of each row; x: its codes, half by half.
template <Format kFormat>
inline void add_unit(Int4Stream* s, int8x16_t x, int16x8_t* words) {
  const uint8_t* mask = reinterpret_cast<const uint8_t*>(s->mask);
  uint8_t counts[2 * kBlockRows];
  vst1q_u8(counts, vcntq_u8(vld1q_u8(mask)));
  s->mask += 2;
  if (kFormat == Format::kEvenInt4) {
#pragma GCC unroll 8
    for (int r = 0; r < kBlockRows; ++r, s->values += s->row_bytes) {
      const int8x16_t w =
        vqtbl1q_s8(kept_codes(s->values), vcombine_u8(pattern_of(mask[2 * r]), later(mask[2 * r + 1], counts[2 * r])));
      words[r] = vmlal_high_s8(vmlal_s8(words[r], vget_low_s8(w), vget_low_s8(x)), w, x);
    }
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < 2 * kBlockRows; ++i) {
      const int8x8_t w = vqtbl1_s8(kept_codes(s->values + s->nibble / 2), later(mask[i], s->nibble % 2));
      words[i % kBlockRows] = vmlal_s8(words[i % kBlockRows], w, i < kBlockRows ? vget_low_s8(x) : vget_high_s8(x));
      s->nibble += counts[i];
    }
  }
}

// Sums of 32 columns for eight rows.
struct Dots {
  int32x4_t low, high;
};

// Zeros at any places, or as many of every sixteen.
template <Format kFormat>
inline Dots dot_kept_tile(Int4Stream* s, const int8_t* codes) {
  static constexpr uint8_t kOrder[kUnit] = {0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15};  // from plane by plane to half by half
  // 16 bits hold a sum of 32 products: 32 * 8 * 127 = 32512.
  int16x8_t words[kBlockRows];
  for (auto& word : words) word = vdupq_n_s16(0);
  for (int u = 0; u < kTile / kUnit; ++u)
    add_unit<kFormat>(s, vqtbl1q_s8(vld1q_s8(codes + u * kUnit), vld1q_u8(kOrder)), words);
  const int16x8_t low = vpaddq_s16(vpaddq_s16(words[0], words[1]), vpaddq_s16(words[2], words[3]));
  const int16x8_t high = vpaddq_s16(vpaddq_s16(words[4], words[5]), vpaddq_s16(words[6], words[7]));
  const int16x8_t dot = vpaddq_s16(low, high);
  return {vmovl_s16(vget_low_s16(dot)), vmovl_high_s16(dot)};
}

template <Format kFormat>
inline Dots dot_tile(Int4Stream* s, const int8_t* codes) {
  if (kFormat == Format::kSparseInt4 || kFormat == Format::kEvenInt4) return dot_kept_tile<kFormat>(s, codes);
  // 16 bits hold a sum of 8 products: 8 * 8 * 127 = 8128.
  int16x8_t words[4] = {vdupq_n_s16(0), vdupq_n_s16(0), vdupq_n_s16(0), vdupq_n_s16(0)};
  for (int u = 0; u < kTile / kUnit; ++u) {
    const int8_t* x = codes + u * kUnit;
    if (kFormat == Format::kDenseInt2 || kFormat == Format::kDenseInt3) {
      const uint8x16_t third = kFormat == Format::kDenseInt3 ? vld1q_u8(reinterpret_cast<const uint8_t*>(s->mask)) : vdupq_n_u8(0);
      add_planes(few_planes<kFormat>(s->values, third), x, words);
      add_planes(few_planes<kFormat>(s->values + 16, vshrq_n_u8(third, 4)), x, words + 2);
      if (kFormat == Format::kDenseInt3) s->mask += 2;
      s->values += kPlaceCount;
    } else if (kFormat == Format::kPairedInt4) {
      const uint8x16_t mask = vld1q_u8(reinterpret_cast<const uint8_t*>(s->mask));
      add_planes(paired_planes(s->values, mask), x, words);
      add_planes(paired_planes(s->values + 16, vshrq_n_u8(mask, 4)), x, words + 2);
      s->mask += 2;
      s->values += kPlaceCount;
    } else {
      add_planes(dense_planes(s->values), x, words);
      add_planes(dense_planes(s->values + 16), x, words + 2);
      s->values += 2 * kPlaceCount;
    }
  }
  return {vpaddq_s32(vpaddlq_s16(words[0]), vpaddlq_s16(words[1])), vpaddq_s32(vpaddlq_s16(words[2]), vpaddlq_s16(words[3]))};
}

template <Format kFormat>
void gemv_int4(const Matrix& m, const Activation& a, float* y, int begin, int end) {
  const int columns = m.padded_columns();
  const int8_t* codes = fine_codes(a, columns);
  const float* steps = fine_steps(a, columns);
  for (int b = begin; b < end; ++b) {
    Int4Stream s(m, b);
    float32x4_t total[2] = {vdupq_n_f32(0), vdupq_n_f32(0)};
    for (int t = 0; t < columns / kTile; ++t) {
      const Dots dots = dot_tile<kFormat>(&s, codes + t * kTile);
      const float32x4_t step = vdupq_n_f32(steps[t]);
      const uint16x8_t bits = vld1q_u16(scales_of(m, b, t * kTile));
      const float32x4_t low = vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vget_low_u16(bits)), 16));
      const float32x4_t high = vreinterpretq_f32_u32(vshlq_n_u32(vmovl_high_u16(bits), 16));
      total[0] = vfmaq_f32(total[0], vcvtq_f32_s32(dots.low), vmulq_f32(low, step));
      total[1] = vfmaq_f32(total[1], vcvtq_f32_s32(dots.high), vmulq_f32(high, step));
    }
    vst1q_f32(y + b * kBlockRows, total[0]);
    vst1q_f32(y + b * kBlockRows + 4, total[1]);
  }
}
