// Single packed matrices times a batch of vectors.
#include "multiply.h"

#include <algorithm>
#include <cstring>

#include "owled_sparse.h"

namespace owled {
namespace {

constexpr int kSingleRows = 2;        // so few are faster one by one
constexpr int kMaxPanelsAtOnce = 16;

typedef float Four __attribute__((vector_size(16)));
typedef float FourAt __attribute__((vector_size(16), aligned(4), may_alias));

#if defined(__clang__)
#define OWLED_PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t FourInt __attribute__((vector_size(16)));
#define OWLED_PICK(a, b, ...) __builtin_shuffle(a, b, FourInt{__VA_ARGS__})
#endif

Four load_four(const float* p) { return *reinterpret_cast<const FourAt*>(p); }

// to[c][r] = from[r][c] + add[c] for 4 rows and 4 columns; the steps are between rows.
void transpose_four(const float* from, size_t from_step, float* to, size_t to_step, const Four& add) {
  const Four r0 = load_four(from), r1 = load_four(from + from_step);
  const Four r2 = load_four(from + 2 * from_step), r3 = load_four(from + 3 * from_step);
  const Four a = OWLED_PICK(r0, r1, 0, 4, 1, 5), b = OWLED_PICK(r2, r3, 0, 4, 1, 5);
  const Four c = OWLED_PICK(r0, r1, 2, 6, 3, 7), d = OWLED_PICK(r2, r3, 2, 6, 3, 7);
  const Four out[4] = {OWLED_PICK(a, b, 0, 1, 4, 5), OWLED_PICK(a, b, 2, 3, 6, 7),
                       OWLED_PICK(c, d, 0, 1, 4, 5), OWLED_PICK(c, d, 2, 3, 6, 7)};
  for (int i = 0; i < 4; ++i) *reinterpret_cast<FourAt*>(to + i * to_step) = out[i] + add;
}

// panel [columns][16] of `tokens` rows of x, at most 16; tokens that are missing become 0.
void fill_panel(const float* x, int tokens, int columns, float* panel) {
  if (tokens < kPanel) std::memset(panel, 0, static_cast<size_t>(columns) * kPanel * sizeof(float));
  const int whole = columns / 4 * 4, quads = tokens / 4 * 4;
  for (int c = 0; c < whole; c += 4)
    for (int t = 0; t < quads; t += 4)
      transpose_four(x + static_cast<size_t>(t) * columns + c, columns, panel + c * kPanel + t, kPanel, Four{});
  for (int t = 0; t < tokens; ++t)
    for (int c = t < quads ? whole : 0; c < columns; ++c) panel[c * kPanel + t] = x[static_cast<size_t>(t) * columns + c];
}

// y rows [tokens][rows] from a panel [row][16], for the matrix rows [first, last) with their biases.
void empty_panel(const float* panel, const float* bias, int tokens, int first, int last, int rows, float* y) {
  const int quads = tokens / 4 * 4, whole = first + (last - first) / 4 * 4;
  for (int t = 0; t < quads; t += 4)
    for (int r = first; r < whole; r += 4)
      transpose_four(panel + static_cast<size_t>(r) * kPanel + t, kPanel, y + static_cast<size_t>(t) * rows + r, rows,
                     bias != nullptr ? load_four(bias + r) : Four{});
  for (int t = 0; t < tokens; ++t)
    for (int r = t < quads ? whole : first; r < last; ++r)
      y[static_cast<size_t>(t) * rows + r] =
        panel[static_cast<size_t>(r) * kPanel + t] + (bias != nullptr ? bias[r] : 0.0f);
}

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
    fine_ = Buffer<uint8_t>(columns * 4);
  }
  reserve(&row_, &row_size_, columns);
  reserve(&result_, &result_size_, m.padded_rows());
  std::memset(row_.get(), 0, columns * sizeof(float));
  std::memcpy(row_.get(), x, m.columns * sizeof(float));
  Activation activation{row_.get(), fixed_.get(), reinterpret_cast<uint16_t*>(halves_.get()), fine_.get()};
  kernels_.prepare(&activation, m);
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
          fill_panel(x_ + static_cast<size_t>(p) * kPanel * m.columns, std::min(kPanel, count_ - p * kPanel), m.columns, panel);
          kernels_.pack_panel(panel, m.columns, m.padded_columns(), nullptr, nullptr, !m.coarse(),
                              packed_.get() + kernels_.panel_bytes(m.padded_columns()) * p);
        }
      }))
    return;
  walk.phase(tiles, 1, [&](int begin, int end) {
    const Matrix& m = *matrix_;
    const int first = begin * kTileBlocks, last = std::min(end * kTileBlocks, m.blocks);
    kernels_.gemm(m, packed_.get(), panels, products_.get(), m.padded_rows(), first, last, tiles_[walk.worker].get());
    for (int p = 0; p < panels; ++p)
      empty_panel(products_.get() + static_cast<size_t>(p) * m.padded_rows() * kPanel, m.bias,
                  std::min(kPanel, count_ - p * kPanel), first * kBlockRows, std::min(last * kBlockRows, m.rows), m.rows,
                  y_ + static_cast<size_t>(p) * kPanel * m.rows);
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
