// The C interface: turns exceptions into codes and keeps one call at a time on a model.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "cache.h"
#include "decoder.h"
#include "generate.h"
#include "kernels.h"
#include "multiply.h"
#include "owled_sparse.h"
#include "packed.h"
#include "team.h"

using owled::Error;

constexpr int kFewThreads = 2;        // more share the memory's speed, and reading less is worth the work again

struct owled_model {
  std::unique_ptr<owled::PackedFile> file;
  const owled::Kernels* kernels = nullptr;
  owled_options options{};
  std::vector<int> cpus;
  std::unique_ptr<owled::Decoder> decoder;
  std::unique_ptr<owled::Multiplier> multiplier;
  std::unique_ptr<owled::Team> team;           // last, so that it ends first: a late worker still looks at the two above
  std::mutex lock;

  // Threads do not survive fork(): the child gets its own on the first call.
  void prepare() {
    if (team != nullptr && !team->orphaned()) return;
    if (team != nullptr) (void)team.release();   // its threads live in the parent; nothing here can end them
    const int phases = decoder_wanted() ? owled::Decoder::phases(*file) : 4;
    team = std::make_unique<owled::Team>(options.threads, phases, options.spin_us, cpus);
    multiplier = std::make_unique<owled::Multiplier>(*kernels, team.get());
    if (decoder_wanted()) decoder = std::make_unique<owled::Decoder>(*file, *kernels, team.get());
  }
  bool decoder_wanted() const { return file->shape().layers > 0; }
};

struct owled_cache : owled::Cache {
  using owled::Cache::Cache;
  owled::DecoderShape shape;
};

namespace {

thread_local std::string last_error;

template <typename Work>
int guarded(Work&& work) noexcept {
  try {
    work();
    return OWLED_OK;
  } catch (const Error& error) {
    last_error = error.message;
    return error.status;
  } catch (const std::bad_alloc&) {
    last_error = "out of memory";
    return OWLED_NO_MEMORY;
  } catch (const std::exception& error) {
    last_error = error.what();
    return OWLED_NO_MEMORY;
  } catch (...) {
    last_error = "unknown failure";
    return OWLED_BAD_ARGUMENT;
  }
}

[[noreturn]] void refuse(const std::string& message) { throw Error{OWLED_BAD_ARGUMENT, message}; }

void check_finite(const float* x, size_t count, const char* what) {
  float probe = 0;
  for (size_t i = 0; i < count; ++i) probe += x[i] * 0.0f;
  if (!(probe == 0.0f)) throw Error{OWLED_NOT_FINITE, std::string(what) + " hold NaN or infinity"};
}

owled::Decoder& decoder_of(owled_model* model) {
  model->prepare();
  if (model->decoder == nullptr) refuse("this packed file holds single matrices, no decoder");
  return *model->decoder;
}

void check_room(const owled_model* model, const owled_cache* cache, int count) {
  if (cache->owner != model) refuse("this cache belongs to another model");
  if (count < 1) refuse("at least one position is needed");
  if (cache->length + count > cache->limit)
    refuse("the cache is full: " + std::to_string(cache->length) + " of " + std::to_string(cache->limit) +
           " positions used, " + std::to_string(count) + " more asked for");
}

int open_model(const owled_options* given, owled_model** out, const auto& open_file) {
  *out = nullptr;
  return guarded([&] {
    auto model = std::make_unique<owled_model>();
    model->options = given != nullptr ? *given : owled_options{"auto", 1, OWLED_MAPPED, 1, 50, nullptr};
    owled_options& options = model->options;
    if (options.threads < 1 || options.threads > 256) refuse("threads must be between 1 and 256");
    model->kernels = &owled::choose_kernels(options.kernel);
    if (options.cpus != nullptr) model->cpus.assign(options.cpus, options.cpus + options.threads);
    for (int cpu : model->cpus)
      if (cpu < 0 || cpu >= 1024) refuse("a core number is out of range");
    options.cpus = nullptr;
    options.kernel = nullptr;
    const bool copy = options.residence == OWLED_COPIED;
    const bool fill = copy && model->kernels->spreads_slowly && options.threads <= kFewThreads;
    model->file = open_file(options, copy && !fill);
    if (!model->file->fill(fill) && fill) model->file = open_file(options, true);
    model->prepare();
    *out = model.release();
  });
}

}  // namespace

