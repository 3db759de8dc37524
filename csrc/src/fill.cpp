// Sparse int8 matrices stored with their zeros in memory, for kernels that spread more slowly than memory delivers.
#include <sys/mman.h>

#include <bit>
#include <cstring>

#include "owled_sparse.h"
#include "packed.h"

namespace owled {
namespace {

constexpr size_t kHuge = size_t{2} << 20;
constexpr size_t kSlack = 64;         // vector loads may run over the end

size_t whole(size_t bytes) { return (bytes + kSlack + 63) / 64 * 64; }
size_t filled_values(const Matrix& m) { return static_cast<size_t>(m.padded_rows()) * m.padded_columns(); }
size_t filled_offsets(const Matrix& m) { return (static_cast<size_t>(m.blocks) + 1) * sizeof(uint64_t); }

// The values of a matrix with their zeros: masks and values are both in stream order, so one pass does it.
void spread(const Matrix& m, uint8_t* out) {
  if (!m.sparse()) {
    std::memcpy(out, m.values, filled_values(m));
    return;
  }
  const uint8_t* value = m.values;
  const size_t words = static_cast<size_t>(m.padded_rows()) * m.chunks;
  for (size_t i = 0; i < words; ++i)
    for (uint64_t mask = m.mask[i]; mask != 0; mask &= mask - 1) out[i * kChunk + std::countr_zero(mask)] = *value++;
}

}  // namespace

bool PackedFile::fill_int8() {
  size_t bytes = 0;
  bool any = false;
  for (const Matrix& m : matrices_) {
    if (m.format == Format::kVector || !m.int8()) continue;
    bytes += whole(filled_values(m)) + whole(filled_offsets(m));
    any |= m.sparse();
  }
  if (!any) return false;
  filled_bytes_ = (bytes + kHuge - 1) / kHuge * kHuge;
  void* block = mmap(nullptr, filled_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block == MAP_FAILED) throw Error{OWLED_NO_MEMORY, "no memory for " + std::to_string(bytes) + " bytes of weights"};
  madvise(block, filled_bytes_, MADV_HUGEPAGE);
  filled_ = block;
  uint8_t* next = static_cast<uint8_t*>(block);
  for (Matrix& m : matrices_) {
    if (m.format == Format::kVector || !m.int8()) continue;
    spread(m, next);
    if (m.sparse()) m.bytes += filled_values(m) - m.nonzeros - static_cast<size_t>(m.padded_rows()) * m.chunks * 8;
    m.format = Format::kDenseInt8;
    m.mask = nullptr;
    m.values = next;
    next += whole(filled_values(m));
    uint64_t* offsets = reinterpret_cast<uint64_t*>(next);
    for (int b = 0; b <= m.blocks; ++b) offsets[b] = static_cast<uint64_t>(b) * kBlockRows * m.padded_columns();
    m.block_offset = offsets;
    next += whole(filled_offsets(m));
  }
  return true;
}

}  // namespace owled
