/* What all kernels share: vectors of floats, bfloat16, the exponential, dropout's random numbers, shares of rows. */
#ifndef BERTWRIGHT_VECTORS_H
#define BERTWRIGHT_VECTORS_H

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* A vector is what one register holds: wider ones the compiler would keep in memory. REGISTERS: how many there are. */
#if defined(__AVX512F__)
#define LANES 16
#define REGISTERS 32
#define LANE_NUMBERS {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
#elif defined(__AVX__)
#define LANES 8
#define REGISTERS 16
#define LANE_NUMBERS {0, 1, 2, 3, 4, 5, 6, 7}
#else
#define LANES 4
#if defined(__aarch64__)
#define REGISTERS 32
#else
#define REGISTERS 16
#endif
#define LANE_NUMBERS {0, 1, 2, 3}
#endif
typedef float vfloat __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t vbits __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t vint __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t vhalf __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef uint8_t vbytes __attribute__((vector_size(LANES), aligned(1), may_alias));
typedef uint16_t bf16;

#define INLINE static inline __attribute__((always_inline))

INLINE vfloat splat(float x) { return x - (vfloat){0}; }
INLINE vfloat choose(vint where, vfloat yes, vfloat no) {
  return (vfloat)(((vint)yes & where) | ((vint)no & ~where));
}
INLINE float sum_lanes(vfloat x) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)x);
#else
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) x[i] += x[i + half];
  return x[0];
#endif
}
INLINE float max_lanes(vfloat x) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)x);
#else
  float most = x[0];
  for (int i = 1; i < LANES; i++) most = x[i] > most ? x[i] : most;
  return most;
#endif
}

INLINE vfloat load_float(const float *p) { return *(const vfloat *)p; }
INLINE void store_float(float *p, vfloat x) { *(vfloat *)p = x; }
INLINE vfloat load_bf16(const bf16 *p) {
#if defined(__AVX512F__)
  return (vfloat)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i) * (const vhalf *)p), 16);
#else
  return (vfloat)(__builtin_convertvector(*(const vhalf *)p, vbits) << 16);
#endif
}
/* Rounded to the nearest, ties to even; what is no number stays none. */
INLINE vhalf to_bf16(vfloat x) {
#if defined(__AVX512BF16__)
  return (vhalf)_mm512_cvtneps_pbh((__m512)x);
#else
  vbits bits = (vbits)x;
  vbits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  vbits number = (vbits)(x == x);
  return __builtin_convertvector((rounded & number) | (~number & 0x7fc0), vhalf);
#endif
}
INLINE void store_bf16(bf16 *p, vfloat x) { *(vhalf *)p = to_bf16(x); }
INLINE float one_float(const float *p) { return *p; }
INLINE float one_bf16(const bf16 *p) {
  union { uint32_t bits; float value; } u = {(uint32_t)*p << 16};
  return u.value;
}

/* exp(x) for x <= 0: 2^n times the Taylor polynomial of degree 6 over |r| <= ln(2)/2; relative error below 3e-7. Below
 * -87 it is 0. What is no number stays none. */
INLINE vfloat exponential(vfloat x) {
#if defined(__AVX512F__)
  x = (vfloat)_mm512_max_ps(_mm512_set1_ps(-200.0f), (__m512)x); /* in this order what is no number stays none */
  __m512 n = _mm512_roundscale_ps(_mm512_mul_ps((__m512)x, _mm512_set1_ps(1.44269504f)), 8);
  vfloat whole = (vfloat)n;
#else
  x = choose(x < -88.0f, splat(-88.0f), x);
  vfloat whole = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
  whole -= 12582912.0f;
#endif
  vfloat r = x - whole * 0.693359375f; /* ln(2) in two parts */
  r += whole * 2.12194440e-4f;
  vfloat p = r * 1.38888889e-3f + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
#if defined(__AVX512F__)
  return (vfloat)_mm512_scalef_ps((__m512)p, n);
#else
  return choose(x < -87.0f, splat(0.0f), p * (vfloat)((__builtin_convertvector(whole, vint) + 127) << 23));
#endif
}

/* The standard normal distribution's Phi(x) and exp(-x*x/2). Abramowitz and Stegun 1964, formula 7.1.26 for erf:
 * absolute error below 1.5e-7. */
INLINE vfloat normal_share(vfloat x, vfloat *bell) {
  vfloat size = (vfloat)((vbits)x & 0x7fffffff) * 0.70710678f; /* |x| / sqrt(2) */
  vfloat t = 1.0f / (size * 0.3275911f + 1.0f);
  vfloat p = t * 1.061405429f - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  *bell = exponential(x * x * -0.5f);
  vfloat tail = p * t * *bell * 0.5f;
  return choose(x < 0.0f, tail, 1.0f - tail);
}

/* Dropout: element i is kept where a hash of i and a key of two words is at least drop * 2^32; the rest is scaled.
 * The hash is "lowbias32" (Wellons 2018, "Prospecting for Hash Functions"), with the second word added in between.
 * Counter-based: the backward pass makes the same numbers again instead of storing them. */
typedef struct {
  uint32_t threshold; /* 0: nothing is dropped */
  float scale;
  uint32_t key, key2;
} Dropout;

INLINE vfloat keep_numbered(vfloat x, Dropout d, vbits numbers) {
  vbits h = numbers ^ d.key;
  h ^= h >> 16;
  h *= 0x7feb352du;
  h += d.key2;
  h ^= h >> 15;
  h *= 0x846ca68bu;
  h ^= h >> 16;
#if defined(__AVX512F__)
  __mmask16 kept = _mm512_cmpge_epu32_mask((__m512i)h, _mm512_set1_epi32((int)d.threshold));
  return (vfloat)_mm512_maskz_mul_ps(kept, (__m512)x, _mm512_set1_ps(d.scale));
#else
  return choose((vint)(h >= d.threshold), x * d.scale, splat(0.0f));
#endif
}

/* Of the LANES elements from number `index` on. */
INLINE vfloat keep(vfloat x, Dropout d, uint32_t index) {
  const vbits lanes = LANE_NUMBERS;
  return keep_numbered(x, d, lanes + index);
}

/* The rows of thread number `me` of `all`: a fixed share, so that the same number of threads adds in the same order. */
#define MY_ROWS(rows, first, last)                                                            \
  int me = omp_get_thread_num(), all = omp_get_num_threads();                                 \
  int64_t first = (int64_t)(rows) * me / all, last = (int64_t)(rows) * (me + 1) / all

#endif
