/* Attention in bfloat16 on Intel's matrix tiles (AMX): the same as attention_forward_bf16 and attention_backward_bf16 in
 * kernels.c, on processors that have tiles. tiles.h says what a tile is and how its products want their operands.
 *
 * Scores are computed with keys as rows and queries side by side, S^T = K Q^T, so that the largest score and the sum of
 * a query are taken lane by lane, without sums across a vector. A block is 32 queries; for these the scores of all keys
 * are kept, which fit the nearest cache for texts of usual length.
 *
 * All operands are stored tile by tile ("tiles": 512 bfloat16 each, one after another), of three kinds, for a matrix
 * x (rows, head) padded with zeros to whole blocks of 32 rows:
 *   rows    [block of 16 rows][32 columns]   16 rows of 32 columns: left operand of x y^T
 *   across  [block of 16 rows][32 columns]   word w of the 16 rows side by side, for 16 words: right operand of y x^T
 *   pairs   [block of 32 rows][16 columns]   rows 2i and 2i + 1 paired to words, for 16 pairs: right operand of y x
 * and pairs with every tile transposed: 16 rows for 16 columns of x, each with 32 rows of x: left operand of x^T y.
 */
#include "tiles.h"
#if HAS_TILES

#include "vectors.h"

#define TILE 512       /* bfloat16 in a tile */
#define BLOCK 32       /* queries, or keys, that are worked on together */
#define CHUNK 256      /* queries whose weights are kept for the gradients of keys and values; whole blocks */
#define LOG2_E 1.44269504f

/* As Attention_bf16 in kernels.c. */
typedef struct {
  const bf16 *q, *k, *v, *q_bias, *k_bias, *v_bias; /* biases: (heads * head), added on reading; may be null */
  int64_t q_stride, k_stride, v_stride;             /* elements from token to token */
  const int32_t *q_starts, *k_starts;               /* (texts + 1) */
  const int32_t *order;                             /* texts, longest first */
  int64_t texts;
  int heads, head, longest;                         /* most queries or keys of a text */
  Dropout dropout;                                  /* of the attention weights */
} Attention;

INLINE int64_t whole_blocks(int64_t n) { return (n + BLOCK - 1) / BLOCK * BLOCK; }

/* Pieces of one thread's scratch, each on its own cache line. */
INLINE void *piece(char **from, int64_t bytes) {
  void *here = *from;
  *from += (bytes + 63) / 64 * 64;
  return here;
}

/* --- operands ---------------------------------------------------------------------------------------------- */

/* x (rows, head), `stride` apart, plus bias, as tiles of rows, with zeros behind the last row. */
INLINE void pack_rows(const bf16 *x, int64_t stride, const bf16 *bias, int rows, int head, bf16 *to) {
  int padded = whole_blocks(rows), words = head / 32;
  for (int w = 0; w < words; w++) {
    const bf16 *from = x + w * 32;
    bf16 *tile = to + w * TILE;
    if (bias) {
      vfloat low = load_bf16(bias + w * 32), high = load_bf16(bias + w * 32 + 16);
      for (int r = 0; r < rows; r++) {
        bf16 *row = tile + (int64_t)(r / 16) * words * TILE + r % 16 * 32;
        store_bf16(row, load_bf16(from + r * stride) + low);
        store_bf16(row + 16, load_bf16(from + r * stride + 16) + high);
      }
    } else {
      for (int r = 0; r < rows; r++)
        _mm512_store_si512(tile + (int64_t)(r / 16) * words * TILE + r % 16 * 32,
                           _mm512_loadu_si512(from + r * stride));
    }
    for (int r = rows; r < padded; r++)
      _mm512_store_si512(tile + (int64_t)(r / 16) * words * TILE + r % 16 * 32, _mm512_setzero_si512());
  }
}

/* Every one of `count` tiles transposed, word by word. `from` and `to` may be the same. */
INLINE void transpose_tiles(const bf16 *from, int64_t count, bf16 *to) {
  for (int64_t i = 0; i < count; i++)
    transpose_words((const uint32_t *)(from + i * TILE), 16, (uint32_t *)(to + i * TILE), 16);
}

/* Two rows of 32, side by side, as words: those of columns 0 to 15 in `low`, the others in `high`. What unpacks
 * interleaves within quarters of a vector, so the quarters are gathered first; one instruction that does all is slower. */
