/* Matrix products in bfloat16 on Intel's tiles (AMX), sums in float, with what follows each product done while its
 * result is still in the cache: biases, GELU and its derivative.
 *
 * All go block by block, 32 rows by 32 columns: four tiles of sums, two of each factor. A factor that a product reads as
 * its right side is reordered first ("packed") into panels of 32 columns:
 *   (columns / 32 panels, depth / 32 steps, 2 tiles, 16 rows, 16 words of two numbers)
 * so that it is read in one straight line. The matrices between the two products of a feed-forward block, which nothing
 * else reads, are kept in blocks: (rows / 32, columns / 32, 32, 32); "blocked" below. Processors fetch ahead along
 * straight lines, and 32 rows far apart are not one. Numbers of rows, columns and depth are multiples of 32; nothing
 * here checks its arguments: cpu_encoder.py does.
 */
#include "tiles.h"
#include "vectors.h"

#if HAS_TILES
#include <sys/syscall.h>
#include <unistd.h>

#define BLOCK 32
#define TILE_VALUES 512                  /* bfloat16 in a tile */
#define STEP_VALUES (2 * TILE_VALUES)    /* of a panel: 32 deep, 32 wide */
/* What of the packed weights is used again and again stays in the level-2 cache, which has 2 MiB on these processors. */
#define MOST_RIGHT_BYTES (1 << 20)
/* A weight's gradient: so many steps of a left panel stay in the level-1 cache, so many bytes of sums in the level-2. */
#define MOST_STEPS 12
#define MOST_KEPT_BYTES (3 << 18)

/* Whether this process may use tiles: Linux wants to be asked once, since they make every thread's state larger.
 * ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA: Linux, Documentation/arch/x86/xstate.rst. */
int has_tile_products(void) { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

INLINE void zero_sums(void) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

/* The tiles of sums to (32, 32) float. */
INLINE void store_sums(float *sums) {
  _tile_stored(0, sums, 128);
  _tile_stored(1, sums + 16, 128);
  _tile_stored(2, sums + 16 * BLOCK, 128);
  _tile_stored(3, sums + 16 * BLOCK + 16, 128);
}

INLINE void store_pair(bf16 *to, vfloat first, vfloat second) {
  _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first));
}

/* What is done with each block of a product's sums; see product_rows and vocabulary_sums. */
enum { PLAIN, GELU, KEEP_AND_GELU, GELU_SLOPE, SUMS, SLOPES };

/* A softmax over the columns of a product, such as a vocabulary; see vocabulary_sums and vocabulary_slopes. */
typedef struct {
  const float *bias;      /* (columns,) */
  const int32_t *targets; /* (rows,) each row's right column; -1: none */
  float *most, *sums;     /* (rows,), (rows, LANES): what exponentials are taken relative to, and their sums */
  float *tops;            /* (rows, LANES): the largest logits; or null */
  float *target_logits;   /* (rows,) */
  const float *scales;  /* (rows,) of the gradient */
  const float *offsets; /* (rows,) log2(scale) - log2(e) * log(sum of exp(logits)), and -1e9 where the scale is 0 */
} Softmax;
/* A logit that is larger than what a row's exponentials are relative to by more than this makes them relative to itself.
 * The sum of a million exponentials of 60 is below float's largest number. */
#define MOST_ABOVE 60.0f

/* A block whose sums are there and whose result is not: sums (32, 32), the block's places in h and y, its part of the
 * bias (or null). */
typedef struct {
  float sums[BLOCK * BLOCK] __attribute__((aligned(64)));
  const bf16 *bias;
  bf16 *h, *y;
  int64_t stride;
  const Softmax *softmax;
  int64_t row, column; /* where the block lies in the product */
} Block;

