// Single packed matrices times a batch of vectors, for layers outside the decoder (the vision tower).
#pragma once

#include "buffer.h"
#include "kernels.h"
#include "packed.h"
#include "team.h"

namespace owled {

class Multiplier {
 public:
  Multiplier(const Kernels& kernels, Team* team) : kernels_(kernels), team_(team) {}
  // y (count, rows) = x (count, columns) times the transposed matrix, plus its bias.
  void multiply(const Matrix& matrix, const float* x, int count, float* y);
  void unpack(const Matrix& matrix, float* out);

 private:
  static void job(void* self, Walk& walk);
  void run_panels(Walk& walk);
  void multiply_one(const Matrix& matrix, const float* x, float* y);

  const Kernels& kernels_;
  Team* const team_;
  Buffer<float> row_, result_, panels_, products_;
  Buffer<uint8_t> packed_, fixed_, halves_, fine_;
  std::vector<Buffer<uint8_t>> tiles_;
  size_t row_size_ = 0, result_size_ = 0, panel_size_ = 0, product_size_ = 0, packed_size_ = 0, tile_size_ = 0;

  const Matrix* matrix_ = nullptr;      // of the running job
  const float* x_ = nullptr;
  float* y_ = nullptr;
  int count_ = 0;
  std::atomic<int> panel_count_{0}, tile_count_{0};
};

}  // namespace owled
