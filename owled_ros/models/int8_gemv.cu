// One token times a matrix of int8 codes (R, K) with a bfloat16 scale for every row and 128 columns.
//
// A warp takes ROWS rows, a lane 16 columns at a time, which lie in one group. Codes become floats in registers, sums are
// float32, inputs and outputs bfloat16 or float32. K is a multiple of 16. NVRTC compiles it when a model is loaded
// (int8_weights.py); its test compiles it with a C++ compiler over an emulated warp. So nothing is included here.
#define ROWS 2
#define GROUP 128
#define WARP 32
#define LANE_COLUMNS 16
#define ALL_LANES 0xffffffffu

typedef unsigned int word;
typedef unsigned short half_word;

__device__ inline float widened(word bits) { return __uint_as_float(bits << 16); }

#ifdef FLOAT_INPUT
typedef float number;
__device__ inline void load(const number* x, float* values) {
  for (int i = 0; i < LANE_COLUMNS; i++) values[i] = x[i];
}
__device__ inline float read(number value) { return value; }
__device__ inline number rounded(float value) { return value; }
#else
typedef half_word number;  // bits of a bfloat16
__device__ inline void load(const number* x, float* values) {
#pragma unroll
  for (int part = 0; part < 2; part++) {
    const uint4 eight = ((const uint4*)x)[part];
    const word words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      values[part * 8 + 2 * i] = widened(words[i]);
      values[part * 8 + 2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
  }
}
__device__ inline float read(number value) { return widened(value); }
__device__ inline number rounded(float value) {  // to the nearest, ties to even
  const word bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;  // not a number stays one
  return (number)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
#endif

// A code plus 128 in the lowest byte of 2^23 is the float 2^23 + 128 + code: one permutation and one subtraction a weight.
__device__ inline float product(uint4 sixteen, const float* inputs) {
  const word words[4] = {sixteen.x, sixteen.y, sixteen.z, sixteen.w};
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const word above = words[i] ^ 0x80808080u;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const float code = __uint_as_float(__byte_perm(above, 0x4b000000u, 0x7440u | j)) - 8388736.0f;
      sum += code * inputs[4 * i + j];
    }
  }
  return sum;
}

extern "C" __global__ void int8_gemv(const signed char* codes, const half_word* scales, const number* x, const number* bias,
                                     number* y, int rows, int columns, int has_bias) {
  const int lane = threadIdx.x % WARP;
  const int first = (blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP) * ROWS;
  const int groups = (columns + GROUP - 1) / GROUP;
  float sums[ROWS];
  int row[ROWS];
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    sums[i] = 0.0f;
    row[i] = first + i < rows ? first + i : rows - 1;  // computed twice rather than asked for in the loop
  }
#pragma unroll 4
  for (int column = lane * LANE_COLUMNS; column < columns; column += WARP * LANE_COLUMNS) {
    float inputs[LANE_COLUMNS];
    load(x + column, inputs);
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      const uint4 sixteen = *(const uint4*)(codes + (long long)row[i] * columns + column);
      sums[i] += widened(scales[(long long)row[i] * groups + column / GROUP]) * product(sixteen, inputs);
    }
  }
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2) sums[i] += __shfl_xor_sync(ALL_LANES, sums[i], step);
    if (lane == 0 && first + i < rows) y[first + i] = rounded(sums[i] + (has_bias ? read(bias[first + i]) : 0.0f));
  }
}
