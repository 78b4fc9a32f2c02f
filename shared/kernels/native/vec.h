// Sixteen floats at a time, in GCC's portable vector types: one AVX-512 register, or two AVX2 ones.
#pragma once
#include <cstdint>
#include <cstring>

namespace step3 {

typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));
constexpr int kLanes = 16;

inline v16 load(const float* p) {
  v16 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, v16 v) { std::memcpy(p, &v, sizeof v); }
inline v16 splat(float x) { return v16{} + x; }

inline float sum(v16 v) {
  float s = 0;
  for (int i = 0; i < kLanes; ++i) s += v[i];
  return s;
}
inline float max(v16 v) {
  float m = v[0];
  for (int i = 1; i < kLanes; ++i) m = v[i] > m ? v[i] : m;
  return m;
}
inline v16 max(v16 a, v16 b) { return a > b ? a : b; }

// exp to about 1 ulp on [-87, 88]: 2^n * e^r with |r| <= ln(2)/2 and e^r by its Taylor polynomial.
inline v16 exp(v16 x) {
  x = max(x, splat(-87.0f));
  x = x > 88.0f ? splat(88.0f) : x;
  const float round_bias = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer
  v16 n = (x * 1.44269504f + round_bias) - round_bias;
  v16 r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  v16 p = splat(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  i16 bits;
  std::memcpy(&bits, &p, sizeof bits);
  bits += __builtin_convertvector(n, i16) << 23;
  std::memcpy(&p, &bits, sizeof p);
  return p;
}

inline v16 silu(v16 x) { return x / (1.0f + exp(-x)); }

// out = x * rsqrt(mean(x^2) + eps) * weight; n must be a multiple of 16.
inline void rms_norm(const float* x, const float* weight, float eps, int n, float* out) {
  v16 squares = {};
  for (int i = 0; i < n; i += kLanes) squares += load(x + i) * load(x + i);
  const float scale = 1.0f / __builtin_sqrtf(sum(squares) / n + eps);
  for (int i = 0; i < n; i += kLanes) store(out + i, load(x + i) * scale * load(weight + i));
}

}  // namespace step3
