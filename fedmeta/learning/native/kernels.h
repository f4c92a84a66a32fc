/* Numbers, vectors, matrix products, elementary functions and memory: what every kernel shares.
 *
 * The same bits on any processor and for any width of its vectors: lanes lie along the outputs, every sum is
 * taken in order, and a product is fused into a sum only where `fused` says so, never by the compiler
 * (-ffp-contract=off). Compiled once per number type: -DDOUBLE for float64.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef DOUBLE
typedef double real;
#else
typedef float real;
#endif

#if defined(VECTOR_BYTES) /* chosen by a test: it must not matter */
#elif defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX2__) && defined(__FMA__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16 /* ARM: the compiler picks its own instructions */
#endif
#define LANES ((int)(VECTOR_BYTES / sizeof(real)))
#define INLINE static inline __attribute__((always_inline))

typedef real vec __attribute__((vector_size(VECTOR_BYTES), aligned(VECTOR_BYTES), may_alias));

/* Columns of a matrix are padded with zeros to whole vectors. */
INLINE int padded(int columns) { return (columns + LANES - 1) / LANES * LANES; }

/* ---- matrix products --------------------------------------------------------------------------- */

#if defined(__AVX2__)
#include <immintrin.h>
#endif

/* Return a * b + c, rounded once. */
INLINE vec fused(real a, vec b, vec c) {
#if VECTOR_BYTES == 64 && defined(__AVX512F__) && defined(DOUBLE)
    return (vec)_mm512_fmadd_pd(_mm512_set1_pd(a), (__m512d)b, (__m512d)c);
#elif VECTOR_BYTES == 64 && defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps(_mm512_set1_ps(a), (__m512)b, (__m512)c);
#elif VECTOR_BYTES == 32 && defined(__AVX2__) && defined(DOUBLE)
    return (vec)_mm256_fmadd_pd(_mm256_set1_pd(a), (__m256d)b, (__m256d)c);
#elif VECTOR_BYTES == 32 && defined(__AVX2__)
    return (vec)_mm256_fmadd_ps(_mm256_set1_ps(a), (__m256)b, (__m256)c);
#else
    for (int lane = 0; lane < LANES; lane++) c[lane] = sizeof(real) == 8 ? fma(a, b[lane], c[lane]) : fmaf(a, b[lane], c[lane]);
    return c;
#endif
}

/* The left factor of a product, [rows, inner], by strides: transposed where `row` is 1. */
typedef struct {
    const real *at;
    long row, inner;
} Left;

/* A tile of C = A B or C += A B: R rows, V vectors wide, kept in registers while the sum runs over `inner`. */
INLINE void tile(int R, int V, int inner, Left a, const real *b, long ldb, real *c, long ldc, int add) {
    vec sum[8][3];
    for (int i = 0; i < R; i++)
        for (int j = 0; j < V; j++) sum[i][j] = add ? *(const vec *)(c + i * ldc + j * LANES) : (vec){0};
    for (int k = 0; k < inner; k++) {
        vec row[3];
        for (int j = 0; j < V; j++) row[j] = *(const vec *)(b + k * ldb + j * LANES);
        for (int i = 0; i < R; i++) {
            real factor = a.at[i * a.row + k * a.inner];
            for (int j = 0; j < V; j++) sum[i][j] = fused(factor, row[j], sum[i][j]);
        }
    }
    for (int i = 0; i < R; i++)
        for (int j = 0; j < V; j++) *(vec *)(c + i * ldc + j * LANES) = sum[i][j];
}

/* All rows of a panel of V vectors, `TALL` at a time. The last ones are shared out evenly: a tile of less than four
 * rows takes as long as one of four. */
#define TILE(V, R)                                                                                  \
    case R: tile(R, V, inner, a, b, ldb, c, ldc, add); break;
#define PANEL(V, TALL)                                                                              \
    static void panel##V(int rows, int inner, Left a, const real *b, long ldb, real *c, long ldc, int add) { \
        while (rows) {                                                                               \
            int high = rows >= TALL + 4 || rows == TALL ? TALL : rows > TALL ? (rows + 1) / 2 : rows; \
            switch (high) {                                                                          \
                TILE(V, 1) TILE(V, 2) TILE(V, 3) TILE(V, 4) TILE(V, 5) TILE(V, 6) TILE(V, 7) TILE(V, 8) \
            }                                                                                        \
            rows -= high, a.at += high * a.row, c += high * ldc;                                     \
        }                                                                                            \
    }
