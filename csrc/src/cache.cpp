// Keys and values of the positions seen so far: memory and copying.
#include "cache.h"

#include <sys/mman.h>

#include <cstring>
#include <string>

#include "kernels.h"
#include "owled_sparse.h"

namespace owled {

Cache::Cache(const void* owner, const DecoderShape& shape, int max_tokens)
: owner(owner), dim((shape.head_dim + 15) / 16 * 16), limit(max_tokens), room((max_tokens + kPanel - 1) / kPanel * kPanel),
  layers_(shape.layers), kv_heads_(shape.kv_heads) {
  const size_t half = static_cast<size_t>(layers_) * kv_heads_ * room * dim;
  bytes_ = 2 * half * sizeof(float);
  void* block = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block == MAP_FAILED) throw Error{OWLED_NO_MEMORY, "no memory for a cache of " + std::to_string(bytes_) + " bytes"};
  keys_ = static_cast<float*>(block);
  values_ = keys_ + half;
}

Cache::~Cache() { munmap(keys_, bytes_); }

void Cache::copy_from(const Cache& other) {
  length = other.length;
  shift = other.shift;
  const size_t used = static_cast<size_t>((length + kPanel - 1) / kPanel * kPanel) * dim;
  for (int layer = 0; layer < layers_; ++layer)
    for (int head = 0; head < kv_heads_; ++head) {
      std::memcpy(keys(layer, head), other.keys(layer, head), used * sizeof(float));
      std::memcpy(values(layer, head), other.values(layer, head), used * sizeof(float));
    }
}

}  // namespace owled
