/* The parts of a BERT training step on a CPU that are not large matrix products, each fused into one pass over memory.
 *
 * Compiled once on the machine that runs it and loaded through a plain C interface (compiled.py). Matrices are row by
 * row. "real" below is what the encoder computes in: float, or bfloat16 kept in 16 bits. All sums are taken in float.
 * This file includes itself, once for each of the two.
 *
 * Nothing here checks its arguments: cpu_encoder.py does.
 */
#ifndef REAL

#include "vectors.h"

#define MOST_THREADS 1024

int num_threads(void) { return omp_get_max_threads(); }
int has_bf16_products(void) {
#if defined(__AVX512BF16__)
  return 1;
#else
  return 0;
#endif
}

/* out[column] = sum over the threads' partial sums (threads, columns). */
static void add_partials(const float *partials, int threads, int columns, float *out) {
  for (int c = 0; c < columns; c++) {
    float total = 0;
    for (int t = 0; t < threads; t++) total += partials[(int64_t)t * columns + c];
    out[c] = total;
  }
}

/* The gradient of each distinct row of a table: out (distinct, columns) = the sum of the rows of x (rows, columns),
 * float, that order[starts[i]..starts[i+1]] names. */
void sum_by_group(const float *x, const int32_t *order, const int32_t *starts, int64_t groups, int columns,
                  float *out) {
#pragma omp parallel for schedule(static)
  for (int64_t g = 0; g < groups; g++) {
    float *to = out + g * columns;
    memset(to, 0, sizeof(float) * columns);
    for (int32_t i = starts[g]; i < starts[g + 1]; i++) {
      const float *from = x + (int64_t)order[i] * columns;
      for (int c = 0; c < columns; c += LANES) store_float(to + c, load_float(to + c) + load_float(from + c));
    }
  }
}

/* One AdamW update of LANES weights (Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2). step_size is the rate
 * over 1 - beta1^t; root_scale is 1 / sqrt(1 - beta2^t); shrink is 1 - rate * decay. */
typedef struct {
  float beta1, beta2, epsilon, shrink, step_size, root_scale;
} Adam;

INLINE vfloat square_root(vfloat x) {
#if defined(__AVX512F__)
  return (vfloat)_mm512_sqrt_ps((__m512)x);
#else
  for (int i = 0; i < LANES; i++) x[i] = sqrtf(x[i]);
  return x;
#endif
}
INLINE int any_lane(vint where) {
  int any = 0;
  for (int i = 0; i < LANES; i++) any |= where[i];
  return any;
}

/* Numbers below 1e-38 count as 0 while moments are updated: a moment that no gradient feeds shrinks towards 0 and would
 * otherwise stay there for good, as a denormal number, which processors are slow with. */
#if defined(__SSE2__)
#define FLUSH_TINY unsigned before = _mm_getcsr(); _mm_setcsr(before | 0x8040)
#define END_FLUSH_TINY _mm_setcsr(before)
#else
#define FLUSH_TINY
#define END_FLUSH_TINY
#endif

INLINE vfloat adam(vfloat w, vfloat g, vfloat *m, vfloat *v, Adam a) {
  *m = *m * a.beta1 + g * (1.0f - a.beta1);
  *v = *v * a.beta2 + g * g * (1.0f - a.beta2);
  return w * a.shrink - a.step_size * *m / (square_root(*v) * a.root_scale + a.epsilon);
}

/* A weight as the optimizer sees it: gradient (n,) in float, or bfloat16 where `half`; master, m and v (n,) float; the
 * weight that is computed with, rounded (n,), or null where that is master itself. */
typedef struct {
  const void *gradient;
  float *master, *m, *v;
  bf16 *rounded;
  int64_t n;
  int half, decayed;
  float scale; /* what clipping multiplies the gradient by */
} Weight;

#define PASTE2(a, b) a##_##b
#define PASTE(a, b) PASTE2(a, b)
#define N(name) PASTE(name, REAL)

#define REAL float
#define LOAD load_float
#define STORE store_float
#define ONE one_float
#define PAIRED 0
#include "kernels.c"
#undef REAL
#undef LOAD
#undef STORE
#undef ONE
#undef PAIRED

#define REAL bf16
#define LOAD load_bf16
#define STORE store_bf16
#define ONE one_bf16
#define PAIRED 1
#include "kernels.c"

/* The sums of squares of the gradients of `count` weights: each thread's share of each weight, shares (threads, count),
 * for the caller to add up. The rows of threads that did not come stay as they are. */
void squares_of_each(const Weight *weights, int64_t count, int threads, double *shares) {
#pragma omp parallel num_threads(threads)
  {
    int me = omp_get_thread_num(), all = omp_get_num_threads();
    for (int64_t i = 0; i < count; i++)
      shares[me * count + i] = weights[i].half ? share_of_squares_bf16(weights[i].gradient, weights[i].n, me, all)
                                               : share_of_squares_float(weights[i].gradient, weights[i].n, me, all);
  }
}

/* One AdamW step of `count` weights by their scaled gradients; settings: of those with decay and of those without. All in one parallel part: most weights are biases and norms, for which starting the threads would take longer. */
void adam_step(const Weight *weights, int64_t count, const Adam *settings) {
#pragma omp parallel
  {
    int me = omp_get_thread_num(), all = omp_get_num_threads();
    FLUSH_TINY;
    for (int64_t i = 0; i < count; i++) {
      Adam a = settings[weights[i].decayed ? 0 : 1];
      if (weights[i].half) adam_share_bf16(&weights[i], a, me, all);
      else adam_share_float(&weights[i], a, me, all);
    }
    END_FLUSH_TINY;
  }
}

