/* Conv4: four blocks of 3x3 convolution z, batch norm, ReLU and 2x2 max-pooling (or stride 2), then a linear head.
 *
 *   xhat = (z - mean) rstd,  y = gamma xhat + beta,  a = max over the window of relu(y)
 *
 * The B images of a batch lie side by side at each pixel, [height, width, B, D], with the channels padded to D columns.
 * So neighbouring pixels of a line are the rows of one matrix, and a convolution is nine matrix products, one for each
 * tap of its kernel, without copies. Where the next convolution takes every second pixel, the even columns of a line
 * come first, then the odd ones. Only the first block, whose channels are few, multiplies patches. A pass keeps the
 * transposed input, z and the pooled a; xhat, dy and dz are recomputed strip by strip.
 */
#include "kernels.h"
#include "loss.h"

#define BLOCKS 4
#define EPSILON 1e-5
#define NO_WINNER 255          /* index of a window whose largest y is not positive */
#define STRIP_BYTES (96 << 10) /* of z at a time, with room for what it is computed from in a second-level cache */

/* Sizes of a block: input images, output lines and columns, pooled ones. */
typedef struct {
    int in_height, in_width;
    int height, width, pooled_height, pooled_width, window_height, window_width;
    size_t weight, gamma, beta;
} Shape;

/* sizes: height, width, channels, filters, strided, outputs (0: the features). */
typedef struct {
    int height, width, channels, filters, strided, outputs;
    int D, stride, pixels; /* padded filters; pixels of a feature image at the head */
    int strip;             /* rows of z that are computed together */
    Shape shapes[BLOCKS];
    size_t head, head_bias;
    Layout layout;
} Net;

static int at_least_one(int n) { return n < 1 ? 1 : n; }

static void plan_block(Net *net, Shape *s, int height, int width, int channels, int room) {
    s->in_height = height, s->in_width = width;
    s->height = (height - 1) / net->stride + 1, s->width = (width - 1) / net->stride + 1;
    s->window_height = net->strided || s->height < 2 ? 1 : 2, s->window_width = net->strided || s->width < 2 ? 1 : 2;
    s->pooled_height = s->height / s->window_height, s->pooled_width = s->width / s->window_width;
    s->weight = add_matrix(&net->layout, 9, channels, room, 1, net->filters);
    s->gamma = add_dense(&net->layout, 1, net->filters);
    s->beta = add_dense(&net->layout, 1, net->filters);
}

static void plan_net(Net *net, const int *sizes) {
    *net = (Net){.height = sizes[0], .width = sizes[1], .channels = sizes[2], .filters = sizes[3],
                 .strided = sizes[4], .outputs = sizes[5]};
    net->D = padded(net->filters), net->stride = net->strided ? 2 : 1;
    /* A Hessian-vector product adds two sums in turns, so that the strips must not depend on the padding. */
    net->strip = at_least_one((int)(STRIP_BYTES / (net->filters * sizeof(real))));
    plan_block(net, net->shapes, net->height, net->width, net->channels, net->channels);
    for (int i = 1; i < BLOCKS; i++) {
        const Shape *below = net->shapes + i - 1;
        plan_block(net, net->shapes + i, below->pooled_height, below->pooled_width, net->filters, net->D);
    }
    const Shape *last = net->shapes + BLOCKS - 1;
    net->pixels = net->strided ? 1 : last->pooled_height * last->pooled_width;
    if (!net->outputs) return;
    net->head = add_matrix(&net->layout, net->pixels, net->filters, net->D, 1, net->outputs);
    net->head_bias = add_dense(&net->layout, 1, net->outputs);
}

static size_t input_size(const Net *net) { return (size_t)net->height * net->width * net->channels * sizeof(real); }
static int outputs_per_example(const Net *net) { return (void)net, 1; }
static int output_width(const Net *net) { return net->outputs ? net->outputs : net->pixels * net->filters; }
static int inputs_valid(const Net *net, const void *x, size_t examples) { return (void)net, (void)x, (void)examples, 1; }

/* What a block keeps of a pass: z [height, width, B, D]; a, its gradient da and the place of each maximum in its
 * window, [pooled, B, D]; by channel mean, rstd, and the means of dy and dy xhat; and tangents. */
typedef struct {
    const real *in, *in_dot;
    real *z, *a, *da;
    uint8_t *index;
    real *mean, *rstd, *mean_dy, *mean_dy_xhat;
    real *z_dot, *a_dot, *mean_dot, *along_dot; /* along_dot: the mean of z_dot xhat */
} Block;

typedef struct {
    Outputs out;
    int batch, stats;
    const real *x;
    real *x_t;      /* [height, width, channels, padded B]: the input images */
    real *features; /* [B, pixels D] */
    Block blocks[BLOCKS];
} Pass;

