// Compares every kernel that this CPU can run with the portable one, on a packed file. For cross-compiled builds, where
// the Python tests cannot run: selftest FILE (under qemu-user, or on the vehicle).
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "owled_sparse.h"

namespace {

// Logits behind a prompt of 37 tokens and 5 steps; empty when it failed.
std::vector<float> decode(const char* path, const char* kernel) {
  const owled_options options{kernel, 2, OWLED_MAPPED, 1, 50, nullptr};
  owled_model* model = nullptr;
  owled_cache* cache = nullptr;
  owled_facts facts{};
  if (owled_open(path, &options, &model) != OWLED_OK || owled_model_facts(model, &facts) != OWLED_OK ||
      owled_cache_new(model, 64, &cache) != OWLED_OK)
    return {};
  std::vector<int32_t> tokens(37);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * 7 % facts.vocabulary);
  std::vector<float> embeddings(tokens.size() * facts.hidden), logits(facts.vocabulary);
  bool good = owled_embed(model, tokens.data(), static_cast<int>(tokens.size()), embeddings.data()) == OWLED_OK &&
              owled_prefill(model, cache, embeddings.data(), static_cast<int>(tokens.size()), logits.data()) == OWLED_OK;
  for (int i = 0; good && i < 5; ++i) good = owled_step(model, cache, i, logits.data()) == OWLED_OK;
  owled_cache_free(cache);
  owled_close(model);
  return good ? logits : std::vector<float>{};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: selftest PACKED_FILE\n");
    return 2;
  }
  const std::vector<float> want = decode(argv[1], "scalar");
  if (want.empty()) {
    std::fprintf(stderr, "%s\n", owled_last_error());
    return 2;
  }
  float largest = 0;
  for (float value : want) largest = std::fmax(largest, std::fabs(value));
  int failures = 0;
  for (int i = 0; owled_kernel_name(i) != nullptr; ++i) {
    const char* kernel = owled_kernel_name(i);
    if (!owled_kernel_usable(i)) continue;
    const std::vector<float> got = decode(argv[1], kernel);
    float worst = got.empty() ? INFINITY : 0;
    for (size_t j = 0; j < got.size(); ++j) worst = std::fmax(worst, std::fabs(got[j] - want[j]));
    const float limit = std::strcmp(kernel, "avx512bf16") == 0 ? 2e-2f : 1e-3f;   // it rounds activations to bf16 in prefill
    const bool good = worst <= limit * largest;
    std::printf("%-12s differs by %.1e of the largest logit%s\n", kernel, worst / largest, good ? "" : "  TOO MUCH");
    failures += !good;
  }
  return failures == 0 ? 0 : 1;
}