#else /* --- for each of float and bf16 ------------------------------------------------------------------- */

#define MOST_COLUMNS 8192

/* Mean and 1 / standard deviation of z (columns,). In four sums: one would wait for itself at each step. */
INLINE void N(moments)(const float *z, int columns, float epsilon, float *mean, float *inverse) {
  vfloat sums[4] = {{0}}, squares[4] = {{0}};
  int fours = columns / (4 * LANES) * (4 * LANES);
  for (int c = 0; c < fours; c += 4 * LANES)
    for (int i = 0; i < 4; i++) sums[i] += load_float(z + c + i * LANES);
  for (int c = fours; c < columns; c += LANES) sums[0] += load_float(z + c);
  *mean = sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3])) / columns;
  for (int c = 0; c < fours; c += 4 * LANES)
    for (int i = 0; i < 4; i++) {
      vfloat d = load_float(z + c + i * LANES) - *mean;
      squares[i] += d * d;
    }
  for (int c = fours; c < columns; c += LANES) {
    vfloat d = load_float(z + c) - *mean;
    squares[0] += d * d;
  }
  *inverse = 1.0f / sqrtf(sum_lanes((squares[0] + squares[1]) + (squares[2] + squares[3])) / columns + epsilon);
}

/* y = LayerNorm(residual + dropout(x + bias)). x (rows, columns) becomes the sum that is normalised, which the backward
 * pass needs, with each row's mean and inverse deviation in stats (rows, 2). */
void N(norm_forward)(REAL *x, const REAL *bias, const REAL *residual, const REAL *gamma, const REAL *beta, REAL *y,
                     float *stats, int64_t rows, int columns, float epsilon, const Dropout *dropout) {
  Dropout d = *dropout;
#pragma omp parallel
  {
    MY_ROWS(rows, first, last);
    float z[MOST_COLUMNS];
    for (int64_t r = first; r < last; r++) {
      REAL *xr = x + r * columns;
      for (int c = 0; c < columns; c += LANES) {
        vfloat value = LOAD(xr + c) + LOAD(bias + c);
        if (d.threshold) value = keep(value, d, (uint32_t)(r * columns + c));
        value += LOAD(residual + r * columns + c);
        STORE(xr + c, value);
        store_float(z + c, value); /* not as rounded: that would be one rounding more in every layer */
      }
      float mean, inverse;
      N(moments)(z, columns, epsilon, &mean, &inverse);
      for (int c = 0; c < columns; c += LANES)
        STORE(y + r * columns + c, (load_float(z + c) - mean) * inverse * LOAD(gamma + c) + LOAD(beta + c));
      stats[2 * r] = mean, stats[2 * r + 1] = inverse;
    }
  }
}

/* The gradients of norm_forward. dy is the gradient of y, or the sum of it and dy2 where that is given. dz is that of
 * the residual, dx that of x before dropout (not written where nothing was dropped: it equals dz). dgamma, dbeta and
 * dbias are float (columns,); partials is scratch, (3, threads, columns). z and stats are norm_forward's. */
void N(norm_backward)(const REAL *dy, const REAL *dy2, const REAL *z, const float *stats, const REAL *gamma, REAL *dz,
                      REAL *dx, float *dgamma, float *dbeta, float *dbias, float *partials, int64_t rows, int columns,
                      const Dropout *dropout) {
  Dropout d = *dropout;
  int threads = 1;
#pragma omp parallel
  {
    MY_ROWS(rows, first, last);
    if (me == 0) threads = all;
    float g[MOST_COLUMNS], n[MOST_COLUMNS];
    float *pg = partials + (int64_t)me * columns;
    float *pb = partials + (int64_t)(all + me) * columns;
    float *px = partials + (int64_t)(2 * all + me) * columns;
    memset(pg, 0, sizeof(float) * columns);
    memset(pb, 0, sizeof(float) * columns);
    memset(px, 0, sizeof(float) * columns);
    for (int64_t r = first; r < last; r++) {
      float mean = stats[2 * r], inverse = stats[2 * r + 1];
      vfloat sum = {0}, product = {0};
      for (int c = 0; c < columns; c += LANES) {
        vfloat grad = LOAD(dy + r * columns + c);
        if (dy2) grad += LOAD(dy2 + r * columns + c);
        vfloat normal = (LOAD(z + r * columns + c) - mean) * inverse;
        store_float(pg + c, load_float(pg + c) + grad * normal);
        store_float(pb + c, load_float(pb + c) + grad);
        grad *= LOAD(gamma + c);
        sum += grad;
        product += grad * normal;
        store_float(g + c, grad);
        store_float(n + c, normal);
      }
      float mean_grad = sum_lanes(sum) / columns, mean_product = sum_lanes(product) / columns;
      for (int c = 0; c < columns; c += LANES) {
        vfloat grad = (load_float(g + c) - mean_grad - load_float(n + c) * mean_product) * inverse;
        STORE(dz + r * columns + c, grad);
        if (d.threshold) {
          grad = keep(grad, d, (uint32_t)(r * columns + c));
          STORE(dx + r * columns + c, grad);
        }
        store_float(px + c, load_float(px + c) + grad);
      }
    }
  }
  add_partials(partials, threads, columns, dgamma);
  add_partials(partials + (int64_t)threads * columns, threads, columns, dbeta);
  add_partials(partials + (int64_t)2 * threads * columns, threads, columns, dbias);
}

