// What tiles.cu and deltas.cu use of CUDA, on a CPU: every thread of a block is a fibre, which gives way where threads wait for each other.
//
// Copies that are asked for arrive when they are waited for, so a wait that is missing shows; shared memory begins as rubbish.
#include <ucontext.h>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <vector>
#define EMULATED
#define __device__
#define __global__
#define __launch_bounds__(...)
#define SHARED(name) uint8_t* name = block.shared.data()
struct uint4 { uint32_t x, y, z, w; };
struct Place { unsigned x; };
struct Copy { uint8_t* to; const uint8_t* from; };
struct Fibre {
  ucontext_t place;
  std::vector<char> stack = std::vector<char>(1 << 16);
  bool done = false;
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> closed;
};
struct Meeting { int arrived = 0; unsigned round = 0; };
struct Warp { Meeting meeting; uint32_t given[32][6]; };
struct Block {
  std::vector<Fibre> fibres;
  std::vector<Warp> warps;
  Meeting meeting;
  std::vector<uint8_t> shared;
  std::function<void()> work;
  ucontext_t outside;
  size_t now = 0;
};
static Block block;
static Place blockIdx, blockDim;
struct Thread { struct { operator unsigned() const { return (unsigned)block.now; } } x; };
static Thread threadIdx;

static void meet(Meeting& meeting, int threads) {
  const unsigned round = meeting.round;
  if (++meeting.arrived == threads) {
    meeting.arrived = 0, meeting.round++;
    return;
  }
  while (meeting.round == round) swapcontext(&block.fibres[block.now].place, &block.outside);
}
static Warp& own_warp() { return block.warps[block.now / 32]; }
static void __syncwarp() { meet(own_warp().meeting, 32); }
static void __syncthreads() { meet(block.meeting, (int)block.fibres.size()); }
static void give(const uint32_t* words, int count) {
  std::memcpy(own_warp().given[block.now % 32], words, 4 * count);
  __syncwarp();
}
static uint32_t taken(uint32_t value, int lane) {
  give(&value, 1);
  const uint32_t other = own_warp().given[lane][0];
  __syncwarp();
  return other;
}
static uint32_t __shfl_sync(uint32_t, uint32_t value, int lane) { return taken(value, lane); }
static uint32_t __shfl_xor_sync(uint32_t, uint32_t value, int step) { return taken(value, (int)(block.now % 32) ^ step); }
static uint32_t __shfl_up_sync(uint32_t, uint32_t value, int step) {
  const int lane = (int)(block.now % 32);
  return taken(value, lane >= step ? lane - step : lane);
}
static float __uint_as_float(uint32_t bits) { float value; std::memcpy(&value, &bits, 4); return value; }
static uint32_t __float_as_uint(float value) { uint32_t bits; std::memcpy(&bits, &value, 4); return bits; }
static int __float2int_rn(float value) { return (int)std::nearbyint(value); }
static uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t shift) {
  return (uint32_t)(((uint64_t)high << 32 | low) >> (shift & 31));
}
static uint32_t __funnelshift_rc(uint32_t low, uint32_t high, uint32_t shift) {
  return (uint32_t)(((uint64_t)high << 32 | low) >> (shift < 32 ? shift : 32));
}
static uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t chosen) {
  const uint64_t bytes = (uint64_t)high << 32 | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; i++) result |= (uint32_t)(bytes >> 8 * (chosen >> 4 * i & 7) & 255) << 8 * i;
  return result;
}
static void copy_16_later(uint8_t* shared, const uint8_t* memory) { block.fibres[block.now].open.push_back({shared, memory}); }
static void close_copies() {
  Fibre& fibre = block.fibres[block.now];
  fibre.closed.push_back(std::move(fibre.open));
  fibre.open.clear();
}
template <int LEFT> static void wait_for_copies() {
  Fibre& fibre = block.fibres[block.now];
  for (; fibre.closed.size() > LEFT; fibre.closed.pop_front())
    for (const Copy& copy : fibre.closed.front()) std::memcpy(copy.to, copy.from, 16);
}
static uint4 read_once(const uint4* memory) { return *memory; }
static int code(uint32_t four, int place) { return (int8_t)(four >> 8 * place); }
static void multiply_add(int* sums, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  const uint32_t words[6] = {a0, a1, a2, a3, b0, b1};
  give(words, 6);
  const auto& given = own_warp().given;
  const int lane = (int)(block.now % 32);
  for (int i = 0; i < 4; i++) {  // row lane / 4 + 8 * (i / 2), column 2 * (lane % 4) + i % 2
    const int row = lane / 4, column = 2 * (lane % 4) + i % 2;
    for (int k = 0; k < 32; k++)
      sums[i] += code(given[4 * row + k % 16 / 4][k / 16 * 2 + i / 2], k % 4) * code(given[4 * column + k % 16 / 4][4 + k / 16], k % 4);
  }
  __syncwarp();
}

static void enter() {
  block.work();
  block.fibres[block.now].done = true;
  swapcontext(&block.fibres[block.now].place, &block.outside);
}
static void launch(int blocks, int threads, int shared, std::function<void()> work) {
  block.work = work, blockDim.x = threads;
  for (int number = 0; number < blocks; number++) {
    blockIdx.x = number;
    block.shared.assign(shared + 128, 0xA5);
    block.fibres.resize(threads), block.warps.assign(threads / 32, Warp{}), block.meeting = Meeting{};
    for (Fibre& fibre : block.fibres) {
      fibre.done = false, fibre.open.clear(), fibre.closed.clear();
      getcontext(&fibre.place);
      fibre.place.uc_stack.ss_sp = fibre.stack.data(), fibre.place.uc_stack.ss_size = fibre.stack.size();
      makecontext(&fibre.place, enter, 0);
    }
    for (bool waiting = true; waiting;) {
      waiting = false;
      for (block.now = 0; block.now < block.fibres.size(); block.now++)
        if (!block.fibres[block.now].done) waiting = true, swapcontext(&block.outside, &block.fibres[block.now].place);
    }
  }
}
