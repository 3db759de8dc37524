// The decoder, one token at a time; prefill.cpp has the other half.
#include "decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "fine.h"
#include "owled_sparse.h"

namespace owled {
namespace {

constexpr int kPhasesPerLayer = 12;   // prefill has the most

const Matrix* matrix_of(const PackedFile& file, Role role, int layer, int rows, int columns) {
  const Matrix* m = file.find(role, layer);
  const std::string where = "role " + std::to_string(static_cast<int>(role)) + " of layer " + std::to_string(layer);
  if (m == nullptr) throw Error{OWLED_BAD_FILE, "the packed model lacks the tensor with " + where};
  if (m->format == Format::kVector || m->rows != rows || m->columns != columns)
    throw Error{OWLED_BAD_FILE, "the packed tensor with " + where + " has another size than the model"};
  return m;
}

const float* vector_of(const PackedFile& file, Role role, int layer, int size, bool optional) {
  const Matrix* m = file.find(role, layer);
  if (m == nullptr && optional) return nullptr;
  if (m == nullptr || m->format != Format::kVector || m->columns != size)
    throw Error{OWLED_BAD_FILE, "the packed model lacks the vector with role " + std::to_string(static_cast<int>(role)) +
                                  " of layer " + std::to_string(layer) + ", or it has another size"};
  return m->vector;
}

Layer layer_of(const PackedFile& file, const DecoderShape& s, int i) {
  const int queries = s.heads * s.head_dim, keys = s.kv_heads * s.head_dim;
  return {
    matrix_of(file, Role::kQuery, i, queries, s.hidden),
    matrix_of(file, Role::kKey, i, keys, s.hidden),
    matrix_of(file, Role::kValue, i, keys, s.hidden),
    matrix_of(file, Role::kOutput, i, s.hidden, queries),
    matrix_of(file, Role::kGate, i, s.intermediate, s.hidden),
    matrix_of(file, Role::kUp, i, s.intermediate, s.hidden),
    matrix_of(file, Role::kDown, i, s.hidden, s.intermediate),
    vector_of(file, Role::kAttentionNorm, i, s.hidden, false),
    vector_of(file, Role::kMlpNorm, i, s.hidden, false),
    vector_of(file, Role::kQueryNorm, i, s.head_dim, true),
    vector_of(file, Role::kKeyNorm, i, s.head_dim, true),
  };
}

size_t padded(int n) { return static_cast<size_t>(n + 127) / 64 * 64; }

}  // namespace

int Decoder::phases(const PackedFile& file) { return file.shape().layers * kPhasesPerLayer + 8; }

Decoder::Decoder(const PackedFile& file, const Kernels& kernels, Team* team)
: file_(file), shape_(file.shape()), kernels_(kernels), team_(team) {
  const DecoderShape& s = shape_;
  embedding_ = matrix_of(file, Role::kEmbedding, -1, s.vocabulary, s.hidden);
  if (embedding_->sparse() || embedding_->patterned()) throw Error{OWLED_BAD_FILE, "the packed embedding is sparse; it must be dense"};
  head_ = file.find(Role::kHead, -1) == nullptr ? embedding_ : matrix_of(file, Role::kHead, -1, s.vocabulary, s.hidden);
  final_norm_ = vector_of(file, Role::kFinalNorm, -1, s.hidden, false);
  rotary_ = vector_of(file, Role::kRotary, -1, s.head_dim / 2, false);
  for (int i = 0; i < s.layers; ++i) layers_.push_back(layer_of(file, s, i));
  for (const Matrix& m : file.matrices()) exact_ |= m.format != Format::kVector && m.role != Role::kOther && !m.coarse();

  const int queries = s.heads * s.head_dim, keys = s.kv_heads * s.head_dim;
  const int dim = (s.head_dim + 15) / 16 * 16;
  const size_t widest = padded(std::max({s.hidden, s.intermediate, queries}));
  hidden_ = Buffer<float>(padded(s.hidden));
  query_ = Buffer<float>(padded(queries));
  key_ = Buffer<float>(padded(keys));
  value_ = Buffer<float>(padded(keys));
  mixed_ = Buffer<float>(padded(queries));
  gate_ = Buffer<float>(padded(s.intermediate));
  up_ = Buffer<float>(padded(s.intermediate));
  projected_ = Buffer<float>(padded(s.hidden));
  logits_ = Buffer<float>(padded(s.vocabulary));
  cosine_ = Buffer<float>(static_cast<size_t>(dim) / 2 * kPanel * kMaxPanels);
  sine_ = Buffer<float>(static_cast<size_t>(dim) / 2 * kPanel * kMaxPanels);
  for (int t = 0; t < team_->threads(); ++t) {
    Scratch scratch;
    scratch.normed = Buffer<float>(widest);
    scratch.fixed = Buffer<uint8_t>(widest * 2);
    scratch.halves = Buffer<uint8_t>(widest * 4);
    scratch.fine = Buffer<uint8_t>(widest * 4);
    scratch.tile = Buffer<uint8_t>(kernels_.tile_bytes(static_cast<int>(widest)));
    scratch.queries = Buffer<float>(static_cast<size_t>(dim) * kMaxQueries);
    scratch.mixed = Buffer<float>(static_cast<size_t>(dim) * kMaxQueries);
    scratch.one = Buffer<float>(dim);
    scratch.activation.fixed = scratch.fixed.get();
    scratch.activation.fine = scratch.fine.get();
    scratch.activation.halves = reinterpret_cast<uint16_t*>(scratch.halves.get());
    scratch_.push_back(std::move(scratch));
  }
}

uint64_t Decoder::step_bytes() const {
  uint64_t bytes = head_->bytes;
  for (const Layer& y : layers_)
    for (const Matrix* m : {y.query, y.key, y.value, y.output, y.gate, y.up, y.down}) bytes += m->bytes;
  return bytes;
}

void Decoder::embed(int token, float* out) const {
  if (token < 0 || token >= shape_.vocabulary)
    throw Error{OWLED_BAD_ARGUMENT, "token " + std::to_string(token) + " is outside the vocabulary of " +
                                      std::to_string(shape_.vocabulary)};
  const Matrix& m = *embedding_;
  const int block = token / kBlockRows, row = token % kBlockRows;
  const uint8_t* values = m.values + m.block_offset[block];
  for (int c = 0; c < shape_.hidden; ++c) {
    const int group = c / kGroup;
    const int width = std::min(kGroup, m.padded_columns() - group * kGroup);
    const size_t place = static_cast<size_t>(group) * kGroup * kBlockRows + row * width + c % kGroup;
    if (m.narrow())
      out[c] = static_cast<float>(dense_code(m, token, c)) * bf16_to_float(scales_of(m, block, c)[row]);
    else if (m.int8())
      out[c] = static_cast<int8_t>(values[place]) * bf16_to_float(scales_of(m, block, c)[row]);
    else
      out[c] = bf16_to_float(reinterpret_cast<const uint16_t*>(values)[place]);
  }
}

void Decoder::reserve_scores(int positions) {
  if (positions <= score_room_) return;
  score_room_ = (positions + 255) / 256 * 256;
  for (Scratch& s : scratch_) s.scores = Buffer<float>(static_cast<size_t>(score_room_) * kMaxQueries);
}

// Angles of `count` positions from `first`, or of the given ones: [position / 16][D / 2][16].
void Decoder::rotary_table(int first, int count, const float* positions) {
  const int half = shape_.head_dim / 2;
  for (int t = 0; t < count; ++t)
    for (int i = 0; i < half; ++i) {
      const float position =
        positions != nullptr ? positions[static_cast<size_t>(t) * half + i] : static_cast<float>(first + t);
      const float angle = position * rotary_[i];
      const size_t place = (static_cast<size_t>(t / kPanel) * half + i) * kPanel + t % kPanel;
      cosine_[place] = std::cos(angle) * shape_.rotary_scale;
      sine_[place] = std::sin(angle) * shape_.rotary_scale;
    }
}

void Decoder::step(Cache* cache, const float* embedding, float* logits, const float* positions) {
  reserve_scores(cache->room);
  team_->begin();
  cache_ = cache;
  std::memcpy(hidden_.get(), embedding, shape_.hidden * sizeof(float));
  rotary_table(cache->length + cache->shift, 1, positions);
  with_logits_.store(logits != nullptr, std::memory_order_release);
  team_->run(step_job, this);
  cache->length += 1;
  if (logits != nullptr) std::memcpy(logits, logits_.get(), shape_.vocabulary * sizeof(float));
}

void Decoder::step_job(void* self, Walk& walk) { static_cast<Decoder*>(self)->run_step(walk); }

// Rows [begin, end) (in blocks) of several matrices laid end to end, all times x.
void Decoder::project(Scratch& s, const float* x, const Projection* list, int count, int begin, int end) const {
  s.activation.x = x;
  for (int i = 0; i < count; ++i) {
    const Matrix& m = *list[i].matrix;
    const int from = std::max(begin, 0), to = std::min(end, m.blocks);
    if (from < to) {
      kernels_.prepare(&s.activation, m);
      kernels_.gemv(m, s.activation, list[i].y, from, to);
      if (m.bias != nullptr)
        for (int r = from * kBlockRows; r < to * kBlockRows; ++r) list[i].y[r] += m.bias[r];
    }
    begin -= m.blocks;
    end -= m.blocks;
  }
}

// hidden += matrix * x.
bool Decoder::add_projection(Walk& walk, const float* x, const Matrix& matrix) {
  Scratch& s = scratch_[walk.worker];
  bool fresh = true;
  return walk.phase(matrix.blocks, piece(matrix.blocks), [&](int begin, int end) {
    if (fresh) s.activation.forget();
    fresh = false;
    const Projection list[] = {{&matrix, projected_.get()}};
    project(s, x, list, 1, begin, end);
    for (int r = begin * kBlockRows; r < std::min(end * kBlockRows, matrix.rows); ++r) hidden_[r] += projected_[r];
  });
}

void Decoder::run_step(Walk& walk) {
  Scratch& s = scratch_[walk.worker];
  bool fresh = true;
  // The norm is computed once per worker and phase, after its first claim.
  const auto norm_once = [&](const float* weight) {
    if (!fresh) return;
    kernels_.rms_norm(hidden_.get(), weight, shape_.hidden, shape_.norm_epsilon, s.normed.get());
    std::memset(s.normed.get() + shape_.hidden, 0, (padded(shape_.hidden) - shape_.hidden) * sizeof(float));
    s.activation.forget();
    fresh = false;
  };
  for (int i = 0; i < shape_.layers; ++i) {
    const Layer& layer = layers_[i];
    fresh = true;
    const Projection attention[] = {{layer.query, query_.get()}, {layer.key, key_.get()}, {layer.value, value_.get()}};
    const int blocks = layer.query->blocks + layer.key->blocks + layer.value->blocks;
    if (!walk.phase(blocks, piece(blocks), [&](int begin, int end) {
          norm_once(layer.attention_norm);
          project(s, s.normed.get(), attention, 3, begin, end);
        }))
      return;
    if (!walk.phase(shape_.kv_heads, 1, [&](int begin, int end) {
          for (int head = begin; head < end; ++head) attend_token(s, i, head);
        }))
      return;
    if (!add_projection(walk, mixed_.get(), *layer.output)) return;
    fresh = true;
    if (!walk.phase(layer.gate->blocks, piece(layer.gate->blocks), [&](int begin, int end) {
          norm_once(layer.mlp_norm);
          const Projection gate[] = {{layer.gate, gate_.get()}}, up[] = {{layer.up, up_.get()}};
          project(s, s.normed.get(), gate, 1, begin, end);
          project(s, s.normed.get(), up, 1, begin, end);
          kernels_.swiglu(gate_.get() + begin * kBlockRows, up_.get() + begin * kBlockRows, (end - begin) * kBlockRows);
        }))
      return;
    if (!add_projection(walk, gate_.get(), *layer.down)) return;
  }
  if (!with_logits_.load(std::memory_order_acquire)) return;
  fresh = true;
  walk.phase(head_->blocks, piece(head_->blocks), [&](int begin, int end) {
    norm_once(final_norm_);
    const Projection list[] = {{head_, logits_.get()}};
    project(s, s.normed.get(), list, 1, begin, end);
  });
}

// One head's query or key at the running position: norm (may be null), rotation, scale; out[i * step].
void Decoder::rotate_token(const float* x, const float* norm, float scale, float* out, int step) const {
  const int half = shape_.head_dim / 2;
  float normed[1024];
  if (norm != nullptr) {
    kernels_.rms_norm(x, norm, shape_.head_dim, shape_.norm_epsilon, normed);
    x = normed;
  }
  for (int i = 0; i < half; ++i) {
    const float c = cosine_[static_cast<size_t>(i) * kPanel], n = sine_[static_cast<size_t>(i) * kPanel];
    out[i * step] = (x[i] * c - x[i + half] * n) * scale;
    out[(i + half) * step] = (x[i + half] * c + x[i] * n) * scale;
  }
}

// Stores key and value of one key/value head and attends with all queries that share it.
void Decoder::attend_token(Scratch& s, int index, int head) const {
  const Layer& layer = layers_[index];
  const int head_dim = shape_.head_dim, dim = cache_->dim, position = cache_->length;
  float* keys = cache_->keys(index, head);
  float* values = cache_->values(index, head);
  float* key = keys + static_cast<size_t>(position / kPanel) * dim * kPanel + position % kPanel;
  rotate_token(key_.get() + head * head_dim, layer.key_norm, 1.0f, key, kPanel);
  std::memcpy(values + static_cast<size_t>(position) * dim, value_.get() + head * head_dim, head_dim * sizeof(float));

  const int shared = shape_.heads / shape_.kv_heads;
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  int first[kMaxQueries], end[kMaxQueries];
  for (int q = 0; q < kMaxQueries; ++q) {
    first[q] = shape_.window > 0 ? std::max(0, position + 1 - shape_.window) : 0;
    end[q] = position + 1;
  }
  for (int from = 0; from < shared; from += kMaxQueries) {
    const int count = std::min(kMaxQueries, shared - from);
    for (int i = head_dim * count; i < dim * count; ++i) s.queries[i] = 0;
    for (int q = 0; q < count; ++q)
      rotate_token(query_.get() + (head * shared + from + q) * head_dim, layer.query_norm, scale, s.queries.get() + q, count);
    kernels_.attend({count, dim, s.queries.get(), keys, values, first, end, s.scores.get(), score_room_, s.mixed.get()});
    for (int q = 0; q < count; ++q)
      std::memcpy(mixed_.get() + (head * shared + from + q) * head_dim, s.mixed.get() + q * dim, head_dim * sizeof(float));
  }
}

}  // namespace owled
