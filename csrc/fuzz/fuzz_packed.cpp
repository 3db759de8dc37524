// Feeds damaged packed files to the loader, and decodes with whatever it accepts. Build with OWLED_SANITIZE and OWLED_FUZZ.
//
// fuzz_packed [--seconds N] [--iterations N] [--seed N] [--corpus FILE] [--keep FILE] GOOD_FILE...
//
// First every seed of the corpus, then changes of seeds and of the good files; a change that reaches code which none before it
// has reached becomes a seed, and is appended to the file of --keep. A seed is a line of text: the name of the good file, the
// number of bytes that are left of it (- for all), and place:value of every changed byte. With clang's -fsanitize=fuzzer and
// OWLED_LIBFUZZER defined, the same test runs under libFuzzer.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "owled_sparse.h"

namespace {

constexpr size_t kPlaces = 1 << 16;
uint8_t reached[kPlaces];       // by the place in the code, modulo
uint64_t fresh = 0;             // places that were reached for the first time

}  // namespace

// Called by every basic block of the library (-fsanitize-coverage=trace-pc).
extern "C" __attribute__((visibility("default"))) void __sanitizer_cov_trace_pc() {
  const auto place = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
  uint8_t& mark = reached[(place ^ place >> 16) % kPlaces];
  fresh += mark == 0;
  mark = 1;
}

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

struct Good {
  std::string name;
  std::vector<uint8_t> bytes;
};

struct Seed {
  size_t good = 0;
  long left = -1;  // bytes; below 0: all
  std::vector<std::pair<size_t, uint8_t>> changes;
};

struct Options {
  double seconds = 0.0;
  long iterations = 0;
  uint64_t seed = 1;
  std::string corpus, keep;
  std::vector<Good> good;
};

std::vector<uint8_t> made(const Seed& seed, const std::vector<Good>& good) {
  std::vector<uint8_t> bytes = good[seed.good].bytes;
  if (seed.left >= 0 && static_cast<size_t>(seed.left) < bytes.size()) bytes.resize(seed.left);
  for (const auto& [place, value] : seed.changes)
    if (place < bytes.size()) bytes[place] = value;
  return bytes;
}

std::string written(const Seed& seed, const std::vector<Good>& good) {
  std::ostringstream line;
  line << good[seed.good].name << ' ';
  if (seed.left < 0) line << '-';
  else line << seed.left;
  for (const auto& [place, value] : seed.changes) line << ' ' << place << ':' << static_cast<int>(value);
  return line.str();
}

bool read_seed(const std::string& line, const std::vector<Good>& good, Seed& seed) {
  std::istringstream words(line);
  std::string name, left;
  if (!(words >> name >> left) || name[0] == '#') return false;
  for (size_t i = 0; i < good.size(); ++i)
    if (good[i].name == name) {
      seed.good = i;
      seed.left = left == "-" ? -1 : std::strtol(left.c_str(), nullptr, 10);
      size_t place;
      char colon;
      int value;
      while (words >> place >> colon >> value) seed.changes.emplace_back(place, static_cast<uint8_t>(value));
      return true;
    }
  return false;  // of a file that is not given
}

class Fuzzer {
 public:
  explicit Fuzzer(const Options& options) : options_(options), state_(options.seed * 2 + 1) {
    for (int i = 0; owled_kernel_name(i) != nullptr; ++i)
      if (owled_kernel_usable(i)) kernels_.push_back(owled_kernel_name(i));
  }

  void run() {
    const auto start = std::chrono::steady_clock::now();
    for (size_t i = 0; i < options_.good.size(); ++i) {
      Seed whole;
      whole.good = i;
      seeds_.push_back(whole);
      if (!attempt(whole)) {
        std::fprintf(stderr, "%s is no good file to start from\n", options_.good[i].name.c_str());
        std::exit(2);
      }
    }
    std::ifstream stream(options_.corpus);
    for (std::string line; std::getline(stream, line);) {
      Seed seed;
      if (!read_seed(line, options_.good, seed)) continue;
      seeds_.push_back(seed);
      attempt(seed);
    }
    const size_t replayed = seeds_.size();
    const auto left = [&] {
      const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
      return options_.seconds > 0.0 ? spent.count() < options_.seconds : tried_ < options_.iterations;
    };
    while (left()) {
      const Seed seed = changed(seeds_[random(seeds_.size())]);
      const uint64_t before = fresh;
      attempt(seed);
      if (fresh > before) keep(seed);
    }
    std::printf("%ld damaged files, %ld of them accepted, none out of bounds; %zu seeds and %zu new ones, %llu places in the code\n",
                tried_, accepted_, replayed, seeds_.size() - replayed, static_cast<unsigned long long>(fresh));
  }