typedef struct {
    real *patches, *dz, *dz_dot, *weight_t, *v_weight_t; /* of a strip; transposed weights */
    real *features, *da_dot[2];
    double *sums;
    real *scale, *terms[4];
} Scratch;

static size_t rows_of(const Shape *s, int images) { return (size_t)images * s->height * s->width; }
static size_t pooled_of(const Shape *s, int images) { return (size_t)images * s->pooled_height * s->pooled_width; }

static void lay_pass(const Net *net, int examples, int stats, int tangents, Arena *arena, Pass *pass) {
    pass->batch = examples, pass->stats = stats ? stats : examples;
    lay_outputs(&pass->out, examples, output_width(net), tangents, arena);
    pass->x_t = take_reals(arena, (size_t)net->height * net->width * net->channels * padded(examples));
    pass->features = take_reals(arena, (size_t)examples * net->pixels * net->D);
    for (int i = 0; i < BLOCKS; i++) {
        const Shape *s = net->shapes + i;
        Block *b = pass->blocks + i;
        size_t z = rows_of(s, examples) * net->D, a = pooled_of(s, examples) * net->D;
        b->z = take_reals(arena, z), b->a = take_reals(arena, a), b->da = take_reals(arena, a);
        b->index = take(arena, a, 1);
        real **channels[] = {&b->mean, &b->rstd, &b->mean_dy, &b->mean_dy_xhat, &b->mean_dot, &b->along_dot};
        for (int j = 0; j < 6; j++) *channels[j] = take_reals(arena, net->D);
        b->z_dot = tangents ? take_reals(arena, z) : NULL;
        b->a_dot = tangents ? take_reals(arena, a) : NULL;
    }
}

static void lay_scratch(const Net *net, int examples, Arena *arena, Scratch *scratch) {
    size_t rows = examples > net->strip ? examples : net->strip, a = 0;
    for (int i = 0; i < BLOCKS; i++) {
        size_t pooled = pooled_of(net->shapes + i, examples) * net->D;
        a = pooled > a ? pooled : a;
    }
    size_t features = (size_t)net->pixels * net->D, head = features * padded(at_least_one(net->outputs));
    size_t weights = (size_t)9 * net->filters * net->D, most = weights > head ? weights : head;
    scratch->patches = take_reals(arena, (size_t)9 * net->channels * rows);
    scratch->dz = take_reals(arena, rows * net->D), scratch->dz_dot = take_reals(arena, rows * net->D);
    scratch->weight_t = take_reals(arena, most), scratch->v_weight_t = take_reals(arena, most);
    scratch->features = take_reals(arena, examples * features);
    for (int i = 0; i < 2; i++) scratch->da_dot[i] = take_reals(arena, a);
    scratch->sums = take(arena, 2 * net->D, sizeof(double));
    scratch->scale = take_reals(arena, net->D);
    for (int i = 0; i < 4; i++) scratch->terms[i] = take_reals(arena, net->D);
}

static void set_inputs(Pass *pass, const void *x) {
    pass->x = x, pass->blocks[0].in = pass->x_t, pass->blocks[0].in_dot = NULL;
    for (int i = 1; i < BLOCKS; i++) {
        pass->blocks[i].in = pass->blocks[i - 1].a;
        pass->blocks[i].in_dot = pass->blocks[i - 1].a_dot;
    }
}

/* ---- convolutions ------------------------------------------------------------------------------- */

/* Pixels [x, x + count) of line y of z, with all images. */
typedef struct {
    int y, x, count;
} Strip;

/* The strip after `strip`; the first one after {0}. At the end `count` is 0. */
static Strip next_strip(const Net *net, const Shape *s, int images, Strip strip) {
    strip.x += strip.count;
    if (strip.x == s->width) strip.x = 0, strip.y++;
    int most = at_least_one(net->strip / images), left = strip.y < s->height ? s->width - strip.x : 0;
    strip.count = left < most ? left : most;
    return strip;
}

#define FOR_STRIPS(net, s, images, strip)                                                          \
    for (Strip strip = next_strip(net, s, images, (Strip){0}); strip.count; strip = next_strip(net, s, images, strip))

static int rows_in(Strip strip, int images) { return strip.count * images; }

/* The first row of a strip in z. */
static size_t row_of(const Shape *s, Strip strip, int images) { return ((size_t)strip.y * s->width + strip.x) * images; }

/* The place of a column in its line of `width` columns. */
INLINE int place_of(const Net *net, int width, int column) {
    return net->stride == 1 ? column : column % 2 * ((width + 1) / 2) + column / 2;
}

/* The rows of a strip that tap (r, c) of the kernel multiplies, and those of the input that it multiplies them with;
 * none where the tap is outside of the image. */
typedef struct {
    int rows;
    size_t out, in;
} Tap;