/* y = dropout(LayerNorm(tokens[id] + positions[position] + segments[segment])); segment_ids may be null: all 0. */
void N(embed_forward)(const int32_t *ids, const int32_t *places, const int32_t *segment_ids, const REAL *tokens,
                      const REAL *positions, const REAL *segments, const REAL *gamma, const REAL *beta, REAL *y,
                      float *stats, int64_t rows, int columns, float epsilon, const Dropout *dropout) {
  Dropout d = *dropout;
#pragma omp parallel
  {
    MY_ROWS(rows, first, last);
    float z[MOST_COLUMNS];
    for (int64_t r = first; r < last; r++) {
      const REAL *token = tokens + (int64_t)ids[r] * columns;
      const REAL *position = positions + (int64_t)places[r] * columns;
      const REAL *segment = segments + (segment_ids ? (int64_t)segment_ids[r] * columns : 0);
      for (int c = 0; c < columns; c += LANES)
        store_float(z + c, LOAD(token + c) + LOAD(position + c) + LOAD(segment + c));
      float mean, inverse;
      N(moments)(z, columns, epsilon, &mean, &inverse);
      for (int c = 0; c < columns; c += LANES) {
        vfloat value = (load_float(z + c) - mean) * inverse * LOAD(gamma + c) + LOAD(beta + c);
        if (d.threshold) value = keep(value, d, (uint32_t)(r * columns + c));
        STORE(y + r * columns + c, value);
      }
      stats[2 * r] = mean, stats[2 * r + 1] = inverse;
    }
  }
}

/* The gradients of embed_forward, from that of y: dy, or dy + dy2 where that is given. dz (rows, columns) float is that of the sum of the three embeddings, sum_dz
 * (columns,) its sum over the rows; dgamma, dbeta (columns,) float. partials: scratch, (3, threads, columns). */
void N(embed_backward)(const REAL *dy, const REAL *dy2, const int32_t *ids, const int32_t *places, const int32_t *segment_ids,
                       const REAL *tokens, const REAL *positions, const REAL *segments, const float *stats,
                       const REAL *gamma, float *dz, float *dgamma, float *dbeta, float *sum_dz, float *partials,
                       int64_t rows, int columns, const Dropout *dropout) {
  Dropout d = *dropout;
  int threads = 1;
#pragma omp parallel
  {
    MY_ROWS(rows, first, last);
    if (me == 0) threads = all;
    float g[MOST_COLUMNS], n[MOST_COLUMNS];
    float *pg = partials + (int64_t)me * columns;
    float *pb = partials + (int64_t)(all + me) * columns;
    float *pz = partials + (int64_t)(2 * all + me) * columns;
    memset(pg, 0, sizeof(float) * columns);
    memset(pb, 0, sizeof(float) * columns);
    memset(pz, 0, sizeof(float) * columns);
    for (int64_t r = first; r < last; r++) {
      const REAL *token = tokens + (int64_t)ids[r] * columns;
      const REAL *position = positions + (int64_t)places[r] * columns;
      const REAL *segment = segments + (segment_ids ? (int64_t)segment_ids[r] * columns : 0);
      float mean = stats[2 * r], inverse = stats[2 * r + 1];
      vfloat sum = {0}, product = {0};
      for (int c = 0; c < columns; c += LANES) {
        vfloat grad = LOAD(dy + r * columns + c);
        if (dy2) grad += LOAD(dy2 + r * columns + c);
        if (d.threshold) grad = keep(grad, d, (uint32_t)(r * columns + c));
        vfloat normal = (LOAD(token + c) + LOAD(position + c) + LOAD(segment + c) - mean) * inverse;
        store_float(pg + c, load_float(pg + c) + grad * normal);
        store_float(pb + c, load_float(pb + c) + grad);
        grad *= LOAD(gamma + c);
        sum += grad;
        product += grad * normal;
        store_float(g + c, grad);
        store_float(n + c, normal);
      }
      float mean_grad = sum_lanes(sum) / columns, mean_product = sum_lanes(product) / columns;
      for (int c = 0; c < columns; c += LANES) {
        vfloat grad = (load_float(g + c) - mean_grad - load_float(n + c) * mean_product) * inverse;
        store_float(dz + r * columns + c, grad);
        store_float(pz + c, load_float(pz + c) + grad);
      }
    }
  }
  add_partials(partials, threads, columns, dgamma);
  add_partials(partials + (int64_t)threads * columns, threads, columns, dbeta);
  add_partials(partials + (int64_t)2 * threads * columns, threads, columns, sum_dz);
}

/* y = GELU(x + bias), exact: v * Phi(v). x and y may be the same. */
void N(gelu_forward)(const REAL *x, const REAL *bias, REAL *y, int64_t rows, int columns) {
#pragma omp parallel
  {
    MY_ROWS(rows, first, last);
    for (int64_t r = first; r < last; r++)
      for (int c = 0; c < columns; c += LANES) {
        vfloat v = LOAD(x + r * columns + c) + LOAD(bias + c), bell;
        STORE(y + r * columns + c, v * normal_share(v, &bell));
      }
  }
}

/* dy becomes the gradient of x: dy * (Phi(v) + v * phi(v)) with v = x + bias; dbias (columns,) float is its sum. */
void N(gelu_backward)(REAL *dy, const REAL *x, const REAL *bias, float *dbias, float *partials, int64_t rows,
                      int columns) {
  int threads = 1;
#pragma omp parallel
  {
    MY_ROWS(rows, first, last);
    if (me == 0) threads = all;
    float *sums = partials + (int64_t)me * columns;
    memset(sums, 0, sizeof(float) * columns);
    for (int64_t r = first; r < last; r++)
      for (int c = 0; c < columns; c += LANES) {
        vfloat v = LOAD(x + r * columns + c) + LOAD(bias + c), bell;
        vfloat share = normal_share(v, &bell);
        vfloat grad = LOAD(dy + r * columns + c) * (share + v * bell * 0.39894228f);
        STORE(dy + r * columns + c, grad);
        store_float(sums + c, load_float(sums + c) + grad);
      }
  }
  add_partials(partials, threads, columns, dbias);
}