 private:
  bool attempt(const Seed& seed) {
    const std::vector<uint8_t> bytes = made(seed, options_.good);
    const bool taken = try_file(bytes.data(), bytes.size(), kernels_[tried_++ % kernels_.size()]);
    accepted_ += taken;
    return taken;
  }

  void keep(const Seed& seed) {
    seeds_.push_back(seed);
    if (!options_.keep.empty()) std::ofstream(options_.keep, std::ios::app) << written(seed, options_.good) << '\n';
  }

  Seed changed(Seed seed) {
    const std::vector<uint8_t> bytes = made(seed, options_.good);
    if (random(8) == 0 && !bytes.empty()) {  // cut, and sometimes say so in the header
      seed.left = static_cast<long>(random(2) ? random(bytes.size()) : random(bytes.size()) / 64 * 64);
      if (seed.left >= 256 && random(2)) say(seed, 16, static_cast<uint64_t>(seed.left), 8);
    }
    uint64_t table = 0;
    if (bytes.size() >= 64) std::memcpy(&table, bytes.data() + 56, 8);
    for (uint64_t change = 1 + random(5); change > 0 && !bytes.empty(); --change) {
      const uint64_t where = random(4);  // header, table, anywhere, a whole number of header or table
      const size_t place = where == 0 ? random(256) : where == 1 ? table + random(4096) : random(bytes.size());
      if (where == 3) {
        const uint64_t odd[] = {0, 1, 64, 0x7fffffff, 0x80000000, 0xffffffff, uint64_t{1} << 62, ~uint64_t{0}, bytes.size()};
        say(seed, (random(2) ? random(64) : table / 4 + random(1024)) * 4, odd[random(9)], random(2) ? 4 : 8);
      } else if (place < bytes.size()) {
        const uint8_t odd[] = {0, 1, 0x7f, 0x80, 0xff};
        seed.changes.emplace_back(place, random(2) ? odd[random(5)] : static_cast<uint8_t>(bytes[place] ^ (1u << random(8))));
      }
    }
    if (seed.changes.size() > 40) seed.changes.erase(seed.changes.begin(), seed.changes.end() - 40);
    return seed;
  }

  static void say(Seed& seed, size_t place, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) seed.changes.emplace_back(place + i, static_cast<uint8_t>(value >> 8 * i));
  }

  uint64_t random(uint64_t bound) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return (state_ >> 11) % bound;
  }

  const Options& options_;
  std::vector<const char*> kernels_;
  std::vector<Seed> seeds_;
  uint64_t state_;
  long tried_ = 0, accepted_ = 0;
};

}  // namespace

#ifdef OWLED_LIBFUZZER
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try_file(data, size, "auto");
  return 0;
}
#else
int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : "";
    if (word == "--seconds") options.seconds = std::strtod(value, nullptr), ++i;
    else if (word == "--iterations") options.iterations = std::strtol(value, nullptr, 10), ++i;
    else if (word == "--seed") options.seed = std::strtoull(value, nullptr, 10), ++i;
    else if (word == "--corpus") options.corpus = value, ++i;
    else if (word == "--keep") options.keep = value, ++i;
    else {
      std::ifstream stream(word, std::ios::binary);
      options.good.push_back({word.substr(word.rfind('/') + 1), {std::istreambuf_iterator<char>(stream), {}}});
    }
  }
  if (options.good.empty() || (options.seconds <= 0.0 && options.iterations <= 0)) {
    std::fprintf(stderr, "usage: fuzz_packed [--seconds N] [--iterations N] [--seed N] [--corpus FILE] [--keep FILE] GOOD_FILE...\n");
    return 2;
  }
  Fuzzer(options).run();
  return 0;
}
#endif
