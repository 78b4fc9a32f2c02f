// The attention side of one decoder layer: residual, norm, MFA with a paged cache, norm, router.
//
// Paper: Step-3, section on Multi-Matrix Factorization Attention. All heads share one key and one
// value of width C, so a cached key block is read once for all of them.
#include <algorithm>
#include <cmath>
#include <vector>

#include "gemm.h"
#include "pool.h"
#include "vec.h"

using namespace step3;

extern "C" {

struct S3AttentionDims {
  int32_t hidden, heads, head_dim, query_rank, experts, top_k, block_size;
  float eps;
};

// Row-major float32, shapes as in the checkpoint.
struct S3AttentionWeights {
  const float *input_norm, *q_proj, *k_proj, *v_proj, *inter_norm, *wq, *o_proj, *post_norm;
  const float* gate;  // null on dense layers
};

// What is to be read: T tokens of some sequences.
struct S3AttentionBatch {
  int32_t tokens, max_blocks;
  const int32_t* positions;     // [T]
  const int32_t* sequences;     // [T] row of block_tables
  const int32_t* block_tables;  // [sequences, max_blocks]
  const float *cos, *sin;       // [positions, C/2]
};
}

namespace {

struct Layer {
  S3AttentionDims dims;
  std::vector<float> input_norm, inter_norm, post_norm;
  Arena arena;
  Packed qkv, wq, o_proj, gate;
};

// Buffers of the calling thread, grown to the largest batch seen.
struct Scratch {
  std::vector<float> x, qkv, q, o, logits;
  std::vector<const float*> rows;
};
thread_local Scratch scratch;

void rotate(const float* x, const float* cos, const float* sin, int half, float scale, float* out) {
  for (int i = 0; i < half; ++i) {
    const float a = x[i], b = x[i + half];
    out[i] = (a * cos[i] - b * sin[i]) * scale;
    out[i + half] = (b * cos[i] + a * sin[i]) * scale;
  }
}

// Heads that one item computes together: their queries meet each key block while it is in cache.
constexpr int kHeadGroup = 8;

// o[h] = softmax(q[h] . K) V for G heads of one token over `context` cached tokens.
// k blocks are [C, block] (keys side by side), v blocks [block, C].
template <int G>
void attend(const float* q, int C, int context, int block, const int32_t* table,
            const float* k_cache, const float* v_cache, float* o) {
  static thread_local std::vector<float> buffer;
  const int padded = (context + kLanes - 1) / kLanes * kLanes;
  if (buffer.size() < static_cast<size_t>(G) * padded) buffer.resize(static_cast<size_t>(G) * padded);
  float* scores = buffer.data();

  v16 top[G];
  for (int g = 0; g < G; ++g) top[g] = splat(-INFINITY);
  for (int j = 0; j < context; j += kLanes) {
    const float* keys = k_cache + static_cast<size_t>(table[j / block]) * C * block + j % block;
    v16 s[G] = {};
    for (int c = 0; c < C; ++c) {
      const v16 k = load(keys + static_cast<size_t>(c) * block);
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) s[g] += k * q[g * C + c];
    }
    for (int g = 0; g < G; ++g) {
      // Past the context the block holds another request's leftovers, or nothing yet.
      for (int i = context - j; i < kLanes; ++i) s[g][i] = -INFINITY;
      top[g] = max(top[g], s[g]);
      store(scores + static_cast<size_t>(g) * padded + j, s[g]);
    }
  }
  float inverse[G];
  for (int g = 0; g < G; ++g) {
    float* row = scores + static_cast<size_t>(g) * padded;
    const float shift = max(top[g]);
    v16 total = {};
    for (int j = 0; j < padded; j += kLanes) {
      const v16 raw = load(row + j);
      const v16 p = raw == -INFINITY ? v16{} : exp(raw - shift);
      total += p;
      store(row + j, p);
    }
    inverse[g] = 1.0f / sum(total);
  }
  for (int c = 0; c < C; c += kLanes) {
    v16 acc[G] = {};
    for (int j = 0; j < context; j += block) {
      const float* values = v_cache + static_cast<size_t>(table[j / block]) * C * block + c;
      const int end = std::min(block, context - j);
      for (int i = 0; i < end; ++i) {
        const v16 v = load(values + static_cast<size_t>(i) * C);
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) acc[g] += v * scores[static_cast<size_t>(g) * padded + j + i];
      }
    }
    for (int g = 0; g < G; ++g) store(o + g * C + c, acc[g] * inverse[g]);
  }
}