/* Each row of x (rows, columns) in 8 bits: x is about quantized * scales[row], whose largest is 127. */
INLINE void N(quantize_row)(const float *x, int columns, int8_t *quantized, float *scale) {
  vfloat most = {0};
  for (int c = 0; c < columns; c += LANES) {
    vfloat size = (vfloat)((vbits)load_float(x + c) & 0x7fffffff);
    most = choose(size > most, size, most);
  }
  float largest = max_lanes(most), up = largest > 0 ? 127.0f / largest : 0.0f;
  for (int c = 0; c < columns; c += LANES) {
    /* 1.5 * 2^23: adding it rounds to a whole number, which then stands in the lowest bits. */
    vbits bits = (vbits)(load_float(x + c) * up + 12582912.0f);
    *(vbytes *)(quantized + c) = __builtin_convertvector(bits & 0xff, vbytes);
  }
  *scale = largest / 127.0f;
}

void N(quantize)(const REAL *x, int8_t *quantized, float *scales, int64_t rows, int columns) {
#pragma omp parallel
  {
    MY_ROWS(rows, first, last);
    float values[MOST_COLUMNS];
    for (int64_t r = first; r < last; r++) {
      for (int c = 0; c < columns; c += LANES) store_float(values + c, LOAD(x + r * columns + c));
      N(quantize_row)(values, columns, quantized + r * columns, scales + r);
    }
  }
}

/* y (rows, columns) = sums, of products of 8 bits, times the scales of their row and their column. */
void N(dequantize)(const int32_t *sums, const float *row_scales, const float *column_scales, REAL *y, int64_t rows,
                   int columns) {
#pragma omp parallel
  {
    MY_ROWS(rows, first, last);
    for (int64_t r = first; r < last; r++)
      for (int c = 0; c < columns; c += LANES)
        STORE(y + r * columns + c, __builtin_convertvector(*(const vint *)(sums + r * columns + c), vfloat) *
                                       row_scales[r] * load_float(column_scales + c));
  }
}

/* GELU(dequantized sums + bias), quantized again; see dequantize and quantize. */
void N(gelu_quantize)(const int32_t *sums, const float *row_scales, const float *column_scales, const REAL *bias,
                      int8_t *quantized, float *scales, int64_t rows, int columns) {
#pragma omp parallel
  {
    MY_ROWS(rows, first, last);
    float values[MOST_COLUMNS];
    for (int64_t r = first; r < last; r++) {
      float row_scale = row_scales[r];
      for (int c = 0; c < columns; c += LANES) {
        vfloat v = __builtin_convertvector(*(const vint *)(sums + r * columns + c), vfloat) * row_scale, bell;
        v = v * load_float(column_scales + c) + LOAD(bias + c);
        store_float(values + c, v * normal_share(v, &bell));
      }
      N(quantize_row)(values, columns, quantized + r * columns, scales + r);
    }
  }
}

/* out (columns,) float: the sum of x (rows, columns) over the rows. */
void N(column_sums)(const REAL *x, float *out, float *partials, int64_t rows, int columns) {
  int threads = 1;
#pragma omp parallel
  {
    MY_ROWS(rows, first, last);
    if (me == 0) threads = all;
    float *sums = partials + (int64_t)me * columns;
    memset(sums, 0, sizeof(float) * columns);
    for (int64_t r = first; r < last; r++)
      for (int c = 0; c < columns; c += LANES)
        store_float(sums + c, load_float(sums + c) + LOAD(x + r * columns + c));
  }
  add_partials(partials, threads, columns, out);
}

/* The sum of squares of a thread's share of x (n,); the numbers behind the last whole vector are thread 0's. */
static double N(share_of_squares)(const REAL *x, int64_t n, int me, int all) {
  int64_t vectors = n / LANES, first = vectors * me / all, last = vectors * (me + 1) / all;
  double mine = 0;
  for (int64_t i = first; i < last;) {
    vfloat total = {0};
    for (int64_t end = i + 256 < last ? i + 256 : last; i < end; i++) {
      vfloat v = LOAD(x + i * LANES);
      total += v * v;
    }
    mine += sum_lanes(total);
  }
  for (int64_t i = vectors * LANES; i < n && me == 0; i++) mine += (double)ONE(x + i) * ONE(x + i);
  return mine;
}

/* One AdamW step of a thread's share of a weight, by its scaled gradient. */
static void N(adam_share)(const Weight *weight, Adam a, int me, int all) {
  const REAL *gradient = weight->gradient;
  float scale = weight->scale;
  float *master = weight->master, *m = weight->m, *v = weight->v;
  bf16 *rounded = weight->rounded;
  int64_t vectors = weight->n / LANES, first = vectors * me / all, last = vectors * (me + 1) / all;
  for (int64_t i = first * LANES; i < last * LANES; i += LANES) {
    vfloat vm = load_float(m + i), vv = load_float(v + i);
    vfloat w = adam(load_float(master + i), LOAD(gradient + i) * scale, &vm, &vv, a);
    store_float(m + i, vm);
    store_float(v + i, vv);
    store_float(master + i, w);
    if (rounded) store_bf16(rounded + i, w);
  }
  int64_t done = vectors * LANES, rest = weight->n - done;
  if (rest && me == 0) { /* the last few, in a vector of their own */
    float w[LANES] = {0}, g[LANES] = {0}, tm[LANES] = {0}, tv[LANES] = {0};
    for (int i = 0; i < rest; i++)
      w[i] = master[done + i], g[i] = ONE(gradient + done + i) * scale, tm[i] = m[done + i], tv[i] = v[done + i];
    vfloat vm = load_float(tm), vv = load_float(tv);
    vfloat result = adam(load_float(w), load_float(g), &vm, &vv, a);
    bf16 low[LANES];
    store_bf16(low, result);
    for (int i = 0; i < rest; i++) {
      m[done + i] = vm[i], v[done + i] = vv[i], master[done + i] = result[i];
      if (rounded) rounded[done + i] = low[i];
    }
  }
}

