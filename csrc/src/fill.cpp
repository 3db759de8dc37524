// Matrices stored in memory otherwise than in the file: ternary ones as two bits, and sparse int8 and int4 with their zeros, for kernels that
// spread more slowly than memory delivers.
#include <sys/mman.h>
#include <unistd.h>

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
bool has_zeros(const Matrix& m) { return m.sparse() || m.format == Format::kEvenInt4; }
// These are spread as fast as they are read, and copied as they are.
bool stays(const Matrix& m) { return m.format == Format::kPairedInt4 || m.format == Format::kDenseInt2 || m.format == Format::kDenseInt3; }
bool is_filled(const Matrix& m, bool zeros) { return m.format == Format::kTernary || (zeros && has_zeros(m)); }
bool is_copied(const Matrix& m, bool zeros) { return m.format == Format::kTernary || (zeros && m.coarse()); }

size_t filled_values(const Matrix& m) {
  if (stays(m)) return m.block_offset[m.blocks];
  return static_cast<size_t>(m.padded_rows()) * m.padded_columns() / (m.below4() ? 4 : m.int4() ? 2 : 1);
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

// Five planes of places share 32 bytes there, as digits to the base 3, and four here; a code of -1 to 1 has 1 added there, 2 here.
void spread_ternary(const Matrix& m, uint8_t* out) {
  const int planes = m.chunks * kChunkPlanes;
  uint8_t rest[kPlaceCount];
  for (int b = 0; b < m.blocks; ++b) {
    const uint8_t* values = m.values + m.block_offset[b];
    for (int p = 0; p < planes; ++p) {
      if (p % 5 == 0) std::memcpy(rest, values + p / 5 * kPlaceCount, kPlaceCount);
      const int shift = 2 * (p % 4);
      if (shift == 0) std::memset(out, 0, kPlaceCount);
      for (int i = 0; i < kPlaceCount; ++i) {
        const uint16_t third = static_cast<uint16_t>(rest[i] * 171u >> 9);   // rest / 3 of any byte
        out[i] = static_cast<uint8_t>(out[i] | (rest[i] - 3 * third + 1) << shift);
        rest[i] = static_cast<uint8_t>(third);
      }
      if (shift == 6) out += kPlaceCount;
    }
  }
}

void spread(const Matrix& m, uint8_t* out) {
  if (m.format == Format::kTernary) spread_ternary(m, out);
  else if (!has_zeros(m)) std::memcpy(out, m.values, filled_values(m));
  else if (m.format == Format::kEvenInt4) spread_even(m, out);
  else if (m.int4()) spread_int4(m, out);
  else spread_int8(m, out);
}

// Gives back the memory of whole pages that nobody reads again.
void forget(const uint8_t* bytes, size_t count) {
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t first = (reinterpret_cast<uintptr_t>(bytes) + page - 1) / page * page;
  const uintptr_t last = reinterpret_cast<uintptr_t>(bytes + count) / page * page;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

}  // namespace

bool PackedFile::fill(bool zeros) {
  size_t bytes = 0;
  bool any = false;
  for (const Matrix& m : matrices_) {
    if (!is_copied(m, zeros)) continue;
    bytes += whole(filled_values(m)) + whole(filled_offsets(m)) + (stays(m) && m.masked() ? whole(mask_bytes(m)) : 0);
    any |= is_filled(m, zeros);
  }
  if (!any) return false;
  filled_bytes_ = (bytes + kHuge - 1) / kHuge * kHuge;
  void* block = mmap(nullptr, filled_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block == MAP_FAILED) throw Error{OWLED_NO_MEMORY, "no memory for " + std::to_string(bytes) + " bytes of weights"};
  madvise(block, filled_bytes_, MADV_HUGEPAGE);
  filled_ = block;
  uint8_t* next = static_cast<uint8_t*>(block);
  for (Matrix& m : matrices_) {
    if (!is_copied(m, zeros)) continue;
    const size_t values = filled_values(m);
    spread(m, next);
    if (mapped_bytes_ != 0) forget(m.values, m.block_offset[m.blocks]);   // else the bytes are somebody else's
    if (is_filled(m, zeros)) m.bytes += values - m.block_offset[m.blocks] - (m.masked() ? mask_bytes(m) : 0);
    const uint64_t* mask = nullptr;
    if (m.format == Format::kTernary) {
      m.format = Format::kDenseInt2;
    } else if (!stays(m)) {
      m.format = m.int4() ? Format::kDenseInt4 : Format::kDenseInt8;
    } else if (m.masked()) {
      mask = reinterpret_cast<const uint64_t*>(next + whole(values) + whole(filled_offsets(m)));
      std::memcpy(const_cast<uint64_t*>(mask), m.mask, mask_bytes(m));
    }
    m.values = next;
    next += whole(values);
    uint64_t* offsets = reinterpret_cast<uint64_t*>(next);
    for (int b = 0; b <= m.blocks; ++b) offsets[b] = values / m.blocks * b;
    m.block_offset = offsets;
    m.mask = mask != nullptr ? mask : offsets;   // of dense ones never read, but kernels may do arithmetic on it
    next += whole(filled_offsets(m)) + (mask != nullptr ? whole(mask_bytes(m)) : 0);
  }
  return true;
}

}  // namespace owled
