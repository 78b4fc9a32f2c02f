// The end of a step: last residual, final norm, logits of the rows that sample a token.
#include <vector>

#include "gemm.h"
#include "pool.h"
#include "vec.h"

using namespace step3;

namespace {

struct Head {
  int hidden;
  float eps;
  std::vector<float> norm;
  Arena arena;
  Packed weight;
};

}  // namespace

extern "C" {

void* s3_head_create(int32_t hidden, int32_t vocab, float eps, const float* norm,
                     const float* weight) {
  auto* head = new Head{hidden, eps, {norm, norm + hidden}, {}, {}};
  head->weight =
      pack(head->arena, vocab, hidden, [&](int n) { return weight + static_cast<size_t>(n) * hidden; });
  return head;
}

void s3_head_destroy(void* head) { delete static_cast<Head*>(head); }

// logits[r] of hidden[rows[r]] + ffn_out[rows[r]].
void s3_head_run(void* handle, int32_t count, const int32_t* rows, const float* hidden,
                 const float* ffn_out, float* logits) {
  const Head& head = *static_cast<const Head*>(handle);
  const int H = head.hidden, V = head.weight.n;
  std::vector<float> x(static_cast<size_t>(count) * H);
  for (int r = 0; r < count; ++r) {
    const size_t from = static_cast<size_t>(rows[r]) * H;
    float* mine = x.data() + static_cast<size_t>(r) * H;
    for (int i = 0; i < H; ++i) mine[i] = hidden[from + i] + ffn_out[from + i];
    rms_norm(mine, head.norm.data(), head.eps, H, mine);
  }
  std::vector<const float*> pointers;
  row_pointers(x.data(), count, H, pointers);
  gemm(pointers.data(), count, head.weight, [&](int r, int p, v16 low, v16 high) {
    store_panel(logits + static_cast<size_t>(r) * V, V, p, low, high);
  });
}

void s3_set_threads(int32_t count, const int32_t* cores, int32_t spin_us) {
  pool().set_spin_us(spin_us);
  pool().place({cores, cores + count});
}
}