#if !PAIRED
/* AdamW of a table's rows, (all rows, columns) float, of which few have a gradient at a time. Each of the `count` rows
 * is first brought from its last step to step `until`: the same updates in the same order that it would have had with
 * a gradient of 0. Then, where gradients (count, columns) are given, it takes them (times scale) as step until + 1.
 * steps[i] holds the settings of step i + 1. */
void adam_rows(const int32_t *rows, int64_t count, const float *gradients, float scale, float *master, float *m,
               float *v, bf16 *rounded, int32_t *last_step, int64_t until, const Adam *steps, int columns) {
#pragma omp parallel
  {
  FLUSH_TINY;
#pragma omp for schedule(dynamic, 64)
  for (int64_t i = 0; i < count; i++) {
    int64_t row = rows ? rows[i] : i, from = last_step[row];
    if (from == until && !gradients) continue;
    for (int c = 0; c < columns; c += LANES) {
      int64_t at = row * columns + c;
      vfloat w = load_float(master + at), vm = load_float(m + at), vv = load_float(v + at);
      int64_t s = from;
      for (; s < until && any_lane(vm != 0.0f); s++) w = adam(w, splat(0.0f), &vm, &vv, steps[s]);
      for (; s < until; s++) { /* what is left of the same update where m is 0 */
        w *= steps[s].shrink;
        vv *= steps[s].beta2;
      }
      if (gradients) w = adam(w, load_float(gradients + i * columns + c) * scale, &vm, &vv, steps[until]);
      store_float(master + at, w);
      store_float(m + at, vm);
      store_float(v + at, vv);
      if (rounded) store_bf16(rounded + at, w);
    }
    last_step[row] = (int32_t)(gradients ? until + 1 : until);
  }
  END_FLUSH_TINY;
  }
}
#endif

/* --- attention -------------------------------------------------------------------------------------------- */
/* Products over "words": a float, or two bfloat16 that are multiplied and added at once. A matrix is packed either with
 * its rows' words side by side for each word of the inner dimension. */
#if !PAIRED || defined(__AVX512BF16__)

#if PAIRED
#define WORD uint32_t
#define PER_WORD 2
#define MULTIPLY_ADD(sum, one, many) \
  ((vfloat)_mm512_dpbf16_ps((__m512)(sum), (__m512bh)_mm512_set1_epi32((int)(one)), (__m512bh)_mm512_loadu_si512(many)))
#else
#define WORD float
#define PER_WORD 1
#define MULTIPLY_ADD(sum, one, many) ((sum) + splat(one) * load_float(many))
#endif

/* out (rows, width) float = a (rows, words) times b (words, width), width a multiple of LANES: a's word i of each row is
 * multiplied with row i of b. Step: from one row's words to the next, and from one word to the next in a row. A tile has at
 * most three sums for each four registers, so that they stay there. */
#define TILE_ROWS 6
#define WIDEST (REGISTERS == 32 ? 4 : 2)
#define ROWS_OF_TWO (REGISTERS == 32 ? 12 : 6)
#define EACH(i, count) _Pragma("GCC unroll 16") for (int i = 0; i < (count); i++)
#define TILE(ROWS, VECTORS)                                                                                           \
  {                                                                                                                   \
    vfloat s[ROWS][VECTORS];                                                                                          \
    EACH(r, ROWS) EACH(k, VECTORS) s[r][k] = (vfloat){0};                                                             \
    const WORD *bw = b + column;                                                                                      \
    const WORD *aw = a + (int64_t)row * row_step;                                                                     \
    for (int w = 0; w < words; w++, bw += width, aw += word_step)                                                     \
      EACH(r, ROWS) {                                                                                                 \
        WORD one = aw[(int64_t)r * row_step];                                                                         \
        EACH(k, VECTORS) s[r][k] = MULTIPLY_ADD(s[r][k], one, bw + k * LANES);                                        \
      }                                                                                                               \
    EACH(r, ROWS) EACH(k, VECTORS)                                                                                    \
      store_float(out + (int64_t)(row + r) * out_step + column + k * LANES, s[r][k]);                                 \
  }
static void N(product)(const WORD *a, int row_step, int word_step, const WORD *b, float *out, int rows, int words,
                       int width) {
  int out_step = width;
  for (int column = 0; column < width;) {
    int vectors = (width - column) / LANES;
    vectors = vectors > WIDEST ? WIDEST : vectors;
    int row = 0;
    if (vectors == 4) {
      for (; row + TILE_ROWS <= rows; row += TILE_ROWS) TILE(TILE_ROWS, 4)
      for (; row < rows; row++) TILE(1, 4)
    } else if (vectors == 3) {
      for (; row + TILE_ROWS <= rows; row += TILE_ROWS) TILE(TILE_ROWS, 3)
      for (; row < rows; row++) TILE(1, 3)
    } else if (vectors == 2) {
      for (; row + ROWS_OF_TWO <= rows; row += ROWS_OF_TWO) TILE(ROWS_OF_TWO, 2)
      for (; row + 4 <= rows; row += 4) TILE(4, 2)
      for (; row < rows; row++) TILE(1, 2)
    } else {
      for (; row + 12 <= rows; row += 12) TILE(12, 1)
      for (; row + 4 <= rows; row += 4) TILE(4, 1)
      for (; row < rows; row++) TILE(1, 1)
    }
    column += vectors * LANES;
  }
}