static Tap tap_of(const Net *net, const Shape *s, Strip strip, int images, int r, int c) {
    int y = strip.y * net->stride + r - 1, end = (s->in_width - c + net->stride) / net->stride;
    int from = strip.x < 1 && !c ? 1 : strip.x, to = strip.x + strip.count < end ? strip.x + strip.count : end;
    if (y < 0 || y >= s->in_height || from >= to) return (Tap){0};
    size_t pixel = (size_t)y * s->in_width + place_of(net, s->in_width, from * net->stride + c - 1);
    return (Tap){(to - from) * images, (size_t)(from - strip.x) * images, pixel * images};
}

/* The taps, 3 r + c, in the order in which their products are added up: first the centre, which is never outside. */
static const int TAPS[9] = {4, 0, 1, 2, 3, 5, 6, 7, 8};

#define FOR_TAPS(k, tap)                                                                           \
    for (int turn = 0, k = TAPS[0]; turn < 9; k = TAPS[++turn % 9])                                 \
        for (Tap tap = tap_of(net, s, strip, images, k / 3, k % 3); tap.rows; tap.rows = 0)

/* patches [9 C, rows] of the transposed input images at a strip; zeros outside of the image. */
static void gather_patches(const Net *net, int images, const real *restrict x_t, Strip strip, real *restrict patches) {
    int C = net->channels, room = padded(images);
    for (int k = 0; k < 9; k++)
        for (int j = 0; j < C; j++)
            for (int column = strip.x; column < strip.x + strip.count; column++, patches += images) {
                int y = strip.y * net->stride + k / 3 - 1, x = column * net->stride + k % 3 - 1;
                int inside = y >= 0 && y < net->height && x >= 0 && x < net->width;
                if (inside) memcpy(patches, x_t + (((size_t)y * net->width + x) * C + j) * room, images * sizeof(real));
                else memset(patches, 0, images * sizeof(real));
            }
}

/* z of a strip = (or +=) the convolution of `in` with a weight. */
static void convolve(const Net *net, const Shape *s, int images, const real *in, Strip strip, const real *weight,
                     Scratch *scratch, real *z, int add) {
    int D = net->D, K = 9 * net->channels;
    z += row_of(s, strip, images) * D;
    if (s == net->shapes) {
        int rows = rows_in(strip, images);
        gather_patches(net, images, in, strip, scratch->patches);
        matmul(rows, D, K, transposed(scratch->patches, rows), weight, D, z, D, add);
        return;
    }
    FOR_TAPS(k, tap)
        matmul(tap.rows, D, net->filters, plain(in + tap.in * D, D), weight + (size_t)k * D * D, D, z + tap.out * D, D,
               add || turn);
}

/* dW += the input at each tap, transposed, times dz of a strip. */
static void weight_gradient(const Net *net, const Shape *s, int images, const real *in, Strip strip, const real *dz,
                            Scratch *scratch, real *dw) {
    int D = net->D, K = 9 * net->channels;
    if (s == net->shapes) {
        int rows = rows_in(strip, images);
        gather_patches(net, images, in, strip, scratch->patches);
        matmul(K, D, rows, plain(scratch->patches, rows), dz, D, dw, D, 1);
        return;
    }
    FOR_TAPS(k, tap)
        matmul(net->filters, D, tap.rows, transposed(in + tap.in * D, D), dz + tap.out * D, D, dw + (size_t)k * D * D, D, 1);
}

/* d_in += dz of a strip times the transposed weight of each tap. */
static void input_gradient(const Net *net, const Shape *s, int images, Strip strip, const real *dz, const real *weight_t,
                           real *d_in) {
    int D = net->D, filters = net->filters;
    FOR_TAPS(k, tap)
        matmul(tap.rows, D, filters, plain(dz + tap.out * D, D), weight_t + (size_t)k * filters * D, D, d_in + tap.in * D, D, 1);
}

/* weight_t [9, filters, D]: the weight of each tap, transposed. */
static void transpose_taps(const Net *net, const real *weight, real *weight_t) {
    int D = net->D, filters = net->filters;
    for (int k = 0; k < 9; k++)
        transpose(filters, filters, weight + (size_t)k * D * D, D, weight_t + (size_t)k * filters * D, D);
}

/* ---- forward ------------------------------------------------------------------------------------- */

/* sums += the rows of z and their squares, counted from `origin`, so that a mean far from 0 costs no digits of
 * the variance; doubles, as float sums are ten times less exact. */
static void add_moments(int rows, int D, const real *restrict z, const real *restrict origin, double *restrict sum,
                        double *restrict square) {
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < D; j++) {
            double value = (double)z[(size_t)i * D + j] - origin[j];
            sum[j] += value;
            square[j] += value * value;
        }
}

