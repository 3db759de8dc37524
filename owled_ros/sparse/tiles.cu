// One token times a matrix of int8 codes without its zeros: 16 rows by 128 columns are a tile (tiles.py has the layout).
//
// Lane 4 g + t of a warp has rows g and g + 8 of a tile and the columns 32 t to 32 t + 31, which is what a tensor core wants of it. A warp
// streams tiles through a ring in shared memory; a table tells for every four bits of a mask where the next codes go. The token is
// rounded to 16 bits, one scale for 128 columns, as two bytes that are two columns of one product. Sums of tiles are float32;
// K is a multiple of 8.
#define STAGES 4  // tiles of a warp in the ring
#define TILE_ROWS 16
#define TILE_COLUMNS 128
#define SCALES_AT 16
#define MASKS_AT 48
#define CODES_AT 304
#define TABLE_BYTES 128
#define X_BYTES 256           // of a group: [half of the lane's columns][t][high or low bytes][16]
#define LARGEST 32512.0f      // 127 * 256: both bytes of what is rounded stay within int8
#define SMALLEST 1e-30f       // below this an input is zero
#define NOT_A_NUMBER 0x7fc00000u

__device__ inline word word_at(const byte* place) { return *(const word*)place; }

// For every four mask bits: which byte goes where (4: a zero), and above it how many bits were taken.
__device__ inline void make_table(word* table, int thread) {
  if (thread >= 16) return;
  word chosen = 0, taken = 0;
  for (int bit = 0; bit < 4; bit++) {
    const bool kept = thread >> bit & 1;
    chosen |= (kept ? taken : 4u) << (4 * bit);
    taken += kept;
  }
  table[thread] = chosen | (8 * taken) << 16;
}

// Eight codes, four in a word, from those that are kept: `first` is the first of them, `mask` has their eight bits lowest.
__device__ inline void spread(const byte* base, word first, word mask, const word* table, word* codes) {
  const byte* place = base + (first & ~3u);
  const word w0 = word_at(place), w1 = word_at(place + 4), w2 = word_at(place + 8);
  const word v0 = __funnelshift_r(w0, w1, first * 8), v1 = __funnelshift_r(w1, w2, first * 8);
  const word low = table[mask & 15], high = table[mask >> 4 & 15];
  codes[0] = __byte_perm(v0, 0, low & 0xffff);
  codes[1] = __byte_perm(__funnelshift_rc(v0, v1, low >> 16), 0, high & 0xffff);
}

// How many codes the lanes before have in each of four steps, a byte each: at most 31 times 8.
__device__ inline word codes_before(word mask, int lane) {
  word pairs = mask - (mask >> 1 & 0x55555555u);
  pairs = (pairs & 0x33333333u) + (pairs >> 2 & 0x33333333u);
  word sum = __shfl_up_sync(ALL_LANES, (pairs & 0x0f0f0f0fu) + (pairs >> 4 & 0x0f0f0f0fu), 1);
  if (lane == 0) sum = 0;
#pragma unroll
  for (int step = 1; step < WARP; step *= 2) {
    const word other = __shfl_up_sync(ALL_LANES, sum, step);
    if (lane >= step) sum += other;
  }
  return sum;
}

// Where a lane's codes of a step and half of its rows begin, from the tile's first 16 bytes: 16 bits for every step and half.
__device__ inline word begin_of(const word* heads, int step, int half, word before) {
  return CODES_AT + (heads[step] >> 16 * half & 0xffff) + (before >> 8 * step & 255);
}

