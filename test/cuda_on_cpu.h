// What int8_gemv.cu uses of CUDA, on a CPU: a warp is 32 threads that wait for each other where lanes exchange values.
#include <barrier>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>
#define __device__
#define __global__
struct uint4 { uint32_t x, y, z, w; };
struct Place { unsigned x; };
static thread_local Place threadIdx, blockIdx, blockDim;
static float slots[32];
static std::barrier lanes(32);
inline float __uint_as_float(uint32_t bits) { float value; std::memcpy(&value, &bits, 4); return value; }
inline uint32_t __float_as_uint(float value) { uint32_t bits; std::memcpy(&bits, &value, 4); return bits; }
inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t chosen) {
  const uint64_t bytes = (uint64_t)high << 32 | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; i++) result |= (uint32_t)(bytes >> 8 * (chosen >> 4 * i & 7) & 255) << 8 * i;
  return result;
}
inline float __shfl_xor_sync(uint32_t, float value, int step) {
  slots[threadIdx.x % 32] = value;
  lanes.arrive_and_wait();
  const float other = slots[threadIdx.x % 32 ^ step];
  lanes.arrive_and_wait();
  return other;
}
#include KERNEL
extern "C" void run(const signed char* codes, const half_word* scales, const number* x, const number* bias, number* y, int rows,
                    int columns, int has_bias, int blocks, int warps) {
  std::vector<std::thread> threads;
  for (int lane = 0; lane < 32; lane++)
    threads.emplace_back([=] {
      for (int block = 0; block < blocks; block++)
        for (int warp = 0; warp < warps; warp++) {
          blockIdx.x = block, threadIdx.x = warp * 32 + lane, blockDim.x = 32 * warps;
          int8_gemv(codes, scales, x, bias, y, rows, columns, has_bias);
        }
    });
  for (auto& thread : threads) thread.join();
}