/* a and the places of the maxima at a pixel, from the pixels of z in its window, [rows, columns] of them. */
INLINE void pool_window(int rows, int columns, int images, int D, const real *restrict z, size_t line, const Block *b,
                        const real *restrict scale, const real *restrict beta, real *restrict a, uint8_t *restrict index) {
    const real *restrict mean = b->mean;
    size_t pixel = (size_t)images * D;
    for (int n = 0; n < images; n++, z += D, a += D, index += D)
        for (int j = 0; j < D; j++) {
            real most = 0;
            int winner = NO_WINNER;
            for (int r = 0; r < rows; r++)
                for (int q = 0; q < columns; q++) {
                    real value = (z[r * line + q * pixel + j] - mean[j]) * scale[j] + beta[j];
                    winner = value > most ? 2 * r + q : winner;
                    most = value > most ? value : most;
                }
            a[j] = most, index[j] = (uint8_t)winner;
        }
}

/* Batch norm, ReLU and pooling: a and the place of each maximum, from z. */
static void pool(const Net *net, const Shape *s, int images, const Block *b, const real *scale, const real *beta) {
    int D = net->D, high = s->window_height, wide = s->window_width;
    size_t pixel = (size_t)images * D, line = s->width * pixel;
    for (int y = 0; y < s->pooled_height; y++)
        for (int x = 0; x < s->pooled_width; x++) {
            const real *z = b->z + y * high * line + x * wide * pixel;
            size_t to = ((size_t)y * s->pooled_width + place_of(net, s->pooled_width, x)) * pixel;
            real *a = b->a + to;
            uint8_t *index = b->index + to;
            if (high == 1 && wide == 1) pool_window(1, 1, images, D, z, line, b, scale, beta, a, index);
            else if (high == 2 && wide == 2) pool_window(2, 2, images, D, z, line, b, scale, beta, a, index);
            else pool_window(high, wide, images, D, z, line, b, scale, beta, a, index);
        }
}

static void forward_block(const Net *net, const Shape *s, const real *p, Pass *pass, Block *b, Scratch *scratch) {
    int D = net->D, images = pass->batch;
    double *sum = scratch->sums, *square = sum + D, count = (double)rows_of(s, pass->stats);
    memset(sum, 0, 2 * D * sizeof(double));
    FOR_STRIPS(net, s, images, strip) {
        convolve(net, s, images, b->in, strip, p + s->weight, scratch, b->z, 0);
        int pixels = pass->stats < images ? strip.count : 1, rows = pass->stats < images ? pass->stats : rows_in(strip, images);
        for (int x = 0; x < pixels; x++)
            add_moments(rows, D, b->z + (row_of(s, strip, images) + (size_t)x * images) * D, b->z, sum, square);
    }
    for (int j = 0; j < D; j++) {
        double mean = sum[j] / count, variance = square[j] / count - mean * mean;
        b->mean[j] = (real)(mean + b->z[j]);
        b->rstd[j] = (real)(1 / sqrt((variance > 0 ? variance : 0) + EPSILON));
        scratch->scale[j] = b->rstd[j] * p[s->gamma + j];
    }
    pool(net, s, images, b, scratch->scale, p + s->beta);
}

/* features [B, pixels D] of the last block's a, averaged over the image if strided. */
static void gather_features(const Net *net, int images, const real *restrict a, real *restrict features) {
    const Shape *last = net->shapes + BLOCKS - 1;
    int D = net->D, pixels = last->pooled_height * last->pooled_width;
    if (net->strided) memset(features, 0, (size_t)images * D * sizeof(real));
    for (int i = 0; i < pixels; i++)
        for (int n = 0; n < images; n++, a += D) {
            real *restrict to = features + (net->strided ? (size_t)n : (size_t)n * pixels + i) * D;
            if (!net->strided) memcpy(to, a, D * sizeof(real));
            else
                for (int j = 0; j < D; j++) to[j] += a[j];
        }
    if (net->strided)
        for (int i = 0; i < images * D; i++) features[i] /= pixels;
}

/* The adjoint of `gather_features`. */
static void scatter_features(const Net *net, int images, const real *restrict features, real *restrict a) {
    const Shape *last = net->shapes + BLOCKS - 1;
    int D = net->D, pixels = last->pooled_height * last->pooled_width;
    for (int i = 0; i < pixels; i++)
        for (int n = 0; n < images; n++, a += D) {
            const real *restrict from = features + (net->strided ? (size_t)n : (size_t)n * pixels + i) * D;
            for (int j = 0; j < D; j++) a[j] = net->strided ? from[j] / pixels : from[j];
        }
}

