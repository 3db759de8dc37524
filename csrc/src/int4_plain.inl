// int4 in plain C++: right everywhere, and the yardstick of the others.
//
// Included inside the unnamed namespace of a kernels_*.cpp.

// codes: 127 is the largest entry of 32 columns; sums are not needed here.
void prepare_codes(Activation* a, int columns) {
  if (a->codes_ready) return;
  int8_t* codes = fine_codes(*a, columns);
  float* steps = fine_steps(*a, columns);
  for (int t = 0; t < columns / kTile; ++t) {
    const float* x = a->x + t * kTile;
    float largest = 0;
    for (int i = 0; i < kTile; ++i) largest = __builtin_fmaxf(largest, __builtin_fabsf(x[i]));
    steps[t] = largest / 127.0f;
    const float scale = largest > 1e-30f ? 127.0f / largest : 0.0f;
    for (int i = 0; i < kTile; ++i)
      codes[t * kTile + i / kUnit * kUnit + i % 4 * 4 + i % kUnit / 4] = static_cast<int8_t>(__builtin_lrintf(x[i] * scale));
  }
  a->codes_ready = true;
}

[[maybe_unused]] void gemv_int4_plainly(const Matrix& m, const Activation& a, float* y, int begin, int end) {
  const int columns = m.padded_columns();
  const int8_t* codes = fine_codes(a, columns);
  int8_t planes[4 * kPlaceCount];
  for (int b = begin; b < end; ++b) {
    Int4Stream s(m, b);
    float total[kBlockRows] = {};
    for (int t = 0; t < columns / kTile; ++t) {
      int32_t dot[kBlockRows] = {};
      for (int u = 0; u < kTile / kUnit; ++u) {
        next_unit_plainly(m, &s, planes);
        for (int i = 0; i < 4 * kPlaceCount; ++i)
          dot[i % kPlaceCount / 4] += planes[i] * codes[t * kTile + u * kUnit + i / kPlaceCount * 4 + i % 4];
      }
      for (int r = 0; r < kBlockRows; ++r)
        total[r] += static_cast<float>(dot[r]) * (bf16_to_float(scales_of(m, b, t * kTile)[r]) * fine_steps(a, columns)[t]);
    }
    for (int r = 0; r < kBlockRows; ++r) y[b * kBlockRows + r] = total[r];
  }
}

void unpack_int4(const Matrix& m, int block, float* out) {
  const int columns = m.padded_columns();
  Int4Stream s(m, block);
  int8_t planes[4 * kPlaceCount];
  for (int column = 0; column < columns; column += kUnit) {
    next_unit_plainly(m, &s, planes);
    for (int i = 0; i < 4 * kPlaceCount; ++i) {
      const int row = i % kPlaceCount / 4;
      out[static_cast<size_t>(row) * columns + column + i % 4 * 4 + i / kPlaceCount] =
        static_cast<float>(planes[i]) * bf16_to_float(scales_of(m, block, column)[row]);
    }
  }
}