/* Phi(x), the standard normal distribution, and GELU'(x) = Phi(x) + x phi(x), both 1/2 plus x times a polynomial of x^2
 * up to some |x| and constant from there on. The coefficients are those with the smallest largest error (found by linear
 * programming): 1.3e-4 in GELU(x), 2.2e-4 in GELU'(x), and by rounding up to 1e-6 of |x| far below 0. bfloat16 holds a
 * number of about 1 to 2e-3. There is no division and no exponential: next to tiles, vectors multiply at half their speed,
 * and they should take no longer than those. */
#define SHARE_END 4.0f
static const float SHARE[] = {0.398620069026947f,     -0.06607971340417862f,  0.0096657183021307f,
                              -0.0010530343279242516f, 8.142393926391378e-05f, -4.145211278228089e-06f,
                              1.2255271997219097e-07f, -1.5767805949806757e-09f};
#define SLOPE_END 4.25f
static const float SLOPE[] = {0.7971731424331665f,     -0.26420778036117554f,  0.057926151901483536f,
                              -0.008475655689835548f,  0.0008497328381054103f, -5.736997627536766e-05f,
                              2.474047732903273e-06f,  -6.114076711583039e-08f, 6.556306608729301e-10f};

INLINE vfloat half_plus_odd(vfloat x, float end, const float *of, int degree) {
  x = (vfloat)_mm512_range_ps((__m512)x, _mm512_set1_ps(end), 2); /* the smaller of both sizes, with the sign of x */
  vfloat t = x * x, p = splat(of[degree]);
  for (int i = degree - 1; i >= 0; i--) p = p * t + of[i];
  return p * x + 0.5f;
}
INLINE vfloat normal_share_roughly(vfloat x) { return half_plus_odd(x, SHARE_END, SHARE, 7); }
INLINE vfloat gelu_slope_roughly(vfloat x) { return half_plus_odd(x, SLOPE_END, SLOPE, 8); }

/* 2^x: 2^n times the polynomial of degree 4 over |r| <= 1/2 with the smallest largest relative error (found by least
 * squares, reweighted), 2.6e-6. Far below 0 it is 0; what is no number stays none. */
#define LOG2_E 1.44269504f
INLINE vfloat power_of_two_roughly(vfloat x) {
  __m512 n = _mm512_roundscale_ps((__m512)x, 8);
  vfloat r = x - (vfloat)n, p = r * 9.570101698779063e-3f + 5.591786030272894e-2f;
  p = p * r + 0.24024744833108347f;
  p = p * r + 0.6931218147397945f;
  p = p * r + 0.9999992614441333f;
  return (vfloat)_mm512_scalef_ps((__m512)p, n);
}

/* Row r of a block's logits goes into the row's sum of exponentials. */
INLINE void add_exponentials(const Block *block, int r) {
  const Softmax *s = block->softmax;
  int64_t row = block->row + r;
  vfloat x1 = load_float(block->sums + r * BLOCK) + load_float(s->bias + block->column);
  vfloat x2 = load_float(block->sums + r * BLOCK + LANES) + load_float(s->bias + block->column + LANES);
  vfloat larger = (vfloat)_mm512_max_ps((__m512)x1, (__m512)x2), sum = load_float(s->sums + row * LANES);
  float most = s->most[row];
  if (_mm512_cmp_ps_mask((__m512)larger, _mm512_set1_ps(most + MOST_ABOVE), _CMP_GT_OQ)) {
    float top = max_lanes(larger);
    sum *= exponential(splat(most - top));
    s->most[row] = most = top;
  }
  x1 = power_of_two_roughly(x1 * LOG2_E - most * LOG2_E), x2 = power_of_two_roughly(x2 * LOG2_E - most * LOG2_E);
  store_float(s->sums + row * LANES, sum + x1 + x2);
  if (s->tops) {
    float *tops = s->tops + row * LANES;
    store_float(tops, (vfloat)_mm512_max_ps((__m512)larger, (__m512)load_float(tops)));
  }
  int64_t target = s->targets[row] - block->column;
  if (target >= 0 && target < BLOCK)
    s->target_logits[row] = block->sums[r * BLOCK + target] + s->bias[block->column + target];
}

