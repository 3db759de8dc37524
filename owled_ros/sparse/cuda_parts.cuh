// What tiles.cu and deltas.cu stand on: bfloat16 as bits, and the few instructions of a GPU that C++ has no words for.
//
// NVRTC is given this text and that of a kernel as one source (cuda_kernels.py), so nothing is included. Their test defines EMULATED and
// gives the same functions on a CPU.
typedef unsigned int word;
typedef unsigned short half_word;  // bits of a bfloat16
typedef unsigned char byte;

#define WARP 32
#define ALL_LANES 0xffffffffu

#ifndef EMULATED
#define SHARED(name) extern __shared__ __align__(128) byte name[]
__device__ inline void copy_16_later(byte* shared, const byte* memory) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((word)__cvta_generic_to_shared(shared)), "l"(memory) : "memory");
}
__device__ inline void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> __device__ inline void wait_for_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }
__device__ inline uint4 read_once(const uint4* memory) {  // past L1, which is for what is read again
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(memory));
  return v;
}
// sums (16, 8) += a (16, 32) b (32, 8) of int8; lane 4 g + t holds rows g and g + 8 of a, column g of b, columns 2 t and 2 t + 1 of sums.
__device__ inline void multiply_add(int* sums, word a0, word a1, word a2, word a3, word b0, word b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
#endif

__device__ inline float widened(word bits) { return __uint_as_float(bits << 16); }
__device__ inline half_word rounded(float value) {  // to the nearest, ties to even
  const word bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;  // not a number stays one
  return (half_word)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
