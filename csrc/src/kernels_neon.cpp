// NEON (every 64-bit Arm): one byte of the mask picks a table look-up that spreads eight packed values.
#include <arm_neon.h>

#include "fine.h"
#include "kernels.h"

namespace owled {
namespace {

#define OWLED_LANES 4
#define OWLED_TILE_ROWS 4
#define OWLED_TILE_PANELS 1
#include "ops.inl"
#include "tiles_f32.inl"
#include "spread.inl"

inline uint8x8_t pattern_of(uint32_t mask) { return vcreate_u8(kSpread.bytes[mask & 0xff]); }
inline int kept_by(uint32_t mask) { return __builtin_popcount(mask & 0xff); }

// 8 int8 weights as int16; moves the stream on. A look-up outside the table gives 0.
template <bool kSparse>
inline int16x8_t next_words(const uint8_t** values, uint32_t mask) {
  uint8x8_t w = vld1_u8(*values);
  if (kSparse) {
    w = vtbl1_u8(w, pattern_of(mask));
    *values += kept_by(mask);
  } else {
    *values += 8;
  }
  return vmovl_s8(vreinterpret_s8_u8(w));
}

// 8 bf16 weights as float32; moves the stream on.
template <bool kSparse>
inline float32x4x2_t next_floats(const uint16_t** values, uint32_t mask) {
  uint16x8_t w = vld1q_u16(*values);
  if (kSparse) {
    // A byte pattern p becomes the pair (2p, 2p + 1); 0x80 stays outside the table.
    const uint8x8_t pattern = pattern_of(mask);
    const uint8x8_t twice = vorr_u8(vshl_n_u8(pattern, 1), vand_u8(pattern, vdup_n_u8(0x80)));
    const uint8x8x2_t pairs = vzip_u8(twice, vorr_u8(twice, vdup_n_u8(1)));
    w = vreinterpretq_u16_u8(vqtbl1q_u8(vreinterpretq_u8_u16(w), vcombine_u8(pairs.val[0], pairs.val[1])));
    *values += kept_by(mask);
  } else {
    *values += 8;
  }
  return {{vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vget_low_u16(w)), 16)),
           vreinterpretq_f32_u32(vshlq_n_u32(vmovl_high_u16(w), 16))}};
}

#include "int4_neon.inl"

// fixed: int16 [K], 32767 is the largest entry.
void prepare(Activation* a, const Matrix& m) {
  const int columns = m.padded_columns();
  if (m.narrow()) return prepare_codes(a, columns);
  if (!m.int8() || a->fixed_ready) return;
  float32x4_t top = vdupq_n_f32(0);
  for (int i = 0; i < columns; i += 4) top = vmaxq_f32(top, vabsq_f32(vld1q_f32(a->x + i)));
  const float largest = vmaxvq_f32(top);
  a->step = largest / 32767.0f;
  const float scale = largest > 0 ? 32767.0f / largest : 0.0f;
  int16_t* fixed = reinterpret_cast<int16_t*>(a->fixed);
  for (int i = 0; i < columns; i += 8) {
    const int32x4_t low = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(a->x + i), scale));
    const int32x4_t high = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(a->x + i + 4), scale));
    vst1q_s16(fixed + i, vcombine_s16(vqmovn_s32(low), vqmovn_s32(high)));
  }
  a->fixed_ready = true;
}