#if !PAIRED
/* y (rows, outputs) = x (rows, inputs) times a weight that lies in panels of panel_columns() outputs: (outputs / panel,
 * inputs, panel). For few rows: each panel is read once, and nothing is packed on the way. */
int panel_columns(void) { return WIDEST * LANES; }
void product_panels(const float *x, const float *panels, float *y, int64_t rows, int outputs, int inputs) {
  const int width = WIDEST * LANES, words = inputs, row_step = inputs, word_step = 1, out_step = outputs, column = 0;
#pragma omp parallel for schedule(static)
  for (int panel = 0; panel < outputs / width; panel++) {
    const float *a = x, *b = panels + (int64_t)panel * inputs * width;
    float *out = y + panel * width;
    int64_t row = 0;
    for (; row + TILE_ROWS <= rows; row += TILE_ROWS) TILE(TILE_ROWS, WIDEST)
    for (; row + 2 <= rows; row += 2) TILE(2, WIDEST)
    for (; row < rows; row++) TILE(1, WIDEST)
  }
}
#endif

/* Read x (rows, head) with `stride` between rows, add bias, and write
 *   flat   (up to padded rows, head): as it is, rounded                      [any may be null]
 *   across (head words, padded rows): word w of every row side by side
 *   down   (padded row words, head): words of consecutive rows, side by side over the head
 * with zeros behind the last row. */
static void N(pack)(const REAL *x, int64_t stride, const REAL *bias, int rows, int padded, int head, REAL *flat,
                    WORD *across, WORD *down) {
  for (int r = 0; r < padded; r++)
    for (int c = 0; c < head; c += LANES) {
      vfloat value = {0};
      if (r < rows) value = LOAD(x + r * stride + c) + (bias ? LOAD(bias + c) : splat(0.0f));
      STORE(flat + (int64_t)r * head + c, value);
    }
  const WORD *words = (const WORD *)flat; /* (padded, head / PER_WORD) */
  int per_row = head / PER_WORD;
  if (across)
    for (int r = 0; r < padded; r += LANES)
      for (int w = 0; w < per_row; w++)
        for (int k = 0; k < LANES; k++) across[(int64_t)w * padded + r + k] = words[(int64_t)(r + k) * per_row + w];
  if (down) {
#if PAIRED
    for (int r = 0; r < padded; r += 2)
      for (int c = 0; c < head; c++)
        down[(int64_t)(r / 2) * head + c] =
            (uint32_t)flat[(int64_t)r * head + c] | (uint32_t)flat[(int64_t)(r + 1) * head + c] << 16;
#else
    memcpy(down, flat, sizeof(float) * padded * head);
#endif
  }
}

#define ROUND_UP(n) (((n) + LANES - 1) / LANES * LANES)
/* Pieces of one thread's scratch, each on its own cache line. */
INLINE void *N(piece)(char **from, int64_t bytes) {
  void *here = *from;
  *from += (bytes + 63) / 64 * 64;
  return here;
}

typedef struct {
  const REAL *q, *k, *v, *q_bias, *k_bias, *v_bias; /* biases: (heads * head), added on reading; may be null */
  int64_t q_stride, k_stride, v_stride;             /* elements from token to token */
  const int32_t *q_starts, *k_starts;               /* (texts + 1) */
  const int32_t *order;                             /* texts, longest first */
  int64_t texts;
  int heads, head, longest;                         /* most queries or keys of a text */
  Dropout dropout;                                  /* of the attention weights */
} N(Attention);

/* The index of an attention weight among all of its text's: for dropout. */
#define WEIGHT_INDEX(text, h, query, key) \
  ((uint32_t)((((uint64_t)(text) * t.heads + (h)) * 0x9e3779b1u) + (uint64_t)(query) * 65536u + (key)))

/* What dropout multiplies the weights of one key with, for LANES queries from `query` on. */
INLINE vfloat N(kept_weights)(const N(Attention) *settings, int64_t text, int h, int query, int key) {
  N(Attention) t = *settings;
  const vbits lanes = LANE_NUMBERS;
  return keep_numbered(splat(1.0f), t.dropout, lanes * 65536u + WEIGHT_INDEX(text, h, query, key));
}

/* out (queries, heads * head), stride out_stride; softmaxes (queries, heads, 2) float: each query's largest
 * score and 1 / the sum of its exponentials, from which the backward pass makes the weights again; may be null. */
