// Packed model files: opens one, proves that every offset and every bit mask stays inside it, and hands out views.
//
// Needs nothing from the kernels; docs/packed_format.md describes the bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace owled {

// What went wrong, as an owled_status and a sentence; caught at the C interface (api.cpp).
struct Error {
  int status;
  std::string message;
};

// Kernels are compiled with other instruction sets than the rest: what they share must never be shared by the linker.
#define OWLED_INLINE inline __attribute__((always_inline))

constexpr int kBlockRows = 8;     // rows that share one stream of values
constexpr int kGroup = 128;       // columns of one group of the stream order; of one scale per row, unless a matrix says less
constexpr int kUnit = 16;         // columns of one unit of the formats of at most four bits
constexpr int kChunk = 64;        // columns of one mask word
constexpr int kPlaceCount = 32;   // places of a unit: 8 rows, 4 groups of columns
constexpr int kChunkPlanes = 16;  // planes of places of a chunk: 4 units, 4 columns of a group

enum class Format : uint32_t {
  kVector = 0,                    // float32, for norms, biases and rotary frequencies
  kDenseBf16 = 1,
  kDenseInt8 = 2,
  kSparseBf16 = 3,
  kSparseInt8 = 4,
  kDenseInt4 = 5,
  kSparseInt4 = 6,
  kPairedInt4 = 7,                // two of every four neighbouring columns
  kEvenInt4 = 8,                  // as many of every sixteen, an even number
  kDenseInt2 = 9,
  kDenseInt3 = 10,                // its third bits are where others have masks
  kTernary = 11,                  // five codes of -1 to 1 in a byte; no kernel reads it: opening makes it kDenseInt2
};

enum class Role : uint32_t {
  kOther = 0, kEmbedding = 1, kHead = 2, kFinalNorm = 3, kRotary = 4,
  kQuery = 16, kKey = 17, kValue = 18, kOutput = 19, kGate = 20, kUp = 21, kDown = 22,
  kAttentionNorm = 32, kMlpNorm = 33, kQueryNorm = 34, kKeyNorm = 35,
};

// A view of one matrix (or vector: rows = 1) inside the file.
struct Matrix {
  std::string name;
  Role role = Role::kOther;
  int layer = -1;
  Format format = Format::kVector;
  int rows = 0, columns = 0;
  int blocks = 0;                 // of 8 rows
  int chunks = 0;                 // of 64 columns; two make a group, an odd last one is a group of its own
  int group = kGroup;             // columns that share one scale per row, formats of at most 8 bits: 32, 64 or 128
  int row_bytes = 0;              // kEvenInt4: of a row's values of one unit
  uint64_t nonzeros = 0;
  uint64_t bytes = 0;             // of all its sections
  // [block][group][row][chunk of the group]; int4: [block][half unit], places of pairs and int3, evenly kept ones [block][unit][row][half]
  const uint64_t* mask = nullptr;
  const uint8_t* values = nullptr;        // the kept values in the order of the mask
  const uint64_t* block_offset = nullptr; // [blocks + 1] bytes into values
  const uint16_t* scales = nullptr;       // bf16 [block][group][row], formats of at most 8 bits
  const float* correction = nullptr;      // [8 * blocks], sum of scale * value per row, for int8; those below four bits have none
  const float* bias = nullptr;            // [8 * blocks] or null
  const float* vector = nullptr;          // [columns], kVector

  OWLED_INLINE bool sparse() const {
    return format == Format::kSparseBf16 || format == Format::kSparseInt8 || format == Format::kSparseInt4;
  }
  // Keeps as many values of every few columns: spread about as fast as they are read.
  OWLED_INLINE bool patterned() const { return format == Format::kPairedInt4 || format == Format::kEvenInt4; }
  OWLED_INLINE bool int8() const { return format == Format::kDenseInt8 || format == Format::kSparseInt8; }
  OWLED_INLINE bool int4() const {
    return format == Format::kDenseInt4 || format == Format::kSparseInt4 || patterned();
  }
  OWLED_INLINE bool below4() const { return format >= Format::kDenseInt2; }   // came with version 3
  OWLED_INLINE bool narrow() const { return int4() || below4(); }   // meets 8-bit activations
  OWLED_INLINE bool masked() const { return sparse() || patterned() || format == Format::kDenseInt3; }
  OWLED_INLINE uint64_t value_bits() const { return below4() ? 2 : int4() ? 4 : int8() ? 8 : 16; }
  OWLED_INLINE bool coarse() const { return int8() || narrow(); }   // a scale per group
  OWLED_INLINE bool fine() const { return narrow() || (int8() && group != kGroup); }   // came with version 2
  OWLED_INLINE int group_of(int column) const { return column >> __builtin_ctz(static_cast<unsigned>(group)); }
  OWLED_INLINE int groups() const { return group_of(padded_columns() + group - 1); }
  OWLED_INLINE int padded_rows() const { return blocks * kBlockRows; }
  OWLED_INLINE int padded_columns() const { return chunks * kChunk; }
};

// Sizes of the decoder, zero when the file holds single matrices only.
struct DecoderShape {
  int hidden = 0, intermediate = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, vocabulary = 0;
  int max_positions = 0, window = 0;
  float norm_epsilon = 0, rotary_scale = 1;
};

class PackedFile {
 public:
  // Maps or copies the file. Throws Error.
  PackedFile(const std::string& path, bool copy, bool verify);
  // Reads from bytes that stay alive as long as this object.
  PackedFile(const void* bytes, size_t size, bool verify);
  ~PackedFile();
  PackedFile(const PackedFile&) = delete;
  PackedFile& operator=(const PackedFile&) = delete;

  const DecoderShape& shape() const { return shape_; }
  const std::vector<Matrix>& matrices() const { return matrices_; }
  size_t size() const { return size_; }
  // Copies matrices into huge pages in the form that kernels read: the ternary ones, and with `zeros` all of at most eight bits, with all
  // their zeros (more memory, less work). Must be called before a kernel sees them. False when none needs it. Throws Error.
  bool fill(bool zeros);
  // The tensor of that role, null when there is none.
  const Matrix* find(Role role, int layer) const;

 private:
  void parse(bool verify);
  void release();

  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
  size_t mapped_bytes_ = 0;       // 0: the bytes belong to somebody else
  void* filled_ = nullptr;
  size_t filled_bytes_ = 0;
  DecoderShape shape_;
  std::vector<Matrix> matrices_;
  std::map<std::pair<uint32_t, int>, size_t> index_;   // role and layer to the place in matrices_
};

static OWLED_INLINE float bf16_to_float(uint16_t bits) {
  union { uint32_t u; float f; } c;
  c.u = static_cast<uint32_t>(bits) << 16;
  return c.f;
}

}  // namespace owled
