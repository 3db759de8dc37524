// NEON: int4 weights times 8-bit activations with a step per 32 columns.
//
// Included by kernels_neon.cpp inside its unnamed namespace. The layout of the AVX2 kernels: a plane of a unit is 8 rows
// of 4 bytes, here two registers; products are added up in 16 bits, pairs of them in 32 once per 32 columns.
#include "int4_plain.inl"

struct Planes {
  int8x16_t plane[4];                 // the codes -8 .. 7 of four rows
};

inline int8x16_t low_codes(uint8x16_t v) { return vsubq_s8(vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(15))), vdupq_n_s8(8)); }
inline int8x16_t high_codes(uint8x16_t v) { return vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(v, 4)), vdupq_n_s8(8)); }

// Four rows of a unit whose values begin at `v` (dense: the other two planes 32 bytes on).
inline Planes dense_planes(const uint8_t* v) {
  const uint8x16_t first = vld1q_u8(v), second = vld1q_u8(v + kPlaceCount);
  return {{low_codes(first), high_codes(first), low_codes(second), high_codes(second)}};
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

template <Format kFormat>
void gemv_int4(const Matrix& m, const Activation& a, float* y, int begin, int end) {
  const int columns = m.padded_columns();
  const int8_t* codes = fine_codes(a, columns);
  const float* steps = fine_steps(a, columns);
  for (int b = begin; b < end; ++b) {
    Int4Stream s(m, b);
    float32x4_t total[2] = {vdupq_n_f32(0), vdupq_n_f32(0)};
    for (int t = 0; t < columns / kTile; ++t) {
      // 16 bits hold a sum of 8 products: 8 * 8 * 127 = 8128.
      int16x8_t words[4] = {vdupq_n_s16(0), vdupq_n_s16(0), vdupq_n_s16(0), vdupq_n_s16(0)};
      for (int u = 0; u < kTile / kUnit; ++u) {
        const int8_t* x = codes + t * kTile + u * kUnit;
        if (kFormat == Format::kPairedInt4) {
          const uint8x16_t mask = vld1q_u8(reinterpret_cast<const uint8_t*>(s.mask));
          add_planes(paired_planes(s.values, mask), x, words);
          add_planes(paired_planes(s.values + 16, vshrq_n_u8(mask, 4)), x, words + 2);
          s.mask += 2;
          s.values += kPlaceCount;
        } else if (kFormat == Format::kDenseInt4) {
          add_planes(dense_planes(s.values), x, words);
          add_planes(dense_planes(s.values + 16), x, words + 2);
          s.values += 2 * kPlaceCount;
        } else {
          int8_t planes[4 * kPlaceCount];
          next_unit_plainly(m, &s, planes);
          for (int half = 0; half < 2; ++half) {
            Planes w;
            for (int p = 0; p < 4; ++p) w.plane[p] = vld1q_s8(planes + p * kPlaceCount + 16 * half);
            add_planes(w, x, words + 2 * half);
          }
        }
      }
      const float32x4_t step = vdupq_n_f32(steps[t]);
      const uint16x8_t bits = vld1q_u16(scales_of(m, b, t * kTile));
      const float32x4_t scales[2] = {vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vget_low_u16(bits)), 16)),
                                     vreinterpretq_f32_u32(vshlq_n_u32(vmovl_high_u16(bits), 16))};
      for (int half = 0; half < 2; ++half) {
        const int32x4_t dot = vpaddq_s32(vpaddlq_s16(words[2 * half]), vpaddlq_s16(words[2 * half + 1]));
        total[half] = vfmaq_f32(total[half], vcvtq_f32_s32(dot), vmulq_f32(scales[half], step));
      }
    }
    vst1q_f32(y + b * kBlockRows, total[0]);
    vst1q_f32(y + b * kBlockRows + 4, total[1]);
  }
}
