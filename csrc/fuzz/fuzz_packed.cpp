// Feeds damaged packed files to the loader, and decodes with whatever it accepts. Build with OWLED_SANITIZE.
//
// fuzz_packed FILE ITERATIONS [SEED]: changes bytes of a good file. With -fsanitize=fuzzer (clang) and OWLED_LIBFUZZER
// defined, the same test runs under libFuzzer.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

#include "owled_sparse.h"

namespace {

// Returns whether the loader accepted it. A damaged file may give any number, but never touch foreign memory.
bool try_file(const uint8_t* bytes, size_t size, const char* kernel) {
  if (size == 0) return false;
  uint8_t* aligned = static_cast<uint8_t*>(std::aligned_alloc(64, (size + 63) / 64 * 64));
  std::memcpy(aligned, bytes, size);
  const owled_options options{kernel, 1, OWLED_MAPPED, 0, 50, nullptr};
  owled_model* model = nullptr;
  const bool accepted = owled_open_memory(aligned, size, &options, &model) == OWLED_OK;
  owled_facts facts;
  if (accepted && owled_model_facts(model, &facts) == OWLED_OK) {
    owled_cache* cache = nullptr;
    if (facts.has_decoder && facts.hidden < 4096 && facts.vocabulary < 65536 && owled_cache_new(model, 20, &cache) == OWLED_OK) {
      const int32_t tokens[5] = {0, 1, 2, 3, 0};
      std::vector<float> embeddings(static_cast<size_t>(facts.hidden) * 5), logits(facts.vocabulary);
      if (owled_embed(model, tokens, 5, embeddings.data()) == OWLED_OK &&
          owled_prefill(model, cache, embeddings.data(), 5, logits.data()) == OWLED_OK)
        for (int i = 0; i < 3; ++i) owled_step(model, cache, i, logits.data());
    }
    owled_cache_free(cache);
    for (int i = 0; i < facts.matrices && i < 4; ++i) {
      owled_matrix_facts matrix;
      if (owled_matrix_facts_at(model, i, &matrix) != OWLED_OK || matrix.rows > 4096 || matrix.columns > 4096) continue;
      std::vector<float> x(static_cast<size_t>(matrix.columns) * 4, 1.0f), y(static_cast<size_t>(matrix.rows) * 4);
      owled_multiply(model, i, x.data(), 4, y.data());
      std::vector<float> dense(static_cast<size_t>(matrix.rows) * matrix.columns);
      owled_unpack(model, i, dense.data());
    }
  }
  owled_close(model);
  std::free(aligned);
  return accepted;
}

}  // namespace

#ifdef OWLED_LIBFUZZER
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try_file(data, size, "auto");
  return 0;
}
#else
int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: fuzz_packed FILE ITERATIONS [SEED]\n");
    return 2;
  }
  std::ifstream stream(argv[1], std::ios::binary);
  const std::vector<uint8_t> good{std::istreambuf_iterator<char>(stream), {}};
  uint64_t state = argc > 3 ? std::strtoull(argv[3], nullptr, 10) * 2 + 1 : 1;
  const auto random = [&state](uint64_t bound) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 11) % bound;
  };
  std::vector<const char*> kernels;
  for (int i = 0; owled_kernel_name(i) != nullptr; ++i)
    if (owled_kernel_usable(i)) kernels.push_back(owled_kernel_name(i));
  if (good.size() < 256 || !try_file(good.data(), good.size(), "auto")) {
    std::fprintf(stderr, "%s is no good file to start from\n", argv[1]);
    return 2;
  }
  uint64_t table, accepted = 0;
  std::memcpy(&table, good.data() + 56, 8);
  const long iterations = std::strtol(argv[2], nullptr, 10);
  for (long i = 0; i < iterations; ++i) {
    std::vector<uint8_t> bytes = good;
    if (random(8) == 0) {                      // cut, and sometimes say so in the header
      bytes.resize(random(2) ? random(bytes.size()) : random(bytes.size()) / 64 * 64);
      const uint64_t size = bytes.size();
      if (size >= 256 && random(2)) std::memcpy(bytes.data() + 16, &size, 8);
    }
    for (uint64_t change = random(6); change > 0 && !bytes.empty(); --change) {
      const uint64_t where = random(3);        // header, table, anywhere
      const uint64_t place = where == 0 ? random(256) : where == 1 ? table + random(bytes.size()) % 4096 : random(bytes.size());
      if (place >= bytes.size()) continue;
      const uint8_t odd[] = {0, 1, 0x7f, 0x80, 0xff};
      bytes[place] = random(2) ? odd[random(5)] : static_cast<uint8_t>(bytes[place] ^ (1u << random(8)));
    }
    accepted += try_file(bytes.data(), bytes.size(), kernels[random(kernels.size())]);
  }
  std::printf("%ld damaged files, %llu of them accepted, none out of bounds\n", iterations,
              static_cast<unsigned long long>(accepted));
  return 0;
}
#endif
