// Keys and values of the positions seen so far.
#pragma once

#include <cstddef>

#include "packed.h"

namespace owled {

// keys [layer][kv head][position / 16][D][16], values [layer][kv head][position][D]; D is the head size padded to 16.
class Cache {
 public:
  // Room for max_tokens positions. Memory is taken by the system only when positions are filled. Throws Error.
  Cache(const void* owner, const DecoderShape& shape, int max_tokens);
  ~Cache();
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;

  void copy_from(const Cache& other);
  float* keys(int layer, int head) const { return keys_ + plane(layer, head); }
  float* values(int layer, int head) const { return values_ + plane(layer, head); }
  size_t bytes() const { return bytes_; }

  const void* const owner;
  const int dim;            // D
  const int limit;          // positions that may be filled
  const int room;           // limit, rounded up to 16
  int length = 0;
  int shift = 0;            // rotary position of the next token minus length: images may take fewer than tokens

 private:
  size_t plane(int layer, int head) const { return (static_cast<size_t>(layer) * kv_heads_ + head) * room * dim; }
  const int layers_, kv_heads_;
  size_t bytes_ = 0;
  float* keys_ = nullptr;
  float* values_ = nullptr;
};

}  // namespace owled
