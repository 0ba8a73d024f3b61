// Vectors of the compiler, as wide as the instruction set has them, and the functions of them that losses need.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include "plan.h"

#if defined(__AVX512F__)
#define LANES 16
#define TALLEST 14  // rows of a tile: 28 sums, 2 vectors of B
#define SHORTER 12  // ... of a tile that is added to what is there
#define DEEPEST 5   // samples of a tile of dot products
#elif defined(__AVX2__)
#define LANES 8
#define TALLEST 6
#define DEEPEST 2
#else
#define LANES 4
#if defined(__aarch64__)
#define TALLEST 10
#define DEEPEST 4
#else
#define TALLEST 6
#define DEEPEST 2
#endif
#endif
#ifndef SHORTER
#define SHORTER TALLEST
#endif
#define UNROLL _Pragma("GCC unroll 16")
#define INLINE inline __attribute__((always_inline))
#define FLAT __attribute__((flatten))  // all that it calls is compiled into it, for its own strides

namespace fedthings {
namespace {  // every instruction set has its own: no function may be shared between them

typedef float V __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));
typedef uint32_t U __attribute__((vector_size(4 * LANES)));
typedef float Loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE V load(const float* p) { return *(const Loose*)p; }
INLINE void store(float* p, V x) { *(Loose*)p = x; }
INLINE V all(float x) { return x - V{}; }
INLINE I lanes() {
  I r;
  UNROLL for (int i = 0; i < LANES; i++) r[i] = i;
  return r;
}
INLINE V choose(I mask, V yes, V no) { return (V)((mask & (I)yes) | (~mask & (I)no)); }

INLINE float sum(V x) {
  float parts[LANES];
  store(parts, x);
  UNROLL for (int step = LANES / 2; step; step /= 2)
    UNROLL for (int i = 0; i < step; i++) parts[i] += parts[i + step];
  return parts[0];
}

INLINE float most(V x) {
  float r = x[0];
  UNROLL for (int i = 1; i < LANES; i++) r = x[i] > r ? x[i] : r;
  return r;
}

// Write the sums of four vectors side by side.
INLINE void sums(V a, V b, V c, V d, float* out) {
#if LANES == 16
  __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4((__m512)a, (__m512)b, 0x44), _mm512_shuffle_f32x4((__m512)a, (__m512)b, 0xEE));
  __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4((__m512)c, (__m512)d, 0x44), _mm512_shuffle_f32x4((__m512)c, (__m512)d, 0xEE));
  __m512 q = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
  q = _mm512_add_ps(q, _mm512_permute_ps(q, 0xB1));
  q = _mm512_add_ps(q, _mm512_permute_ps(q, 0x4E));
  const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(first, q)));
#elif LANES == 8
  __m256 q = _mm256_hadd_ps(_mm256_hadd_ps((__m256)a, (__m256)b), _mm256_hadd_ps((__m256)c, (__m256)d));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(q), _mm256_extractf128_ps(q, 1)));
#else
  out[0] = sum(a), out[1] = sum(b), out[2] = sum(c), out[3] = sum(d);
#endif
}

// e^x for x <= 0 within 2 ulp, 0 below -87; NaN stays.
INLINE V exponential(V x) {
  const V shift = all(12582912.0f);
  I tiny = x < -87.0f;
  x = choose(tiny, V{}, x);
  V n = x * 1.44269504088896341f + shift;
  U power = ((U)n << 23) + (127u << 23);
  n -= shift;
  V r = x - n * 0.693359375f;
  r += n * 2.12194440e-4f;
  V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  V y = (p * r * r + r + 1.0f) * (V)power;
  return choose(tiny, V{}, y);
}

INLINE V size(V x) { return (V)((I)x & 0x7fffffff); }

INLINE V sigmoid(V x) {
  V small = exponential(-size(x));
  return choose(x >= 0.0f, all(1.0f), small) / (1.0f + small);
}

INLINE V hyperbolic(V x) {
  V s = x * x;
  V p = s * -5.70498872745e-3f + 2.06390887954e-2f;
  p = p * s + -5.37397155531e-2f;
  p = p * s + 1.33314422036e-1f;
  p = p * s + -3.33332819422e-1f;
  V near = p * s * x + x;
  V small = exponential(-2.0f * size(x));
  V far = (1.0f - small) / (1.0f + small);
  far = choose(x < 0.0f, -far, far);
  return choose(size(x) < 0.625f, near, far);
}

// Do `body` with V for all numbers of a row, the last few through a padded copy.
template <class Body>
INLINE void each(float* y, Int n, Body body) {
  Int i = 0;
  for (; i + LANES <= n; i += LANES) store(y + i, body(load(y + i)));
  if (i < n) {
    float last[LANES] = {};
    memcpy(last, y + i, sizeof(float) * (size_t)(n - i));
    store(last, body(load(last)));
    memcpy(y + i, last, sizeof(float) * (size_t)(n - i));
  }
}

// Which of the device's samples is the b-th of a batch.
INLINE Int sample(const Batch& batch, Int b) { return batch.order ? batch.order[batch.begin + b] : batch.begin + b; }

INLINE const float* at(const Work& work, const Plane& plane, Int b) {
  return (plane.outside ? work.input : work.arena) + plane.base + b * plane.sample;
}
INLINE float* to(const Work& work, const Plane& plane, Int b) { return work.arena + plane.base + b * plane.sample; }

}  // namespace
}  // namespace fedthings