/* Row r of a block's logits becomes the gradient of the cross-entropy: (probability - 1 at the target) * scale. */
INLINE void store_slopes(const Block *block, int r) {
  const Softmax *s = block->softmax;
  int64_t row = block->row + r, target = s->targets[row] - block->column;
  float offset = s->offsets[row], scale = s->scales[row];
  vfloat x1 = load_float(block->sums + r * BLOCK) + load_float(s->bias + block->column);
  vfloat x2 = load_float(block->sums + r * BLOCK + LANES) + load_float(s->bias + block->column + LANES);
  x1 = power_of_two_roughly(x1 * LOG2_E + offset), x2 = power_of_two_roughly(x2 * LOG2_E + offset);
  if (target >= 0 && target < LANES) x1[target] -= scale;
  if (target >= LANES && target < BLOCK) x2[target - LANES] -= scale;
  store_pair(block->y + r * block->stride, x1, x2);
}

/* Row r of a block's result. */
INLINE void finish_row(const Block *block, int r, int what) {
  if (what == SUMS) {
    add_exponentials(block, r);
    return;
  }
  if (what == SLOPES) {
    store_slopes(block, r);
    return;
  }
  const float *sums = block->sums + r * BLOCK;
  bf16 *h = block->h + r * block->stride, *y = block->y + r * block->stride;
  vfloat x1 = load_float(sums), x2 = load_float(sums + LANES);
  if (block->bias) x1 += load_bf16(block->bias), x2 += load_bf16(block->bias + LANES);
  if (what == KEEP_AND_GELU) store_pair(h, x1, x2);
  if (what == GELU || what == KEEP_AND_GELU) x1 *= normal_share_roughly(x1), x2 *= normal_share_roughly(x2);
  if (what == GELU_SLOPE)
    x1 *= gelu_slope_roughly(load_bf16(h)), x2 *= gelu_slope_roughly(load_bf16(h + LANES));
  store_pair(y, x1, x2);
}

/* What a product asks the processor to fetch while it multiplies. Rows, columns and memory pages end too soon for the
 * processor to find out by itself, and waiting for the level-3 cache would take as long as multiplying. */
typedef struct {
  const char *left, *left_end; /* the next rows of the left side: one piece of memory */
  int left_lines;              /* of them in a step */
  int block_lines;             /* of the block's places in h and y in a step */
} Fetch;

INLINE void fetch_block(const Block *block, int line, int count, int what) {
  if (what == SUMS) return;
  for (int end = line + count; line < end && line < BLOCK; line++) {
    _mm_prefetch((const char *)(block->y + line * block->stride), _MM_HINT_ET0);
    if (what == KEEP_AND_GELU) _mm_prefetch((const char *)(block->h + line * block->stride), _MM_HINT_ET0);
    if (what == GELU_SLOPE) _mm_prefetch((const char *)(block->h + line * block->stride), _MM_HINT_T0);
  }
}

/* Four tiles of sums over `steps` of 32: 32 rows of a, `stride` numbers apart, by one panel; from step to step a goes on
 * by `along`. The rows of the block before (or null) are finished in between: tiles and vectors are computed by different
 * parts of the processor. */
INLINE void multiply_rows(const bf16 *a, int64_t stride, int64_t along, const bf16 *panel, int64_t steps,
                          const Block *before, const Block *block, Fetch *fetch, int what) {
  int row = 0, rows_a_step = before ? (BLOCK + steps - 1) / steps : 0;
  zero_sums();
  for (int64_t s = 0; s < steps; s++) {
    _tile_loadd(4, a + s * along, stride * 2);
    _tile_stream_loadd(6, panel + s * STEP_VALUES, 64);
    _tile_stream_loadd(7, panel + s * STEP_VALUES + TILE_VALUES, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a + 16 * stride + s * along, stride * 2);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    for (int line = 0; line < fetch->left_lines && fetch->left < fetch->left_end; line++, fetch->left += 64)
      _mm_prefetch(fetch->left, _MM_HINT_T1);
    fetch_block(block, s * fetch->block_lines, fetch->block_lines, what);
    for (int end = row + rows_a_step; row < end && row < BLOCK; row++) finish_row(before, row, what);
  }
}

