// How fast this machine reads memory: the limit that a decode step on a large model runs into.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

#include "buffer.h"
#include "owled_sparse.h"

namespace {

// Sums 64-bit words in eight chains; the compiler keeps them in vector registers.
uint64_t read_all(const uint64_t* words, size_t count) {
  uint64_t sums[32] = {};
  for (size_t i = 0; i + 32 <= count; i += 32)
    for (int j = 0; j < 32; ++j) sums[j] += words[i + j];
  uint64_t total = 0;
  for (uint64_t sum : sums) total += sum;
  return total;
}

}  // namespace

extern "C" double owled_read_bandwidth(size_t bytes, int threads, int repeats) {
  if (bytes < 4096 || threads < 1 || threads > 256 || repeats < 1) return 0;
  try {
    const owled::Buffer<uint64_t> words(bytes / 8);
    const size_t share = bytes / 8 / threads;
    double best = 0;
    std::atomic<uint64_t> sink{0};
    for (int r = 0; r < repeats; ++r) {
      std::vector<std::thread> team;
      const auto start = std::chrono::steady_clock::now();
      for (int t = 1; t < threads; ++t) team.emplace_back([&, t] { sink += read_all(&words[share * t], share); });
      sink += read_all(words.get(), share);
      for (auto& thread : team) thread.join();
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      best = std::max(best, static_cast<double>(share) * 8 * threads / seconds);
    }
    return best;
  } catch (...) {
    return 0;
  }
}
