// The decoder, many tokens at once: activations are panels of 16 tokens, weights are expanded tile by tile.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "decoder.h"
#include "owled_sparse.h"

namespace owled {
namespace {

constexpr int kSingleTokens = 2;      // so few are faster one by one

int rows_of(int n) { return (n + 127) / 64 * 64; }

float* panel_at(const Buffer<float>& buffer, int rows, int panel) {
  return buffer.get() + static_cast<size_t>(panel) * rows_of(rows) * kPanel;
}

}  // namespace

void Decoder::prefill(Cache* cache, const float* embeddings, int count, float* logits, const float* positions) {
  const int queries = shape_.heads * shape_.head_dim, keys = shape_.kv_heads * shape_.head_dim;
  if (panel_hidden_.get() == nullptr && count > kSingleTokens) {
    const auto make = [](int rows) { return Buffer<float>(static_cast<size_t>(rows_of(rows)) * kPanel * kMaxPanels); };
    panel_hidden_ = make(shape_.hidden);
    panel_query_ = make(std::max(queries, shape_.hidden));
    panel_key_ = make(keys);
    panel_value_ = make(keys);
    panel_mixed_ = make(queries);
    panel_gate_ = make(shape_.intermediate);
    panel_up_ = make(shape_.intermediate);
    const int widest = rows_of(std::max({shape_.hidden, shape_.intermediate, queries}));
    packed_ = Buffer<uint8_t>(kernels_.panel_bytes(widest) * kMaxPanels);
  }
  reserve_scores(cache->room);
  while (count > kSingleTokens) {
    const int take = std::min(count, kMaxPanels * kPanel);
    team_->begin();
    cache_ = cache;
    tokens_ = take;
    embeddings_ = embeddings;
    rotary_table(cache->length + cache->shift, take, positions);
    panels_.store((take + kPanel - 1) / kPanel, std::memory_order_release);
    with_logits_.store(take == count, std::memory_order_release);
    team_->run(prefill_job, this);
    cache->length += take;
    count -= take;
    embeddings += static_cast<size_t>(take) * shape_.hidden;
    if (positions != nullptr) positions += static_cast<size_t>(take) * (shape_.head_dim / 2);
    if (count == 0) std::memcpy(logits, logits_.get(), shape_.vocabulary * sizeof(float));
  }
  for (; count > 0; --count, embeddings += shape_.hidden) {
    step(cache, embeddings, count == 1 ? logits : nullptr, positions);
    if (positions != nullptr) positions += shape_.head_dim / 2;
  }
}

void Decoder::prefill_job(void* self, Walk& walk) { static_cast<Decoder*>(self)->run_prefill(walk); }

void Decoder::run_prefill(Walk& walk) {
  const int panels = panels_.load(std::memory_order_acquire);
  const int hidden = shape_.hidden;
  if (!walk.phase(panels, 1, [&](int begin, int end) {
        for (int p = begin; p < end; ++p)
          for (int t = 0; t < kPanel; ++t)
            for (int c = 0; c < hidden; ++c)
              panel_at(panel_hidden_, hidden, p)[c * kPanel + t] =
                p * kPanel + t < tokens_ ? embeddings_[static_cast<size_t>(p * kPanel + t) * hidden + c] : 0.0f;
      }))
    return;
  for (int i = 0; i < shape_.layers; ++i)
    if (!prefill_layer(walk, i)) return;
  if (!with_logits_.load(std::memory_order_acquire)) return;
  Scratch& s = scratch_[walk.worker];
  bool fresh = true;
  walk.phase(head_->blocks, piece(head_->blocks), [&](int begin, int end) {
    if (fresh) {
      float* last = s.normed.get();
      std::memset(last, 0, rows_of(hidden) * sizeof(float));
      const int t = tokens_ - 1;
      for (int c = 0; c < hidden; ++c) last[c] = panel_at(panel_hidden_, hidden, t / kPanel)[c * kPanel + t % kPanel];
      kernels_.rms_norm(last, final_norm_, hidden, shape_.norm_epsilon, last);
      s.activation.forget();
      fresh = false;
    }
    const Projection list[] = {{head_, logits_.get()}};
    project(s, s.normed.get(), list, 1, begin, end);
  });
}

// Packs one panel of the hidden states, normed.
void Decoder::pack_normed(int panel, const float* norm) const {
  float scale[kPanel];
  const float* hidden = panel_at(panel_hidden_, shape_.hidden, panel);
  kernels_.rms_scale(hidden, shape_.hidden, shape_.norm_epsilon, scale);
  const int columns = (shape_.hidden + kChunk - 1) / kChunk * kChunk;
  kernels_.pack_panel(
    hidden, shape_.hidden, columns, norm, scale, exact_, packed_.get() + kernels_.panel_bytes(columns) * panel);
}

// y panels = matrix times all packed panels, bias included, for the blocks [begin, end).
void Decoder::multiply_panels(
  Scratch& s, const Matrix& matrix, const void* x, float* y, int begin, int end) const {
  const int panels = panels_.load(std::memory_order_relaxed), stride = rows_of(matrix.rows);
  kernels_.gemm(matrix, x, panels, y, stride, begin, end, s.tile.get());
  if (matrix.bias == nullptr) return;
  for (int p = 0; p < panels; ++p)
    for (int r = begin * kBlockRows; r < end * kBlockRows; ++r)
      for (int t = 0; t < kPanel; ++t) y[(static_cast<size_t>(p) * stride + r) * kPanel + t] += matrix.bias[r];
}

bool Decoder::prefill_layer(Walk& walk, int index) {
  const Layer& layer = layers_[index];
  Scratch& s = scratch_[walk.worker];
  const int panels = panels_.load(std::memory_order_acquire);
  const int queries = shape_.heads * shape_.head_dim, shared = shape_.heads / shape_.kv_heads;
  uint8_t* const packed = packed_.get();
  const auto tiles = [](int blocks) { return (blocks + kTileBlocks - 1) / kTileBlocks; };
  const auto run_tiles = [&](const Matrix& m, float* y, auto&& after) {
    return walk.phase(tiles(m.blocks), 1, [&](int begin, int end) {
      const int last = std::min(end * kTileBlocks, m.blocks);
      multiply_panels(s, m, packed, y, begin * kTileBlocks, last);
      after(begin * kTileBlocks * kBlockRows, std::min(last * kBlockRows, m.rows));
    });
  };
  const auto nothing = [](int, int) {};
  const auto pack = [&](const Buffer<float>& from, int rows) {
    return walk.phase(panels, 1, [&](int begin, int end) {
      const int columns = (rows + kChunk - 1) / kChunk * kChunk;
      for (int p = begin; p < end; ++p)
        kernels_.pack_panel(
          panel_at(from, rows, p), rows, columns, nullptr, nullptr, exact_, packed + kernels_.panel_bytes(columns) * p);
    });
  };
  const auto pack_norm = [&](const float* norm) {
    return walk.phase(panels, 1, [&](int begin, int end) {
      for (int p = begin; p < end; ++p) pack_normed(p, norm);
    });
  };
  // hidden += projection; the query buffer is free by then and holds the projection.
  const auto add = [&](int from, int to) {
    for (int p = 0; p < panels; ++p) {
      float* hidden = panel_at(panel_hidden_, shape_.hidden, p);
      const float* projected = panel_at(panel_query_, shape_.hidden, p);
      for (int i = from * kPanel; i < to * kPanel; ++i) hidden[i] += projected[i];
    }
  };

  if (!pack_norm(layer.attention_norm)) return false;
  if (!run_tiles(*layer.query, panel_query_.get(), nothing)) return false;
  if (!run_tiles(*layer.key, panel_key_.get(), nothing)) return false;
  if (!run_tiles(*layer.value, panel_value_.get(), nothing)) return false;
  if (!walk.phase(panels * shape_.kv_heads, 1, [&](int begin, int end) {
        for (int i = begin; i < end; ++i) {
          const int head = i % shape_.kv_heads, panel = i / shape_.kv_heads;
          float* key = panel_at(panel_key_, shape_.kv_heads * shape_.head_dim, panel);
          rotate_panel(s, key + static_cast<size_t>(head) * shape_.head_dim * kPanel, layer.key_norm, panel);
          store_panel(index, head, panel);
          float* query = panel_at(panel_query_, queries, panel);
          for (int q = head * shared; q < (head + 1) * shared; ++q)
            rotate_panel(s, query + static_cast<size_t>(q) * shape_.head_dim * kPanel, layer.query_norm, panel);
        }
      }))
    return false;
  if (!walk.phase(panels * shape_.heads, 1, [&](int begin, int end) {
        for (int i = begin; i < end; ++i) attend_panel(s, index, i % shape_.heads, i / shape_.heads);
      }))
    return false;
  if (!pack(panel_mixed_, queries) || !run_tiles(*layer.output, panel_query_.get(), add)) return false;
  if (!pack_norm(layer.mlp_norm)) return false;
  if (!walk.phase(tiles(layer.gate->blocks), 1, [&](int begin, int end) {
        const int first = begin * kTileBlocks, last = std::min(end * kTileBlocks, layer.gate->blocks);
        multiply_panels(s, *layer.gate, packed, panel_gate_.get(), first, last);
        multiply_panels(s, *layer.up, packed, panel_up_.get(), first, last);
        for (int p = 0; p < panels; ++p) {
          const size_t from = static_cast<size_t>(first) * kBlockRows * kPanel;
          kernels_.swiglu(
            panel_at(panel_gate_, shape_.intermediate, p) + from, panel_at(panel_up_, shape_.intermediate, p) + from,
            static_cast<size_t>(last - first) * kBlockRows * kPanel);
        }
      }))
    return false;
  return pack(panel_gate_, shape_.intermediate) && run_tiles(*layer.down, panel_query_.get(), add);
}

// Norm (may be null) and rotation of one head of one panel, in place.
void Decoder::rotate_panel(Scratch&, float* rows, const float* norm, int panel) const {
  const int half = shape_.head_dim / 2;
  const float* cosine = cosine_.get() + static_cast<size_t>(panel) * half * kPanel;
  const float* sine = sine_.get() + static_cast<size_t>(panel) * half * kPanel;
  if (norm != nullptr) {
    float scale[kPanel];
    kernels_.rms_scale(rows, shape_.head_dim, shape_.norm_epsilon, scale);
    for (int d = 0; d < shape_.head_dim; ++d)
      for (int t = 0; t < kPanel; ++t) rows[d * kPanel + t] *= scale[t] * norm[d];
  }
  for (int i = 0; i < half * kPanel; ++i) {
    const float low = rows[i], high = rows[i + half * kPanel];
    rows[i] = low * cosine[i] - high * sine[i];
    rows[i + half * kPanel] = high * cosine[i] + low * sine[i];
  }
}

// Appends one panel's keys and values of one head to the cache.
void Decoder::store_panel(int index, int head, int panel) const {
  const int head_dim = shape_.head_dim, dim = cache_->dim;
  const size_t row = static_cast<size_t>(head) * head_dim;
  const float* key = panel_at(panel_key_, shape_.kv_heads * head_dim, panel) + row * kPanel;
  const float* value = panel_at(panel_value_, shape_.kv_heads * head_dim, panel) + row * kPanel;
  float* keys = cache_->keys(index, head);
  float* values = cache_->values(index, head);
  for (int t = 0; t < kPanel && panel * kPanel + t < tokens_; ++t) {
    const size_t position = cache_->length + panel * kPanel + t;
    float* to = keys + position / kPanel * dim * kPanel + position % kPanel;
    for (int d = 0; d < head_dim; ++d) to[d * kPanel] = key[d * kPanel + t];
    for (int d = 0; d < head_dim; ++d) values[position * dim + d] = value[d * kPanel + t];
  }
}

// Causal attention of one head for the 16 queries of a panel.
void Decoder::attend_panel(Scratch& s, int index, int head, int panel) const {
  const int head_dim = shape_.head_dim, dim = cache_->dim, kv = head / (shape_.heads / shape_.kv_heads);
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  const size_t row = static_cast<size_t>(head) * head_dim;
  const float* query = panel_at(panel_query_, shape_.heads * head_dim, panel) + row * kPanel;
  float* mixed = panel_at(panel_mixed_, shape_.heads * head_dim, panel) + row * kPanel;
  for (int from = 0; from < kPanel; from += kMaxQueries) {
    const int count = std::min(kMaxQueries, tokens_ - panel * kPanel - from);
    if (count <= 0) break;
    int first[kMaxQueries], end[kMaxQueries];
    for (int q = 0; q < count; ++q) {
      const int position = cache_->length + panel * kPanel + from + q;
      first[q] = shape_.window > 0 ? std::max(0, position + 1 - shape_.window) : 0;
      end[q] = position + 1;
      for (int d = 0; d < head_dim; ++d) s.queries[d * count + q] = query[d * kPanel + from + q] * scale;
    }
    for (int i = head_dim * count; i < dim * count; ++i) s.queries[i] = 0;
    kernels_.attend({count, dim, s.queries.get(), cache_->keys(index, kv), cache_->values(index, kv), first, end,
                     s.scores.get(), score_room_, s.mixed.get()});
    for (int q = 0; q < count; ++q)
      for (int d = 0; d < head_dim; ++d) mixed[d * kPanel + from + q] = s.mixed[q * dim + d];
  }
}

}  // namespace owled
