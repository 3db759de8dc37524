// Norms, SwiGLU and attention, written once with the compiler's vector types.
//
// Included by every kernels_*.cpp inside its own unnamed namespace, after OWLED_LANES (floats per register). No
// standard templates in here: this code is compiled with other instruction sets than the rest, and the linker must
// never share it.

constexpr int kLanes = OWLED_LANES;
constexpr int kVectors = kPanel / kLanes;     // registers per panel row
typedef float Vec __attribute__((vector_size(4 * OWLED_LANES)));
typedef float VecAt __attribute__((vector_size(4 * OWLED_LANES), aligned(4), may_alias));
typedef int32_t VecInt __attribute__((vector_size(4 * OWLED_LANES)));

inline Vec load(const float* p) { return *reinterpret_cast<const VecAt*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<VecAt*>(p) = v; }
inline Vec splat(float value) { return Vec{} + value; }

inline float sum_lanes(Vec v) {
  float total = 0;
  for (int i = 0; i < kLanes; ++i) total += v[i];
  return total;
}

// exp with a relative error under 2e-7 between -87 and 88, clamped outside (Cephes' polynomial).
inline Vec exp_lanes(Vec x) {
  x = x < -87.0f ? splat(-87.0f) : x;
  x = x > 88.0f ? splat(88.0f) : x;
  const Vec magic = splat(12582912.0f);       // 1.5 * 2^23: adding it rounds to an integer
  Vec n = x * 1.44269504f + magic;
  n = n - magic;
  const Vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Vec p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const VecInt power = (__builtin_convertvector(n, VecInt) + 127) << 23;
  return p * reinterpret_cast<Vec>(power);
}

void rms_norm(const float* x, const float* weight, int n, float epsilon, float* y) {
  Vec squares = {};
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) squares += load(x + i) * load(x + i);
  float total = sum_lanes(squares);
  for (; i < n; ++i) total += x[i] * x[i];
  const float scale = 1.0f / __builtin_sqrtf(total / n + epsilon);
  for (i = 0; i + kLanes <= n; i += kLanes) store(y + i, load(x + i) * scale * load(weight + i));
  for (; i < n; ++i) y[i] = x[i] * scale * weight[i];
}

void rms_scale(const float* panel, int rows, float epsilon, float* scale) {
  Vec squares[kVectors] = {};
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < kVectors; ++v) {
      const Vec x = load(panel + r * kPanel + v * kLanes);
      squares[v] += x * x;
    }
  for (int t = 0; t < kPanel; ++t) scale[t] = 1.0f / __builtin_sqrtf(squares[t / kLanes][t % kLanes] / rows + epsilon);
}

void swiglu(float* gate, const float* up, size_t n) {
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Vec g = load(gate + i);
    store(gate + i, g / (exp_lanes(-g) + 1.0f) * load(up + i));
  }
  for (; i < n; ++i) gate[i] = gate[i] / (exp_lanes(splat(-gate[i]))[0] + 1.0f) * up[i];
}

int log_sum_exp(const float* x, int n, float scale, float* result) {
  Vec largest_lanes = splat(x[0]), probe = {};
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Vec v = load(x + i);
    largest_lanes = v > largest_lanes ? v : largest_lanes;
    probe += v * 0.0f;                        // stays 0 unless something is NaN or infinite
  }
  float largest = largest_lanes[0], odd = sum_lanes(probe);
  for (int l = 1; l < kLanes; ++l) largest = largest_lanes[l] > largest ? largest_lanes[l] : largest;
  for (; i < n; ++i) {
    largest = x[i] > largest ? x[i] : largest;
    odd += x[i] * 0.0f;
  }
  if (!(odd == 0.0f)) return -1;
  int best = 0;
  while (best < n - 1 && x[best] != largest) ++best;
  Vec sums = {};
  for (i = 0; i + kLanes <= n; i += kLanes) sums += exp_lanes((load(x + i) - largest) * scale);
  float total = sum_lanes(sums);
  for (; i < n; ++i) total += exp_lanes(splat((x[i] - largest) * scale))[0];
  *result = largest * scale + __builtin_logf(total);
  return best;
}

// --- attention -------------------------------------------------------------------------------------------------

