// Packed model files: the parser. Trusts nothing that it has not checked.
#include "packed.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>

#include "owled_sparse.h"

namespace owled {
namespace {

constexpr char kMagic[8] = {'O', 'W', 'L', 'E', 'D', 'P', 'K', '\n'};
constexpr uint32_t kEndianTag = 0x01020304;
constexpr uint32_t kOldestVersion = 1, kVersion = 3;   // 2 brought int4 and groups below 128, 3 fewer bits
constexpr size_t kSlack = 64;         // readable bytes that follow every section: vector loads may run over
constexpr uint32_t kMaxTensors = 1u << 20;
constexpr uint32_t kMaxSide = 1u << 24;

struct Header {                       // 256 bytes
  char magic[8];
  uint32_t endian, version;
  uint64_t file_bytes, checksum_sum, checksum_weighted;
  uint32_t header_bytes, record_bytes, tensors, kind;
  uint64_t table_offset, meta_offset, meta_bytes;
  uint32_t hidden, intermediate, layers, heads, kv_heads, head_dim, vocabulary, max_positions, window;
  float norm_epsilon, rotary_scale;
  uint8_t reserved[132];
};
static_assert(sizeof(Header) == 256, "the header has 256 bytes");

struct Record {                       // 224 bytes
  char name[96];
  uint32_t role;
  int32_t layer;
  uint32_t format, rows, columns, group;   // group: columns of a scale; 0: 128
  uint64_t nonzeros;
  uint64_t mask, values, value_bytes, block_offset, scales, correction, bias;   // offsets in the file, 0: none
  uint8_t padding[40];
};
static_assert(sizeof(Record) == 224, "a tensor record has 224 bytes");

[[noreturn]] void refuse(const std::string& what) { throw Error{OWLED_BAD_FILE, what}; }

// Both sums run over 64-bit words modulo 2^64; the second one weighs a word by its place, so swaps show too.
void check_sums(const Header& header, const uint8_t* data, size_t size) {
  uint64_t sum = 0, weighted = 0;
  const size_t words = (size - 64) / 8;
  for (size_t i = 0; i < words; ++i) {
    uint64_t word;
    std::memcpy(&word, data + 64 + 8 * i, 8);
    sum += word;
    weighted += word * (2 * i + 1);
  }
  if (sum != header.checksum_sum || weighted != header.checksum_weighted)
    refuse("the checksum does not match: the file is damaged, pack it again");
}

struct Sections {
  const uint8_t* data;
  size_t size;
  const std::string& name;
  uint64_t total = 0;

