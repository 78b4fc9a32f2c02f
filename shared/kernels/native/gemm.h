// out[M, N] = x[M, K] . W[N, K]^T in float32 for few rows M: the shape of every decode step.
//
// W is packed once into panels of 32 outputs, [N/32][K][32], so that a panel streams from memory in
// order and one pair of vector loads feeds all rows. Every output is summed over k in the same
// order whatever M is: a token's result does not depend on what else is in the batch.
#pragma once
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "pool.h"
#include "vec.h"

namespace step3 {

constexpr int kPanel = 2 * kLanes;
#if defined(__AVX512F__)
constexpr int kMaxRows = 12;  // 24 accumulators of 32 registers
#else
constexpr int kMaxRows = 3;  // 12 accumulators of 16 registers
#endif

// Memory for packed weights in pages of 2 MiB, as far as the kernel grants them: a decode step
// walks through all weights, and with small pages it waits for the address translation as well.
class Arena {
 public:
  float* take(size_t count) {
    count = (count + kLanes - 1) / kLanes * kLanes;
    if (count > left_) grow(count);
    float* result = next_;
    next_ += count;
    left_ -= count;
    return result;
  }

 private:
  static constexpr size_t kPage = size_t{2} << 20;
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };

  void grow(size_t count) {
    const size_t bytes = (count * sizeof(float) + kPage - 1) / kPage * kPage;
    void* memory = std::aligned_alloc(kPage, bytes);
    if (!memory) throw std::bad_alloc();
    madvise(memory, bytes, MADV_HUGEPAGE);
    chunks_.emplace_back(static_cast<float*>(memory));
    next_ = chunks_.back().get();
    left_ = bytes / sizeof(float);
  }

  std::vector<std::unique_ptr<float, Free>> chunks_;
  float* next_ = nullptr;
  size_t left_ = 0;
};

// Floats ahead of the one in use: 2 KiB.
constexpr int kPrefetch = 512;

struct Packed {
  int n = 0, k = 0, panels = 0;
  const float* data = nullptr;  // in an arena
  const float* panel(int p) const { return data + static_cast<size_t>(p) * k * kPanel; }
};

// `row(n)` gives the K weights of output n; outputs past n are zero.
template <class RowOf>
Packed pack(Arena& arena, int n, int k, const RowOf& row) {
  Packed packed{n, k, (n + kPanel - 1) / kPanel};
  const size_t size = static_cast<size_t>(packed.panels) * k * kPanel;
  float* data = arena.take(size);
  std::fill(data, data + size, 0.0f);
  for (int i = 0; i < n; ++i) {
    const float* source = row(i);
    float* target = data + static_cast<size_t>(i / kPanel) * k * kPanel + i % kPanel;
    for (int j = 0; j < k; ++j) target[static_cast<size_t>(j) * kPanel] = source[j];
  }
  packed.data = data;
  return packed;
}

template <int M, class Emit>
inline void rows_times_panel(const float* const* rows, int k, const float* panel, int first,
                             const Emit& emit) {
  v16 low[M] = {}, high[M] = {};
  const float* x[M];
  for (int m = 0; m < M; ++m) x[m] = rows[m];
  for (int j = 0; j < k; ++j, panel += kPanel) {
    // Runs past the end of the panel into the next one, which is read next.
    __builtin_prefetch(panel + kPrefetch, 0, 0);
    __builtin_prefetch(panel + kPrefetch + kLanes, 0, 0);
    const v16 a = load(panel), b = load(panel + kLanes);
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m) {
      low[m] += a * x[m][j];
      high[m] += b * x[m][j];
    }
  }
#pragma GCC unroll 12
  for (int m = 0; m < M; ++m) emit(first + m, low[m], high[m]);
}

// emit(m, low, high) for each of `count` rows: their 32 products with one panel.
template <class Emit>
void times_panel(const float* const* rows, int count, int k, const float* panel,
                 const Emit& emit) {
  int first = 0;
  for (; count - first >= kMaxRows; first += kMaxRows)
    rows_times_panel<kMaxRows>(rows + first, k, panel, first, emit);
  switch (count - first) {
#define STEP3_ROWS(M)                                              \
  case M:                                                          \
    if constexpr (M < kMaxRows)                                    \
      rows_times_panel<M>(rows + first, k, panel, first, emit);    \
    break;
    STEP3_ROWS(1) STEP3_ROWS(2) STEP3_ROWS(3) STEP3_ROWS(4) STEP3_ROWS(5) STEP3_ROWS(6)
    STEP3_ROWS(7) STEP3_ROWS(8) STEP3_ROWS(9) STEP3_ROWS(10) STEP3_ROWS(11)
#undef STEP3_ROWS
    default: break;
  }
}

// Panels that one item of a parallel loop takes: some items a thread, for balance.
inline int panels_per_item(int panels) {
  return std::max(1, panels / (pool().threads() * 8));
}

// emit(row, panel, low, high) for every row and panel of W; panels run in parallel.
template <class Emit>
void gemm(const float* const* rows, int count, const Packed& weight, const Emit& emit) {
  const int step = panels_per_item(weight.panels);
  pool().run((weight.panels + step - 1) / step, [&](int item) {
    const int end = std::min(weight.panels, (item + 1) * step);
    for (int p = item * step; p < end; ++p)
      times_panel(rows, count, weight.k, weight.panel(p),
                  [&](int m, v16 low, v16 high) { emit(m, p, low, high); });
  });
}

// Stores one panel's 32 values of a row of `n` outputs.
inline void store_panel(float* out, int n, int p, v16 low, v16 high) {
  float* target = out + p * kPanel;
  if ((p + 1) * kPanel <= n) {
    store(target, low);
    store(target + kLanes, high);
    return;
  }
  const int left = n - p * kPanel;
  for (int i = 0; i < left; ++i) target[i] = i < kLanes ? low[i] : high[i - kLanes];
}

// Pointers to `count` rows of a row-major matrix.
inline void row_pointers(const float* base, int count, int stride, std::vector<const float*>& out) {
  out.resize(count);
  for (int i = 0; i < count; ++i) out[i] = base + static_cast<size_t>(i) * stride;
}

}  // namespace step3