void attend_heads(int heads, const float* q, int C, int context, int block, const int32_t* table,
                  const float* k_cache, const float* v_cache, float* o) {
  switch (heads) {
    case 8: return attend<8>(q, C, context, block, table, k_cache, v_cache, o);
    case 4: return attend<4>(q, C, context, block, table, k_cache, v_cache, o);
    case 2: return attend<2>(q, C, context, block, table, k_cache, v_cache, o);
    default:
      for (int h = 0; h < heads; ++h)
        attend<1>(q + h * C, C, context, block, table, k_cache, v_cache, o + h * C);
  }
}

// softmax over all logits, then the k largest; equal ones by lower index. Not renormalised.
void route(const float* logits, int experts, int k, int32_t* ids, float* weights) {
  float top = logits[0], total = 0;
  for (int e = 1; e < experts; ++e) top = std::max(top, logits[e]);
  for (int e = 0; e < experts; ++e) total += std::exp(logits[e] - top);
  for (int j = 0; j < k; ++j) {
    int best = -1;
    for (int e = 0; e < experts; ++e) {
      if (std::find(ids, ids + j, e) != ids + j) continue;
      if (best < 0 || logits[e] > logits[best]) best = e;
    }
    ids[j] = best;
    weights[j] = std::exp(logits[best] - top) / total;
  }
}

// Loops over tokens: worth other threads only from a few on.
template <class F>
void for_tokens(int tokens, const F& fn) {
  if (tokens <= 4) {
    for (int t = 0; t < tokens; ++t) fn(t);
  } else {
    pool().run(tokens, fn);
  }
}

}  // namespace