/* Copy features without the padding of their channels to outputs, or back. */
static void copy_features(const Net *net, int images, real *features, real *out, int room, int to_out) {
    for (int n = 0; n < images; n++)
        for (int i = 0; i < net->pixels; i++) {
            real *padded_row = features + ((size_t)n * net->pixels + i) * net->D;
            real *row = out + (size_t)n * room + (size_t)i * net->filters;
            if (to_out) memcpy(row, padded_row, net->filters * sizeof(real));
            else memcpy(padded_row, row, net->filters * sizeof(real));
        }
}

static void forward(const Net *net, const real *p, Pass *pass, Scratch *scratch) {
    int values = net->height * net->width * net->channels;
    transpose(pass->batch, values, pass->x, values, pass->x_t, padded(pass->batch));
    for (int i = 0; i < BLOCKS; i++) forward_block(net, net->shapes + i, p, pass, pass->blocks + i, scratch);
    gather_features(net, pass->batch, pass->blocks[BLOCKS - 1].a, pass->features);
    int room = pass->out.room, inner = net->pixels * net->D;
    if (!net->outputs) {
        copy_features(net, pass->batch, pass->features, pass->out.value, room, 1);
        return;
    }
    fill_rows(pass->batch, room, p + net->head_bias, pass->out.value);
    matmul(pass->batch, room, inner, plain(pass->features, inner), p + net->head, room, pass->out.value, room, 1);
}

/* ---- backward ------------------------------------------------------------------------------------ */

/* Pixel (y, x) of z as a part of its window: the pixel of pooled tensors, and its place; -1 if pooling drops it. */
INLINE long window_of(const Net *net, const Shape *s, int y, int x, uint8_t *place) {
    int up = y / s->window_height, left = x / s->window_width;
    *place = (uint8_t)(2 * (y % s->window_height) + x % s->window_width);
    if (up >= s->pooled_height || left >= s->pooled_width) return -1;
    return (long)up * s->pooled_width + place_of(net, s->pooled_width, left);
}

/* The means of dy and of dy xhat over the rows that count in batch norm's statistics, and the gradients of beta
 * and gamma, which are their sums over all rows. */
static void norm_gradient(const Net *net, const Shape *s, Pass *pass, Block *b, Scratch *scratch, real *d_gamma,
                          real *d_beta) {
    int D = net->D, images = pass->batch;
    double *restrict sum = scratch->sums, *restrict along = scratch->sums + D, count = (double)rows_of(s, pass->stats);
    const real *restrict mean = b->mean;
    memset(sum, 0, 2 * D * sizeof(double));
    for (int pixel = 0; pixel < s->height * s->width; pixel++) {
        uint8_t place;
        long window = window_of(net, s, pixel / s->width, pixel % s->width, &place);
        for (int n = 0; n < images && window >= 0; n++) {
            size_t at = ((size_t)window * images + n) * D;
            const real *restrict da = b->da + at, *restrict z = b->z + ((size_t)pixel * images + n) * D;
            const uint8_t *restrict index = b->index + at;
            for (int j = 0; j < D; j++) {
                real dy = index[j] == place ? da[j] : 0;
                sum[j] += dy;
                along[j] += (double)(dy * (z[j] - mean[j]));
            }
        }
    }
    for (int j = 0; j < D; j++) {
        d_beta[j] = (real)sum[j], d_gamma[j] = (real)(along[j] * b->rstd[j]);
        b->mean_dy[j] = (real)(sum[j] / count), b->mean_dy_xhat[j] = (real)(along[j] * b->rstd[j] / count);
    }
}

/* dz = gamma rstd (dy - mean(dy) - xhat mean(dy xhat)) of a strip; rows outside of the statistics have dy alone. */
static void norm_back(const Net *net, const Shape *s, const Pass *pass, const Block *b, const real *gamma, Strip strip,
                      real *dz) {
    int D = net->D, images = pass->batch;
    const real *restrict mean = b->mean, *restrict rstd = b->rstd;
    const real *restrict mean_dy = b->mean_dy, *restrict along = b->mean_dy_xhat;
    const real *z_at = b->z + row_of(s, strip, images) * D;
    for (int x = strip.x; x < strip.x + strip.count; x++) {
        uint8_t place;
        long window = window_of(net, s, strip.y, x, &place);
        if (window < 0) window = 0, place = NO_WINNER - 1;
        for (int n = 0; n < images; n++, dz += D, z_at += D) {
            int counts = n < pass->stats;
            size_t at = ((size_t)window * images + n) * D;
            real *restrict out = dz;
            const real *restrict da = b->da + at, *restrict z = z_at;
            const uint8_t *restrict index = b->index + at;
            for (int j = 0; j < D; j++) {
                real dy = index[j] == place ? da[j] : 0;
                real centred = dy - mean_dy[j] - (z[j] - mean[j]) * rstd[j] * along[j];
                out[j] = gamma[j] * rstd[j] * (counts ? centred : dy);
            }
        }
    }
}