template <bool kSparse>
void gemv_int8(const Matrix& m, const Activation& a, float* y, int begin, int end) {
  const int16_t* fixed = reinterpret_cast<const int16_t*>(a.fixed);
  for (int b = begin; b < end; ++b) {
    const uint64_t* mask = m.mask + static_cast<size_t>(b) * m.chunks * kBlockRows;
    const uint8_t* values = m.values + m.block_offset[b];
    const uint16_t* scales = m.scales + static_cast<size_t>(b) * m.groups() * kBlockRows;
    float32x4_t sums[kBlockRows];
    for (auto& sum : sums) sum = vdupq_n_f32(0);
    for (int chunk = 0; chunk < m.chunks; chunk += 2, scales += kBlockRows)
      for (int r = 0; r < kBlockRows; ++r) {
        int32x4_t low = vdupq_n_s32(0), high = vdupq_n_s32(0);
        for (int c = chunk; c < chunk + 2 && c < m.chunks; ++c) {
          const uint64_t bits = kSparse ? *mask++ : 0;
          for (int i = 0; i < 8; ++i) {
            const int16x8_t w = next_words<kSparse>(&values, static_cast<uint32_t>(bits >> (8 * i)));
            const int16x8_t x = vld1q_s16(fixed + c * kChunk + 8 * i);
            low = vmlal_s16(low, vget_low_s16(w), vget_low_s16(x));
            high = vmlal_high_s16(high, w, x);
          }
        }
        sums[r] = vfmaq_n_f32(sums[r], vcvtq_f32_s32(vaddq_s32(low, high)), bf16_to_float(scales[r]));
      }
    for (int r = 0; r < kBlockRows; ++r) y[b * kBlockRows + r] = vaddvq_f32(sums[r]) * a.step;
  }
}

// Groups of 32 or 64 columns.
template <bool kSparse>
void gemv_int8_fine(const Matrix& m, const Activation& a, float* y, int begin, int end) {
  const int16_t* fixed = reinterpret_cast<const int16_t*>(a.fixed);
  const int columns = m.padded_columns();
  for (int b = begin; b < end; ++b) {
    const uint8_t* mask = reinterpret_cast<const uint8_t*>(m.mask + static_cast<size_t>(b) * m.chunks * kBlockRows);
    const uint8_t* values = m.values + m.block_offset[b];
    float32x4_t sums[kBlockRows];
    for (auto& sum : sums) sum = vdupq_n_f32(0);
    for (int from = 0; from < columns; from += kGroup)
      for (int r = 0; r < kBlockRows; ++r)
        for (int c = from; c < from + kGroup && c < columns; c += kTile) {
          int32x4_t low = vdupq_n_s32(0), high = vdupq_n_s32(0);
          for (int i = 0; i < kTile; i += 8) {
            const int16x8_t w = next_words<kSparse>(&values, kSparse ? *mask++ : 0);
            const int16x8_t x = vld1q_s16(fixed + c + i);
            low = vmlal_s16(low, vget_low_s16(w), vget_low_s16(x));
            high = vmlal_high_s16(high, w, x);
          }
          sums[r] = vfmaq_n_f32(sums[r], vcvtq_f32_s32(vaddq_s32(low, high)), bf16_to_float(scales_of(m, b, c)[r]));
        }
    for (int r = 0; r < kBlockRows; ++r) y[b * kBlockRows + r] = vaddvq_f32(sums[r]) * a.step;
  }
}

template <bool kSparse>
void gemv_bf16(const Matrix& m, const Activation& a, float* y, int begin, int end) {
  for (int b = begin; b < end; ++b) {
    const uint64_t* mask = m.mask + static_cast<size_t>(b) * m.chunks * kBlockRows;
    const uint16_t* values = reinterpret_cast<const uint16_t*>(m.values + m.block_offset[b]);
    float32x4_t sums[kBlockRows];
    for (auto& sum : sums) sum = vdupq_n_f32(0);
    for (int chunk = 0; chunk < m.chunks; chunk += 2)
      for (int r = 0; r < kBlockRows; ++r)
        for (int c = chunk; c < chunk + 2 && c < m.chunks; ++c) {
          const uint64_t bits = kSparse ? *mask++ : 0;
          const float* x = a.x + static_cast<size_t>(c) * kChunk;
          for (int i = 0; i < 8; ++i) {
            const float32x4x2_t w = next_floats<kSparse>(&values, static_cast<uint32_t>(bits >> (8 * i)));
            sums[r] = vfmaq_f32(sums[r], w.val[0], vld1q_f32(x + 8 * i));
            sums[r] = vfmaq_f32(sums[r], w.val[1], vld1q_f32(x + 8 * i + 4));
          }
        }
    for (int r = 0; r < kBlockRows; ++r) y[b * kBlockRows + r] = vaddvq_f32(sums[r]);
  }
}