void N(attention_forward)(const N(Attention) *settings, REAL *out, int64_t out_stride, float *softmaxes) {
  N(Attention) t = *settings;
  float scale = 1.0f / sqrtf((float)t.head);
  int64_t longest = ROUND_UP(t.longest);
  int64_t bytes = longest * t.head * (sizeof(REAL) * 3 + sizeof(WORD) * 2 + sizeof(float)) +
                  (int64_t)12 * longest * (sizeof(float) + sizeof(REAL)) + 64 * 16;
#pragma omp parallel
  {
    char *scratch = aligned_alloc(64, (bytes + 63) / 64 * 64);
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < t.texts * t.heads; item++) {
      int64_t text = t.order[item / t.heads];
      int h = item % t.heads;
      int64_t at = (int64_t)h * t.head;
      int queries = t.q_starts[text + 1] - t.q_starts[text], keys = t.k_starts[text + 1] - t.k_starts[text];
      int padded = ROUND_UP(keys), padded_queries = ROUND_UP(queries);
      const REAL *q0 = t.q + t.q_starts[text] * t.q_stride + at, *k0 = t.k + t.k_starts[text] * t.k_stride + at;
      const REAL *v0 = t.v + t.k_starts[text] * t.v_stride + at;
      char *free_from = scratch;
      REAL *q = N(piece)(&free_from, sizeof(REAL) * padded_queries * t.head);
      REAL *flat = N(piece)(&free_from, sizeof(REAL) * padded * t.head);
      WORD *k_across = N(piece)(&free_from, sizeof(WORD) * padded * t.head / PER_WORD);
      WORD *v_down = N(piece)(&free_from, sizeof(WORD) * padded * t.head / PER_WORD);
      float *scores = N(piece)(&free_from, sizeof(float) * 12 * padded);
      REAL *weights = N(piece)(&free_from, sizeof(REAL) * 12 * padded);
      float *read = N(piece)(&free_from, sizeof(float) * 12 * t.head);
      N(pack)(q0, t.q_stride, t.q_bias ? t.q_bias + at : 0, queries, queries, t.head, q, 0, 0);
      N(pack)(k0, t.k_stride, t.k_bias ? t.k_bias + at : 0, keys, padded, t.head, flat, k_across, 0);
      N(pack)(v0, t.v_stride, t.v_bias ? t.v_bias + at : 0, keys, padded, t.head, flat, 0, v_down);
      const vint lanes = LANE_NUMBERS;
      for (int first = 0; first < queries; first += 12) {
        int count = queries - first < 12 ? queries - first : 12;
        N(product)((const WORD *)(q + (int64_t)first * t.head), t.head / PER_WORD, 1, k_across, scores, count,
                   t.head / PER_WORD, padded);
        float inverses[12];
        for (int r = 0; r < count; r++) {
          float *s = scores + r * padded;
          if (keys < padded) { /* what stands behind the last key must weigh nothing */
            int tail = padded - LANES;
            store_float(s + tail, choose(lanes + tail < keys, load_float(s + tail), splat(-INFINITY)));
          }
          vfloat most = load_float(s);
          for (int c = LANES; c < padded; c += LANES) {
            vfloat x = load_float(s + c);
            most = choose(x > most, x, most);
          }
          float top = max_lanes(most) * scale;
          vfloat total = {0};
          for (int c = 0; c < padded; c += LANES) {
            vfloat x = exponential(load_float(s + c) * scale - top);
            total += x;
            if (t.dropout.threshold) x = keep(x, t.dropout, WEIGHT_INDEX(text, h, first + r, c));
            STORE(weights + r * padded + c, x);
          }
          inverses[r] = 1.0f / sum_lanes(total);
          if (softmaxes) {
            float *moments = softmaxes + ((int64_t)(t.q_starts[text] + first + r) * t.heads + h) * 2;
            moments[0] = top, moments[1] = inverses[r];
          }
        }
        N(product)((const WORD *)weights, padded / PER_WORD, 1, v_down, read, count, padded / PER_WORD, t.head);
        for (int r = 0; r < count; r++)
          for (int c = 0; c < t.head; c += LANES)
            STORE(out + (t.q_starts[text] + first + r) * out_stride + at + c,
                  load_float(read + r * t.head + c) * inverses[r]);
      }
    }
    free(scratch);
  }
}

/* The gradients: with P the weights after softmax, D after dropout, O = D V, for each query
 *   dV = D^T dO    dP = dropout(dO V^T)    dS = P (dP - sum(P dP)) / sqrt(head)    dQ = dS K    dK = dS^T Q
 * (Vaswani et al. 2017, equation 1, by the chain rule). P is made again from softmaxes. Key by key, with the queries
 * side by side. dout (queries, heads * head) with dout_stride; dq, dk, dv with the strides of q, k, v. */