// Round the token into shared memory: 16 lanes have the 128 columns of a group, eight each.
__device__ inline void round_token(const half_word* x, int columns, int groups, byte* bytes, float* scales) {
  const int lane = threadIdx.x % WARP;
  for (int base = threadIdx.x - lane; base < groups * 16; base += blockDim.x) {
    const int part = base + lane, group = part / 16, place = part % 16;
    uint4 eight = {0, 0, 0, 0};
    if (part * 8 < columns) eight = ((const uint4*)x)[part];
    const word words[4] = {eight.x, eight.y, eight.z, eight.w};
    word largest = 0;  // sizes order as their bits do
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const word size = words[i / 2] >> 16 * (i % 2) & 0x7fff;
      largest = size > largest ? size : largest;
    }
#pragma unroll
    for (int step = 8; step > 0; step /= 2) {
      const word other = __shfl_xor_sync(ALL_LANES, largest, step);
      largest = other > largest ? other : largest;
    }
    const float size = widened(largest), scale = size / LARGEST;
    const bool counts = largest < 0x7f80 && size >= SMALLEST;
    word high[2] = {0, 0}, low[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const int q = counts ? __float2int_rn(widened(words[i / 2] >> 16 * (i % 2) & 0xffff) / scale) : 0, h = (q + 128) >> 8;
      high[i / 4] |= (word)(h & 255) << 8 * (i % 4);
      low[i / 4] |= (word)((q - 256 * h) & 255) << 8 * (i % 4);
    }
    if (group < groups) {
      byte* target = bytes + group * X_BYTES + place / 2 % 2 * 128 + place / 4 * 32 + place % 2 * 8;
      ((word*)target)[0] = high[0], ((word*)target)[1] = high[1];
      ((word*)(target + 16))[0] = low[0], ((word*)(target + 16))[1] = low[1];
      if (place == 0) scales[group] = largest >= 0x7f80 ? __uint_as_float(NOT_A_NUMBER) : counts ? scale : 0.0f;
    }
  }
}

// The product of one tile in shared memory with its 128 inputs, added to the sums of rows g and g + 8.
__device__ inline void add_tile(const byte* tile, const word* table, const byte* x, float scale, int lane, float* sums) {
  const uint4 head = *(const uint4*)tile, x0 = *(const uint4*)x, x1 = *(const uint4*)(x + 128);
  const word heads[4] = {head.x, head.y, head.z, head.w};
  const word inputs[8] = {x0.x, x0.y, x0.z, x0.w, x1.x, x1.y, x1.z, x1.w};
  const word masks[2] = {word_at(tile + MASKS_AT + lane * 8), word_at(tile + MASKS_AT + lane * 8 + 4)};
  const word before[2] = {codes_before(masks[0], lane), codes_before(masks[1], lane)};
  int found[4] = {0, 0, 0, 0};
#pragma unroll
  for (int step = 0; step < 4; step++) {
    word codes[2][2];
#pragma unroll
    for (int half = 0; half < 2; half++)
      spread(tile, begin_of(heads, step, half, before[half]), masks[half] >> 8 * step, table, codes[half]);
    multiply_add(found, codes[0][0], codes[1][0], codes[0][1], codes[1][1], inputs[2 * step], inputs[2 * step + 1]);
  }
  const half_word* scales = (const half_word*)(tile + SCALES_AT);
#pragma unroll
  for (int half = 0; half < 2; half++)
    sums[half] += (float)(256 * found[2 * half] + found[2 * half + 1]) * (widened(scales[lane / 4 + 8 * half]) * scale);
}