// Dot products of N queries with B key blocks of 16 positions.
template <int N, int B>
inline void score_blocks(const Attention& a, int block) {
  Vec sum[N][B * kVectors] = {};
  const float* keys = a.keys + static_cast<size_t>(block) * a.dim * kPanel;
  const size_t next = static_cast<size_t>(a.dim) * kPanel;
  for (int d = 0; d < a.dim; ++d) {
    Vec key[B * kVectors];
    for (int v = 0; v < B * kVectors; ++v)
      key[v] = load(keys + (v / kVectors) * next + d * kPanel + (v % kVectors) * kLanes);
    for (int q = 0; q < N; ++q)
      for (int v = 0; v < B * kVectors; ++v) sum[q][v] += key[v] * a.queries[d * N + q];
  }
  for (int q = 0; q < N; ++q)
    for (int v = 0; v < B * kVectors; ++v)
      store(a.scores + static_cast<size_t>(q) * a.stride + block * kPanel + v * kLanes, sum[q][v]);
}

// Softmax of one row over [first, end); everything else between the block borders becomes 0.
inline void softmax(float* row, int from, int first, int end, int to) {
  for (int p = from; p < first; ++p) row[p] = -1e30f;
  for (int p = end; p < to; ++p) row[p] = -1e30f;
  Vec lanes = load(row + from);
  for (int p = from; p < to; p += kLanes) lanes = load(row + p) > lanes ? load(row + p) : lanes;
  float largest = lanes[0];
  for (int l = 1; l < kLanes; ++l) largest = lanes[l] > largest ? lanes[l] : largest;
  Vec sums = {};
  for (int p = from; p < to; p += kLanes) {
    const Vec e = exp_lanes(load(row + p) - largest);
    store(row + p, e);
    sums += e;
  }
  for (int p = from; p < first; ++p) row[p] = 0;
  for (int p = end; p < to; ++p) row[p] = 0;
  const float scale = 1.0f / sum_lanes(sums);
  for (int p = from; p < to; p += kLanes) store(row + p, load(row + p) * scale);
}

// out[N][S registers from column d] = probabilities times values.
template <int N, int S>
inline void mix_values(const Attention& a, int from, int to, int d) {
  Vec sum[N][S] = {};
  for (int p = from; p < to; ++p) {
    const float* value = a.values + static_cast<size_t>(p) * a.dim + d;
    for (int s = 0; s < S; ++s) {
      const Vec v = load(value + s * kLanes);
      for (int q = 0; q < N; ++q) sum[q][s] += v * a.scores[static_cast<size_t>(q) * a.stride + p];
    }
  }
  for (int q = 0; q < N; ++q)
    for (int s = 0; s < S; ++s) store(a.out + q * a.dim + d + s * kLanes, sum[q][s]);
}

template <int N>
void attend_queries(const Attention& a) {
  int first = a.first[0], end = a.end[0];
  for (int q = 1; q < N; ++q) {
    first = a.first[q] < first ? a.first[q] : first;
    end = a.end[q] > end ? a.end[q] : end;
  }
  const int from = first / kPanel, to = (end + kPanel - 1) / kPanel;
  constexpr int pair = kLanes == 16 ? 2 : 1;
  int block = from;
  for (; block + pair <= to; block += pair) score_blocks<N, pair>(a, block);
  for (; block < to; ++block) score_blocks<N, 1>(a, block);
  for (int q = 0; q < N; ++q)
    softmax(a.scores + static_cast<size_t>(q) * a.stride, from * kPanel, a.first[q], a.end[q], to * kPanel);
  int d = 0;
  for (; d + 2 * kLanes <= a.dim; d += 2 * kLanes) mix_values<N, 2>(a, first, end, d);
  for (; d < a.dim; d += kLanes) mix_values<N, 1>(a, first, end, d);
}

void attend(const Attention& a) {
  switch (a.count) {
    case 1: return attend_queries<1>(a);
    case 2: return attend_queries<2>(a);
    case 3: return attend_queries<3>(a);
    case 4: return attend_queries<4>(a);
    case 5: return attend_queries<5>(a);
    case 6: return attend_queries<6>(a);
    case 7: return attend_queries<7>(a);
    default: return attend_queries<8>(a);
  }
}
