// Prefill in float32: a tile of rows is expanded and multiplied with panels of tokens.
//
// Included after ops.inl and OWLED_TILE_ROWS / OWLED_TILE_PANELS, the rows and panels that one register tile covers.

void unpack_block(const Matrix& matrix, int block, float* out);   // by each instruction set

size_t panel_bytes_f32(int columns) { return static_cast<size_t>(columns) * kPanel * sizeof(float); }
size_t tile_bytes_f32(int columns) { return static_cast<size_t>(columns) * kBlockRows * sizeof(float) * kTileBlocks; }

void pack_panel_f32(
  const float* panel, int columns, int padded, const float* weight, const float* scale, bool, void* out_bytes) {
  float* out = static_cast<float*>(out_bytes);
  for (int k = 0; k < columns; ++k)
    for (int v = 0; v < kVectors; ++v) {
      Vec x = load(panel + static_cast<size_t>(k) * kPanel + v * kLanes);
      if (scale != nullptr) x *= load(scale + v * kLanes);
      if (weight != nullptr) x *= weight[k];
      store(out + static_cast<size_t>(k) * kPanel + v * kLanes, x);
    }
  for (size_t i = static_cast<size_t>(columns) * kPanel; i < static_cast<size_t>(padded) * kPanel; ++i) out[i] = 0;
}

// R rows of the tile times P panels.
template <int R, int P>
inline void multiply_tile_f32(const float* tile, int columns, const float* x, float* y, size_t y_step) {
  Vec sum[R][P * kVectors] = {};
  const size_t x_step = static_cast<size_t>(columns) * kPanel;
  for (int k = 0; k < columns; ++k)
    for (int v = 0; v < P * kVectors; ++v) {
      const Vec token = load(x + (v / kVectors) * x_step + static_cast<size_t>(k) * kPanel + (v % kVectors) * kLanes);
      for (int r = 0; r < R; ++r) sum[r][v] += token * tile[static_cast<size_t>(r) * columns + k];
    }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < P * kVectors; ++v)
      store(y + (v / kVectors) * y_step + r * kPanel + (v % kVectors) * kLanes, sum[r][v]);
}

void gemm_f32(const Matrix& m, const void* x_bytes, int panels, float* y, int stride, int begin, int end, void* scratch) {
  const int columns = m.padded_columns();
  const float* x = static_cast<const float*>(x_bytes);
  float* tile = static_cast<float*>(scratch);
  const size_t y_step = static_cast<size_t>(stride) * kPanel, x_step = static_cast<size_t>(columns) * kPanel;
  const size_t block_size = static_cast<size_t>(kBlockRows) * columns;
  for (int b = begin; b < end; b += kTileBlocks) {
    const int blocks = end - b < kTileBlocks ? end - b : kTileBlocks;
    for (int i = 0; i < blocks; ++i) unpack_block(m, b + i, tile + i * block_size);
    int p = 0;
    for (; p + OWLED_TILE_PANELS <= panels; p += OWLED_TILE_PANELS)
      for (int r = 0; r < blocks * kBlockRows; r += OWLED_TILE_ROWS)
        multiply_tile_f32<OWLED_TILE_ROWS, OWLED_TILE_PANELS>(
          tile + static_cast<size_t>(r) * columns, columns, x + p * x_step,
          y + p * y_step + (static_cast<size_t>(b) * kBlockRows + r) * kPanel, y_step);
    for (; p < panels; ++p)
      for (int r = 0; r < blocks * kBlockRows; r += OWLED_TILE_ROWS)
        multiply_tile_f32<OWLED_TILE_ROWS, 1>(
          tile + static_cast<size_t>(r) * columns, columns, x + p * x_step,
          y + p * y_step + (static_cast<size_t>(b) * kBlockRows + r) * kPanel, y_step);
  }
}