/* 32 rows of 32 numbers, `stride` apart, as one step of a panel. */
INLINE void pack_step(const bf16 *from, int64_t stride, bf16 *to) {
  for (int pair = 0; pair < 16; pair++) {
    __m512i low, high;
    pair_rows(_mm512_loadu_si512(from + 2 * pair * stride), _mm512_loadu_si512(from + (2 * pair + 1) * stride), &low,
              &high);
    _mm512_store_si512(to + pair * BLOCK, low);
    _mm512_store_si512(to + TILE_VALUES + pair * BLOCK, high);
  }
}

/* How a product's right side comes: packed; or packed on the way, as the transpose of weight (columns, depth), or as
 * weight (depth, columns). */
enum { PACKED, TRANSPOSED, PLAINLY };

/* Panels `from` to `until` of it. */
INLINE void pack_weight(const bf16 *weight, int packing, bf16 *packed, int64_t columns, int64_t depth, int64_t from,
                        int64_t until) {
  int64_t steps = depth / BLOCK;
  if (packing == TRANSPOSED)
    for (int64_t p = from; p < until; p++)
      for (int64_t s = 0; s < steps; s++)
        for (int half = 0; half < 2; half++)
          transpose_words((const uint32_t *)(weight + (p * BLOCK + half * 16) * depth + s * BLOCK), depth / 2,
                          (uint32_t *)(packed + (p * steps + s) * STEP_VALUES + half * TILE_VALUES), 16);
  if (packing == PLAINLY)
    for (int64_t s = 0; s < steps; s++)
      for (int64_t p = from; p < until; p++)
        pack_step(weight + s * BLOCK * columns + p * BLOCK, columns, packed + (p * steps + s) * STEP_VALUES);
}

INLINE void product_of_rows(const bf16 *x, int x_blocked, const bf16 *weight, int packing, bf16 *packed,
                            const bf16 *bias, bf16 *h, bf16 *y, int y_blocked, int64_t rows, int64_t columns,
                            int64_t depth, int what, const Softmax *softmax) {
  int64_t panels = columns / BLOCK, row_blocks = rows / BLOCK, steps = depth / BLOCK;
  int64_t at_once = MOST_RIGHT_BYTES / (steps * STEP_VALUES * (int64_t)sizeof(bf16));
  if (at_once > panels) at_once = panels;
  if (at_once < 1) at_once = 1;
  int threads = omp_get_max_threads();
  /* Few rows: threads share the columns instead. */
  int by_columns = row_blocks < 4 * threads && panels >= threads && what != SUMS;
  int64_t x_stride = x_blocked ? BLOCK : depth, along = x_blocked ? STEP_VALUES : BLOCK;
  int64_t y_stride = y_blocked ? BLOCK : columns, to_panel = y_blocked ? STEP_VALUES : BLOCK;
#pragma omp parallel
  {
    int me = omp_get_thread_num(), all = omp_get_num_threads();
    int64_t first = row_blocks * me / all, last = row_blocks * (me + 1) / all, from = 0, until = panels;
    if (by_columns) first = 0, last = row_blocks, from = panels * me / all, until = panels * (me + 1) / all;
    Block blocks[2], *before = 0;
    int turn = 0;
    if (packing != PACKED) {
      pack_weight(weight, packing, packed, columns, depth, panels * me / all, panels * (me + 1) / all);
#pragma omp barrier
    }
    set_tiles();
    for (int64_t chunk = from; chunk < until; chunk += at_once) {
      int64_t end = chunk + at_once < until ? chunk + at_once : until;
      for (int64_t b = first; b < last; b++) {
        const bf16 *rows_here = x + b * BLOCK * depth, *rows_next = rows_here + (b + 1 < last ? BLOCK * depth : 0);
        Fetch fetch = {(const char *)rows_next, (const char *)(rows_next + (b + 1 < last ? BLOCK * depth : 0)),
                       (int)((BLOCK + end - chunk - 1) / (end - chunk)), (int)((BLOCK + steps - 1) / steps)};
        for (int64_t p = chunk; p < end; p++) {
          Block *block = &blocks[turn];
          int64_t at = b * BLOCK * columns + p * to_panel;
          block->bias = bias ? bias + p * BLOCK : 0;
          block->h = h + at, block->y = y + at, block->stride = y_stride;
          if (what == SUMS || what == SLOPES) block->softmax = softmax, block->row = b * BLOCK, block->column = p * BLOCK;
          multiply_rows(rows_here, x_stride, along, packed + p * steps * STEP_VALUES, steps, before, block, &fetch,
                        what);
          store_sums(block->sums);
          before = block;
          turn = 1 - turn;
        }
      }
    }
    if (before)
      for (int r = 0; r < BLOCK; r++) finish_row(before, r, what);
    release_tiles();
  }
}