INLINE void pair_columns(__m512i even, __m512i odd, __m512i *low, __m512i *high) {
  const __m512i quarters = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  even = _mm512_permutexvar_epi64(quarters, even);
  odd = _mm512_permutexvar_epi64(quarters, odd);
  *low = _mm512_unpacklo_epi16(even, odd);
  *high = _mm512_unpackhi_epi16(even, odd);
}

/* Tiles of rows to tiles of pairs; rows is padded. */
INLINE void pair_tiles(const bf16 *from, int rows, int head, bf16 *to) {
  int words = head / 32;
  for (int r = 0; r < rows; r += 32)
    for (int w = 0; w < words; w++)
      for (int i = 0; i < 16; i++) {
        const bf16 *row = from + ((int64_t)(r / 16 + i / 8) * words + w) * TILE + i % 8 * 64;
        bf16 *low = to + ((int64_t)(r / 32) * words + w) * 2 * TILE + i * 32;
        __m512i first, second;
        pair_columns(_mm512_load_si512(row), _mm512_load_si512(row + 32), &first, &second);
        _mm512_store_si512(low, first);
        _mm512_store_si512(low + TILE, second);
      }
}

/* --- products ---------------------------------------------------------------------------------------------- */

/* Own statements rather than the compiler's functions for them: there, loads may move before stores to what they read. */
#define ZERO_TILE(c) __asm__ volatile("tilezero %%tmm" #c ::)
#define LOAD_TILE(c, from, stride) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #c ::"r"(from), "r"((int64_t)(stride)) : "memory")
#define STORE_TILE(c, to, stride) \
  __asm__ volatile("tilestored %%tmm" #c ", (%0,%1,1)" ::"r"(to), "r"((int64_t)(stride)) : "memory")
#define MULTIPLY_TILES(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)

/* `out` (32 rows, 32 columns; float, `stride` apart) = the sum of `depth` products of tiles, plus what stands there
 * where `add`. Tile number (i, d) of the left operand, for rows 16 i on, is at a + i * a_row + d * a_depth, in tiles;
 * the right operand's tiles likewise. rows and columns, 1 or 2: blocks of 16 that are wanted. */
INLINE void multiply(const bf16 *a, int64_t a_row, int64_t a_depth, const bf16 *b, int64_t b_column, int64_t b_depth,
                     int depth, float *out, int64_t stride, int rows, int columns, int add) {
  float *below = out + 16 * stride;
  int64_t bytes = stride * sizeof(float);
  if (add) {
    LOAD_TILE(0, out, bytes);
    LOAD_TILE(1, out + 16, bytes);
    LOAD_TILE(2, below, bytes);
    LOAD_TILE(3, below + 16, bytes);
  } else {
    ZERO_TILE(0);
    ZERO_TILE(1);
    ZERO_TILE(2);
    ZERO_TILE(3);
  }
  a_row *= TILE, a_depth *= TILE, b_column *= TILE, b_depth *= TILE;
  for (int d = 0; d < depth; d++, a += a_depth, b += b_depth) {
    LOAD_TILE(4, a, 64);
    LOAD_TILE(6, b, 64);
    MULTIPLY_TILES(0, 4, 6);
    if (columns > 1) {
      LOAD_TILE(7, b + b_column, 64);
      MULTIPLY_TILES(1, 4, 7);
    }
    if (rows > 1) {
      LOAD_TILE(5, a + a_row, 64);
      MULTIPLY_TILES(2, 5, 6);
      if (columns > 1) MULTIPLY_TILES(3, 5, 7);
    }
  }
  STORE_TILE(0, out, bytes);
  if (columns > 1) STORE_TILE(1, out + 16, bytes);
  if (rows > 1) {
    STORE_TILE(2, below, bytes);
    if (columns > 1) STORE_TILE(3, below + 16, bytes);
  }
}

/* --- vectors of 16 queries --------------------------------------------------------------------------------- */

/* 2^x is the polynomial of x - floor(x), 0 to 1, times 2^floor(x). Least largest relative error for its degree: below
 * 7.5e-5 in all, where weights are rounded to 8 bits, 2e-3, right after. Times `factor`, lane by lane. */
typedef struct {
  __m512 c0, c1, c2, c3;
} Power;

INLINE Power power_times(__m512 factor) {
  return (Power){_mm512_mul_ps(factor, _mm512_set1_ps(0.99992520f)), _mm512_mul_ps(factor, _mm512_set1_ps(0.69583356f)),
                 _mm512_mul_ps(factor, _mm512_set1_ps(0.22606716f)), _mm512_mul_ps(factor, _mm512_set1_ps(0.07802452f))};
}
INLINE __m512 power_of_two(__m512 x, Power p) {
  __m512 rest = _mm512_reduce_ps(x, 0x09); /* x - floor(x); 0 for -infinity */
  __m512 y = _mm512_fmadd_ps(p.c3, rest, p.c2);
  y = _mm512_fmadd_ps(y, rest, p.c1);
  y = _mm512_fmadd_ps(y, rest, p.c0);
  return _mm512_scalef_ps(y, x); /* takes floor(x) by itself */
}

/* Dropout of the weights of one key, for 16 queries. `base` is the number of the weight of the first query. The same
 * numbers as `keep` makes in kernels.c: there the keys lie side by side, here the queries, whose numbers are 65536
 * apart. */
INLINE __m512 keep_weights(__m512 x, Dropout d, uint32_t base) {
  const vbits lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  vbits h = (lanes * 65536u + base) ^ d.key;
  h ^= h >> 16;
  h *= 0x7feb352du;
  h += d.key2;
  h ^= h >> 15;
  h *= 0x846ca68bu;
  h ^= h >> 16;
  return (__m512)choose((vint)(h >= d.threshold), (vfloat)x * d.scale, splat(0.0f));
}
INLINE uint32_t weight_index(const Attention *t, int64_t text, int h, int query, int key) {
  return (uint32_t)(((uint64_t)text * t->heads + h) * 0x9e3779b1u + (uint64_t)query * 65536u + key);
}

/* Two keys' 32 values to two rows of 16 words: even[q], odd[q]. Row 0 is for queries 0-3, 8-11, 16-19 and 24-27, row 1
 * for the others, which saves two permutations; `mixed_query` says which query stands where. */
INLINE void pair_keys(__m512i even, __m512i odd, bf16 *first, bf16 *second) {
  _mm512_store_si512(first, _mm512_unpacklo_epi16(even, odd));
  _mm512_store_si512(second, _mm512_unpackhi_epi16(even, odd));
}
INLINE int mixed_query(int column) { return column % 16 / 4 * 8 + column / 16 * 4 + column % 4; }

INLINE __m512i narrow(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

/* x (head, 32 queries as pair_keys mixes them) float, to rows of `out`, times `factors` (32 queries, in order). */
INLINE void store_mixed(const float *x, int head, const float *factors, bf16 *out, int64_t stride, int queries) {
  const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                              6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  float mixed[32] __attribute__((aligned(64)));
  uint32_t words[256] __attribute__((aligned(64)));
  for (int i = 0; i < 32; i++) mixed[i] = factors[mixed_query(i)];
  for (int half = 0; half < 2; half++) {
    __m512 factor = _mm512_load_ps(mixed + half * 16);
    for (int c = 0; c < head; c += 32) {
      for (int i = 0; i < 16; i++) {
        const float *row = x + (c + 2 * i) * 32 + half * 16;
        __m512i both = narrow(_mm512_mul_ps(_mm512_load_ps(row), factor), _mm512_mul_ps(_mm512_load_ps(row + 32), factor));
        _mm512_store_si512(words + i * 16, _mm512_permutexvar_epi16(interleave, both));
      }
      transpose_words(words, 16, words, 16);
      for (int i = 0; i < 16; i++) {
        int query = mixed_query(half * 16 + i);
        if (query < queries) _mm512_storeu_si512(out + query * stride + c, _mm512_load_si512(words + i * 16));
      }
    }
  }
}

/* --- forward ----------------------------------------------------------------------------------------------- */

/* The scores of all keys, `scores` (keys, 32) float, to weights times their sum (Vaswani et al. 2017, equation 1, with
 * the division left for later), as tiles of pairs of keys. tops: each query's largest score, inverses: 1 / the sum. */
INLINE void weigh(const Attention *t, int64_t text, int h, int first, int keys, const float *scores, bf16 *weights,
                  float *tops, float *inverses) {
  float scale = 1.0f / sqrtf((float)t->head);
  __m512 top[2] = {_mm512_load_ps(scores), _mm512_load_ps(scores + 16)}, total[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  for (int key = 1; key < keys; key++)
    for (int i = 0; i < 2; i++) top[i] = _mm512_max_ps(top[i], _mm512_load_ps(scores + key * 32 + i * 16));
  const __m512 slope = _mm512_set1_ps(scale * LOG2_E);
  const Power one = power_times(_mm512_set1_ps(1.0f));
  for (int i = 0; i < 2; i++) {
    _mm512_store_ps(tops + i * 16, _mm512_mul_ps(top[i], _mm512_set1_ps(scale)));
    top[i] = _mm512_mul_ps(top[i], slope);
  }
  for (int key = 0; key < keys; key += 2) {
    __m512 x[2][2];
    for (int j = 0; j < 2; j++)
      for (int i = 0; i < 2; i++) {
        x[j][i] = power_of_two(_mm512_fmsub_ps(_mm512_load_ps(scores + (key + j) * 32 + i * 16), slope, top[i]), one);
        if (key + j >= keys) x[j][i] = _mm512_setzero_ps();
        total[i] = _mm512_add_ps(total[i], x[j][i]);
        if (t->dropout.threshold)
          x[j][i] = keep_weights(x[j][i], t->dropout, weight_index(t, text, h, first + i * 16, key + j));
      }
    bf16 *to = weights + key / 32 * 2 * TILE + key % 32 * 16;
    pair_keys(narrow(x[0][0], x[0][1]), narrow(x[1][0], x[1][1]), to, to + TILE);
  }
  for (int key = (keys + 1) / 2 * 2; key < whole_blocks(keys); key += 2) {
    bf16 *to = weights + key / 32 * 2 * TILE + key % 32 * 16;
    pair_keys(_mm512_setzero_si512(), _mm512_setzero_si512(), to, to + TILE);
  }
  for (int i = 0; i < 2; i++) _mm512_store_ps(inverses + i * 16, _mm512_div_ps(_mm512_set1_ps(1.0f), total[i]));
}

INLINE int64_t forward_bytes(const Attention *t) {
  int64_t longest = whole_blocks(t->longest);
  return longest * t->head * 3 * sizeof(bf16) + longest * 32 * (sizeof(float) + sizeof(bf16)) +
         t->head * 32 * sizeof(float) + 4096;
}

INLINE void forward_head(const Attention *t, int head, int64_t text, int h, bf16 *out, int64_t out_stride,
                         float *softmaxes, char *scratch) {
  int64_t at = (int64_t)h * head, q_from = t->q_starts[text], k_from = t->k_starts[text];
  int queries = t->q_starts[text + 1] - q_from, keys = t->k_starts[text + 1] - k_from, words = head / 32;
  int64_t padded = whole_blocks(keys), padded_queries = whole_blocks(queries);
  bf16 *k = piece(&scratch, padded * head * sizeof(bf16));
  bf16 *v_pairs = piece(&scratch, padded * head * sizeof(bf16)); /* transposed */
  bf16 *q_across = piece(&scratch, padded_queries * head * sizeof(bf16));
  float *scores = piece(&scratch, padded * 32 * sizeof(float));
  bf16 *weights = piece(&scratch, padded * 32 * sizeof(bf16));
  float *read = piece(&scratch, head * 32 * sizeof(float)); /* (head, 32 queries) */
  float tops[32] __attribute__((aligned(64))), inverses[32] __attribute__((aligned(64)));
  /* k's place holds v until its pairs are made */
  pack_rows(t->v + k_from * t->v_stride + at, t->v_stride, t->v_bias ? t->v_bias + at : 0, keys, head, k);
  pair_tiles(k, padded, head, v_pairs);
  transpose_tiles(v_pairs, padded * head / TILE, v_pairs);
  pack_rows(t->k + k_from * t->k_stride + at, t->k_stride, t->k_bias ? t->k_bias + at : 0, keys, head, k);
  pack_rows(t->q + q_from * t->q_stride + at, t->q_stride, t->q_bias ? t->q_bias + at : 0, queries, head, q_across);
  transpose_tiles(q_across, padded_queries * head / TILE, q_across);
  for (int first = 0; first < queries; first += BLOCK) {
    int count = queries - first < BLOCK ? queries - first : BLOCK;
    for (int key = 0; key < keys; key += BLOCK)
      multiply(k + (int64_t)key * head, words, 1, q_across + (int64_t)first * head, words, 1, words, scores + key * 32, 32,
               2, 2, 0);
    weigh(t, text, h, first, keys, scores, weights, tops, inverses);
    for (int c = 0; c < head; c += 32)
      multiply(v_pairs + c / 16 * TILE, 1, 2 * words, weights, 1, 2, padded / 32, read + c * 32, 32, 2, 2, 0);
    store_mixed(read, head, inverses, out + (q_from + first) * out_stride + at, out_stride, count);
    if (softmaxes)
      for (int i = 0; i < count; i++) {
        float *moments = softmaxes + ((q_from + first + i) * t->heads + h) * 2;
        moments[0] = tops[i], moments[1] = inverses[i];
      }
  }
}

/* As attention_forward_bf16 in kernels.c. */
void attention_forward_tiles(const Attention *settings, bf16 *out, int64_t out_stride, float *softmaxes) {
  const Attention t = *settings;
  int64_t bytes = forward_bytes(&t);
#pragma omp parallel
  {
    char *scratch = aligned_alloc(64, (bytes + 63) / 64 * 64);
    set_tiles();
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < t.texts * t.heads; item++) {
      int64_t text = t.order[item / t.heads];
      int h = item % t.heads;
      if (t.head == 32)
        forward_head(&t, 32, text, h, out, out_stride, softmaxes, scratch);
      else if (t.head == 64)
        forward_head(&t, 64, text, h, out, out_stride, softmaxes, scratch);
      else
        forward_head(&t, t.head, text, h, out, out_stride, softmaxes, scratch);
    }
    release_tiles();
    free(scratch);
  }
}

/* --- backward ---------------------------------------------------------------------------------------------- */

/* What the passes over a block of 32 queries share. */
typedef struct {
  const Attention *t;
  int64_t text;
  int h, first, keys; /* first: the block's first query */
} Block;

/* The scores (keys, 32) float become weights P, and delta (32) the sum over keys of P times dP, the gradients of the
 * weights, after dropout: grads (keys, 32) float. */
INLINE void weigh_again(Block b, float *scores, float *grads, const float *tops, const float *inverses, float *delta) {
  Dropout dropout = b.t->dropout;
  const __m512 slope = _mm512_set1_ps(LOG2_E / sqrtf((float)b.t->head));
  __m512 top[2], sum[2];
  Power power[2];
  for (int i = 0; i < 2; i++) {
    top[i] = _mm512_mul_ps(_mm512_load_ps(tops + i * 16), _mm512_set1_ps(LOG2_E));
    power[i] = power_times(_mm512_load_ps(inverses + i * 16));
    sum[i] = _mm512_setzero_ps();
  }
  for (int key = 0; key < b.keys; key++)
    for (int i = 0; i < 2; i++) {
      float *at = scores + key * 32 + i * 16, *grad_at = grads + key * 32 + i * 16;
      __m512 x = power_of_two(_mm512_fmsub_ps(_mm512_load_ps(at), slope, top[i]), power[i]);
      __m512 grad = _mm512_load_ps(grad_at);
      if (dropout.threshold) {
        grad = keep_weights(grad, dropout, weight_index(b.t, b.text, b.h, b.first + i * 16, key));
        _mm512_store_ps(grad_at, grad);
      }
      _mm512_store_ps(at, x);
      sum[i] = _mm512_fmadd_ps(x, grad, sum[i]);
    }
  for (int i = 0; i < 2; i++) _mm512_store_ps(delta + i * 16, sum[i]);
}

/* Weights P and their gradients to: `used` and `slopes`, tiles (16 keys, 32 queries) `step` elements apart, of P after
 * dropout and of P (dP - delta); slope_pairs, tiles of pairs of keys, of the latter. */
INLINE void make_slopes(Block b, const float *scores, const float *grads, const float *delta, bf16 *used, bf16 *slopes,
                        int64_t step, bf16 *slope_pairs) {
  Dropout dropout = b.t->dropout;
  const __m512 mean[2] = {_mm512_load_ps(delta), _mm512_load_ps(delta + 16)};
  for (int key = 0; key < whole_blocks(b.keys); key += 2) {
    __m512i row[2];
    for (int j = 0; j < 2; j++) {
      int64_t to = (key + j) / 16 * step + (key + j) % 16 * 32;
      __m512 x[2], y[2];
      if (key + j < b.keys) {
        for (int i = 0; i < 2; i++) {
          int from = (key + j) * 32 + i * 16;
          x[i] = _mm512_load_ps(scores + from);
          y[i] = _mm512_mul_ps(x[i], _mm512_sub_ps(_mm512_load_ps(grads + from), mean[i]));
          if (dropout.threshold)
            x[i] = keep_weights(x[i], dropout, weight_index(b.t, b.text, b.h, b.first + i * 16, key + j));
        }
      } else {
        x[0] = x[1] = y[0] = y[1] = _mm512_setzero_ps();
      }
      row[j] = narrow(y[0], y[1]);
      _mm512_store_si512(slopes + to, row[j]);
      _mm512_store_si512(used + to, narrow(x[0], x[1]));
    }
    bf16 *pairs = slope_pairs + key / 32 * 2 * TILE + key % 32 * 16;
    pair_keys(row[0], row[1], pairs, pairs + TILE);
  }
}

/* x (rows, 32) float, `from_stride` apart, times factor to rows of `out`. */
INLINE void store_rows(const float *x, int64_t from_stride, float factor, bf16 *out, int64_t stride, int rows) {
  __m512 times = _mm512_set1_ps(factor);
  for (int r = 0; r < rows; r++)
    _mm512_storeu_si512(out + r * stride, narrow(_mm512_mul_ps(_mm512_load_ps(x + r * from_stride), times),
                                                 _mm512_mul_ps(_mm512_load_ps(x + r * from_stride + 16), times)));
}

INLINE int64_t backward_bytes(const Attention *t) {
  int64_t longest = whole_blocks(t->longest), chunk = longest < CHUNK ? longest : CHUNK;
  return longest * t->head * (8 * sizeof(bf16) + 2 * sizeof(float)) + longest * 32 * (2 * sizeof(float) + sizeof(bf16)) +
         longest * chunk * 2 * sizeof(bf16) + t->head * 32 * sizeof(float) + 4096;
}

INLINE void backward_head(const Attention *t, int head, int64_t text, int h, const bf16 *dout, int64_t dout_stride,
                          const float *softmaxes, bf16 *dq, bf16 *dk, bf16 *dv, char *scratch) {
  int64_t at = (int64_t)h * head, q_from = t->q_starts[text], k_from = t->k_starts[text];
  int queries = t->q_starts[text + 1] - q_from, keys = t->k_starts[text + 1] - k_from, words = head / 32;
  int64_t padded = whole_blocks(keys), padded_queries = whole_blocks(queries);
  int64_t chunk = padded_queries < CHUNK ? padded_queries : CHUNK;
  float scale = 1.0f / sqrtf((float)head);
  bf16 *flat = piece(&scratch, padded_queries * head * sizeof(bf16));
  bf16 *q_across = piece(&scratch, padded_queries * head * sizeof(bf16));
  bf16 *q_pairs = piece(&scratch, padded_queries * head * sizeof(bf16));
  bf16 *g_across = piece(&scratch, padded_queries * head * sizeof(bf16)); /* dO */
  bf16 *g_pairs = piece(&scratch, padded_queries * head * sizeof(bf16));
  bf16 *k = piece(&scratch, padded * head * sizeof(bf16));
  bf16 *k_pairs = piece(&scratch, padded * head * sizeof(bf16)); /* transposed */
  bf16 *v = piece(&scratch, padded * head * sizeof(bf16));
  float *scores = piece(&scratch, padded * 32 * sizeof(float)); /* (keys, 32 queries) */
  float *grads = piece(&scratch, padded * 32 * sizeof(float));
  bf16 *slope_pairs = piece(&scratch, padded * 32 * sizeof(bf16));
  bf16 *used = piece(&scratch, padded * chunk * sizeof(bf16)); /* tiles (keys, queries of a chunk) */
  bf16 *slopes = piece(&scratch, padded * chunk * sizeof(bf16));
  float *result = piece(&scratch, head * 32 * sizeof(float)); /* (head, 32 queries) */
  float *dk_sum = piece(&scratch, padded * head * sizeof(float)), *dv_sum = piece(&scratch, padded * head * sizeof(float));
  float tops[32] __attribute__((aligned(64))), inverses[32] __attribute__((aligned(64)));
  float delta[32] __attribute__((aligned(64))), scales[32];
  for (int i = 0; i < 32; i++) scales[i] = scale;
  pack_rows(t->q + q_from * t->q_stride + at, t->q_stride, t->q_bias ? t->q_bias + at : 0, queries, head, flat);
  transpose_tiles(flat, padded_queries * head / TILE, q_across);
  pair_tiles(flat, padded_queries, head, q_pairs);
  pack_rows(dout + q_from * dout_stride + at, dout_stride, 0, queries, head, flat);
  transpose_tiles(flat, padded_queries * head / TILE, g_across);
  pair_tiles(flat, padded_queries, head, g_pairs);
  pack_rows(t->k + k_from * t->k_stride + at, t->k_stride, t->k_bias ? t->k_bias + at : 0, keys, head, k);
  pair_tiles(k, padded, head, k_pairs);
  transpose_tiles(k_pairs, padded * head / TILE, k_pairs);
  pack_rows(t->v + k_from * t->v_stride + at, t->v_stride, t->v_bias ? t->v_bias + at : 0, keys, head, v);
  for (int start = 0; start < queries; start += CHUNK) {
    int blocks = whole_blocks(queries - start < CHUNK ? queries - start : CHUNK) / 32;
    for (int j = 0; j < blocks; j++) {
      int first = start + j * 32, count = queries - first < BLOCK ? queries - first : BLOCK;
      Block block = {t, text, h, first, keys};
      for (int i = 0; i < 32; i++) { /* behind the last query everything weighs nothing */
        const float *moments = softmaxes + ((q_from + first + i) * t->heads + h) * 2;
        tops[i] = i < count ? moments[0] : 0;
        inverses[i] = i < count ? moments[1] : 0;
      }
      for (int key = 0; key < keys; key += BLOCK) {
        multiply(k + (int64_t)key * head, words, 1, q_across + (int64_t)first * head, words, 1, words, scores + key * 32,
                 32, 2, 2, 0);
        multiply(v + (int64_t)key * head, words, 1, g_across + (int64_t)first * head, words, 1, words, grads + key * 32,
                 32, 2, 2, 0);
      }
      weigh_again(block, scores, grads, tops, inverses, delta);
      make_slopes(block, scores, grads, delta, used + j * TILE, slopes + j * TILE, blocks * TILE, slope_pairs);
      for (int c = 0; c < head; c += 32)
        multiply(k_pairs + c / 16 * TILE, 1, 2 * words, slope_pairs, 1, 2, padded / 32, result + c * 32, 32, 2, 2, 0);
      store_mixed(result, head, scales, dq + (q_from + first) * t->q_stride + at, t->q_stride, count);
    }
    int more = start > 0, last = start + CHUNK >= queries;
    for (int key = 0; key < keys; key += BLOCK)
      for (int c = 0; c < head; c += 32) {
        int64_t sum = (int64_t)key * head + c, from = (int64_t)key / 16 * blocks * TILE;
        int64_t right = (int64_t)start * head + c / 16 * TILE;
        int rows = keys - key < BLOCK ? keys - key : BLOCK;
        multiply(used + from, blocks, 1, g_pairs + right, 1, 2 * words, blocks, dv_sum + sum, head, 2, 2, more);
        multiply(slopes + from, blocks, 1, q_pairs + right, 1, 2 * words, blocks, dk_sum + sum, head, 2, 2, more);
        if (!last) continue;
        store_rows(dv_sum + sum, head, 1.0f, dv + (k_from + key) * t->v_stride + at + c, t->v_stride, rows);
        store_rows(dk_sum + sum, head, scale, dk + (k_from + key) * t->k_stride + at + c, t->k_stride, rows);
      }
  }
}

/* As attention_backward_bf16 in kernels.c. */
void attention_backward_tiles(const Attention *settings, const bf16 *dout, int64_t dout_stride, const float *softmaxes,
                              bf16 *dq, bf16 *dk, bf16 *dv) {
  const Attention t = *settings;
  int64_t bytes = backward_bytes(&t);
#pragma omp parallel
  {
    char *scratch = aligned_alloc(64, (bytes + 63) / 64 * 64);
    set_tiles();
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < t.texts * t.heads; item++) {
      int64_t text = t.order[item / t.heads];
      int h = item % t.heads;
      if (t.head == 32)
        backward_head(&t, 32, text, h, dout, dout_stride, softmaxes, dq, dk, dv, scratch);
      else if (t.head == 64)
        backward_head(&t, 64, text, h, dout, dout_stride, softmaxes, dq, dk, dv, scratch);
      else
        backward_head(&t, t.head, text, h, dout, dout_stride, softmaxes, dq, dk, dv, scratch);
    }
    release_tiles();
    free(scratch);
  }
}

#endif