  template <typename T>
  const T* get(uint64_t offset, uint64_t count, const char* what) {
    if (offset % 64 != 0 || offset < sizeof(Header) || offset > size || count > size / sizeof(T) ||
        count * sizeof(T) + kSlack > size - offset)
      refuse(name + ": its " + what + " lie outside the file");
    total += count * sizeof(T);
    return reinterpret_cast<const T*>(data + offset);
  }
};

// Every row keeps as many of a unit's columns, a number of whole bytes.
void check_even(const Matrix& m, int block) {
  const uint64_t words = static_cast<uint64_t>(m.chunks) * kBlockRows;
  bool even = true;
  for (uint64_t i = 0; i < words; ++i)
    for (int row = 0; row < 4; ++row)
      even &= __builtin_popcountll(m.mask[block * words + i] >> (kUnit * row) & 0xffff) == 2 * m.row_bytes;
  if (!even) refuse(m.name + ": block " + std::to_string(block) + " does not keep as many of every sixteen columns");
}

// Of every four neighbouring columns two are kept.
void check_pairs(const Matrix& m, int block) {
  const uint64_t words = static_cast<uint64_t>(m.chunks) * kBlockRows;
  bool paired = true;
  for (uint64_t i = 0; i < words; ++i) {
    const uint64_t mask = m.mask[block * words + i], twos = mask - (mask >> 1 & 0x5555555555555555u);
    paired &= (twos & 0x3333333333333333u) + (twos >> 2 & 0x3333333333333333u) == 0x2222222222222222u;
  }
  if (!paired) refuse(m.name + ": block " + std::to_string(block) + " keeps other than two of four");
}

// Bytes of the values that a block keeps; five planes of a ternary one share 32 bytes.
uint64_t block_bytes(const Matrix& m, uint64_t kept) {
  if (m.format == Format::kTernary) return (static_cast<uint64_t>(m.chunks) * kChunkPlanes + 4) / 5 * kPlaceCount;
  return (kept * m.value_bits() + 7) / 8;
}

// Every block's masks must keep exactly the values that lie between its offsets: the kernels rely on it.
void check_blocks(const Matrix& m, uint64_t value_bytes) {
  const uint64_t words = static_cast<uint64_t>(m.chunks) * kBlockRows;
  if (m.block_offset[0] != 0) refuse(m.name + ": its first block does not start at 0");
  uint64_t kept_total = 0;
  for (int b = 0; b < m.blocks; ++b) {
    uint64_t kept = words * kChunk;
    if (m.sparse() || m.patterned()) {
      kept = 0;
      for (uint64_t i = 0; i < words; ++i) kept += __builtin_popcountll(m.mask[b * words + i]);
    }
    kept_total += kept;
    if (m.format == Format::kPairedInt4) check_pairs(m, b);
    if (m.format == Format::kEvenInt4) check_even(m, b);
    if (m.block_offset[b + 1] < m.block_offset[b] || m.block_offset[b + 1] - m.block_offset[b] != block_bytes(m, kept))
      refuse(m.name + ": masks and values of block " + std::to_string(b) + " disagree");
  }
  if (m.block_offset[m.blocks] != value_bytes) refuse(m.name + ": it has another number of values than its masks");
  if (m.sparse() && kept_total != m.nonzeros) refuse(m.name + ": it has another number of nonzeros than it says");
}

Matrix read_record(const Record& record, const uint8_t* data, size_t size) {
  Matrix m;
  if (std::memchr(record.name, 0, sizeof(record.name)) == nullptr) refuse("a tensor name has no end");
  m.name = record.name;
  Sections sections{data, size, m.name};
  if (record.rows == 0 || record.columns == 0 || record.rows > kMaxSide || record.columns > kMaxSide)
    refuse(m.name + ": its size is out of range");
  if (record.format > static_cast<uint32_t>(Format::kTernary)) refuse(m.name + ": unknown format");
  if (record.layer < -1 || record.layer > (1 << 20)) refuse(m.name + ": its layer is out of range");
  m.role = static_cast<Role>(record.role);
  m.layer = record.layer;
  m.format = static_cast<Format>(record.format);
  m.rows = static_cast<int>(record.rows);
  m.columns = static_cast<int>(record.columns);
  m.blocks = (m.rows + kBlockRows - 1) / kBlockRows;
  m.chunks = (m.columns + kChunk - 1) / kChunk;
  m.nonzeros = record.nonzeros;
  if (record.group != 0) m.group = static_cast<int>(record.group);
  if ((m.group != 32 && m.group != 64 && m.group != kGroup) || (record.group != 0 && !m.coarse()))
    refuse(m.name + ": scales of " + std::to_string(record.group) + " columns are not known");
  if (m.format == Format::kVector) {
    if (m.rows != 1) refuse(m.name + ": a vector has one row");
    m.vector = sections.get<float>(record.values, m.columns, "values");
    m.bytes = sections.total;
    return m;
  }
  const uint64_t entries = static_cast<uint64_t>(m.padded_rows()) * m.padded_columns();
  if (m.nonzeros > entries) refuse(m.name + ": more nonzeros than entries");
  if (m.masked()) m.mask = sections.get<uint64_t>(record.mask, entries / kChunk, "masks");
  m.block_offset = sections.get<uint64_t>(record.block_offset, m.blocks + 1, "block offsets");
  if (m.mask == nullptr) m.mask = m.block_offset;   // never read, but kernels may do arithmetic on it
  m.values = sections.get<uint8_t>(record.values, record.value_bytes, "values");
  if (m.coarse()) {
    m.scales = sections.get<uint16_t>(record.scales, static_cast<uint64_t>(m.padded_rows()) * m.groups(), "scales");
    if (!m.below4()) m.correction = sections.get<float>(record.correction, m.padded_rows(), "corrections");
  }
  if (m.format == Format::kEvenInt4) {
    m.row_bytes = __builtin_popcountll(m.mask[0] & 0xffff) / 2;
    if (m.row_bytes > 4) refuse(m.name + ": it keeps more than eight of sixteen columns");
  }
  if (record.bias != 0) m.bias = sections.get<float>(record.bias, m.padded_rows(), "biases");
  check_blocks(m, record.value_bytes);
  m.bytes = sections.total;
  return m;
}

int in_range(uint32_t value, uint32_t low, uint32_t high, const char* what) {
  if (value < low || value > high) refuse(std::string("the model's ") + what + " is out of range");
  return static_cast<int>(value);
}

DecoderShape read_shape(const Header& h) {
  DecoderShape s;
  s.hidden = in_range(h.hidden, 1, kMaxSide, "hidden size");
  s.intermediate = in_range(h.intermediate, 1, kMaxSide, "intermediate size");
  s.layers = in_range(h.layers, 1, 4096, "number of layers");
  s.heads = in_range(h.heads, 1, 4096, "number of heads");
  s.kv_heads = in_range(h.kv_heads, 1, h.heads, "number of key/value heads");
  s.head_dim = in_range(h.head_dim, 2, 1024, "head size");
  s.vocabulary = in_range(h.vocabulary, 1, kMaxSide, "vocabulary");
  s.max_positions = in_range(h.max_positions, 1, 1u << 30, "number of positions");
  s.window = in_range(h.window, 0, 1u << 30, "attention window");
  if (s.heads % s.kv_heads != 0) refuse("the number of heads is no multiple of the key/value heads");
  if (s.head_dim % 2 != 0) refuse("the head size is odd");
  s.norm_epsilon = h.norm_epsilon;
  s.rotary_scale = h.rotary_scale;
  if (!(s.norm_epsilon >= 0 && s.norm_epsilon < 1) || !std::isfinite(s.rotary_scale))
    refuse("the model's norm epsilon or rotary scale is out of range");
  return s;
}

}  // namespace

PackedFile::PackedFile(const std::string& path, bool copy, bool verify) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) throw Error{OWLED_BAD_FILE, path + ": " + std::strerror(errno)};
  struct stat status;
  if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size < 256) {
    close(file);
    throw Error{OWLED_BAD_FILE, path + ": not a packed model (too short, or no regular file)"};
  }
  size_ = static_cast<size_t>(status.st_size);
  void* view = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
  close(file);
  if (view == MAP_FAILED) throw Error{OWLED_NO_MEMORY, path + ": " + std::strerror(errno)};
  mapped_bytes_ = size_;
  data_ = static_cast<const uint8_t*>(view);
  if (copy) {
    constexpr size_t kHuge = size_t{2} << 20;
    const size_t rounded = size_ >= kHuge ? (size_ + kHuge - 1) / kHuge * kHuge : size_;
    void* block = mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) {
      release();
      throw Error{OWLED_NO_MEMORY, path + ": " + std::strerror(errno)};
    }
    madvise(block, rounded, MADV_HUGEPAGE);
    std::memcpy(block, view, size_);
    mprotect(block, rounded, PROT_READ);
    munmap(view, size_);
    data_ = static_cast<const uint8_t*>(block);
    mapped_bytes_ = rounded;
  }
  try {
    parse(verify);
  } catch (const Error& error) {
    release();
    throw Error{error.status, path + ": " + error.message};
  } catch (...) {
    release();
    throw;
  }
}