/* y (rows, columns) = x (rows, depth) times a matrix (depth, columns), plus bias (columns,) where given. The matrix is
 * in `packed` (columns * depth,), or is packed there from `weight`, as `packing` says.
 *   PLAIN          y is that
 *   GELU           y is GELU of that; blocked
 *   KEEP_AND_GELU  h (rows, columns) is that, y is GELU of it; both blocked
 *   GELU_SLOPE     y is that times GELU'(h): the gradient of h, if x times the matrix is that of GELU(h); both blocked
 * x is blocked if that is said; for PLAIN only. */
void product_rows(const bf16 *x, int x_blocked, const bf16 *weight, int packing, bf16 *packed, const bf16 *bias,
                  bf16 *h, bf16 *y, int64_t rows, int64_t columns, int64_t depth, int what) {
#define PRODUCT(blocked_x, blocked_y, what) \
  product_of_rows(x, blocked_x, weight, packing, packed, bias, h, y, blocked_y, rows, columns, depth, what, 0)
  switch (what) { /* each with its own code */
    case PLAIN: PRODUCT(x_blocked, 0, PLAIN); break;
    case GELU: PRODUCT(0, 1, GELU); break;
    case KEEP_AND_GELU: PRODUCT(0, 1, KEEP_AND_GELU); break;
    case GELU_SLOPE: PRODUCT(0, 1, GELU_SLOPE); break;
  }
#undef PRODUCT
}

/* The first pass of a cross-entropy over the columns of a product, such as the tokens of a vocabulary, without the
 * matrix of logits: logits = x (rows, depth) times the transpose of weight (columns, depth) plus bias. weight is packed
 * into `packed`. Of each row, most and sums become what log(sum of exp(logits)) is made of, most + log(sums' lanes);
 * before, most holds -FLT_MAX and sums zeros. tops, if given, hold -FLT_MAX. */
void vocabulary_sums(const bf16 *x, const bf16 *weight, bf16 *packed, int64_t rows, int64_t columns, int64_t depth,
                     const Softmax *softmax) {
  product_of_rows(x, 0, weight, TRANSPOSED, packed, 0, 0, 0, 0, rows, columns, depth, SUMS, softmax);
}

/* The second pass: y (rows, columns) is the gradient of the logits, from offsets and scales. packed, bias and targets
 * may be those of some of the columns only; targets count from the first of these. */
void vocabulary_slopes(const bf16 *x, const bf16 *packed, bf16 *y, int64_t rows, int64_t columns, int64_t depth,
                       const Softmax *softmax) {
  product_of_rows(x, 0, 0, PACKED, (bf16 *)packed, 0, 0, y, 0, rows, columns, depth, SLOPES, softmax);
}

/* Memory of this thread's own, kept for its next call: new pages from the system would cost more than their use here. */
static void *thread_scratch(int64_t bytes) {
  static _Thread_local char *memory = 0;
  static _Thread_local int64_t size = 0;
  if (size < bytes) {
    free(memory);
    size = (bytes / 4096 + 256) * 4096;
    memory = aligned_alloc(4096, size);
  }
  return memory;
}