void gemv(const Matrix& m, const Activation& a, float* y, int begin, int end) {
  const bool fine = m.fine();
  switch (m.format) {
    case Format::kDenseInt4: return gemv_int4<Format::kDenseInt4>(m, a, y, begin, end);
    case Format::kDenseInt3: return gemv_int4<Format::kDenseInt3>(m, a, y, begin, end);
    case Format::kDenseInt2: return gemv_int4<Format::kDenseInt2>(m, a, y, begin, end);
    case Format::kSparseInt4: return gemv_int4<Format::kSparseInt4>(m, a, y, begin, end);
    case Format::kPairedInt4: return gemv_int4<Format::kPairedInt4>(m, a, y, begin, end);
    case Format::kEvenInt4: return gemv_int4<Format::kEvenInt4>(m, a, y, begin, end);
    case Format::kSparseInt8: return fine ? gemv_int8_fine<true>(m, a, y, begin, end) : gemv_int8<true>(m, a, y, begin, end);
    case Format::kDenseInt8: return fine ? gemv_int8_fine<false>(m, a, y, begin, end) : gemv_int8<false>(m, a, y, begin, end);
    case Format::kSparseBf16: return gemv_bf16<true>(m, a, y, begin, end);
    default: return gemv_bf16<false>(m, a, y, begin, end);
  }
}

template <bool kSparse, bool kInt8>
void unpack_values(const Matrix& m, int block, float* out) {
  const int columns = m.padded_columns();
  const uint64_t* mask = m.mask + static_cast<size_t>(block) * m.chunks * kBlockRows;
  const uint8_t* bytes = m.values + m.block_offset[block];
  const uint16_t* halves = reinterpret_cast<const uint16_t*>(bytes);
  for (int chunk = 0; chunk < m.chunks; chunk += 2)
    for (int r = 0; r < kBlockRows; ++r)
      for (int c = chunk; c < chunk + 2 && c < m.chunks; ++c) {
        const uint64_t bits = kSparse ? *mask++ : 0;
        float* to = out + static_cast<size_t>(r) * columns + c * kChunk;
        for (int i = 0; i < 8; ++i, to += 8) {
          const uint32_t byte = static_cast<uint32_t>(bits >> (8 * i));
          if (kInt8) {
            const float scale = bf16_to_float(scales_of(m, block, c * kChunk + 8 * i)[r]);
            const int16x8_t w = next_words<kSparse>(&bytes, byte);
            vst1q_f32(to, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(w))), scale));
            vst1q_f32(to + 4, vmulq_n_f32(vcvtq_f32_s32(vmovl_high_s16(w)), scale));
          } else {
            const float32x4x2_t w = next_floats<kSparse>(&halves, byte);
            vst1q_f32(to, w.val[0]);
            vst1q_f32(to + 4, w.val[1]);
          }
        }
      }
}

void unpack_block(const Matrix& m, int block, float* out) {
  if (m.narrow()) return unpack_int4(m, block, out);
  switch (m.format) {
    case Format::kSparseInt8: return unpack_values<true, true>(m, block, out);
    case Format::kDenseInt8: return unpack_values<false, true>(m, block, out);
    case Format::kSparseBf16: return unpack_values<true, false>(m, block, out);
    default: return unpack_values<false, false>(m, block, out);
  }
}

}  // namespace

const Kernels kNeonKernels = {
  "neon", false, prepare, gemv, panel_bytes_f32, tile_bytes_f32, pack_panel_f32, gemm_f32, unpack_block,
  rms_norm, rms_scale, swiglu, attend, log_sum_exp,
};

}  // namespace owled
