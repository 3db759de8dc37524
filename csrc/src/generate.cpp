// Decoding a whole answer: greedy or sampled.
#include "generate.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace owled {

Generator::Generator(const Kernels& kernels, Decoder* decoder, Cache* cache, float temperature, uint64_t seed)
: kernels_(kernels), decoder_(decoder), cache_(cache), temperature_(temperature), state_(seed),
  logits_(decoder->shape().vocabulary), embedding_(decoder->shape().hidden) {}

// SplitMix64: the same seed gives the same answer on every machine.
double Generator::uniform() {
  uint64_t z = state_ += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

int Generator::pick(const float* logits, float* log_probability) {
  const int vocabulary = decoder_->shape().vocabulary;
  float total = 0;
  int token = kernels_.log_sum_exp(logits, vocabulary, 1.0f, &total);
  if (token < 0) throw Error{OWLED_NOT_FINITE, "the logits hold NaN or infinity: the model is damaged"};
  if (temperature_ > 0) {
    float scaled_total = 0;
    const float scale = 1.0f / temperature_;
    kernels_.log_sum_exp(logits, vocabulary, scale, &scaled_total);
    double left = uniform();
    for (int i = 0; i < vocabulary; ++i) {
      left -= std::exp(static_cast<double>(logits[i]) * scale - scaled_total);
      if (left < 0) {
        token = i;
        break;
      }
    }
  }
  *log_probability = logits[token] - total;
  return token;
}

owled_finish Generator::run(
  const GenerateRequest& request, int32_t* tokens, float* log_probabilities, int32_t* produced) {
  std::memcpy(logits_.get(), request.logits, decoder_->shape().vocabulary * sizeof(float));
  const int32_t* stop_end = request.stop_tokens + request.stop_count;
  for (int i = 0; i < request.max_tokens; ++i) {
    if (request.cancel != nullptr && *request.cancel != 0) return OWLED_CANCELLED;
    if (i > 0) {
      if (cache_->length >= cache_->limit) return OWLED_LENGTH;
      decoder_->embed(tokens[i - 1], embedding_.get());
      decoder_->step(cache_, embedding_.get(), logits_.get());
    }
    tokens[i] = pick(logits_.get(), &log_probabilities[i]);
    *produced = i + 1;
    if (request.on_token != nullptr && request.on_token(tokens[i], log_probabilities[i], request.user) != 0)
      return OWLED_CALLBACK;
    if (std::find(request.stop_tokens, stop_end, tokens[i]) != stop_end) return OWLED_STOP_TOKEN;
  }
  return OWLED_LENGTH;
}

}  // namespace owled