/* Set the gradients of a block's weight, and of its input where one is wanted, to zero, to be added to. */
static void clear_gradients(const Net *net, const Shape *s, int images, real *dw, real *d_in) {
    int first = s == net->shapes;
    memset(dw, 0, (size_t)9 * (first ? net->channels : net->D) * net->D * sizeof(real));
    if (d_in) memset(d_in, 0, (size_t)s->in_height * s->in_width * images * net->D * sizeof(real));
}

static void backward_block(const Net *net, const Shape *s, const real *p, Pass *pass, Block *b, Scratch *scratch, real *g,
                           real *d_in) {
    int images = pass->batch;
    norm_gradient(net, s, pass, b, scratch, g + s->gamma, g + s->beta);
    clear_gradients(net, s, images, g + s->weight, d_in);
    if (d_in) transpose_taps(net, p + s->weight, scratch->weight_t);
    FOR_STRIPS(net, s, images, strip) {
        norm_back(net, s, pass, b, p + s->gamma, strip, scratch->dz);
        weight_gradient(net, s, images, b->in, strip, scratch->dz, scratch, g + s->weight);
        if (d_in) input_gradient(net, s, images, strip, scratch->dz, scratch->weight_t, d_in);
    }
}

static void backward(const Net *net, const real *p, Pass *pass, Scratch *scratch, real *g) {
    int room = pass->out.room, inner = net->pixels * net->D;
    if (net->outputs) {
        matmul(inner, room, pass->batch, transposed(pass->features, inner), pass->out.delta, room, g + net->head, room, 0);
        sum_rows(pass->batch, room, pass->out.delta, g + net->head_bias);
        transpose(inner, net->outputs, p + net->head, room, scratch->weight_t, inner);
        matmul(pass->batch, inner, net->outputs, plain(pass->out.delta, room), scratch->weight_t, inner, scratch->features,
               inner, 0);
    } else {
        memset(scratch->features, 0, (size_t)pass->batch * inner * sizeof(real));
        copy_features(net, pass->batch, scratch->features, pass->out.delta, room, 0);
    }
    scatter_features(net, pass->batch, scratch->features, pass->blocks[BLOCKS - 1].da);
    for (int i = BLOCKS - 1; i >= 0; i--)
        backward_block(net, net->shapes + i, p, pass, pass->blocks + i, scratch, g, i ? pass->blocks[i - 1].da : NULL);
}

/* ---- tangents of both ---------------------------------------------------------------------------- */

/* a_dot: y_dot = beta_dot + gamma_dot xhat + gamma xhat_dot where the window's maximum is, with
 * xhat_dot = rstd (z_dot - mean(z_dot) - xhat mean(z_dot xhat)). */
static void pool_tangent(const Net *net, const Shape *s, int images, const Block *b, const real *gamma, const real *v_gamma,
                         const real *v_beta) {
    int D = net->D;
    const real *restrict mean = b->mean, *restrict rstd = b->rstd;
    const real *restrict mean_dot = b->mean_dot, *restrict along = b->along_dot;
    memset(b->a_dot, 0, pooled_of(s, images) * D * sizeof(real));
    for (int pixel = 0; pixel < s->height * s->width; pixel++) {
        uint8_t place;
        long window = window_of(net, s, pixel / s->width, pixel % s->width, &place);
        for (int n = 0; n < images && window >= 0; n++) {
            size_t at = ((size_t)pixel * images + n) * D, to = ((size_t)window * images + n) * D;
            const real *restrict z = b->z + at, *restrict z_dot = b->z_dot + at;
            const uint8_t *restrict index = b->index + to;
            real *restrict a_dot = b->a_dot + to;
            for (int j = 0; j < D; j++) {
                real xhat = (z[j] - mean[j]) * rstd[j];
                real xhat_dot = rstd[j] * (z_dot[j] - mean_dot[j] - xhat * along[j]);
                real y_dot = v_beta[j] + v_gamma[j] * xhat + gamma[j] * xhat_dot;
                a_dot[j] = index[j] == place ? y_dot : a_dot[j];
            }
        }
    }
}