/* --- the left side of a product of columns: tiles of (16 columns, 32 rows) --------------------------------- */

/* The packing of `count` steps of panels `from` to `until` of a matrix (rows, columns), to (panels, `panel_values`
 * each). Row by row over all the panels, since the processor fetches ahead along rows only; and each step in PHASES
 * small parts, which fit between the products of other tiles. The panels' sums over the rows are added to sums
 * (columns,) float, if given, in the order of UNPACKED; the matrix's first step begins them. */
typedef struct {
  const bf16 *matrix;
  int64_t columns;
  int blocked;
  int64_t first_step, count, from, until;
  bf16 *to;
  int64_t panel_values;
  float *sums;
  int64_t step, panel; /* the next */
  int phase;
  vfloat total[2];
  bf16 pairs[STEP_VALUES] __attribute__((aligned(64))); /* (2, 16 pairs of rows, 16 columns of two numbers) */
} Packing;

#define PHASES 8
/* Two rows are paired within quarters of vectors, which is cheaper than in order: column UNPACKED[i] comes i-th. */
#define UNPACKED(i) ((i) / 16 * 4 + (i) % 16 / 4 * 8 + (i) % 4)

INLINE const bf16 *next_to_pack(const Packing *k, int64_t *stride) {
  *stride = k->blocked ? BLOCK : k->columns;
  int64_t to_panel = k->blocked ? STEP_VALUES : BLOCK;
  return k->matrix + (k->first_step + k->step) * BLOCK * k->columns + k->panel * to_panel;
}

INLINE void pack_phase(Packing *k) {
  if (k->step >= k->count) return;
  int64_t stride;
  const bf16 *here = next_to_pack(k, &stride);
  if (k->phase < PHASES - 2) {
    const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
    float *mine = k->sums ? k->sums + k->panel * BLOCK : 0;
    if (k->phase == 0 && mine && k->first_step + k->step)
      k->total[0] = load_float(mine), k->total[1] = load_float(mine + LANES);
    else if (k->phase == 0) k->total[0] = k->total[1] = (vfloat){0};
    for (int pair = k->phase * 3; pair < k->phase * 3 + 3 && pair < 16; pair++) {
      __m512i even = _mm512_loadu_si512(here + 2 * pair * stride);
      __m512i odd = _mm512_loadu_si512(here + (2 * pair + 1) * stride);
      __m512i low = _mm512_unpacklo_epi16(even, odd), high = _mm512_unpackhi_epi16(even, odd);
      _mm512_store_si512(k->pairs + pair * BLOCK, low);
      _mm512_store_si512(k->pairs + TILE_VALUES + pair * BLOCK, high);
      k->total[0] = (vfloat)_mm512_dpbf16_ps((__m512)k->total[0], (__m512bh)low, ones);
      k->total[1] = (vfloat)_mm512_dpbf16_ps((__m512)k->total[1], (__m512bh)high, ones);
    }
    if (k->phase == PHASES - 3 && mine) store_float(mine, k->total[0]), store_float(mine + LANES, k->total[1]);
    k->phase++;
    return;
  }
  int half = k->phase - (PHASES - 2);
  uint32_t *place = (uint32_t *)(k->to + (k->panel - k->from) * k->panel_values + k->step * STEP_VALUES);
  __m512i rows[16];
  transposed_words((const uint32_t *)(k->pairs + half * TILE_VALUES), 16, rows);
  for (int i = 0; i < 16; i++) _mm512_store_si512(place + UNPACKED(half * 16 + i) * 16, rows[i]);
  k->phase++;
  if (k->phase == PHASES) {
    k->phase = 0;
    if (++k->panel == k->until) k->panel = k->from, k->step++;
  }
}
/* Has the processor fetch `count` of the rows that are packed next but one. */
INLINE void fetch_ahead(const Packing *k, int row, int count) {
  Packing after = {.matrix = k->matrix, .columns = k->columns, .blocked = k->blocked, .first_step = k->first_step,
                   .step = k->step, .panel = k->panel + 1};
  if (after.panel == k->until) after.panel = k->from, after.step++;
  if (after.step >= k->count) return;
  int64_t stride;
  const bf16 *here = next_to_pack(&after, &stride);
  for (int end = row + count; row < end && row < BLOCK; row++)
    _mm_prefetch((const char *)(here + row * stride), _MM_HINT_T0);
}

