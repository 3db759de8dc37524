// Decoding a whole answer: picks tokens from logits until something ends it.
#pragma once

#include <cstdint>

#include "buffer.h"
#include "cache.h"
#include "decoder.h"
#include "owled_sparse.h"

namespace owled {

struct GenerateRequest {
  const float* logits;
  int max_tokens;
  const int32_t* stop_tokens;
  int stop_count;
  const volatile int32_t* cancel;     // may be null
  owled_on_token on_token;            // may be null
  void* user;
};

class Generator {
 public:
  Generator(const Kernels& kernels, Decoder* decoder, Cache* cache, float temperature, uint64_t seed);
  // Writes tokens and their log probabilities; returns why it ended. Throws Error.
  owled_finish run(const GenerateRequest& request, int32_t* tokens, float* log_probabilities, int32_t* produced);

 private:
  int pick(const float* logits, float* log_probability);
  double uniform();

  const Kernels& kernels_;
  Decoder* const decoder_;
  Cache* const cache_;
  const float temperature_;
  uint64_t state_;
  Buffer<float> logits_, embedding_;
};

}  // namespace owled
