// Portable kernels: plain C++, right on every little-endian machine and the yardstick of the others.
#include "fine.h"
#include "kernels.h"

namespace owled {
namespace {

#define OWLED_LANES 4
#define OWLED_TILE_ROWS 4
#define OWLED_TILE_PANELS 1
#include "ops.inl"
#include "tiles_f32.inl"

#include "int4_plain.inl"

// fixed: int16 [K]. The largest entry becomes 32767.
void prepare(Activation* a, const Matrix& m) {
  const int columns = m.padded_columns();
  if (m.narrow()) return prepare_codes(a, columns);
  if (!m.int8() || a->fixed_ready) return;
  float largest = 0;
  for (int i = 0; i < columns; ++i) largest = __builtin_fmaxf(largest, __builtin_fabsf(a->x[i]));
  a->step = largest / 32767.0f;
  const float scale = largest > 0 ? 32767.0f / largest : 0.0f;
  int16_t* fixed = reinterpret_cast<int16_t*>(a->fixed);
  for (int i = 0; i < columns; ++i) fixed[i] = static_cast<int16_t>(__builtin_lrintf(a->x[i] * scale));
  a->fixed_ready = true;
}

// Calls visit(row, column, place of the value) for every kept entry of a block, in stream order.
template <typename Visit>
inline void walk(const Matrix& m, int block, Visit visit) {
  const uint64_t* mask = m.mask + static_cast<size_t>(block) * m.chunks * kBlockRows;
  size_t place = 0;
  for (int chunk = 0; chunk < m.chunks; chunk += 2) {
    const int width = chunk + 1 < m.chunks ? 2 : 1;
    for (int row = 0; row < kBlockRows; ++row)
      for (int c = 0; c < width; ++c) {
        uint64_t bits = m.sparse() ? *mask++ : ~uint64_t{0};
        for (; bits != 0; bits &= bits - 1)
          visit(row, (chunk + c) * kChunk + __builtin_ctzll(bits), place++);
      }
  }
}

void gemv_int8(const Matrix& m, const Activation& a, float* y, int begin, int end) {
  const int16_t* fixed = reinterpret_cast<const int16_t*>(a.fixed);
  for (int b = begin; b < end; ++b) {
    const int8_t* values = reinterpret_cast<const int8_t*>(m.values + m.block_offset[b]);
    const uint16_t* scales = scales_of(m, b, 0);
    float sums[kBlockRows] = {};
    int32_t group_sum = 0;
    int group = 0, last_row = 0;
    const auto flush = [&] {
      sums[last_row] += static_cast<float>(group_sum) * bf16_to_float(scales[group * kBlockRows + last_row]);
      group_sum = 0;
    };
    walk(m, b, [&](int row, int column, size_t place) {
      if (row != last_row || m.group_of(column) != group) {
        flush();
        last_row = row;
        group = m.group_of(column);
      }
      group_sum += fixed[column] * values[place];
    });
    flush();
    for (int r = 0; r < kBlockRows; ++r) y[b * kBlockRows + r] = sums[r] * a.step;
  }
}

void gemv_bf16(const Matrix& m, const Activation& a, float* y, int begin, int end) {
  for (int b = begin; b < end; ++b) {
    const uint16_t* values = reinterpret_cast<const uint16_t*>(m.values + m.block_offset[b]);
    float sums[kBlockRows] = {};
    walk(m, b, [&](int row, int column, size_t place) { sums[row] += a.x[column] * bf16_to_float(values[place]); });
    for (int r = 0; r < kBlockRows; ++r) y[b * kBlockRows + r] = sums[r];
  }
}

void gemv(const Matrix& m, const Activation& a, float* y, int begin, int end) {
  if (m.narrow()) return gemv_int4_plainly(m, a, y, begin, end);
  if (m.int8()) return gemv_int8(m, a, y, begin, end);
  gemv_bf16(m, a, y, begin, end);
}

void unpack_block(const Matrix& m, int block, float* out) {
  if (m.narrow()) return unpack_int4(m, block, out);
  const int columns = m.padded_columns();
  for (int i = 0; i < kBlockRows * columns; ++i) out[i] = 0;
  const uint8_t* values = m.values + m.block_offset[block];
  if (m.int8()) {
    walk(m, block, [&](int row, int column, size_t place) {
      out[row * columns + column] = static_cast<int8_t>(values[place]) *
                                    bf16_to_float(scales_of(m, block, column)[row]);
    });
  } else {
    walk(m, block, [&](int row, int column, size_t place) {
      out[row * columns + column] = bf16_to_float(reinterpret_cast<const uint16_t*>(values)[place]);
    });
  }
}

}  // namespace

const Kernels kScalarKernels = {
  "scalar", false, prepare, gemv, panel_bytes_f32, tile_bytes_f32, pack_panel_f32, gemm_f32, unpack_block,
  rms_norm, rms_scale, swiglu, attend, log_sum_exp,
};

}  // namespace owled