static void forward_block_tangent(const Net *net, const Shape *s, const real *p, const real *v, Pass *pass, Block *b,
                                  Scratch *scratch) {
    int D = net->D, images = pass->batch;
    size_t rows = rows_of(s, images);
    double *restrict sum = scratch->sums, *restrict along = scratch->sums + D;
    FOR_STRIPS(net, s, images, strip) {
        convolve(net, s, images, b->in, strip, v + s->weight, scratch, b->z_dot, 0);
        if (b->in_dot) convolve(net, s, images, b->in_dot, strip, p + s->weight, scratch, b->z_dot, 1);
    }
    memset(sum, 0, 2 * D * sizeof(double));
    for (size_t i = 0; i < rows; i++) {
        const real *restrict z = b->z + i * D, *restrict z_dot = b->z_dot + i * D, *restrict mean = b->mean;
        for (int j = 0; j < D; j++) {
            sum[j] += z_dot[j];
            along[j] += (double)(z_dot[j] * (z[j] - mean[j]));
        }
    }
    for (int j = 0; j < D; j++) {
        b->mean_dot[j] = (real)(sum[j] / (double)rows);
        b->along_dot[j] = (real)(along[j] * b->rstd[j] / (double)rows);
    }
    pool_tangent(net, s, images, b, p + s->gamma, v + s->gamma, v + s->beta);
}

static void forward_tangent(const Net *net, const real *p, const real *v, Pass *pass, Scratch *scratch) {
    for (int i = 0; i < BLOCKS; i++) forward_block_tangent(net, net->shapes + i, p, v, pass, pass->blocks + i, scratch);
    int room = pass->out.room, inner = net->pixels * net->D;
    gather_features(net, pass->batch, pass->blocks[BLOCKS - 1].a_dot, scratch->features);
    if (!net->outputs) {
        copy_features(net, pass->batch, scratch->features, pass->out.value_dot, room, 1);
        return;
    }
    fill_rows(pass->batch, room, v + net->head_bias, pass->out.value_dot);
    matmul(pass->batch, room, inner, plain(pass->features, inner), v + net->head, room, pass->out.value_dot, room, 1);
    matmul(pass->batch, room, inner, plain(scratch->features, inner), p + net->head, room, pass->out.value_dot, room, 1);
}

/* The sums over rows of dy_dot and of (dy xhat)_dot, which are the tangents of beta's and gamma's gradients. */
static void norm_gradient_tangent(const Net *net, const Shape *s, const Pass *pass, const Block *b, const real *da_dot,
                                  Scratch *scratch, real *d_gamma, real *d_beta) {
    int D = net->D, images = pass->batch;
    double *restrict sum = scratch->sums, *restrict along = scratch->sums + D;
    const real *restrict mean = b->mean, *restrict rstd = b->rstd;
    memset(sum, 0, 2 * D * sizeof(double));
    for (int pixel = 0; pixel < s->height * s->width; pixel++) {
        uint8_t place;
        long window = window_of(net, s, pixel / s->width, pixel % s->width, &place);
        for (int n = 0; n < images && window >= 0; n++) {
            size_t i = ((size_t)pixel * images + n) * D, at = ((size_t)window * images + n) * D;
            const real *restrict z = b->z + i, *restrict z_dot = b->z_dot + i;
            const real *restrict da = b->da + at, *restrict dot = da_dot + at;
            const uint8_t *restrict index = b->index + at;
            for (int j = 0; j < D; j++) {
                real dy = index[j] == place ? da[j] : 0, dy_dot = index[j] == place ? dot[j] : 0;
                real xhat = (z[j] - mean[j]) * rstd[j];
                real xhat_dot = rstd[j] * (z_dot[j] - b->mean_dot[j] - xhat * b->along_dot[j]);
                sum[j] += dy_dot;
                along[j] += (double)(dy_dot * xhat + dy * xhat_dot);
            }
        }
    }
    for (int j = 0; j < D; j++) d_beta[j] = (real)sum[j], d_gamma[j] = (real)along[j];
}

/* dz and its tangent, of a strip:
 * dz_dot = (gamma rstd)_dot (dy - mean(dy) - xhat mean(dy xhat))
 *          + gamma rstd (dy_dot - mean(dy_dot) - xhat_dot mean(dy xhat) - xhat mean((dy xhat)_dot)) */