// A block has `strips` strips of 16 rows, its warps share the tiles of each: at most 62 tiles for a warp.
extern "C" __global__ void __launch_bounds__(512, 2)
tiles_product(const byte* blob, const word* starts, const half_word* x, const half_word* bias, half_word* y, int rows, int columns,
              int strips, int slot, int has_bias) {
  SHARED(shared);
  const int thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP, warps = blockDim.x / WARP;
  const int tiles = (columns + TILE_COLUMNS - 1) / TILE_COLUMNS, shares = warps / strips;
  const int strip = blockIdx.x * strips + warp / shares, share = warp % shares;
  word* table = (word*)shared;
  float* totals = (float*)(shared + TABLE_BYTES);  // (warps, 16)
  byte* inputs = shared + TABLE_BYTES + warps * TILE_ROWS * 4;
  float* scales = (float*)(inputs + tiles * X_BYTES);
  byte* ring = inputs + tiles * X_BYTES + (tiles + 3) / 4 * 16 + warp * STAGES * slot;

  const bool there = strip * TILE_ROWS < rows;
  const int first = there ? tiles * share / shares : 0, count = there ? tiles * (share + 1) / shares - first : 0;
  const word* places = starts + (long long)strip * tiles + first;  // in units of 16 bytes
  const word near = there && lane <= count ? places[lane] : 0, far = there && lane + WARP <= count ? places[lane + WARP] : 0;
  auto fetch = [&](int tile) {
    if (tile < count) {
      const word begin = __shfl_sync(ALL_LANES, tile < WARP ? near : far, tile % WARP), next = tile + 1;
      const word units = __shfl_sync(ALL_LANES, next < WARP ? near : far, next % WARP) - begin;
      for (word unit = lane; unit < units; unit += WARP)
        copy_16_later(ring + tile % STAGES * slot + unit * 16, blob + ((long long)begin + unit) * 16);
    }
    close_copies();
  };
#pragma unroll
  for (int tile = 0; tile < STAGES - 1; tile++) fetch(tile);
  make_table(table, thread);
  round_token(x, columns, tiles, inputs, scales);
  __syncthreads();

  float sums[2] = {0.0f, 0.0f};
  for (int tile = 0; tile < count; tile++) {
    fetch(tile + STAGES - 1);
    wait_for_copies<STAGES - 1>();
    __syncwarp();
    const byte* token = inputs + (first + tile) * X_BYTES + lane % 4 * 32 + lane / 4 % 2 * 16;
    add_tile(ring + tile % STAGES * slot, table, token, scales[first + tile], lane, sums);
    __syncwarp();
  }
  if (lane % 4 == 0) totals[warp * TILE_ROWS + lane / 4] = sums[0], totals[warp * TILE_ROWS + lane / 4 + 8] = sums[1];
  __syncthreads();
  const int row = blockIdx.x * strips * TILE_ROWS + thread;
  if (thread < strips * TILE_ROWS && row < rows) {
    float sum = has_bias ? widened(bias[row]) : 0.0f;
    for (int part = 0; part < shares; part++) sum += totals[(thread / TILE_ROWS * shares + part) * TILE_ROWS + thread % TILE_ROWS];
    y[row] = rounded(sum);
  }
}

// The matrix itself (R, K) as bfloat16, for many tokens at once: a warp writes a tile.
extern "C" __global__ void tiles_widened(const byte* blob, const word* starts, half_word* matrix, int rows, int columns, int count) {
  SHARED(shared);
  word* table = (word*)shared;
  make_table(table, threadIdx.x);
  __syncthreads();
  const int lane = threadIdx.x % WARP, number = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
  if (number >= count) return;
  const int tiles = (columns + TILE_COLUMNS - 1) / TILE_COLUMNS;
  const byte* tile = blob + (long long)starts[number] * 16;
  for (int half = 0; half < 2; half++) {
    const word mask = word_at(tile + MASKS_AT + lane * 8 + half * 4), before = codes_before(mask, lane);
    const int row = number / tiles * TILE_ROWS + lane / 4 + 8 * half;
    const float scale = widened(((const half_word*)(tile + SCALES_AT))[lane / 4 + 8 * half]);
    for (int step = 0; step < 4; step++) {
      word codes[2];
      spread(tile, begin_of((const word*)tile, step, half, before), mask >> 8 * step, table, codes);
      const int column = number % tiles * TILE_COLUMNS + lane % 4 * 32 + step * 8;
      for (int i = 0; i < 8; i++)
        if (row < rows && column + i < columns)
          matrix[(long long)row * columns + column + i] = rounded((float)(signed char)(codes[i / 4] >> 8 * (i % 4)) * scale);
    }
  }
}
