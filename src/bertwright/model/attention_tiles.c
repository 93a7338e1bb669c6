/* Attention in bfloat16 on Intel's matrix tiles (AMX): the same as attention_forward_bf16 and attention_backward_bf16
 * in kernels.c, on processors that have tiles. tiles.h says what a tile is and how its products want their operands.
 *
 * Scores are computed with keys as rows and queries side by side, S^T = K Q^T, so that the largest score and the sum of
 * a query are taken lane by lane, without sums across a vector. A block is 32 queries; for these the scores of all keys
 * are kept, which fit the nearest cache for texts of usual length. Tiles and vectors work at the same time: while the
 * scores of one block become weights, the products of the next block (or of the next head's first) run. On this
 * processor one of the two units for float vectors stands still next to tiles, which is what limits both passes; yet
 * tiles and vectors in turn took longer.
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

#define TILE 512  /* bfloat16 in a tile */
#define BLOCK 32  /* queries, or keys, that are worked on together */
#define CHUNK 256 /* queries whose weights are kept for the gradients of keys and values; whole blocks */
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

/* 32 floats, rounded, in order. */
INLINE __m512i narrow(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

/* --- operands ---------------------------------------------------------------------------------------------- */

/* x (rows, head), `stride` apart, plus bias, as tiles of rows, with zeros behind the last row. Fetches what stands
 * behind each row as well: the next head's. */
static void pack_rows(const bf16 *x, int64_t stride, const bf16 *bias, int rows, int head, bf16 *to) {
  int words = head / 32, padded = whole_blocks(rows);
  for (int w = 0; w < words; w++) {
    const bf16 *from = x + w * 32;
    for (int first = 0; first < padded; first += 16) {
      bf16 *row = to + ((int64_t)(first / 16) * words + w) * TILE;
      int count = rows - first < 16 ? rows - first : 16, r = 0; /* may be below 0 */
      if (bias) {
        vfloat low = load_bf16(bias + w * 32), high = load_bf16(bias + w * 32 + 16);
        for (; r < count; r++, row += 32, from += stride) {
          _mm_prefetch(from + head, _MM_HINT_T0);
          _mm512_store_si512(row, narrow((__m512)(load_bf16(from) + low), (__m512)(load_bf16(from + 16) + high)));
        }
      } else {
        for (; r < count; r++, row += 32, from += stride) {
          _mm_prefetch(from + head, _MM_HINT_T0);
          _mm512_store_si512(row, _mm512_loadu_si512(from));
        }
      }
      for (; r < 16; r++, row += 32) _mm512_store_si512(row, _mm512_setzero_si512());
    }
  }
}

/* The same for head number h of a text: its `rows` tokens from token `from` on. x may stand for queries, keys or
 * values, (tokens, heads * head), with bias (heads * head) or null. */
INLINE void pack_head(const bf16 *x, int64_t stride, const bf16 *bias, int64_t from, int rows, int h, int head,
                      bf16 *to) {
  int64_t column = (int64_t)h * head;
  pack_rows(x + from * stride + column, stride, bias ? bias + column : 0, rows, head, to);
}

/* Every one of `count` tiles transposed, word by word. `from` and `to` may be the same. */
INLINE void transpose_tiles(const bf16 *from, int64_t count, bf16 *to) {
  for (int64_t i = 0; i < count; i++)
    transpose_words((const uint32_t *)(from + i * TILE), 16, (uint32_t *)(to + i * TILE), 16);
}

/* Two rows of 32, side by side, as words: those of columns 0 to 15 in `low`, the others in `high`. What unpacks
 * interleaves within quarters of a vector, so the quarters are gathered first; the one instruction that does it all is
 * slower. */
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

/* Own statements rather than the compiler's functions: there, loads may move before stores to what they read. */
#define ZERO_TILE(c) __asm__ volatile("tilezero %%tmm" #c ::)
#define LOAD_TILE(c, from, stride) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #c ::"r"(from), "r"((int64_t)(stride)) : "memory")
#define STORE_TILE(c, to, stride) \
  __asm__ volatile("tilestored %%tmm" #c ", (%0,%1,1)" ::"r"(to), "r"((int64_t)(stride)) : "memory")
#define MULTIPLY_TILES(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)

/* `out` (32 rows, 32 columns; float, `stride` apart) = the sum of `depth` products of tiles, plus what stands there
 * where `add`. Tile number (i, d) of the left operand, for rows 16 i on, is at a + i * a_row + d * a_depth, in tiles;
 * the right operand's tiles likewise. */
INLINE void multiply(const bf16 *a, int64_t a_row, int64_t a_depth, const bf16 *b, int64_t b_column, int64_t b_depth,
                     int depth, float *out, int64_t stride, int add) {
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
  for (int d = 0; d < depth; d++, a += a_depth * TILE, b += b_depth * TILE) {
    LOAD_TILE(4, a, 64);
    LOAD_TILE(6, b, 64);
    MULTIPLY_TILES(0, 4, 6);
    LOAD_TILE(7, b + b_column * TILE, 64);
    MULTIPLY_TILES(1, 4, 7);
    LOAD_TILE(5, a + a_row * TILE, 64);
    MULTIPLY_TILES(2, 5, 6);
    MULTIPLY_TILES(3, 5, 7);
  }
  STORE_TILE(0, out, bytes);
  STORE_TILE(1, out + 16, bytes);
  STORE_TILE(2, below, bytes);
  STORE_TILE(3, below + 16, bytes);
}

/* x^T w (head, 32 queries) float, of x (keys, head), as transposed pairs, and w (keys, 32 queries), as pairs. */
INLINE void multiply_down(const bf16 *x, const bf16 *w, int64_t keys, int head, float *out) {
  for (int c = 0; c < head; c += 32)
    multiply(x + c / 16 * TILE, 1, head / 16, w, 1, 2, keys / 32, out + c * 32, 32, 0);
}

/* --- vectors of 16 queries --------------------------------------------------------------------------------- */

/* 2^x is the polynomial of x - floor(x), 0 to 1, times 2^floor(x). Least largest relative error for its degree: below
 * 7.5e-5; the weights are rounded to 8 bits right after, an error of up to 2e-3. Times `factor`, lane by lane. */
typedef struct {
  __m512 c0, c1, c2, c3;
} Power;

INLINE Power power_times(__m512 factor) {
  return (Power){factor * 0.99992520f, factor * 0.69583356f, factor * 0.22606716f, factor * 0.07802452f};
}
INLINE __m512 power_of_two(__m512 x, Power p) {
  __m512 rest = _mm512_reduce_ps(x, 0x09); /* x - floor(x); 0 for -infinity */
  __m512 y = _mm512_fmadd_ps(p.c3, rest, p.c2);
  y = _mm512_fmadd_ps(y, rest, p.c1);
  y = _mm512_fmadd_ps(y, rest, p.c0);
  return _mm512_scalef_ps(y, x); /* takes floor(x) by itself */
}

/* Dropout of the weights of one key, for 16 queries. `base` is the number of the weight of the first query. The same
 * numbers as `keep` makes in vectors.h: there the keys lie side by side, here the queries, whose numbers are 65536
 * apart. */
INLINE __m512 keep_weights(__m512 x, Dropout d, uint32_t base) {
  const vbits lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return (__m512)keep_numbered((vfloat)x, d, lanes * 65536u + base);
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

/* x (head, 32 queries as pair_keys mixes them) float, to rows of `out`, times `factors` (32 queries, in order). */
static void store_mixed(const float *x, int head, const float *factors, bf16 *out, int64_t stride, int queries) {
  const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                              6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i mixed = _mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
  uint32_t words[256] __attribute__((aligned(64)));
  for (int half = 0; half < 2; half++) {
    __m512 factor = _mm512_permutex2var_ps(_mm512_load_ps(factors),
                                           _mm512_add_epi32(mixed, _mm512_set1_epi32(4 * half)),
                                           _mm512_load_ps(factors + 16));
    for (int c = 0; c < head; c += 32) {
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) {
        const float *row = x + (c + 2 * i) * 32 + half * 16;
        __m512 even = _mm512_mul_ps(_mm512_load_ps(row), factor), odd = _mm512_mul_ps(_mm512_load_ps(row + 32), factor);
        __m512i both = narrow(even, odd);
        _mm512_store_si512(words + i * 16, _mm512_permutexvar_epi16(interleave, both));
      }
      transpose_words(words, 16, words, 16);
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) {
        int query = mixed_query(half * 16 + i);
        if (query < queries) _mm512_storeu_si512(out + query * stride + c, _mm512_load_si512(words + i * 16));
      }
    }
  }
}

/* --- texts and steps --------------------------------------------------------------------------------------- */

/* Where a text's queries and keys stand. */
typedef struct {
  const Attention *t;
  int64_t number, q_from, k_from, padded_queries, padded_keys;
  int queries, keys;
} Text;

INLINE Text text_at(const Attention *t, int64_t number) {
  int64_t q_from = t->q_starts[number], k_from = t->k_starts[number];
  int queries = t->q_starts[number + 1] - q_from, keys = t->k_starts[number + 1] - k_from;
  return (Text){t, number, q_from, k_from, whole_blocks(queries), whole_blocks(keys), queries, keys};
}

/* One step of the work on a text: a head and a block of queries. */
typedef struct {
  int h, first, count; /* first query, and how many there are, up to 32 */
} Step;

/* The step after; h is `last` behind the last one. */
INLINE Step next_step(const Text *x, Step s) {
  s.first += BLOCK;
  if (s.first >= x->queries) s.first = 0, s.h++;
  s.count = x->queries - s.first < BLOCK ? x->queries - s.first : BLOCK;
  return s;
}

/* Products x y^T to be made: left (keys, head) as rows, right (32 queries, head) across, both `words` tiles wide; out
 * (keys, 32) float. None where out is null. */
typedef struct {
  const bf16 *left, *right;
  float *out;
  int words;
} Scores;

/* The products of 16 keys, into two tiles, and the storing of these. Other work should come between the two: a store
 * waits for its product and holds up the next one. `odd`: which two of four tiles. */
INLINE void multiply_keys(const Scores *a, int key, int odd) {
  const bf16 *left = a->left + (int64_t)key * a->words * 32, *right = a->right;
  int64_t column = (int64_t)a->words * TILE;
  if (!odd) {
    ZERO_TILE(0);
    ZERO_TILE(1);
    for (int w = 0; w < a->words; w++, left += TILE, right += TILE) {
      LOAD_TILE(4, left, 64);
      LOAD_TILE(6, right, 64);
      MULTIPLY_TILES(0, 4, 6);
      LOAD_TILE(7, right + column, 64);
      MULTIPLY_TILES(1, 4, 7);
    }
  } else {
    ZERO_TILE(2);
    ZERO_TILE(3);
    for (int w = 0; w < a->words; w++, left += TILE, right += TILE) {
      LOAD_TILE(5, left, 64);
      LOAD_TILE(6, right, 64);
      MULTIPLY_TILES(2, 5, 6);
      LOAD_TILE(7, right + column, 64);
      MULTIPLY_TILES(3, 5, 7);
    }
  }
}
INLINE void store_keys(const Scores *a, int key, int odd) {
  float *out = a->out + key * 32;
  if (!odd) {
    STORE_TILE(0, out, 128);
    STORE_TILE(1, out + 16, 128);
  } else {
    STORE_TILE(2, out, 128);
    STORE_TILE(3, out + 16, 128);
  }
}
/* The same for all keys. */
static void make_scores(const Scores *a, int keys) {
  int key = 0;
  multiply_keys(a, 0, 0);
  for (; key + 32 < keys; key += 32) {
    multiply_keys(a, key + 16, 1);
    store_keys(a, key, 0);
    multiply_keys(a, key + 32, 0);
    store_keys(a, key + 16, 1);
  }
  if (key + 16 < keys) multiply_keys(a, key + 16, 1);
  store_keys(a, key, 0);
  if (key + 16 < keys) store_keys(a, key + 16, 1);
}

/* Texts are shared out by groups of heads: whole texts where there are enough of them, so that two threads seldom write
 * next to each other and a thread finds the next head's numbers in its cache. */
INLINE int heads_at_once(const Attention *t) {
  int64_t wanted = (int64_t)8 * omp_get_max_threads();
  int64_t groups = t->texts < wanted ? (wanted + t->texts - 1) / (t->texts > 0 ? t->texts : 1) : 1;
  return groups < t->heads ? (t->heads + groups - 1) / groups : 1;
}

/* --- forward ----------------------------------------------------------------------------------------------- */

/* `top`, 32 queries, raised to the largest score of some keys, scores (keys, 32). */
INLINE void raise_tops(const float *scores, int keys, __m512 *top) {
  int key = 0;
  for (; key + 2 <= keys; key += 2)
    for (int i = 0; i < 2; i++)
      top[i] = _mm512_max_ps(top[i], _mm512_max_ps(_mm512_load_ps(scores + key * 32 + i * 16),
                                                   _mm512_load_ps(scores + key * 32 + 32 + i * 16)));
  if (key < keys)
    for (int i = 0; i < 2; i++) top[i] = _mm512_max_ps(top[i], _mm512_load_ps(scores + key * 32 + i * 16));
}

/* The weights of one key for 16 * columns queries, added to their totals and with dropout. */
INLINE __m512i weigh_key(const float *scores, __m512 slope, const __m512 *top, __m512 *total, Power power, int columns,
                         int drop, Dropout dropout, uint32_t index) {
  __m512 x[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  for (int i = 0; i < columns; i++) {
    x[i] = power_of_two(_mm512_fmsub_ps(_mm512_load_ps(scores + i * 16), slope, top[i]), power);
    total[i] = _mm512_add_ps(total[i], x[i]);
    if (drop) x[i] = keep_weights(x[i], dropout, index + i * 16 * 65536u);
  }
  return narrow(x[0], x[1]);
}

/* The scores of all keys, `scores` (keys, 32) float, to weights times their sum (Vaswani et al. 2017, equation 1, with
 * the division left for later), as tiles of pairs of keys. Where the weights of some keys are made, the next block's
 * scores take their place. most: each query's largest score, then those of the next scores. moments: what is to
 * be kept, largest scaled scores (32) and 1 / the sums (32). */
INLINE void weigh_columns(const Text *x, Step s, const float *scores, bf16 *weights, __m512 *most, float *moments,
                          const Scores *next, int columns, int drop) {
  const Dropout dropout = x->t->dropout;
  const float scale = 1.0f / sqrtf((float)x->t->head);
  const __m512 slope = _mm512_set1_ps(scale * LOG2_E);
  const Power power = power_times(_mm512_set1_ps(1.0f));
  const uint32_t index = weight_index(x->t, x->number, s.h, s.first, 0);
  __m512 top[2], total[2];
  for (int i = 0; i < 2; i++) {
    _mm512_store_ps(moments + i * 16, _mm512_mul_ps(most[i], _mm512_set1_ps(scale)));
    top[i] = _mm512_mul_ps(most[i], slope);
    total[i] = _mm512_setzero_ps();
    most[i] = _mm512_set1_ps(-INFINITY);
  }
  for (int first = 0; first < x->padded_keys; first += 16) {
    int rows = x->keys - first < 16 ? x->keys - first : 16, r = 0; /* may be below 0 */
    bf16 *to = weights + first / 32 * 2 * TILE + first % 32 * 16;
    const float *from = scores + first * 32;
    if (rows > 0 && next->out) multiply_keys(next, first, 0);
    for (; r < rows; r += 2, from += 64) {
      uint32_t at = index + first + r;
      __m512i even = weigh_key(from, slope, top, total, power, columns, drop, dropout, at);
      __m512i odd = _mm512_setzero_si512();
      if (r + 1 < rows) odd = weigh_key(from + 32, slope, top, total, power, columns, drop, dropout, at + 1);
      pair_keys(even, odd, to + r * 16, to + TILE + r * 16);
    }
    for (; r < 16; r += 2)
      pair_keys(_mm512_setzero_si512(), _mm512_setzero_si512(), to + r * 16, to + TILE + r * 16);
    if (rows > 0 && next->out) {
      store_keys(next, first, 0);
      if (first) raise_tops(next->out + (first - 16) * 32, 16, most);
    }
  }
  if (next->out) raise_tops(next->out + (x->keys - 1) / 16 * 512, (x->keys - 1) % 16 + 1, most);
  for (int i = 0; i < 2; i++) _mm512_store_ps(moments + 32 + i * 16, _mm512_div_ps(_mm512_set1_ps(1.0f), total[i]));
}
static void weigh(const Text *x, Step s, const float *scores, bf16 *weights, __m512 *most, float *moments,
                  const Scores *next) {
  if (x->t->dropout.threshold)
    weigh_columns(x, s, scores, weights, most, moments, next, 2, 1);
  else if (s.count > 16)
    weigh_columns(x, s, scores, weights, most, moments, next, 2, 0);
  else
    weigh_columns(x, s, scores, weights, most, moments, next, 1, 0);
}

typedef struct {
  bf16 *q_across, *k, *v_pairs; /* v_pairs transposed */
} ForwardOperands;

static void forward_operands(const Text *x, int h, ForwardOperands to) {
  const Attention *t = x->t;
  int head = t->head;
  /* k's place holds v until its pairs are made */
  pack_head(t->v, t->v_stride, t->v_bias, x->k_from, x->keys, h, head, to.k);
  pair_tiles(to.k, x->padded_keys, head, to.v_pairs);
  transpose_tiles(to.v_pairs, x->padded_keys * head / TILE, to.v_pairs);
  pack_head(t->k, t->k_stride, t->k_bias, x->k_from, x->keys, h, head, to.k);
  pack_head(t->q, t->q_stride, t->q_bias, x->q_from, x->queries, h, head, to.q_across);
  transpose_tiles(to.q_across, x->padded_queries * head / TILE, to.q_across);
}

/* Scratch for the longest text. */
INLINE int64_t forward_bytes(const Attention *t) {
  int64_t longest = whole_blocks(t->longest);
  return longest * (t->head * 6 * sizeof(bf16) + 32 * (sizeof(float) + sizeof(bf16))) +
         t->head * 32 * sizeof(float) + 4096;
}

static void store_read(const Text *x, Step s, const float *read, const float *moments, bf16 *out, int64_t out_stride,
                       float *softmaxes) {
  const Attention *t = x->t;
  int64_t place = (x->q_from + s.first) * out_stride + (int64_t)s.h * t->head;
  store_mixed(read, t->head, moments + 32, out + place, out_stride, s.count);
  if (!softmaxes) return;
  float *to = softmaxes + ((x->q_from + s.first) * t->heads + s.h) * 2;
  for (int i = 0; i < s.count; i++, to += 2 * t->heads) to[0] = moments[i], to[1] = moments[32 + i];
}

/* The heads from `first` to before `last` of one text. */
static void forward_text(const Text *x, int first, int last, bf16 *out, int64_t out_stride, float *softmaxes,
                         char *scratch) {
  int head = x->t->head, words = head / 32;
  int64_t size = x->padded_keys * head * sizeof(bf16), q_size = x->padded_queries * head * sizeof(bf16);
  ForwardOperands operands[2]; /* of this head and the next */
  float moments[2][64] __attribute__((aligned(64)));
  for (int i = 0; i < 2; i++)
    operands[i] = (ForwardOperands){piece(&scratch, q_size), piece(&scratch, size), piece(&scratch, size)};
  float *scores = piece(&scratch, x->padded_keys * 32 * sizeof(float));
  bf16 *weights = piece(&scratch, x->padded_keys * 32 * sizeof(bf16));
  float *read = piece(&scratch, head * 32 * sizeof(float)); /* (head, 32 queries) */
  __m512 most[2] = {_mm512_set1_ps(-INFINITY), _mm512_set1_ps(-INFINITY)};

  Step step = next_step(x, (Step){first - 1, x->queries, 0}), before = {-1, 0, 0};
  forward_operands(x, first, operands[first % 2]);
  Scores products = {operands[first % 2].k, operands[first % 2].q_across, scores, words};
  make_scores(&products, x->keys);
  raise_tops(scores, x->keys, most);
  for (int turn = 0; step.h < last; turn ^= 1) {
    Step next = next_step(x, step);
    const ForwardOperands *here = &operands[step.h % 2], *soon = &operands[next.h % 2];
    if (next.h > step.h && next.h < last) forward_operands(x, next.h, *soon);
    products = (Scores){soon->k, soon->q_across + (int64_t)next.first * head, next.h < last ? scores : 0, words};
    weigh(x, step, scores, weights, most, moments[turn], &products);
    if (before.h >= 0) store_read(x, before, read, moments[turn ^ 1], out, out_stride, softmaxes);
    multiply_down(here->v_pairs, weights, x->padded_keys, head, read);
    before = step, step = next;
    if (step.h >= last) store_read(x, before, read, moments[turn], out, out_stride, softmaxes);
  }
}

/* As attention_forward_bf16 in kernels.c. */
void attention_forward_tiles(const Attention *settings, bf16 *out, int64_t out_stride, float *softmaxes) {
  const Attention t = *settings;
  int64_t bytes = forward_bytes(&t), at_once = heads_at_once(&t), groups = (t.heads + at_once - 1) / at_once;
#pragma omp parallel
  {
    char *scratch = aligned_alloc(64, (bytes + 63) / 64 * 64);
    set_tiles();
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < t.texts * groups; item++) {
      Text text = text_at(&t, t.order[item / groups]);
      int first = item % groups * at_once, last = first + at_once < t.heads ? first + at_once : t.heads;
      forward_text(&text, first, last, out, out_stride, softmaxes, scratch);
    }
    release_tiles();
    free(scratch);
  }
}

/* --- backward ---------------------------------------------------------------------------------------------- */

/* The scores (keys, 32) float become weights P, and delta (32) the sum over keys of P times dP, the gradients of the
 * weights, after dropout: grads (keys, 32) float. moments: largest scores (32) and 1 / sums (32). */
INLINE void weigh_again_columns(const Text *x, Step s, float *scores, float *grads, const float *moments, float *delta,
                                int columns, int drop) {
  const Dropout dropout = x->t->dropout;
  const __m512 slope = _mm512_set1_ps(LOG2_E / sqrtf((float)x->t->head));
  const uint32_t index = weight_index(x->t, x->number, s.h, s.first, 0);
  __m512 top[2], sum[2];
  Power power[2];
  for (int i = 0; i < 2; i++) {
    top[i] = _mm512_mul_ps(_mm512_load_ps(moments + i * 16), _mm512_set1_ps(LOG2_E));
    power[i] = power_times(_mm512_load_ps(moments + 32 + i * 16));
    sum[i] = _mm512_setzero_ps();
  }
  for (int key = 0; key < x->keys; key++)
    for (int i = 0; i < columns; i++) {
      float *at = scores + key * 32 + i * 16, *grad_at = grads + key * 32 + i * 16;
      __m512 weight = power_of_two(_mm512_fmsub_ps(_mm512_load_ps(at), slope, top[i]), power[i]);
      __m512 grad = _mm512_load_ps(grad_at);
      if (drop) {
        grad = keep_weights(grad, dropout, index + i * 16 * 65536u + key);
        _mm512_store_ps(grad_at, grad);
      }
      _mm512_store_ps(at, weight);
      sum[i] = _mm512_fmadd_ps(weight, grad, sum[i]);
    }
  for (int i = 0; i < 2; i++) _mm512_store_ps(delta + i * 16, sum[i]);
}
static void weigh_again(const Text *x, Step s, float *scores, float *grads, const float *moments, float *delta) {
  if (x->t->dropout.threshold)
    weigh_again_columns(x, s, scores, grads, moments, delta, 2, 1);
  else if (s.count > 16)
    weigh_again_columns(x, s, scores, grads, moments, delta, 2, 0);
  else
    weigh_again_columns(x, s, scores, grads, moments, delta, 1, 0);
}

/* One key's slopes P (dP - delta) * scale for 32 queries, returned and written to `slopes`, and P after dropout to
 * `used`. mean: delta times scale. */
INLINE __m512i slope_key(const float *scores, const float *grads, __m512 scale, const __m512 *mean, bf16 *used,
                         bf16 *slopes, int columns, int drop, Dropout dropout, uint32_t index) {
  __m512 x[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, y[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  for (int i = 0; i < columns; i++) {
    x[i] = _mm512_load_ps(scores + i * 16);
    y[i] = _mm512_mul_ps(x[i], _mm512_fmsub_ps(_mm512_load_ps(grads + i * 16), scale, mean[i]));
    if (drop) x[i] = keep_weights(x[i], dropout, index + i * 16 * 65536u);
  }
  __m512i row = narrow(y[0], y[1]);
  _mm512_store_si512(slopes, row);
  _mm512_store_si512(used, narrow(x[0], x[1]));
  return row;
}

/* Weights P and their gradients to: `used` and `slopes`, tiles (16 keys, 32 queries) `apart` elements from each other,
 * of P after dropout and of dS = P (dP - delta) / sqrt(head); slope_pairs, tiles of pairs of keys, of the latter. The
 * next block's scores and gradients take their place meanwhile. */
INLINE void make_slopes_columns(const Text *x, Step s, const float *scores, const float *grads, const float *delta,
                                bf16 *used, bf16 *slopes, int64_t apart, bf16 *slope_pairs, const Scores *next,
                                const Scores *next2, int columns, int drop) {
  const Dropout dropout = x->t->dropout;
  const __m512 scale = _mm512_set1_ps(1.0f / sqrtf((float)x->t->head));
  const __m512 mean[2] = {_mm512_load_ps(delta) * scale, _mm512_load_ps(delta + 16) * scale};
  const uint32_t index = weight_index(x->t, x->number, s.h, s.first, 0);
  for (int first = 0; first < x->padded_keys; first += 16) { /* a row of tiles at a time */
    int rows = x->keys - first < 16 ? x->keys - first : 16, r = 0;
    const float *from = scores + first * 32, *grads_from = grads + first * 32;
    bf16 *pairs = slope_pairs + first / 32 * 2 * TILE + first % 32 * 16;
    bf16 *used_row = used + first / 16 * apart, *slope_row = slopes + first / 16 * apart;
    if (rows > 0 && next->out) {
      multiply_keys(next, first, 0);
      multiply_keys(next2, first, 1);
    }
    for (; r < rows; r += 2) {
      __m512i even = slope_key(from + r * 32, grads_from + r * 32, scale, mean, used_row + r * 32, slope_row + r * 32,
                               columns, drop, dropout, index + first + r);
      __m512i odd = _mm512_setzero_si512();
      if (r + 1 < rows) {
        odd = slope_key(from + r * 32 + 32, grads_from + r * 32 + 32, scale, mean, used_row + r * 32 + 32,
                        slope_row + r * 32 + 32, columns, drop, dropout, index + first + r + 1);
      } else {
        _mm512_store_si512(used_row + r * 32 + 32, odd);
        _mm512_store_si512(slope_row + r * 32 + 32, odd);
      }
      pair_keys(even, odd, pairs + r * 16, pairs + TILE + r * 16);
    }
    for (; r < 16; r += 2) {
      __m512i none = _mm512_setzero_si512();
      for (int i = 0; i < 2; i++) {
        _mm512_store_si512(used_row + r * 32 + i * 32, none);
        _mm512_store_si512(slope_row + r * 32 + i * 32, none);
      }
      pair_keys(none, none, pairs + r * 16, pairs + TILE + r * 16);
    }
    if (rows > 0 && next->out) {
      store_keys(next, first, 0);
      store_keys(next2, first, 1);
    }
  }
}
static void make_slopes(const Text *x, Step s, const float *scores, const float *grads, const float *delta, bf16 *used,
                        bf16 *slopes, int64_t apart, bf16 *slope_pairs, const Scores *next, const Scores *next2) {
  if (x->t->dropout.threshold)
    make_slopes_columns(x, s, scores, grads, delta, used, slopes, apart, slope_pairs, next, next2, 2, 1);
  else if (s.count > 16)
    make_slopes_columns(x, s, scores, grads, delta, used, slopes, apart, slope_pairs, next, next2, 2, 0);
  else
    make_slopes_columns(x, s, scores, grads, delta, used, slopes, apart, slope_pairs, next, next2, 1, 0);
}

/* x (rows, 32) float, `from_stride` apart, to rows of `out`. */
INLINE void store_rows(const float *x, int64_t from_stride, bf16 *out, int64_t stride, int rows) {
  for (int r = 0; r < rows; r++, x += from_stride, out += stride)
    _mm512_storeu_si512(out, narrow(_mm512_load_ps(x), _mm512_load_ps(x + 16)));
}

typedef struct {
  bf16 *q_across, *q_pairs, *g_across, *g_pairs, *k, *k_pairs, *v; /* g: dO; k_pairs transposed */
} BackwardOperands;

/* `flat` is scratch for the queries' rows. */
static void backward_operands(const Text *x, int h, const bf16 *dout, int64_t dout_stride, bf16 *flat,
                              BackwardOperands to) {
  const Attention *t = x->t;
  int head = t->head;
  int64_t tiles = x->padded_queries * head / TILE;
  pack_head(t->q, t->q_stride, t->q_bias, x->q_from, x->queries, h, head, flat);
  transpose_tiles(flat, tiles, to.q_across);
  pair_tiles(flat, x->padded_queries, head, to.q_pairs);
  pack_head(dout, dout_stride, 0, x->q_from, x->queries, h, head, flat);
  transpose_tiles(flat, tiles, to.g_across);
  pair_tiles(flat, x->padded_queries, head, to.g_pairs);
  pack_head(t->k, t->k_stride, t->k_bias, x->k_from, x->keys, h, head, to.k);
  pair_tiles(to.k, x->padded_keys, head, to.k_pairs);
  transpose_tiles(to.k_pairs, x->padded_keys * head / TILE, to.k_pairs);
  pack_head(t->v, t->v_stride, t->v_bias, x->k_from, x->keys, h, head, to.v);
}

/* What attention_forward kept of a block of queries; behind the last query everything weighs nothing. */
INLINE void load_moments(const Text *x, Step s, const float *softmaxes, float *moments) {
  const vint lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const float *from = softmaxes + ((x->q_from + s.first) * x->t->heads + s.h) * 2;
  __m512i places = (__m512i)(lanes * (x->t->heads * 2));
  for (int i = 0; i < 2; i++, from += 16 * x->t->heads * 2) {
    __mmask16 there = s.count >= 16 * i + 16 ? 0xffff : s.count <= 16 * i ? 0 : (1 << (s.count - 16 * i)) - 1;
    _mm512_store_ps(moments + i * 16, _mm512_mask_i32gather_ps(_mm512_setzero_ps(), there, places, from, 4));
    _mm512_store_ps(moments + 32 + i * 16, _mm512_mask_i32gather_ps(_mm512_setzero_ps(), there, places, from + 1, 4));
  }
}

INLINE int64_t backward_bytes(const Attention *t) {
  int64_t longest = whole_blocks(t->longest), chunk = longest < CHUNK ? longest : CHUNK;
  return longest * t->head * (15 * sizeof(bf16) + 2 * sizeof(float)) +
         longest * 32 * (2 * sizeof(float) + sizeof(bf16)) + longest * chunk * 2 * sizeof(bf16) +
         t->head * 32 * sizeof(float) + 4096;
}

/* With P the weights after softmax, D after dropout, O = D V, for each query
 *   dV = D^T dO    dP = dropout(dO V^T)    dS = P (dP - sum(P dP)) / sqrt(head)    dQ = dS K    dK = dS^T Q
 * (Vaswani et al. 2017, equation 1, by the chain rule), P made again from softmaxes, a block of queries at a time, as
 * Dao et al. 2022 (FlashAttention, algorithm 4) do. */

/* A chunk's part of dV and dK, added to dv_sum and dk_sum (keys, head) unless it is the first, and written out behind
 * the last. used and slopes: tiles (keys, `blocks` blocks of 32 queries); g_pairs and q_pairs: from the chunk on. */
static void key_gradients(const Text *x, int h, int blocks, int more, int last, const bf16 *used, const bf16 *slopes,
                          const bf16 *g_pairs, const bf16 *q_pairs, float *dv_sum, float *dk_sum, bf16 *dv, bf16 *dk) {
  const Attention *t = x->t;
  int head = t->head;
  for (int key = 0; key < x->keys; key += BLOCK) {
    int64_t from = (int64_t)key / 16 * blocks * TILE, sum = (int64_t)key * head;
    int64_t row = x->k_from + key, column = (int64_t)h * head;
    int rows = x->keys - key < BLOCK ? x->keys - key : BLOCK;
    for (int c = 0; c < head; c += 32) {
      const bf16 *g = g_pairs + c / 16 * TILE, *q = q_pairs + c / 16 * TILE;
      multiply(used + from, blocks, 1, g, 1, head / 16, blocks, dv_sum + sum + c, head, more);
      multiply(slopes + from, blocks, 1, q, 1, head / 16, blocks, dk_sum + sum + c, head, more);
    }
    if (!last) continue;
    for (int c = 0; c < head; c += 32) {
      store_rows(dv_sum + sum + c, head, dv + row * t->v_stride + column + c, t->v_stride, rows);
      store_rows(dk_sum + sum + c, head, dk + row * t->k_stride + column + c, t->k_stride, rows);
    }
  }
}

/* A step's dQ, result (head, 32 queries as pair_keys mixes them) float, to its rows of dq. */
static void store_query_gradients(const Text *x, Step s, const float *result, bf16 *dq) {
  const Attention *t = x->t;
  float ones[32] __attribute__((aligned(64)));
  for (int i = 0; i < 32; i++) ones[i] = 1.0f;
  int64_t place = (x->q_from + s.first) * t->q_stride + (int64_t)s.h * t->head;
  store_mixed(result, t->head, ones, dq + place, t->q_stride, s.count);
}

/* The heads from `first` to before `last` of one text. */
static void backward_text(const Text *x, int first, int last, const bf16 *dout, int64_t dout_stride,
                          const float *softmaxes, bf16 *dq, bf16 *dk, bf16 *dv, char *scratch) {
  const Attention *t = x->t;
  int head = t->head, words = head / 32;
  int64_t size = x->padded_keys * head * sizeof(bf16), q_size = x->padded_queries * head * sizeof(bf16);
  int64_t chunk = x->padded_queries < CHUNK ? x->padded_queries : CHUNK;
  BackwardOperands operands[2]; /* of this head and the next */
  float delta[32] __attribute__((aligned(64))), moments[64] __attribute__((aligned(64)));
  for (int i = 0; i < 2; i++) {
    BackwardOperands *o = &operands[i];
    o->q_across = piece(&scratch, q_size), o->q_pairs = piece(&scratch, q_size);
    o->g_across = piece(&scratch, q_size), o->g_pairs = piece(&scratch, q_size);
    o->k = piece(&scratch, size), o->k_pairs = piece(&scratch, size), o->v = piece(&scratch, size);
  }
  float *scores = piece(&scratch, x->padded_keys * 32 * sizeof(float)); /* (keys, 32 queries) */
  float *grads = piece(&scratch, x->padded_keys * 32 * sizeof(float));
  bf16 *flat = piece(&scratch, q_size);
  bf16 *slope_pairs = piece(&scratch, x->padded_keys * 32 * sizeof(bf16));
  bf16 *used = piece(&scratch, x->padded_keys * chunk * sizeof(bf16)); /* tiles (keys, queries of a chunk) */
  bf16 *slopes = piece(&scratch, x->padded_keys * chunk * sizeof(bf16));
  float *result = piece(&scratch, head * 32 * sizeof(float)); /* (head, 32 queries) */
  float *dk_sum = piece(&scratch, x->padded_keys * head * sizeof(float));
  float *dv_sum = piece(&scratch, x->padded_keys * head * sizeof(float));

  Step step = next_step(x, (Step){first - 1, x->queries, 0}), before = {-1, 0, 0};
  BackwardOperands *here = &operands[first % 2];
  backward_operands(x, first, dout, dout_stride, flat, *here);
  Scores s = {here->k, here->q_across, scores, words}, g = {here->v, here->g_across, grads, words};
  make_scores(&s, x->keys);
  make_scores(&g, x->keys);
  while (step.h < last) {
    Step next = next_step(x, step);
    here = &operands[step.h % 2];
    const BackwardOperands *soon = &operands[next.h % 2];
    if (next.h > step.h && next.h < last) backward_operands(x, next.h, dout, dout_stride, flat, *soon);
    int start = step.first / CHUNK * CHUNK, behind = start + CHUNK < x->queries ? start + CHUNK : x->queries;
    int blocks = whole_blocks(behind - start) / 32, j = (step.first - start) / 32;
    int64_t right = (int64_t)next.first * head;
    s = (Scores){soon->k, soon->q_across + right, next.h < last ? scores : 0, words};
    g = (Scores){soon->v, soon->g_across + right, next.h < last ? grads : 0, words};
    load_moments(x, step, softmaxes, moments);
    weigh_again(x, step, scores, grads, moments, delta);
    make_slopes(x, step, scores, grads, delta, used + j * TILE, slopes + j * TILE, blocks * TILE, slope_pairs,
                &s, &g);
    if (before.h >= 0) store_query_gradients(x, before, result, dq);
    multiply_down(here->k_pairs, slope_pairs, x->padded_keys, head, result);
    if (j == blocks - 1)
      key_gradients(x, step.h, blocks, start > 0, behind == x->queries, used, slopes,
                    here->g_pairs + (int64_t)start * head, here->q_pairs + (int64_t)start * head,
                    dv_sum, dk_sum, dv, dk);
    before = step, step = next;
  }
  store_query_gradients(x, before, result, dq);
}

/* As attention_backward_bf16 in kernels.c. */
void attention_backward_tiles(const Attention *settings, const bf16 *dout, int64_t dout_stride, const float *softmaxes,
                              bf16 *dq, bf16 *dk, bf16 *dv) {
  const Attention t = *settings;
  int64_t bytes = backward_bytes(&t), at_once = heads_at_once(&t), groups = (t.heads + at_once - 1) / at_once;
#pragma omp parallel
  {
    char *scratch = aligned_alloc(64, (bytes + 63) / 64 * 64);
    set_tiles();
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < t.texts * groups; item++) {
      Text text = text_at(&t, t.order[item / groups]);
      int first = item % groups * at_once, last = first + at_once < t.heads ? first + at_once : t.heads;
      backward_text(&text, first, last, dout, dout_stride, softmaxes, dq, dk, dv, scratch);
    }
    release_tiles();
    free(scratch);
  }
}

#endif