extern "C" {

int owled_abi_version(void) { return OWLED_ABI_VERSION; }
const char* owled_last_error(void) { return last_error.c_str(); }

const char* owled_kernel_name(int index) {
  const owled::Kernels* kernels = owled::kernels_at(index);
  return kernels == nullptr ? nullptr : kernels->name;
}

int owled_kernel_usable(int index) {
  const owled::Kernels* kernels = owled::kernels_at(index);
  return kernels != nullptr && owled::kernels_usable(*kernels) ? 1 : 0;
}

int owled_open(const char* path, const owled_options* options, owled_model** model) {
  return open_model(options, model, [&](const owled_options& o, bool copy) {
    return std::make_unique<owled::PackedFile>(std::string(path), copy, o.verify != 0);
  });
}

int owled_open_memory(const void* bytes, size_t size, const owled_options* options, owled_model** model) {
  return open_model(options, model, [&](const owled_options& o, bool) {
    return std::make_unique<owled::PackedFile>(bytes, size, o.verify != 0);
  });
}

void owled_close(owled_model* model) { delete model; }

int owled_model_facts(const owled_model* model, owled_facts* facts) {
  return guarded([&] {
    const owled::DecoderShape& s = model->file->shape();
    *facts = owled_facts{};
    facts->has_decoder = s.layers > 0;
    facts->hidden = s.hidden;
    facts->intermediate = s.intermediate;
    facts->layers = s.layers;
    facts->heads = s.heads;
    facts->kv_heads = s.kv_heads;
    facts->head_dim = s.head_dim;
    facts->vocabulary = s.vocabulary;
    facts->max_positions = s.max_positions;
    facts->window = s.window;
    facts->threads = model->options.threads;
    facts->residence = model->options.residence;
    facts->matrices = static_cast<int32_t>(model->file->matrices().size());
    facts->file_bytes = model->file->size();
    facts->step_bytes = model->decoder != nullptr ? model->decoder->step_bytes() : 0;
    for (const owled::Matrix& m : model->file->matrices()) {
      if (m.format == owled::Format::kVector) continue;
      facts->weights += static_cast<uint64_t>(m.rows) * m.columns;
      facts->nonzeros += m.nonzeros;
    }
    std::strncpy(facts->kernel, model->kernels->name, sizeof(facts->kernel) - 1);
  });
}

int owled_matrix_facts_at(const owled_model* model, int index, owled_matrix_facts* facts) {
  return guarded([&] {
    if (index < 0 || index >= static_cast<int>(model->file->matrices().size())) refuse("no tensor with this index");
    const owled::Matrix& m = model->file->matrices()[index];
    *facts = owled_matrix_facts{};
    std::strncpy(facts->name, m.name.c_str(), sizeof(facts->name) - 1);
    facts->rows = m.rows;
    facts->columns = m.columns;
    facts->format = static_cast<int32_t>(m.format);
    facts->nonzeros = m.nonzeros;
    facts->bytes = m.bytes;
  });
}

static const owled::Matrix& matrix_at(const owled_model* model, int index) {
  if (index < 0 || index >= static_cast<int>(model->file->matrices().size())) refuse("no tensor with this index");
  return model->file->matrices()[index];
}

int owled_multiply(owled_model* model, int index, const float* x, int count, float* y) {
  return guarded([&] {
    const std::lock_guard<std::mutex> hold(model->lock);
    const owled::Matrix& m = matrix_at(model, index);
    if (m.format == owled::Format::kVector) refuse(m.name + " is a vector");
    if (count < 1) refuse("at least one row is needed");
    model->prepare();
    model->multiplier->multiply(m, x, count, y);
  });
}

int owled_unpack(owled_model* model, int index, float* out) {
  return guarded([&] {
    const std::lock_guard<std::mutex> hold(model->lock);
    model->prepare();
    model->multiplier->unpack(matrix_at(model, index), out);
  });
}

int owled_cache_new(owled_model* model, int max_tokens, owled_cache** cache) {
  *cache = nullptr;
  return guarded([&] {
    const owled::DecoderShape& shape = decoder_of(model).shape();
    if (max_tokens < 1 || max_tokens > shape.max_positions)
      refuse("a cache holds 1 to " + std::to_string(shape.max_positions) + " positions with this model, not " +
             std::to_string(max_tokens));
    *cache = new owled_cache(model, shape, max_tokens);
    (*cache)->shape = shape;
  });
}

int owled_cache_copy(owled_model* model, const owled_cache* cache, owled_cache** copy) {
  *copy = nullptr;
  return guarded([&] {
    const std::lock_guard<std::mutex> hold(model->lock);
    if (cache->owner != model) refuse("this cache belongs to another model");
    auto made = std::make_unique<owled_cache>(model, cache->shape, cache->limit);
    made->shape = cache->shape;
    made->copy_from(*cache);
    *copy = made.release();
  });
}

void owled_cache_free(owled_cache* cache) { delete cache; }
int owled_cache_length(const owled_cache* cache) { return cache->length; }
size_t owled_cache_bytes(const owled_cache* cache) { return cache->bytes(); }

int owled_cache_truncate(owled_cache* cache, int length) {
  return guarded([&] {
    if (length < 0 || length > cache->length)
      refuse("the cache holds " + std::to_string(cache->length) + " positions and cannot be cut to " + std::to_string(length));
    cache->length = length;
    if (length == 0) cache->shift = 0;
  });
}

int owled_embed(owled_model* model, const int32_t* tokens, int count, float* embeddings) {
  return guarded([&] {
    const std::lock_guard<std::mutex> hold(model->lock);
    const owled::Decoder& decoder = decoder_of(model);
    for (int i = 0; i < count; ++i)
      decoder.embed(tokens[i], embeddings + static_cast<size_t>(i) * decoder.shape().hidden);
  });
}

int owled_prefill(owled_model* model, owled_cache* cache, const float* embeddings, int count, float* logits) {
  return owled_prefill_at(model, cache, embeddings, nullptr, 0, count, logits);
}

int owled_prefill_at(
  owled_model* model, owled_cache* cache, const float* embeddings, const float* positions, int next, int count,
  float* logits) {
  return guarded([&] {
    const std::lock_guard<std::mutex> hold(model->lock);
    owled::Decoder& decoder = decoder_of(model);
    check_room(model, cache, count);
    check_finite(embeddings, static_cast<size_t>(count) * decoder.shape().hidden, "the embeddings");
    if (positions != nullptr) {
      check_finite(positions, static_cast<size_t>(count) * (decoder.shape().head_dim / 2), "the positions");
      if (next < 0 || next > (1 << 24)) refuse("the next position is " + std::to_string(next));
    }
    decoder.prefill(cache, embeddings, count, logits, positions);
    if (positions != nullptr) cache->shift = next - cache->length;
    check_finite(logits, decoder.shape().vocabulary, "the logits");
  });
}

int owled_step(owled_model* model, owled_cache* cache, int32_t token, float* logits) {
  return guarded([&] {
    const std::lock_guard<std::mutex> hold(model->lock);
    owled::Decoder& decoder = decoder_of(model);
    check_room(model, cache, 1);
    owled::Buffer<float> embedding(decoder.shape().hidden);
    decoder.embed(token, embedding.get());
    decoder.step(cache, embedding.get(), logits);
    check_finite(logits, decoder.shape().vocabulary, "the logits");
  });
}

int owled_generate(
  owled_model* model, owled_cache* cache, const float* logits, int max_tokens, const int32_t* stop_tokens,
  int stop_count, float temperature, uint64_t seed, const volatile int32_t* cancel, owled_on_token on_token,
  void* user, int32_t* tokens, float* log_probabilities, int32_t* produced, int32_t* finish) {
  *produced = 0;
  return guarded([&] {
    const std::lock_guard<std::mutex> hold(model->lock);
    owled::Decoder& decoder = decoder_of(model);
    if (cache->owner != model) refuse("this cache belongs to another model");
    if (!(temperature >= 0 && temperature <= 100)) refuse("the temperature must be between 0 and 100");
    owled::Generator generator(*model->kernels, &decoder, cache, temperature, seed);
    const owled::GenerateRequest request{logits, max_tokens, stop_tokens, stop_count, cancel, on_token, user};
    *finish = generator.run(request, tokens, log_probabilities, produced);
  });
}

}  // extern "C"
