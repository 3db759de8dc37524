// How eight packed values spread to the places that one byte of a mask keeps; for shuffles by table.

// For every byte of a mask: where each of eight places finds its value; 0x80 makes a zero.
struct SpreadTable {
  uint64_t bytes[256];
  constexpr SpreadTable() : bytes() {
    for (int mask = 0; mask < 256; ++mask) {
      uint64_t pattern = 0;
      uint64_t next = 0;
      for (int bit = 0; bit < 8; ++bit) {
        const bool kept = (mask >> bit & 1) != 0;
        pattern |= (kept ? next : uint64_t{0x80}) << (8 * bit);
        next += kept ? 1 : 0;
      }
      bytes[mask] = pattern;
    }
  }
};
constexpr SpreadTable kSpread;
