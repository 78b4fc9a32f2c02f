// The FFN of one layer for T tokens: chosen experts, shared expert or dense FFN, or a shard of them.
//
// Tokens are grouped by expert, so that each expert's weights are read once a batch. A shared
// expert or a dense FFN is one more expert that every token takes with weight 1.
#include <algorithm>
#include <vector>

#include "gemm.h"
#include "pool.h"
#include "vec.h"

using namespace step3;

extern "C" {

struct S3FfnDims {
  int32_t hidden;
  int32_t experts, first_expert, expert_width;  // experts held here: [first, first + experts)
  int32_t shared_width;                         // of the shared expert or dense FFN; 0: none here
};

// Row-major float32: gate, up [experts, width, H], down [experts, H, width].
struct S3FfnWeights {
  const float *gate, *up, *down;
  const float *shared_gate, *shared_up, *shared_down;
};
}

namespace {

struct Expert {
  Packed gate_up;  // a panel is 16 rows of gate, then the same 16 of up
  Packed down;
  int width = 0;
};

struct Layer {
  S3FfnDims dims;
  Arena arena;
  std::vector<Expert> experts;  // the shared one last
};

// One expert's part of a batch.
struct Group {
  const Expert* expert;
  int first, count;  // its rows of the activation buffer
};

struct Scratch {
  std::vector<Group> groups;
  std::vector<int> tokens, offsets;
  std::vector<float> weights, activations;
  std::vector<const float*> inputs, middles;
};
thread_local Scratch scratch;

Expert make_expert(Arena& arena, const float* gate, const float* up, const float* down, int width, int H) {
  Expert expert;
  expert.width = (width + kLanes - 1) / kLanes * kLanes;
  static const std::vector<float> zeros(1 << 16, 0.0f);
  expert.gate_up = pack(arena, 2 * expert.width, H, [&](int n) -> const float* {
    const int row = n / kPanel * kLanes + n % kLanes;
    if (row >= width) return zeros.data();
    return (n % kPanel < kLanes ? gate : up) + static_cast<size_t>(row) * H;
  });
  // A padded width: the activation is zero there, and so are the weights.
  std::vector<float> padded(static_cast<size_t>(H) * expert.width, 0.0f);
  for (int h = 0; h < H; ++h)
    std::copy(down + static_cast<size_t>(h) * width, down + static_cast<size_t>(h + 1) * width,
              padded.data() + static_cast<size_t>(h) * expert.width);
  expert.down = pack(arena, H, expert.width, [&](int n) {
    return padded.data() + static_cast<size_t>(n) * expert.width;
  });
  return expert;
}

}  // namespace

extern "C" {

void* s3_ffn_create(const S3FfnDims* dims, const S3FfnWeights* w) {
  auto* layer = new Layer{};
  layer->dims = *dims;
  const size_t H = dims->hidden, I = dims->expert_width;
  for (int e = 0; e < dims->experts; ++e)
    layer->experts.push_back(make_expert(layer->arena, w->gate + e * I * H, w->up + e * I * H,
                                         w->down + e * I * H, dims->expert_width, dims->hidden));
  if (dims->shared_width)
    layer->experts.push_back(make_expert(layer->arena, w->shared_gate, w->shared_up, w->shared_down,
                                         dims->shared_width, dims->hidden));
  return layer;
}

void s3_ffn_destroy(void* layer) { delete static_cast<Layer*>(layer); }

// out [T, H] = sum over this shard's experts of weight * expert(x), plus the shared expert.
// ids, weights [T, top_k]; choices of experts held elsewhere are passed over.
void s3_ffn_run(void* handle, int32_t tokens, int32_t top_k, const float* x, const int32_t* ids,
                const float* weights, float* out) {
  const Layer& layer = *static_cast<const Layer*>(handle);
  const S3FfnDims& d = layer.dims;
  const int H = d.hidden, T = tokens;
  Scratch& s = scratch;

  s.offsets.assign(d.experts + 1, 0);
  for (int i = 0; i < T * top_k; ++i) {
    const int e = ids[i] - d.first_expert;
    if (e >= 0 && e < d.experts) ++s.offsets[e + 1];
  }
  for (int e = 0; e < d.experts; ++e) s.offsets[e + 1] += s.offsets[e];
  const int routed = s.offsets[d.experts], rows = routed + (d.shared_width ? T : 0);
  s.tokens.resize(rows);
  s.weights.resize(rows);
  s.groups.clear();
  for (int e = 0; e < d.experts; ++e)
    if (s.offsets[e + 1] > s.offsets[e])
      s.groups.push_back({&layer.experts[e], s.offsets[e], s.offsets[e + 1] - s.offsets[e]});
  for (int i = 0; i < T * top_k; ++i) {
    const int e = ids[i] - d.first_expert;
    if (e < 0 || e >= d.experts) continue;
    const int slot = s.offsets[e]++;
    s.tokens[slot] = i / top_k;
    s.weights[slot] = weights[i];
  }
  if (d.shared_width && T) {
    for (int t = 0; t < T; ++t) s.tokens[routed + t] = t, s.weights[routed + t] = 1.0f;
    s.groups.push_back({&layer.experts.back(), routed, T});
  }

  int width = 0, items = 0;
  for (const Group& g : s.groups) {
    width = std::max(width, g.expert->width);
    items += g.expert->gate_up.panels;
  }
  s.activations.resize(static_cast<size_t>(rows) * width);
  s.inputs.resize(rows);
  s.middles.resize(rows);
  for (int i = 0; i < rows; ++i) {
    s.inputs[i] = x + static_cast<size_t>(s.tokens[i]) * H;
    s.middles[i] = s.activations.data() + static_cast<size_t>(i) * width;
  }
  // Plain pointers: the thread-local buffers of a pool thread are other ones.
  const std::vector<Group>& groups = s.groups;
  const float* const* inputs = s.inputs.data();
  const float* const* middles = s.middles.data();
  float* activations = s.activations.data();
  const int* token_of = s.tokens.data();
  const float* weight_of = s.weights.data();

  const int step = panels_per_item(items);
  pool().run((items + step - 1) / step, [&](int item) {
    const int end = std::min(items, (item + 1) * step);
    int g = 0, before = 0;  // panels of the groups before g
    for (int i = item * step; i < end; ++i) {
      while (i - before >= groups[g].expert->gate_up.panels)
        before += groups[g++].expert->gate_up.panels;
      const Group& group = groups[g];
      const int p = i - before;
      times_panel(inputs + group.first, group.count, H, group.expert->gate_up.panel(p),
                  [&](int m, v16 gate, v16 up) {
                    store(activations + static_cast<size_t>(group.first + m) * width + p * kLanes,
                          silu(gate) * up);
                  });
    }
  });

  // A panel of outputs sums its experts in order of their index: no two threads meet.
  const int panels = (H + kPanel - 1) / kPanel;
  pool().run(panels, [&](int p) {
    const bool whole = (p + 1) * kPanel <= H;
    for (int t = 0; t < T; ++t)
      std::fill(out + static_cast<size_t>(t) * H + p * kPanel,
                out + static_cast<size_t>(t) * H + std::min(H, (p + 1) * kPanel), 0.0f);
    for (const Group& group : groups)
      times_panel(middles + group.first, group.count, group.expert->width,
                  group.expert->down.panel(p), [&](int m, v16 low, v16 high) {
                    const int row = group.first + m;
                    float* target = out + static_cast<size_t>(token_of[row]) * H + p * kPanel;
                    store(target, load(target) + low * weight_of[row]);
                    if (whole) store(target + kLanes, load(target + kLanes) + high * weight_of[row]);
                  });
  });
}
}