extern "C" {

void* s3_attention_create(const S3AttentionDims* dims, const S3AttentionWeights* w) {
  auto* layer = new Layer{};
  layer->dims = *dims;
  const int H = dims->hidden, C = dims->head_dim, R = dims->query_rank, O = dims->heads * C;
  layer->input_norm.assign(w->input_norm, w->input_norm + H);
  layer->inter_norm.assign(w->inter_norm, w->inter_norm + R);
  layer->post_norm.assign(w->post_norm, w->post_norm + H);
  layer->qkv = pack(layer->arena, R + 2 * C, H, [&](int n) -> const float* {
    if (n < R) return w->q_proj + static_cast<size_t>(n) * H;
    if (n < R + C) return w->k_proj + static_cast<size_t>(n - R) * H;
    return w->v_proj + static_cast<size_t>(n - R - C) * H;
  });
  layer->wq = pack(layer->arena, O, R, [&](int n) { return w->wq + static_cast<size_t>(n) * R; });
  layer->o_proj = pack(layer->arena, H, O, [&](int n) { return w->o_proj + static_cast<size_t>(n) * O; });
  if (w->gate)
    layer->gate = pack(layer->arena, dims->experts, H, [&](int n) { return w->gate + static_cast<size_t>(n) * H; });
  return layer;
}

void s3_attention_destroy(void* layer) { delete static_cast<Layer*>(layer); }

// hidden [T, H] is updated in place: += ffn_out (if given) and += attention.
// normed [T, H]: the FFN's input. ids, weights [T, K]: the router's choice, on MoE layers.
// k_cache [blocks, C, block], v_cache [blocks, block, C].
void s3_attention_run(void* handle, const S3AttentionBatch* batch, float* hidden,
                      const float* ffn_out, float* k_cache, float* v_cache, float* normed,
                      int32_t* ids, float* weights) {
  const Layer& layer = *static_cast<const Layer*>(handle);
  const S3AttentionDims& d = layer.dims;
  const int T = batch->tokens, H = d.hidden, C = d.head_dim, R = d.query_rank, O = d.heads * C;
  const int W = R + 2 * C, block = d.block_size, half = C / 2;
  Scratch& s = scratch;
  s.x.resize(static_cast<size_t>(T) * H);
  s.qkv.resize(static_cast<size_t>(T) * W);
  s.q.resize(static_cast<size_t>(T) * O);
  s.o.resize(static_cast<size_t>(T) * O);
  // A lambda that another thread runs sees that thread's scratch: hand it plain pointers.
  float *x = s.x.data(), *qkv = s.qkv.data(), *q = s.q.data(), *o = s.o.data();

  for_tokens(T, [&](int t) {
    float* h = hidden + static_cast<size_t>(t) * H;
    if (ffn_out)
      for (int i = 0; i < H; i += kLanes)
        store(h + i, load(h + i) + load(ffn_out + static_cast<size_t>(t) * H + i));
    rms_norm(h, layer.input_norm.data(), d.eps, H, x + static_cast<size_t>(t) * H);
  });
  row_pointers(x, T, H, s.rows);
  gemm(s.rows.data(), T, layer.qkv, [&](int t, int p, v16 low, v16 high) {
    store_panel(qkv + static_cast<size_t>(t) * W, W, p, low, high);
  });
  for_tokens(T, [&](int t) {
    float* row = qkv + static_cast<size_t>(t) * W;
    rms_norm(row, layer.inter_norm.data(), d.eps, R, row);
    const int position = batch->positions[t];
    const int32_t* table = batch->block_tables + static_cast<size_t>(batch->sequences[t]) * batch->max_blocks;
    const size_t base = static_cast<size_t>(table[position / block]) * C * block;
    const int offset = position % block;
    float rotated[2048];
    rotate(row + R, batch->cos + static_cast<size_t>(position) * half,
           batch->sin + static_cast<size_t>(position) * half, half, 1.0f, rotated);
    for (int c = 0; c < C; ++c) k_cache[base + static_cast<size_t>(c) * block + offset] = rotated[c];
    std::copy(row + R + C, row + W, v_cache + base + static_cast<size_t>(offset) * C);
  });
  row_pointers(qkv, T, W, s.rows);
  gemm(s.rows.data(), T, layer.wq, [&](int t, int p, v16 low, v16 high) {
    store_panel(q + static_cast<size_t>(t) * O, O, p, low, high);
  });
  const int group = d.heads % kHeadGroup == 0 ? std::max(kHeadGroup / pool().threads(), 2)
                    : d.heads % 4 == 0        ? 4
                    : d.heads % 2 == 0        ? 2
                                              : 1;
  const int groups = d.heads / group;
  const float scale = 1.0f / std::sqrt(static_cast<float>(C));
  pool().run(T * groups, [&](int item) {
    const int t = item / groups, first = item % groups * group, position = batch->positions[t];
    float* mine = q + static_cast<size_t>(t) * O + static_cast<size_t>(first) * C;
    float rotated[2048];
    for (int g = 0; g < group; ++g) {
      rotate(mine + g * C, batch->cos + static_cast<size_t>(position) * half,
             batch->sin + static_cast<size_t>(position) * half, half, scale, rotated);
      std::copy(rotated, rotated + C, mine + g * C);
    }
    attend_heads(group, mine, C, position + 1, block,
                 batch->block_tables + static_cast<size_t>(batch->sequences[t]) * batch->max_blocks,
                 k_cache, v_cache, o + static_cast<size_t>(t) * O + static_cast<size_t>(first) * C);
  });
  row_pointers(o, T, O, s.rows);
  gemm(s.rows.data(), T, layer.o_proj, [&](int t, int p, v16 low, v16 high) {
    float* h = hidden + static_cast<size_t>(t) * H + static_cast<size_t>(p) * kPanel;
    store(h, load(h) + low);
    if ((p + 1) * kPanel <= H) store(h + kLanes, load(h + kLanes) + high);
  });
  for_tokens(T, [&](int t) {
    rms_norm(hidden + static_cast<size_t>(t) * H, layer.post_norm.data(), d.eps, H,
             normed + static_cast<size_t>(t) * H);
  });
  if (!layer.gate.n) return;
  s.logits.resize(static_cast<size_t>(T) * d.experts);
  float* logits = s.logits.data();
  row_pointers(normed, T, H, s.rows);
  gemm(s.rows.data(), T, layer.gate, [&](int t, int p, v16 low, v16 high) {
    store_panel(logits + static_cast<size_t>(t) * d.experts, d.experts, p, low, high);
  });
  for (int t = 0; t < T; ++t)
    route(logits + static_cast<size_t>(t) * d.experts, d.experts, d.top_k,
          ids + static_cast<size_t>(t) * d.top_k, weights + static_cast<size_t>(t) * d.top_k);
}
}
