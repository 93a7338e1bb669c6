/* Intel's matrix tiles (AMX): their setting, and the reordering of 16-bit numbers that their products ask for.
 *
 * A tile holds 16 rows of 64 bytes. _tile_dpbf16ps(c, a, b) adds a (16 rows, 32 bfloat16) times b (32, 16) to c (16, 16
 * float), with b stored as 16 rows of 16 words: word j of row i holds b[2i][j] in its lower and b[2i + 1][j] in its
 * upper half (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, TDPBF16PS).
 */
#ifndef BERTWRIGHT_TILES_H
#define BERTWRIGHT_TILES_H
#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && \
    defined(__linux__)
#define HAS_TILES 1

#include <immintrin.h>
#include <stdint.h>

typedef struct {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
} __attribute__((aligned(64))) TileSetting;

static const TileSetting WHOLE_TILES = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

/* Every thread sets its tiles before it uses them and releases them after: the state is large, and others on the same
 * thread (PyTorch's own library for products) bring their own setting. Written as assembler because GCC's function for
 * it lets the compiler drop the setting's bytes. */
static inline void set_tiles(void) { __asm__ volatile("ldtilecfg %0" ::"m"(WHOLE_TILES) : "memory"); }
static inline void release_tiles(void) { __asm__ volatile("tilerelease" ::: "memory"); }

/* 16 rows of 16 words from `from` (stride words between rows), transposed. */
static inline __attribute__((always_inline)) void transposed_words(const uint32_t *from, int64_t stride, __m512i *r) {
  __m512i t[16];
  for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_si512(from + i * stride);
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; i++) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}
/* The same, written to `to` (to_stride words between rows). */
static inline __attribute__((always_inline)) void transpose_words(const uint32_t *from, int64_t stride, uint32_t *to,
                                                                  int64_t to_stride) {
  __m512i rows[16];
  transposed_words(from, stride, rows);
  for (int i = 0; i < 16; i++) _mm512_storeu_si512(to + i * to_stride, rows[i]);
}

/* Two rows of 32 16-bit numbers, side by side: words (even[j], odd[j]) for j of 0 to 15 in `low`, the others in `high`. */
static inline __attribute__((always_inline)) void pair_rows(__m512i even, __m512i odd, __m512i *low, __m512i *high) {
  const __m512i first = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37,
                                         5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i second = _mm512_set_epi16(63, 31, 62, 30, 61, 29, 60, 28, 59, 27, 58, 26, 57, 25, 56, 24, 55, 23, 54,
                                          22, 53, 21, 52, 20, 51, 19, 50, 18, 49, 17, 48, 16);
  *low = _mm512_permutex2var_epi16(even, first, odd);
  *high = _mm512_permutex2var_epi16(even, second, odd);
}

#else
#define HAS_TILES 0
#endif
#endif