/* Tiles fill the 32 registers of AVX-512 and ARM, or the 16 of AVX2. */
#if VECTOR_BYTES == 32
PANEL(3, 4)
PANEL(2, 6)
PANEL(1, 8)
#else
PANEL(3, 8)
PANEL(2, 8)
PANEL(1, 8)
#endif

/* C [rows, columns] = A B, or C += A B with `add`: A [rows, inner], B [inner, columns]; `columns` are whole vectors. */
static void matmul(int rows, int columns, int inner, Left a, const real *b, long ldb, real *c, long ldc, int add) {
    int left = columns / LANES;
    while (left) {
        int wide = left == 1 ? 1 : left % 2 ? 3 : 2;
        (wide == 3 ? panel3 : wide == 2 ? panel2 : panel1)(rows, inner, a, b, ldb, c, ldc, add);
        b += wide * LANES, c += wide * LANES, left -= wide;
    }
}

INLINE Left plain(const real *a, long ld) { return (Left){a, ld, 1}; }
INLINE Left transposed(const real *a, long ld) { return (Left){a, 1, ld}; }

/* Transpose a block of SIDE x SIDE numbers: halves of two rows share a vector, so that no step crosses halves. */
#if defined(__AVX2__) && defined(DOUBLE)
#define SIDE 4
INLINE void transpose_block(const real *in, long ldi, real *out, long ldo) {
    for (int j = 0; j < 4; j += 2) {
        __m256d even = _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(in + j)), _mm_loadu_pd(in + 2 * ldi + j), 1);
        __m256d odd = _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(in + ldi + j)), _mm_loadu_pd(in + 3 * ldi + j), 1);
        _mm256_storeu_pd(out + j * ldo, _mm256_unpacklo_pd(even, odd));
        _mm256_storeu_pd(out + (j + 1) * ldo, _mm256_unpackhi_pd(even, odd));
    }
}
#elif defined(__AVX2__)
#define SIDE 8
INLINE void transpose_block(const real *in, long ldi, real *out, long ldo) {
    for (int j = 0; j < 8; j += 4) {
        __m256 row[4]; /* row i, then row i + 4 */
        for (int i = 0; i < 4; i++)
            row[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(in + i * ldi + j)), _mm_loadu_ps(in + (i + 4) * ldi + j), 1);
        __m256 a = _mm256_unpacklo_ps(row[0], row[1]), b = _mm256_unpackhi_ps(row[0], row[1]);
        __m256 c = _mm256_unpacklo_ps(row[2], row[3]), d = _mm256_unpackhi_ps(row[2], row[3]);
        _mm256_storeu_ps(out + j * ldo, _mm256_shuffle_ps(a, c, 0x44));
        _mm256_storeu_ps(out + (j + 1) * ldo, _mm256_shuffle_ps(a, c, 0xee));
        _mm256_storeu_ps(out + (j + 2) * ldo, _mm256_shuffle_ps(b, d, 0x44));
        _mm256_storeu_ps(out + (j + 3) * ldo, _mm256_shuffle_ps(b, d, 0xee));
    }
}
#else
#define SIDE 1
INLINE void transpose_block(const real *in, long ldi, real *out, long ldo) { (void)ldi, (void)ldo, *out = *in; }
#endif

/* out [columns, ldo] = in [rows, ldi] transposed, with zeros after the rows; `ldo` is whole vectors. */
static void transpose(int rows, int columns, const real *restrict in, long ldi, real *restrict out, long ldo) {
    int high = rows / SIDE * SIDE, wide = columns / SIDE * SIDE; /* in whole blocks */
    for (int j = 0; j < columns; j++)
        for (long i = rows / LANES * LANES; i < ldo; i += LANES) *(vec *)(out + j * ldo + i) = (vec){0};
    for (int j = 0; j < wide; j += SIDE)
        for (int i = 0; i < high; i += SIDE) transpose_block(in + i * ldi + j, ldi, out + j * ldo + i, ldo);
    for (int j = 0; j < columns; j++)
        for (int i = j < wide ? high : 0; i < rows; i++) out[j * ldo + i] = in[i * ldi + j];
}

