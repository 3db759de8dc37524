// Zeroed, 64-byte aligned memory that frees itself.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "owled_sparse.h"
#include "packed.h"

namespace owled {

// Room for `count` entries and 64 more bytes, so that a vector load may start at the last one.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t count) : bytes_((count * sizeof(T) + 127) / 64 * 64) {
    data_ = static_cast<T*>(std::aligned_alloc(64, bytes_));
    if (data_ == nullptr) throw Error{OWLED_NO_MEMORY, "out of memory: " + std::to_string(bytes_) + " bytes asked for"};
    std::memset(data_, 0, bytes_);
  }
  ~Buffer() { std::free(data_); }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  T* get() const { return data_; }
  T& operator[](size_t i) const { return data_[i]; }
  size_t bytes() const { return bytes_; }

 private:
  void swap(Buffer& other) {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  T* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace owled
