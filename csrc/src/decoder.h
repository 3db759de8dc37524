// The decoder of the LLaMA family on packed matrices: one token at a time, or many at once.
//
// RMSNorm, rotary positions (halves, as in transformers), grouped-query attention, SwiGLU; optional biases (Qwen2),
// norms on queries and keys (Qwen3) and a sliding window (Mistral).
#pragma once

#include <atomic>
#include <vector>

#include "buffer.h"
#include "cache.h"
#include "kernels.h"
#include "packed.h"
#include "team.h"

namespace owled {

constexpr int kMaxPanels = 16;        // prefill takes at most 256 tokens at once

struct Layer {
  const Matrix *query, *key, *value, *output, *gate, *up, *down;
  const float *attention_norm, *mlp_norm;
  const float *query_norm, *key_norm;   // null when the model has none
};

// What one worker needs for itself.
struct Scratch {
  Buffer<float> normed;                 // [K]
  Buffer<uint8_t> fixed, halves, fine, tile;
  Buffer<float> scores;                 // [8][positions]
  Buffer<float> queries, mixed, one;    // [D][8], [8][D], [D]
  Activation activation;
};

class Decoder {
 public:
  // Throws Error when a tensor is missing or of another size than the others.
  Decoder(const PackedFile& file, const Kernels& kernels, Team* team);

  static int phases(const PackedFile& file);
  const DecoderShape& shape() const { return shape_; }
  uint64_t step_bytes() const;
  void embed(int token, float* out) const;
  // Appends one position; its logits when logits is not null. `positions` (D / 2): see prefill.
  void step(Cache* cache, const float* embedding, float* logits, const float* positions = nullptr);
  // Appends `count` positions and gives the logits of the last one. `positions` (count, D / 2) are the rotary positions
  // of every pair; null: one after the other.
  void prefill(Cache* cache, const float* embeddings, int count, float* logits, const float* positions = nullptr);

 private:
  struct Projection {
    const Matrix* matrix;
    float* y;
  };
  static void step_job(void* self, Walk& walk);
  static void prefill_job(void* self, Walk& walk);
  void run_step(Walk& walk);
  void run_prefill(Walk& walk);
  bool prefill_layer(Walk& walk, int index);

  void reserve_scores(int positions);
  void rotary_table(int first, int count, const float* positions);
  void project(Scratch& s, const float* x, const Projection* list, int count, int begin, int end) const;
  bool add_projection(Walk& walk, const float* x, const Matrix& matrix);
  void attend_token(Scratch& s, int index, int head) const;
  void rotate_token(const float* x, const float* norm, float scale, float* out, int step) const;

  void multiply_panels(Scratch& s, const Matrix& matrix, const void* x, float* y, int begin, int end) const;
  void pack_normed(int panel, const float* norm) const;
  void rotate_panel(Scratch& s, float* rows, const float* norm, int panel) const;
  void store_panel(int index, int head, int panel) const;
  void attend_panel(Scratch& s, int index, int head, int panel) const;

  int piece(int count) const { return (count + 4 * team_->threads() - 1) / (4 * team_->threads()); }

  const PackedFile& file_;
  const DecoderShape shape_;
  const Kernels& kernels_;
  Team* const team_;
  const Matrix *embedding_, *head_;
  const float *final_norm_, *rotary_;
  std::vector<Layer> layers_;
  std::vector<Scratch> scratch_;        // one per worker
  int score_room_ = 0;
  bool exact_ = false;                  // some matrix is bf16: prefill keeps more bits of the activations

  // One token: [padded size] each.
  Buffer<float> hidden_, query_, key_, value_, mixed_, gate_, up_, projected_, logits_;
  Buffer<float> cosine_, sine_;         // [D / 2][16] per panel; a single token uses the first of each 16
  // Many tokens, made on first use: panels of [padded rows][16] each, and packed panels.
  Buffer<float> panel_hidden_, panel_query_, panel_key_, panel_value_, panel_mixed_, panel_gate_, panel_up_;
  Buffer<uint8_t> packed_;

  Cache* cache_ = nullptr;              // of the running job, read after a claim only
  int tokens_ = 0;
  const float* embeddings_ = nullptr;
  std::atomic<int> panels_{0};          // decides the number of pieces: changed after Team::begin only
  std::atomic<bool> with_logits_{false};
};

}  // namespace owled