/* Set every row of z [rows, columns] to `bias`. */
static void fill_rows(int rows, int columns, const real *restrict bias, real *restrict z) {
    for (int i = 0; i < rows; i++) memcpy(z + (size_t)i * columns, bias, columns * sizeof(real));
}

/* sums [columns] = the sum of the rows of d [rows, columns]. */
static void sum_rows(int rows, int columns, const real *restrict d, real *restrict sums) {
    memset(sums, 0, columns * sizeof(real));
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) sums[j] += d[(size_t)i * columns + j];
}

/* ---- elementary functions ----------------------------------------------------------------------- */

/* exp to about one unit in the last place, of x clipped to where it is finite: Cephes' expf. */
INLINE real exponential(real x) {
#ifdef DOUBLE
    return exp(x);
#else
    x = x > 88.0f ? 88.0f : x;
    x = x < -87.0f ? -87.0f : x;
    float k = __builtin_rintf(x * 1.44269504088896341f);
    float r = (x - k * 0.693359375f) - k * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union {
        int32_t bits;
        float value;
    } power = {((int32_t)k + 127) << 23};
    return p * power.value;
#endif
}

INLINE real sigmoid(real x) { return 1 / (1 + exponential(-x)); }

/* Near 0, where 1 - 2 / (exp(2x) + 1) cancels, Cephes' polynomial. */
INLINE real hyperbolic_tangent(real x) {
#ifdef DOUBLE
    return tanh(x);
#else
    float far = 1 - 2 / (exponential(2 * x) + 1);
    float z = x * x;
    float p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    float near = p * z * x + x;
    return z < 0.390625f ? near : far;
#endif
}

/* ---- memory and parameters ---------------------------------------------------------------------- */

/* Hands out a block of memory piece by piece; from NULL it only counts the bytes. */
typedef struct {
    char *base;
    size_t used;
} Arena;

static void *take(Arena *arena, size_t count, size_t size) {
    void *piece = arena->base ? arena->base + arena->used : NULL;
    arena->used += (count * size + 63) / 64 * 64;
    return piece;
}

INLINE real *take_reals(Arena *arena, size_t count) { return take(arena, count, sizeof(real)); }

/* A matrix of the parameters, [stacks * height, groups * width] as PyTorch holds it. In padded parameters each
 * stack of rows has room for `tall` rows and each group of columns for `wide` columns, and zeros fill the rest. */
typedef struct {
    int stacks, height, tall;
    int groups, width, wide;
    size_t at; /* its place in the padded parameters */
} Matrix;

#define MOST_MATRICES 64

typedef struct {
    int count;
    Matrix matrices[MOST_MATRICES];
    size_t plain_size, padded_size;
} Layout;

/* Append a matrix to the layout and return its place in the padded parameters. */
static size_t add_matrix(Layout *layout, int stacks, int height, int tall, int groups, int width) {
    Matrix m = {stacks, height, tall, groups, width, padded(width), layout->padded_size};
    layout->matrices[layout->count++] = m;
    layout->plain_size += (size_t)stacks * height * groups * width;
    layout->padded_size += (size_t)stacks * tall * groups * m.wide;
    return m.at;
}

static size_t add_dense(Layout *layout, int rows, int columns) {
    return add_matrix(layout, 1, rows, rows, 1, columns);
}

/* Copy between PyTorch's parameters and padded ones, whose padding the caller has set to zero. */
static void copy_parameters(const Layout *layout, real *plain_at, real *padded_at, int to_padded) {
    for (int index = 0; index < layout->count; index++) {
        const Matrix *m = layout->matrices + index;
        for (int s = 0; s < m->stacks; s++)
            for (int r = 0; r < m->height; r++)
                for (int g = 0; g < m->groups; g++, plain_at += m->width) {
                    real *row = padded_at + m->at + (((size_t)s * m->tall + r) * m->groups + g) * m->wide;
                    if (to_padded) memcpy(row, plain_at, m->width * sizeof(real));
                    else memcpy(plain_at, row, m->width * sizeof(real));
                }
    }
}

static void load(const Layout *layout, const real *from, real *to) { copy_parameters(layout, (real *)from, to, 1); }
static void store(const Layout *layout, const real *from, real *to) { copy_parameters(layout, to, (real *)from, 0); }
