// Sparse int8 and int4 matrices stored with their zeros in memory, for kernels that spread more slowly than memory delivers.
#include <sys/mman.h>

#include <bit>
#include <cstring>

#include "fine.h"
#include "owled_sparse.h"
#include "packed.h"

namespace owled {
namespace {

constexpr size_t kHuge = size_t{2} << 20;
constexpr size_t kSlack = 64;         // vector loads may run over the end

size_t whole(size_t bytes) { return (bytes + kSlack + 63) / 64 * 64; }
// These are spread as fast as they are read, and copied as they are.
bool stays(const Matrix& m) { return m.format == Format::kPairedInt4 || m.below4(); }
bool is_filled(const Matrix& m) { return m.sparse() || m.format == Format::kEvenInt4; }

size_t filled_values(const Matrix& m) {
  if (stays(m)) return m.block_offset[m.blocks];
  return static_cast<size_t>(m.padded_rows()) * m.padded_columns() / (m.int4() ? 2 : 1);
}
size_t mask_bytes(const Matrix& m) { return static_cast<size_t>(m.padded_rows()) * m.chunks * sizeof(uint64_t); }
size_t filled_offsets(const Matrix& m) { return (static_cast<size_t>(m.blocks) + 1) * sizeof(uint64_t); }

// The values of a matrix with their zeros: masks and values are both in stream order, so one pass does it.
void spread_int8(const Matrix& m, uint8_t* out) {
  const uint8_t* value = m.values;
  const size_t words = static_cast<size_t>(m.padded_rows()) * m.chunks;
  for (size_t i = 0; i < words; ++i)
    for (uint64_t mask = m.mask[i]; mask != 0; mask &= mask - 1) out[i * kChunk + std::countr_zero(mask)] = *value++;
}

void spread_int4(const Matrix& m, uint8_t* out) {
  std::memset(out, 0x88, filled_values(m));
  const size_t words = static_cast<size_t>(m.chunks) * kBlockRows;
  for (int b = 0; b < m.blocks; ++b) {
    const uint8_t* values = m.values + m.block_offset[b];
    size_t next = 0;
    for (size_t i = 0; i < words; ++i, out += kChunk / 2)
      for (uint64_t mask = m.mask[b * words + i]; mask != 0; mask &= mask - 1, ++next) {
        const int place = std::countr_zero(mask), from = values[next / 2] >> (next % 2 * 4) & 15;
        out[place / 2] ^= static_cast<uint8_t>((8 ^ from) << (place % 2 * 4));
      }
  }
}

// Eight rows of sixteen columns each, whose codes lie in two planes of 32 bytes, two of them in a byte (fine.h).
void spread_even(const Matrix& m, uint8_t* out) {
  std::memset(out, 0x88, filled_values(m));
  const size_t rows = static_cast<size_t>(m.padded_rows()) * m.padded_columns() / kUnit;
  const uint8_t* values = m.values;
  for (size_t row = 0; row < rows; ++row, values += m.row_bytes) {
    uint8_t* unit = out + row / kBlockRows * 2 * kPlaceCount + row % kBlockRows * 4;
    uint64_t mask = m.mask[row / 4] >> (kUnit * (row % 4)) & 0xffff;
    for (int next = 0; mask != 0; mask &= mask - 1, ++next) {
      const int place = std::countr_zero(mask), from = values[next / 2] >> (next % 2 * 4) & 15;
      unit[place / 8 * kPlaceCount + place % 8 / 2] ^= static_cast<uint8_t>((8 ^ from) << (place % 2 * 4));
    }
  }
}

void spread(const Matrix& m, uint8_t* out) {
  if (!is_filled(m)) std::memcpy(out, m.values, filled_values(m));
  else if (m.format == Format::kEvenInt4) spread_even(m, out);
  else if (m.int4()) spread_int4(m, out);
  else spread_int8(m, out);
}

}  // namespace

bool PackedFile::fill() {
  size_t bytes = 0;
  bool any = false;
  for (const Matrix& m : matrices_) {
    if (!m.coarse()) continue;
    bytes += whole(filled_values(m)) + whole(filled_offsets(m)) + (stays(m) && m.masked() ? whole(mask_bytes(m)) : 0);
    any |= is_filled(m);
  }
  if (!any) return false;
  filled_bytes_ = (bytes + kHuge - 1) / kHuge * kHuge;
  void* block = mmap(nullptr, filled_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block == MAP_FAILED) throw Error{OWLED_NO_MEMORY, "no memory for " + std::to_string(bytes) + " bytes of weights"};
  madvise(block, filled_bytes_, MADV_HUGEPAGE);
  filled_ = block;
  uint8_t* next = static_cast<uint8_t*>(block);
  for (Matrix& m : matrices_) {
    if (!m.coarse()) continue;
    spread(m, next);
    if (is_filled(m)) m.bytes += filled_values(m) - m.block_offset[m.blocks] - mask_bytes(m);
    const uint64_t* mask = nullptr;
    if (!stays(m)) {
      m.format = m.int4() ? Format::kDenseInt4 : Format::kDenseInt8;
    } else if (m.masked()) {
      mask = reinterpret_cast<const uint64_t*>(next + whole(filled_values(m)) + whole(filled_offsets(m)));
      std::memcpy(const_cast<uint64_t*>(mask), m.mask, mask_bytes(m));
    }
    m.values = next;
    next += whole(filled_values(m));
    uint64_t* offsets = reinterpret_cast<uint64_t*>(next);
    for (int b = 0; b <= m.blocks; ++b) offsets[b] = filled_values(m) / m.blocks * b;
    m.block_offset = offsets;
    m.mask = mask != nullptr ? mask : offsets;   // of dense ones never read, but kernels may do arithmetic on it
    next += whole(filled_offsets(m)) + (mask != nullptr ? whole(mask_bytes(m)) : 0);
  }
  return true;
}

}  // namespace owled