void N(attention_backward)(const N(Attention) *settings, const REAL *dout, int64_t dout_stride, const float *softmaxes,
                           REAL *dq, REAL *dk, REAL *dv) {
  N(Attention) t = *settings;
  float scale = 1.0f / sqrtf((float)t.head);
  int64_t longest = ROUND_UP(t.longest);
  int64_t bytes = longest * t.head * (sizeof(REAL) * 3 + sizeof(WORD) * 5 + sizeof(float)) + longest * 12 +
                  longest * longest * (sizeof(WORD) + 2 * sizeof(float)) + (int64_t)24 * longest * sizeof(REAL) +
                  (int64_t)12 * t.head * sizeof(float) + 64 * 32;
#pragma omp parallel
  {
    char *scratch = aligned_alloc(64, (bytes + 63) / 64 * 64);
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < t.texts * t.heads; item++) {
      int64_t text = t.order[item / t.heads];
      int h = item % t.heads;
      int64_t at = (int64_t)h * t.head;
      int64_t q_from = t.q_starts[text], k_from = t.k_starts[text];
      int queries = t.q_starts[text + 1] - q_from, keys = t.k_starts[text + 1] - k_from;
      int across = ROUND_UP(queries), padded = ROUND_UP(keys), words = t.head / PER_WORD;
      char *free_from = scratch;
      REAL *flat = N(piece)(&free_from, sizeof(REAL) * (across > padded ? across : padded) * t.head);
      REAL *k = N(piece)(&free_from, sizeof(REAL) * padded * t.head);
      REAL *v = N(piece)(&free_from, sizeof(REAL) * padded * t.head);
      WORD *q_across = N(piece)(&free_from, sizeof(WORD) * across * words);
      WORD *q_down = N(piece)(&free_from, sizeof(WORD) * across * words);
      WORD *g_across = N(piece)(&free_from, sizeof(WORD) * across * words);
      WORD *g_down = N(piece)(&free_from, sizeof(WORD) * across * words);
      WORD *k_down = N(piece)(&free_from, sizeof(WORD) * padded * words);
      float *tops = N(piece)(&free_from, sizeof(float) * across);
      float *inverses = N(piece)(&free_from, sizeof(float) * across);
      float *delta = N(piece)(&free_from, sizeof(float) * across);
      WORD *slopes_down = N(piece)(&free_from, sizeof(WORD) * padded / PER_WORD * across); /* (key words, queries) */
      float *weights = N(piece)(&free_from, sizeof(float) * padded * across); /* (keys, queries) */
      float *grads = N(piece)(&free_from, sizeof(float) * padded * across);   /* (keys, queries) */
      REAL *used = N(piece)(&free_from, sizeof(REAL) * 12 * across);
      REAL *slopes = N(piece)(&free_from, sizeof(REAL) * 12 * across);
      float *result = N(piece)(&free_from, sizeof(float) * (across > 12 ? across : 12) * t.head);
      N(pack)(t.q + q_from * t.q_stride + at, t.q_stride, t.q_bias ? t.q_bias + at : 0, queries, across, t.head, flat,
              q_across, q_down);
      N(pack)(dout + q_from * dout_stride + at, dout_stride, 0, queries, across, t.head, flat, g_across, g_down);
      N(pack)(t.k + k_from * t.k_stride + at, t.k_stride, t.k_bias ? t.k_bias + at : 0, keys, padded, t.head, k, 0,
              k_down);
      N(pack)(t.v + k_from * t.v_stride + at, t.v_stride, t.v_bias ? t.v_bias + at : 0, keys, padded, t.head, v, 0, 0);
      for (int r = 0; r < across; r++) { /* behind the last query everything weighs nothing */
        const float *moments = softmaxes + ((q_from + r) * t.heads + h) * 2;
        delta[r] = 0;
        tops[r] = r < queries ? moments[0] : 0; /* q is 0 there, so that the scores are 0 too */
        inverses[r] = r < queries ? moments[1] : 0;
      }
      N(product)((const WORD *)k, words, 1, q_across, weights, keys, words, across);
      N(product)((const WORD *)v, words, 1, g_across, grads, keys, words, across);
      for (int key = 0; key < keys; key++)
        for (int c = 0; c < across; c += LANES) {
          float *w = weights + (int64_t)key * across + c, *g = grads + (int64_t)key * across + c;
          vfloat x = load_float(w) * scale - load_float(tops + c), slope = load_float(g);
          x = exponential(x) * load_float(inverses + c);
          if (t.dropout.threshold) slope *= N(kept_weights)(&t, text, h, c, key);
          store_float(w, x);
          store_float(g, slope);
          store_float(delta + c, load_float(delta + c) + x * slope);
        }
      memset(slopes_down, 0, sizeof(WORD) * padded / PER_WORD * across);
      for (int first = 0; first < keys; first += 12) {
        int count = keys - first < 12 ? keys - first : 12;
        for (int r = 0; r < count; r++)
          for (int c = 0; c < across; c += LANES) {
            int64_t here = (int64_t)(first + r) * across + c;
            vfloat x = load_float(weights + here);
            STORE(slopes + r * across + c, x * (load_float(grads + here) - load_float(delta + c)) * scale);
            if (t.dropout.threshold) x *= N(kept_weights)(&t, text, h, c, first + r);
            STORE(used + r * across + c, x);
          }
#if PAIRED
        for (int r = 0; r < count; r += 2) /* first is even */
          for (int c = 0; c < across; c += LANES) {
            vbits low = __builtin_convertvector(*(vhalf *)(slopes + r * across + c), vbits), high = {0};
            if (r + 1 < count) high = __builtin_convertvector(*(vhalf *)(slopes + (r + 1) * across + c), vbits);
            *(vbits *)(slopes_down + (int64_t)((first + r) / 2) * across + c) = low | high << 16;
          }
#else
        memcpy(slopes_down + (int64_t)first * across, slopes, sizeof(float) * count * across);
#endif
        N(product)((const WORD *)used, across / PER_WORD, 1, g_down, result, count, across / PER_WORD, t.head);
        for (int r = 0; r < count; r++)
          for (int c = 0; c < t.head; c += LANES)
            STORE(dv + (k_from + first + r) * t.v_stride + at + c, load_float(result + r * t.head + c));
        N(product)((const WORD *)slopes, across / PER_WORD, 1, q_down, result, count, across / PER_WORD, t.head);
        for (int r = 0; r < count; r++)
          for (int c = 0; c < t.head; c += LANES)
            STORE(dk + (k_from + first + r) * t.k_stride + at + c, load_float(result + r * t.head + c));
      }
      N(product)(slopes_down, 1, across, k_down, result, queries, padded / PER_WORD, t.head);
      for (int r = 0; r < queries; r++)
        for (int c = 0; c < t.head; c += LANES)
          STORE(dq + (q_from + r) * t.q_stride + at + c, load_float(result + r * t.head + c));
    }
    free(scratch);
  }
}

#undef WORD
#undef PER_WORD
#undef MULTIPLY_ADD
#undef TILE
#undef EACH
#undef TILE_ROWS
#undef WIDEST
#undef ROWS_OF_TWO
#undef ROUND_UP
#undef WEIGHT_INDEX
#endif
#undef MOST_COLUMNS
#endif
