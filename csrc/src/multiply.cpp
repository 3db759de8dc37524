// Single packed matrices times a batch of vectors.
#include "multiply.h"

#include <algorithm>
#include <cstring>

#include "owled_sparse.h"

namespace owled {
namespace {

constexpr int kSingleRows = 2;        // so few are faster one by one
constexpr int kMaxPanelsAtOnce = 16;

template <typename T>
void reserve(Buffer<T>* buffer, size_t* size, size_t wanted) {
  if (wanted <= *size) return;
  *buffer = Buffer<T>(wanted);
  *size = wanted;
}

}  // namespace

void Multiplier::multiply_one(const Matrix& m, const float* x, float* y) {
  const size_t columns = m.padded_columns();
  if (row_size_ < columns) {
    fixed_ = Buffer<uint8_t>(columns * 2);
    halves_ = Buffer<uint8_t>(columns * 4);
  }
  reserve(&row_, &row_size_, columns);
  reserve(&result_, &result_size_, m.padded_rows());
  std::memset(row_.get(), 0, columns * sizeof(float));
  std::memcpy(row_.get(), x, m.columns * sizeof(float));
  Activation activation{row_.get(), fixed_.get(), reinterpret_cast<uint16_t*>(halves_.get())};
  kernels_.prepare(&activation, m.padded_columns(), m.int8());
  kernels_.gemv(m, activation, result_.get(), 0, m.blocks);
  for (int r = 0; r < m.rows; ++r) y[r] = result_[r] + (m.bias != nullptr ? m.bias[r] : 0.0f);
}

void Multiplier::multiply(const Matrix& m, const float* x, int count, float* y) {
  while (count > kSingleRows) {
    const int take = std::min(count, kMaxPanelsAtOnce * kPanel);
    const int panels = (take + kPanel - 1) / kPanel;
    const size_t columns = m.padded_columns();
    team_->begin();
    reserve(&panels_, &panel_size_, columns * kPanel * panels);
    reserve(&products_, &product_size_, static_cast<size_t>(m.padded_rows()) * kPanel * panels);
    reserve(&packed_, &packed_size_, kernels_.panel_bytes(m.padded_columns()) * panels);
    if (tile_size_ < kernels_.tile_bytes(m.padded_columns())) {
      tile_size_ = kernels_.tile_bytes(m.padded_columns());
      tiles_.clear();
      for (int t = 0; t < team_->threads(); ++t) tiles_.emplace_back(tile_size_);
    }
    matrix_ = &m;
    x_ = x;
    y_ = y;
    count_ = take;
    panel_count_.store(panels, std::memory_order_release);
    tile_count_.store((m.blocks + kTileBlocks - 1) / kTileBlocks, std::memory_order_release);
    team_->run(job, this);
    count -= take;
    x += static_cast<size_t>(take) * m.columns;
    y += static_cast<size_t>(take) * m.rows;
  }
  for (; count > 0; --count, x += m.columns, y += m.rows) multiply_one(m, x, y);
}

void Multiplier::job(void* self, Walk& walk) { static_cast<Multiplier*>(self)->run_panels(walk); }

void Multiplier::run_panels(Walk& walk) {
  const int panels = panel_count_.load(std::memory_order_acquire), tiles = tile_count_.load(std::memory_order_acquire);
  if (!walk.phase(panels, 1, [&](int begin, int end) {
        const Matrix& m = *matrix_;
        const size_t columns = m.padded_columns();
        for (int p = begin; p < end; ++p) {
          float* panel = panels_.get() + columns * kPanel * p;
          for (int t = 0; t < kPanel; ++t) {
            const bool inside = p * kPanel + t < count_;
            const float* row = x_ + static_cast<size_t>(inside ? p * kPanel + t : 0) * m.columns;
            for (int c = 0; c < m.columns; ++c) panel[c * kPanel + t] = inside ? row[c] : 0.0f;
          }
          kernels_.pack_panel(panel, m.columns, m.padded_columns(), nullptr, nullptr, !m.int8(),
                              packed_.get() + kernels_.panel_bytes(m.padded_columns()) * p);
        }
      }))
    return;
  walk.phase(tiles, 1, [&](int begin, int end) {
    const Matrix& m = *matrix_;
    const int first = begin * kTileBlocks, last = std::min(end * kTileBlocks, m.blocks);
    kernels_.gemm(m, packed_.get(), panels, products_.get(), m.padded_rows(), first, last, tiles_[walk.worker].get());
    for (int i = 0; i < count_; ++i)
      for (int r = first * kBlockRows; r < std::min(last * kBlockRows, m.rows); ++r)
        y_[static_cast<size_t>(i) * m.rows + r] =
          products_[(static_cast<size_t>(i / kPanel) * m.padded_rows() + r) * kPanel + i % kPanel] +
          (m.bias != nullptr ? m.bias[r] : 0.0f);
  });
}

void Multiplier::unpack(const Matrix& m, float* out) {
  if (m.format == Format::kVector) {
    std::memcpy(out, m.vector, m.columns * sizeof(float));
    return;
  }
  const size_t columns = m.padded_columns();
  Buffer<float> block(columns * kBlockRows);
  for (int b = 0; b < m.blocks; ++b) {
    kernels_.unpack(m, b, block.get());
    for (int r = 0; r < kBlockRows && b * kBlockRows + r < m.rows; ++r)
      std::memcpy(out + (static_cast<size_t>(b) * kBlockRows + r) * m.columns, block.get() + r * columns,
                  m.columns * sizeof(float));
  }
}

}  // namespace owled