static void norm_back_tangent(const Net *net, const Shape *s, int images, const Block *b, const real *da_dot, Strip strip,
                              Scratch *scratch) {
    int D = net->D;
    const real *restrict mean = b->mean, *restrict rstd = b->rstd, *restrict mean_dot = b->mean_dot;
    const real *restrict along_dot = b->along_dot, *restrict mean_dy = b->mean_dy, *restrict along = b->mean_dy_xhat;
    const real *restrict scale = scratch->scale, *restrict scale_dot = scratch->terms[0];
    const real *restrict mean_dy_dot = scratch->terms[1], *restrict mean_along_dot = scratch->terms[2];
    real *dz_at = scratch->dz, *dz_dot_at = scratch->dz_dot;
    size_t i = row_of(s, strip, images) * D;
    for (int x = strip.x; x < strip.x + strip.count; x++) {
        uint8_t place;
        long window = window_of(net, s, strip.y, x, &place);
        if (window < 0) window = 0, place = NO_WINNER - 1;
        for (int n = 0; n < images; n++, dz_at += D, dz_dot_at += D, i += D) {
            size_t at = ((size_t)window * images + n) * D;
            const real *restrict z = b->z + i, *restrict z_dot = b->z_dot + i;
            const real *restrict da = b->da + at, *restrict dot = da_dot + at;
            const uint8_t *restrict index = b->index + at;
            real *restrict dz = dz_at, *restrict dz_dot = dz_dot_at;
            for (int j = 0; j < D; j++) {
                real dy = index[j] == place ? da[j] : 0, dy_dot = index[j] == place ? dot[j] : 0;
                real xhat = (z[j] - mean[j]) * rstd[j];
                real xhat_dot = rstd[j] * (z_dot[j] - mean_dot[j] - xhat * along_dot[j]);
                real centred = dy - mean_dy[j] - xhat * along[j];
                real centred_dot = dy_dot - mean_dy_dot[j] - xhat_dot * along[j] - xhat * mean_along_dot[j];
                dz[j] = scale[j] * centred;
                dz_dot[j] = scale_dot[j] * centred + scale[j] * centred_dot;
            }
        }
    }
}

static void backward_block_tangent(const Net *net, const Shape *s, const real *p, const real *v, Pass *pass, Block *b,
                                   const real *da_dot, Scratch *scratch, real *hv, real *d_in) {
    int images = pass->batch;
    real rows = (real)rows_of(s, images), *dw = hv + s->weight;
    norm_gradient_tangent(net, s, pass, b, da_dot, scratch, hv + s->gamma, hv + s->beta);
    for (int j = 0; j < net->D; j++) {
        real rstd = b->rstd[j], rstd_dot = -rstd * rstd * b->along_dot[j];
        scratch->scale[j] = rstd * p[s->gamma + j];
        scratch->terms[0][j] = rstd_dot * p[s->gamma + j] + rstd * v[s->gamma + j];
        scratch->terms[1][j] = hv[s->beta + j] / rows, scratch->terms[2][j] = hv[s->gamma + j] / rows;
    }
    clear_gradients(net, s, images, dw, d_in);
    if (d_in) transpose_taps(net, p + s->weight, scratch->weight_t), transpose_taps(net, v + s->weight, scratch->v_weight_t);
    FOR_STRIPS(net, s, images, strip) {
        norm_back_tangent(net, s, images, b, da_dot, strip, scratch);
        weight_gradient(net, s, images, b->in, strip, scratch->dz_dot, scratch, dw);
        if (!d_in) continue;
        weight_gradient(net, s, images, b->in_dot, strip, scratch->dz, scratch, dw);
        input_gradient(net, s, images, strip, scratch->dz_dot, scratch->weight_t, d_in);
        input_gradient(net, s, images, strip, scratch->dz, scratch->v_weight_t, d_in);
    }
}

/* The gradient by the features, and from it da_dot of the last block. */
static void head_tangent(const Net *net, const real *p, const real *v, Pass *pass, Scratch *scratch, real *hv,
                         real *da_dot) {
    int room = pass->out.room, inner = net->pixels * net->D;
    real *features = scratch->features; /* holds their tangents, as forward_tangent left them */
    if (net->outputs) {
        matmul(inner, room, pass->batch, transposed(pass->features, inner), pass->out.delta_dot, room, hv + net->head, room, 0);
        matmul(inner, room, pass->batch, transposed(features, inner), pass->out.delta, room, hv + net->head, room, 1);
        sum_rows(pass->batch, room, pass->out.delta_dot, hv + net->head_bias);
        transpose(inner, net->outputs, p + net->head, room, scratch->weight_t, inner);
        matmul(pass->batch, inner, net->outputs, plain(pass->out.delta_dot, room), scratch->weight_t, inner, features, inner, 0);
        transpose(inner, net->outputs, v + net->head, room, scratch->weight_t, inner);
        matmul(pass->batch, inner, net->outputs, plain(pass->out.delta, room), scratch->weight_t, inner, features, inner, 1);
    } else {
        memset(features, 0, (size_t)pass->batch * inner * sizeof(real));
        copy_features(net, pass->batch, features, pass->out.delta_dot, room, 0);
    }
    scatter_features(net, pass->batch, features, da_dot);
}

static void backward_tangent(const Net *net, const real *p, const real *v, Pass *pass, Scratch *scratch, real *hv) {
    head_tangent(net, p, v, pass, scratch, hv, scratch->da_dot[(BLOCKS - 1) % 2]);
    for (int i = BLOCKS - 1; i >= 0; i--)
        backward_block_tangent(net, net->shapes + i, p, v, pass, pass->blocks + i, scratch->da_dot[i % 2], scratch, hv,
                               i ? scratch->da_dot[(i - 1) % 2] : NULL);
}

#define MODEL conv4
#include "tasks.h"