/* The block of tiles of sums goes on from what is in `kept` (4 tiles, 16, 16) if `more`. left and right: one panel each.
 * In each step so many `phases` of packing the next left panels are done, and `rows` of what comes after that are
 * fetched: tiles and vectors are computed by different parts of the processor. */
INLINE void multiply_panels(const bf16 *left, const bf16 *right, int64_t steps, float *kept, int more, Packing *next,
                            int phases, int rows) {
  if (more) {
    _tile_loadd(0, kept, 64);
    _tile_loadd(1, kept + 256, 64);
    _tile_loadd(2, kept + 512, 64);
    _tile_loadd(3, kept + 768, 64);
  } else {
    zero_sums();
  }
  for (int64_t s = 0; s < steps; s++) {
    _tile_loadd(4, left + s * STEP_VALUES, 64);
    _tile_stream_loadd(6, right + s * STEP_VALUES, 64);
    _tile_stream_loadd(7, right + s * STEP_VALUES + TILE_VALUES, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, left + s * STEP_VALUES + TILE_VALUES, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    /* the next block's sums, which lie behind this one's */
    for (int line = 0; line < 6; line++)
      _mm_prefetch((const char *)(kept + BLOCK * BLOCK) + (s * 6 + line) * 64, _MM_HINT_T0);
    fetch_ahead(next, next->phase * BLOCK / PHASES, rows);
    for (int phase = 0; phase < phases; phase++) pack_phase(next);
  }
}

/* The sums of a block to out (32, 32) of bfloat16, `stride` apart, transposed if asked for. */
INLINE void finish_gradient(float *sums, bf16 *out, int64_t stride, int transposed) {
  float turned[BLOCK * BLOCK] __attribute__((aligned(64)));
  store_sums(sums);
  if (transposed) {
    for (int i = 0; i < 2; i++)
      for (int j = 0; j < 2; j++)
        transpose_words((uint32_t *)sums + i * 16 * BLOCK + j * 16, BLOCK, (uint32_t *)turned + j * 16 * BLOCK + i * 16,
                        BLOCK);
    sums = turned;
  }
  for (int r = 0; r < BLOCK; r++)
    store_pair(out + r * stride, load_float(sums + r * BLOCK), load_float(sums + r * BLOCK + LANES));
}

/* out (left columns, right columns), or its transpose = left^T right: left (rows, left columns), which may be blocked,
 * and right (rows, right columns), the sum going over all rows: a weight's gradient from the gradient of the product and
 * the product's left side. left_sums: the left side's sums over the rows (columns,) float, or null.
 *
 * Each thread packs the right side for itself: from another core's cache it would take longer. The threads share the
 * left side's panels. Those come in groups and the rows in chunks, so that a left panel stays in the level-1 cache while
 * it is used, and the group's sums and the chunk of the right side in the level-2 cache. */
void product_columns(const bf16 *left, int left_blocked, int64_t left_columns, float *left_sums, const bf16 *right,
                     int64_t right_columns, bf16 *out, int64_t out_stride,
                     int64_t rows, int transposed) {
  int64_t left_panels = left_columns / BLOCK, right_panels = right_columns / BLOCK, steps = rows / BLOCK;
  if (steps == 0) return; /* no rows, nothing to add up */
  int64_t chunks = (steps + MOST_STEPS - 1) / MOST_STEPS, at_once = (steps + chunks - 1) / chunks;
  int64_t group = MOST_KEPT_BYTES / (right_panels * BLOCK * BLOCK * (int64_t)sizeof(float));
  if (group < 1) group = 1;
#pragma omp parallel
  {
    int me = omp_get_thread_num(), all = omp_get_num_threads();
    int64_t first = left_panels * me / all, last = left_panels * (me + 1) / all;
    int64_t kept_values = group * right_panels * BLOCK * BLOCK, left_values = at_once * STEP_VALUES;
    int64_t right_values = right_panels * steps * STEP_VALUES;
    float *kept = thread_scratch(kept_values * sizeof(float) + (2 * group * left_values + right_values) * sizeof(bf16));
    bf16 *packed_left[2] = {(bf16 *)(kept + kept_values), (bf16 *)(kept + kept_values) + group * left_values};
    bf16 *packed_right = packed_left[1] + group * left_values;
    float sums[BLOCK * BLOCK] __attribute__((aligned(64)));
    for (int64_t s = 0; s < steps && first < last; s++)
      for (int64_t p = 0; p < right_panels; p++)
        pack_step(right + s * BLOCK * right_columns + p * BLOCK, right_columns,
                  packed_right + (p * steps + s) * STEP_VALUES);
    int64_t num_groups = (last - first + group - 1) / group;
    /* Every product of a left step by the right panels leaves time for its share of a packing's phases. */
    int phases = (PHASES + right_panels - 1) / right_panels, rows_ahead = phases * BLOCK / PHASES;
    Packing next = {.step = 0, .count = 0};
    set_tiles();
    for (int64_t turn = -1; turn < num_groups * chunks; turn++) { /* one ahead: turn is multiplied, turn + 1 packed */
      while (next.step < next.count) pack_phase(&next);
      __asm__ volatile("" ::: "memory"); /* the compiler does not know that tiles read what was packed */
      Packing here = next;
      int64_t its_group = (turn + 1) / chunks, chunk = (turn + 1) % chunks * at_once;
      if (its_group < num_groups) {
        int64_t from = first + its_group * group, until = from + group < last ? from + group : last;
        next = (Packing){.matrix = left, .columns = left_columns, .blocked = left_blocked, .first_step = chunk,
                         .count = steps - chunk < at_once ? steps - chunk : at_once, .from = from, .until = until,
                         .to = packed_left[(turn + 1) & 1], .panel_values = left_values, .sums = left_sums,
                         .panel = from};
      }
      if (turn >= 0) {
        int64_t count = here.count, from = here.from;
        int is_first = here.first_step == 0, is_last = here.first_step + count == steps;
        for (int64_t p = from; p < here.until; p++) {
          const bf16 *panel = here.to + (p - from) * left_values;
          for (int64_t q = 0; q < right_panels; q++) {
            float *mine = kept + ((p - from) * right_panels + q) * BLOCK * BLOCK;
            multiply_panels(panel, packed_right + (q * steps + here.first_step) * STEP_VALUES, count, mine, !is_first,
                            &next, phases, rows_ahead);
            if (!is_last) {
              _tile_stored(0, mine, 64);
              _tile_stored(1, mine + 256, 64);
              _tile_stored(2, mine + 512, 64);
              _tile_stored(3, mine + 768, 64);
            } else if (transposed) {
              finish_gradient(sums, out + q * BLOCK * out_stride + p * BLOCK, out_stride, 1);
            } else {
              finish_gradient(sums, out + p * BLOCK * out_stride + q * BLOCK, out_stride, 0);
            }
          }
        }
      }
    }
    release_tiles();
    for (int64_t p = first; left_sums && p < last; p++) {
      float in_order[BLOCK];
      for (int i = 0; i < BLOCK; i++) in_order[UNPACKED(i)] = left_sums[p * BLOCK + i];
      memcpy(left_sums + p * BLOCK, in_order, sizeof(in_order));
    }
  }
}

#else
int has_tile_products(void) { return 0; }
#endif
