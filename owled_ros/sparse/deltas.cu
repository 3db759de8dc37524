// One token times a bfloat16 matrix without its zeros, exactly: values in units of eight, and for each how far its column is (deltas.py).
//
// A warp has a row and a lane eight values at a time. Four bits tell the step from the column before, so columns are a prefix sum: in a
// lane by one multiplication of bytes, over the warp by shuffles. Inputs lie in shared memory as float32, sums are float32; K is a
// multiple of 8.
#define AHEAD 4  // units that a lane has asked for

// Columns of the lane's eight values behind `base`, a byte each (even[i], odd[i] for values 2 i and 2 i + 1); moves `base` behind the warp's.
__device__ inline int columns_of(word steps, int lane, int& base, word& even, word& odd) {
  const word second = steps >> 4 & 0x0f0f0f0fu;
  odd = ((steps & 0x0f0f0f0fu) + second) * 0x01010101u;
  even = odd - second;
  const word own = odd >> 24;
  word sum = own;
#pragma unroll
  for (int step = 1; step < WARP; step *= 2) {
    const word other = __shfl_up_sync(ALL_LANES, sum, step);
    if (lane >= step) sum += other;
  }
  const int begin = base + (int)(sum - own);
  base += (int)__shfl_sync(ALL_LANES, sum, WARP - 1);
  return begin;
}

extern "C" __global__ void __launch_bounds__(512, 2)
deltas_product(const uint4* values, const word* steps, const word* starts, const half_word* x, const half_word* bias, half_word* y,
               int rows, int columns, int has_bias) {
  SHARED(shared);
  float* inputs = (float*)shared;
  const int lane = threadIdx.x % WARP, row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
  const word first = row < rows ? starts[row] : 0, end = row < rows ? starts[row + 1] : 0;
  uint4 eight[AHEAD];
  word nibbles[AHEAD];
  auto fetch = [&](int place, word unit) {
    eight[place] = uint4{0, 0, 0, 0}, nibbles[place] = 0;
    if (unit < end) eight[place] = read_once(values + unit), nibbles[place] = steps[unit];
  };
#pragma unroll
  for (int place = 0; place < AHEAD; place++) fetch(place, first + place * WARP + lane);
  for (int part = threadIdx.x; part < columns / 8; part += blockDim.x) {
    const uint4 now = ((const uint4*)x)[part];
    ((uint4*)inputs)[2 * part] = uint4{now.x << 16, now.x & 0xffff0000u, now.y << 16, now.y & 0xffff0000u};
    ((uint4*)inputs)[2 * part + 1] = uint4{now.z << 16, now.z & 0xffff0000u, now.w << 16, now.w & 0xffff0000u};
  }
  __syncthreads();

  float sum = 0.0f;
  int base = 0;
  for (word unit = first; unit < end; unit += WARP * AHEAD) {
#pragma unroll
    for (int place = 0; place < AHEAD; place++) {
      if (unit + place * WARP < end) {  // the same for all lanes
        const uint4 now = eight[place];
        const word words[4] = {now.x, now.y, now.z, now.w};
        word even, odd;
        const float* near = inputs + columns_of(nibbles[place], lane, base, even, odd);
        fetch(place, unit + (AHEAD + place) * WARP + lane);
#pragma unroll
        for (int i = 0; i < 4; i++) {
          sum += widened(words[i] & 0xffff) * near[even >> 8 * i & 255];
          sum += __uint_as_float(words[i] & 0xffff0000u) * near[odd >> 8 * i & 255];
        }
      }
    }
  }
#pragma unroll
  for (int step = WARP / 2; step > 0; step /= 2) sum += __uint_as_float(__shfl_xor_sync(ALL_LANES, __float_as_uint(sum), step));
  if (lane == 0 && row < rows) y[row] = rounded(sum + (has_bias ? widened(bias[row]) : 0.0f));
}

// The matrix itself (R, K), for many tokens at once, into zeros: a warp writes a row.
extern "C" __global__ void deltas_widened(const uint4* values, const word* steps, const word* starts, half_word* matrix, int rows,
                                          int columns) {
  const int lane = threadIdx.x % WARP, row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
  if (row >= rows) return;
  int base = 0;
  for (word first = starts[row]; first < starts[row + 1]; first += WARP) {
    const word unit = first + lane;
    const bool there = unit < starts[row + 1];
    const uint4 now = there ? values[unit] : uint4{0, 0, 0, 0};
    const word words[4] = {now.x, now.y, now.z, now.w};
    word even, odd;
    half_word* near = matrix + (long long)row * columns + columns_of(there ? steps[unit] : 0, lane, base, even, odd);
    for (int i = 0; i < 4; i++) {  // what fills a gap or a unit is zero and is not written
      if (words[i] & 0xffff) near[even >> 8 * i & 255] = (half_word)words[i];
      if (words[i] >> 16) near[odd >> 8 * i & 255] = (half_word)(words[i] >> 16);
    }
  }
}