PackedFile::PackedFile(const void* bytes, size_t size, bool verify)
: data_(static_cast<const uint8_t*>(bytes)), size_(size) {
  parse(verify);
}

PackedFile::~PackedFile() { release(); }

void PackedFile::release() {
  if (mapped_bytes_ != 0) munmap(const_cast<uint8_t*>(data_), mapped_bytes_);
  if (filled_ != nullptr) munmap(filled_, filled_bytes_);
  mapped_bytes_ = 0;
  filled_ = nullptr;
}

void PackedFile::parse(bool verify) {
  Header header;
  if (size_ < sizeof(header)) refuse("not a packed model: shorter than its header");
  std::memcpy(&header, data_, sizeof(header));
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) refuse("not a packed model (wrong first bytes)");
  if (header.endian != kEndianTag) refuse("written with another byte order");
  if (header.version < kOldestVersion || header.version > kVersion)
    refuse("format version " + std::to_string(header.version) + ", this runtime reads versions 1 to 3: pack it again");
  if (header.header_bytes != sizeof(Header) || header.record_bytes != sizeof(Record)) refuse("unknown header size");
  if (header.file_bytes != size_ || size_ % 64 != 0) refuse("truncated or grown: its size is not the one written in it");
  if (reinterpret_cast<uintptr_t>(data_) % 64 != 0) refuse("not aligned to 64 bytes in memory");
  if (header.tensors > kMaxTensors || header.table_offset % 64 != 0 || header.table_offset < sizeof(Header) ||
      header.table_offset > size_ || header.tensors * sizeof(Record) > size_ - header.table_offset)
    refuse("its table lies outside the file");
  if (header.kind > 1) refuse("unknown kind of model");
  if (verify) check_sums(header, data_, size_);
  if (header.kind == 1) shape_ = read_shape(header);
  matrices_.reserve(header.tensors);
  for (uint32_t i = 0; i < header.tensors; ++i) {
    Record record;
    std::memcpy(&record, data_ + header.table_offset + i * sizeof(Record), sizeof(record));
    if (header.version == 1 && (record.format > static_cast<uint32_t>(Format::kSparseInt8) || record.group != 0))
      refuse("a tensor has a format that came after version 1");
    if (header.version == 2 && record.format > static_cast<uint32_t>(Format::kEvenInt4))
      refuse("a tensor has a format that came after version 2");
    matrices_.push_back(read_record(record, data_, size_));
    const Matrix& m = matrices_.back();
    if (m.role == Role::kOther) continue;
    if (!index_.emplace(std::make_pair(static_cast<uint32_t>(m.role), m.layer), i).second)
      refuse(m.name + ": its place in the model is taken twice");
  }
}

const Matrix* PackedFile::find(Role role, int layer) const {
  const auto found = index_.find({static_cast<uint32_t>(role), layer});
  return found == index_.end() ? nullptr : &matrices_[found->second];
}

}  // namespace owled
