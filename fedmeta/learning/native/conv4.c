/* Conv4: four blocks of 3x3 convolution z, batch norm, ReLU and 2x2 max-pooling (or stride 2), then a linear head.
 *
 *   xhat = (z - mean) rstd,  y = gamma xhat + beta,  a = max over the window of relu(y)
 *
 * Images are channels-last, [B, height, width, D], with the channels padded to D columns. A pass keeps z and the
 * pooled a; xhat, dy and dz are recomputed line by line while the patches of those lines are in the cache.
 */
#include "kernels.h"
#include "loss.h"

#define BLOCKS 4
#define EPSILON 1e-5
#define NO_WINNER 255          /* index of a window whose largest y is not positive */
#define PATCH_BYTES (192 << 10) /* of patches at a time, with room for the weights in a second-level cache */

/* Sizes of a block: input images, output lines and columns, pooled ones; K values a patch. */
typedef struct {
    int in_height, in_width, in_channels;
    int height, width, pooled_height, pooled_width, window_height, window_width;
    int K;
    int lines; /* whose patches are computed together */
    size_t weight, gamma, beta;
} Shape;

/* sizes: height, width, channels, filters, strided, outputs (0: the features). */
typedef struct {
    int height, width, channels, filters, strided, outputs;
    int D, stride, pixels; /* padded filters; pixels of a feature image at the head */
    Shape shapes[BLOCKS];
    size_t head, head_bias;
    Layout layout;
} Net;

static int at_least_one(int n) { return n < 1 ? 1 : n; }

static void plan_block(Net *net, Shape *s, int height, int width, int channels, int filters_in) {
    s->in_height = height, s->in_width = width, s->in_channels = channels, s->K = 9 * channels;
    s->height = (height - 1) / net->stride + 1, s->width = (width - 1) / net->stride + 1;
    s->window_height = net->strided || s->height < 2 ? 1 : 2, s->window_width = net->strided || s->width < 2 ? 1 : 2;
    /* A Hessian-vector product adds two sums in turns, so that the lines must not depend on the padding. */
    s->lines = at_least_one((int)(PATCH_BYTES / ((size_t)s->width * 9 * filters_in * sizeof(real))));
    s->pooled_height = s->height / s->window_height, s->pooled_width = s->width / s->window_width;
    s->weight = add_matrix(&net->layout, 9, filters_in, channels, 1, net->filters);
    s->gamma = add_dense(&net->layout, 1, net->filters);
    s->beta = add_dense(&net->layout, 1, net->filters);
}

static void plan_net(Net *net, const int *sizes) {
    *net = (Net){.height = sizes[0], .width = sizes[1], .channels = sizes[2], .filters = sizes[3],
                 .strided = sizes[4], .outputs = sizes[5]};
    net->D = padded(net->filters), net->stride = net->strided ? 2 : 1;
    plan_block(net, net->shapes, net->height, net->width, net->channels, net->channels);
    for (int i = 1; i < BLOCKS; i++) {
        const Shape *below = net->shapes + i - 1;
        plan_block(net, net->shapes + i, below->pooled_height, below->pooled_width, net->D, net->filters);
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

/* What a block keeps of a pass: z [B, height, width, D]; a, its gradient da and the place of each maximum in its
 * window, [B, pooled, D]; by channel mean, rstd, and the means of dy and dy xhat; and tangents. */
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
    real *features; /* [B, pixels D] */
    Block blocks[BLOCKS];
} Pass;

typedef struct {
    real *patches, *dz, *dz_dot, *weight_t, *v_weight_t; /* of a few lines; transposed weights */
    real *features, *da_dot[2];
    double *sums;
    real *scale, *terms[4];
} Scratch;

static size_t rows_of(const Shape *s, int images) { return (size_t)images * s->height * s->width; }
static size_t pooled_of(const Shape *s, int images) { return (size_t)images * s->pooled_height * s->pooled_width; }

static void lay_pass(const Net *net, int examples, int stats, int tangents, Arena *arena, Pass *pass) {
    pass->batch = examples, pass->stats = stats ? stats : examples;
    lay_outputs(&pass->out, examples, output_width(net), tangents, arena);
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
    size_t patches = 0, rows = 0, weights = 0, a = 0;
    for (int i = 0; i < BLOCKS; i++) {
        const Shape *s = net->shapes + i;
        size_t lines = (size_t)s->lines * s->width, pooled = pooled_of(s, examples) * net->D;
        patches = lines * s->K > patches ? lines * s->K : patches;
        rows = lines > rows ? lines : rows;
        weights = (size_t)s->K > weights ? (size_t)s->K : weights;
        a = pooled > a ? pooled : a;
    }
    size_t features = (size_t)net->pixels * net->D, head = features * padded(at_least_one(net->outputs));
    size_t most = weights * net->D > head ? weights * net->D : head;
    scratch->patches = take_reals(arena, patches);
    scratch->dz = take_reals(arena, rows * net->D), scratch->dz_dot = take_reals(arena, rows * net->D);
    scratch->weight_t = take_reals(arena, most), scratch->v_weight_t = take_reals(arena, most);
    scratch->features = take_reals(arena, examples * features);
    for (int i = 0; i < 2; i++) scratch->da_dot[i] = take_reals(arena, a);
    scratch->sums = take(arena, 2 * net->D, sizeof(double));
    scratch->scale = take_reals(arena, net->D);
    for (int i = 0; i < 4; i++) scratch->terms[i] = take_reals(arena, net->D);
}

static void set_inputs(Pass *pass, const void *x) {
    pass->blocks[0].in = x, pass->blocks[0].in_dot = NULL;
    for (int i = 1; i < BLOCKS; i++) {
        pass->blocks[i].in = pass->blocks[i - 1].a;
        pass->blocks[i].in_dot = pass->blocks[i - 1].a_dot;
    }
}

/* ---- patches ------------------------------------------------------------------------------------- */

/* A run of output lines, counted over all images. */
typedef struct {
    int first, count;
} Lines;

#define FOR_LINES(s, images, lines)                                                                       \
    for (Lines lines = {0, 0};                                                                             \
         lines.count = (images) * (s)->height - lines.first < (s)->lines ? (images) * (s)->height - lines.first \
                                                                              : (s)->lines,          \
               lines.count > 0;                                                                            \
         lines.first += lines.count)

/* The part of a kernel's row that lies within the image: columns [from, from + count) of three. */
INLINE void clip(const Shape *s, int left, int *from, int *count) {
    *from = left < 0 ? -left : 0;
    *count = (left + 3 > s->in_width ? s->in_width - left : 3) - *from;
}

/* patches [count width, 3, 3, C] of some lines; zeros outside of the image. */
static void gather_patches(const Net *net, const Shape *s, const real *restrict in, Lines lines, real *restrict patch) {
    int C = s->in_channels, from, count;
    for (int line = lines.first; line < lines.first + lines.count; line++) {
        const real *image = in + (size_t)(line / s->height) * s->in_height * s->in_width * C;
        int top = line % s->height * net->stride - 1;
        for (int x = 0; x < s->width; x++) {
            int left = x * net->stride - 1;
            clip(s, left, &from, &count);
            for (int r = 0; r < 3; r++, patch += 3 * C) {
                if (top + r < 0 || top + r >= s->in_height) {
                    memset(patch, 0, 3 * C * sizeof(real));
                    continue;
                }
                const real *source = image + ((size_t)(top + r) * s->in_width + left + from) * C;
                if (count < 3) memset(patch, 0, 3 * C * sizeof(real));
                if (C == 1)
                    for (int j = 0; j < count; j++) patch[from + j] = source[j];
                else memcpy(patch + from * C, source, (size_t)count * C * sizeof(real));
            }
        }
    }
}

/* The adjoint: add every patch back to its place. */
static void scatter_patches(const Net *net, const Shape *s, const real *restrict patch, Lines lines, real *restrict out) {
    int C = s->in_channels, from, count;
    for (int line = lines.first; line < lines.first + lines.count; line++) {
        real *image = out + (size_t)(line / s->height) * s->in_height * s->in_width * C;
        int top = line % s->height * net->stride - 1;
        for (int x = 0; x < s->width; x++) {
            int left = x * net->stride - 1;
            clip(s, left, &from, &count);
            for (int r = 0; r < 3; r++, patch += 3 * C) {
                if (top + r < 0 || top + r >= s->in_height) continue;
                real *restrict to = image + ((size_t)(top + r) * s->in_width + left + from) * C;
                const real *restrict source = patch + from * C;
                for (int j = 0; j < count * C; j++) to[j] += source[j];
            }
        }
    }
}

/* z of some lines = (or +=) patches of `in` times a weight. */
static void convolve(const Net *net, const Shape *s, const real *in, Lines lines, const real *weight, Scratch *scratch,
                     real *z, int add) {
    gather_patches(net, s, in, lines, scratch->patches);
    matmul(lines.count * s->width, net->D, s->K, plain(scratch->patches, s->K), weight, net->D,
           z + (size_t)lines.first * s->width * net->D, net->D, add);
}

/* dW (+)= patches of `in`, transposed, times dz of some lines. */
static void weight_gradient(const Net *net, const Shape *s, const real *in, Lines lines, const real *dz, Scratch *scratch,
                            real *dw, int add) {
    gather_patches(net, s, in, lines, scratch->patches);
    matmul(s->K, net->D, lines.count * s->width, transposed(scratch->patches, s->K), dz, net->D, dw, net->D, add);
}

/* d_in += the patches dz W' of some lines; with `dz_2`, dz W' + dz_2 W_2'. */
static void input_gradient(const Net *net, const Shape *s, Lines lines, const real *dz, const real *weight_t,
                           const real *dz_2, const real *weight_2_t, Scratch *scratch, real *d_in) {
    int rows = lines.count * s->width;
    matmul(rows, s->K, net->filters, plain(dz, net->D), weight_t, s->K, scratch->patches, s->K, 0);
    if (dz_2) matmul(rows, s->K, net->filters, plain(dz_2, net->D), weight_2_t, s->K, scratch->patches, s->K, 1);
    scatter_patches(net, s, scratch->patches, lines, d_in);
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

/* Batch norm, ReLU and pooling: a and the place of each maximum, from z. */
static void pool(const Net *net, const Shape *s, int images, const Block *b, const real *scale, const real *beta) {
    int D = net->D;
    const real *restrict mean = b->mean;
    for (int n = 0; n < images; n++)
        for (int y = 0; y < s->pooled_height; y++)
            for (int x = 0; x < s->pooled_width; x++) {
                size_t to = (((size_t)n * s->pooled_height + y) * s->pooled_width + x) * D;
                real *restrict a = b->a + to;
                uint8_t *restrict index = b->index + to;
                for (int j = 0; j < D; j++) a[j] = 0;
                memset(index, NO_WINNER, D);
                for (int r = 0; r < s->window_height; r++)
                    for (int q = 0; q < s->window_width; q++) {
                        const real *restrict z = b->z + (((size_t)n * s->height + y * s->window_height + r) * s->width +
                                                         x * s->window_width + q) * D;
                        uint8_t place = (uint8_t)(2 * r + q);
                        for (int j = 0; j < D; j++) {
                            real value = (z[j] - mean[j]) * scale[j] + beta[j];
                            index[j] = value > a[j] ? place : index[j];
                            a[j] = value > a[j] ? value : a[j];
                        }
                    }
            }
}

static void forward_block(const Net *net, const Shape *s, const real *p, Pass *pass, Block *b, Scratch *scratch) {
    int D = net->D;
    double *sum = scratch->sums, *square = sum + D, count = (double)rows_of(s, pass->stats);
    memset(sum, 0, 2 * D * sizeof(double));
    FOR_LINES(s, pass->batch, lines) {
        convolve(net, s, b->in, lines, p + s->weight, scratch, b->z, 0);
        int counted = pass->stats * s->height - lines.first;
        counted = counted < lines.count ? counted : lines.count;
        if (counted > 0)
            add_moments(counted * s->width, D, b->z + (size_t)lines.first * s->width * D, b->z, sum, square);
    }
    for (int j = 0; j < D; j++) {
        double mean = sum[j] / count, variance = square[j] / count - mean * mean;
        b->mean[j] = (real)(mean + b->z[j]);
        b->rstd[j] = (real)(1 / sqrt((variance > 0 ? variance : 0) + EPSILON));
        scratch->scale[j] = b->rstd[j] * p[s->gamma + j];
    }
    pool(net, s, pass->batch, b, scratch->scale, p + s->beta);
}

/* features [B, pixels D] of the last block's a, averaged over the image if strided. */
static void gather_features(const Net *net, int images, const real *restrict a, real *restrict features) {
    const Shape *last = net->shapes + BLOCKS - 1;
    int D = net->D, pixels = last->pooled_height * last->pooled_width;
    if (!net->strided) {
        memcpy(features, a, (size_t)images * pixels * D * sizeof(real));
        return;
    }
    memset(features, 0, (size_t)images * D * sizeof(real));
    for (int n = 0; n < images; n++, features += D) {
        for (int i = 0; i < pixels; i++, a += D)
            for (int j = 0; j < D; j++) features[j] += a[j];
        for (int j = 0; j < D; j++) features[j] /= pixels;
    }
}

/* The adjoint of `gather_features`. */
static void scatter_features(const Net *net, int images, const real *restrict features, real *restrict a) {
    const Shape *last = net->shapes + BLOCKS - 1;
    int D = net->D, pixels = last->pooled_height * last->pooled_width;
    if (!net->strided) {
        memcpy(a, features, (size_t)images * pixels * D * sizeof(real));
        return;
    }
    for (int n = 0; n < images; n++, features += D)
        for (int i = 0; i < pixels; i++, a += D)
            for (int j = 0; j < D; j++) a[j] = features[j] / pixels;
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

/* Row (n, y, x) of z as a part of its window: its row in pooled tensors, and its place; -1 if pooling drops it. */
INLINE long window_of(const Shape *s, int n, int y, int x, uint8_t *place) {
    int up = y / s->window_height, left = x / s->window_width;
    *place = (uint8_t)(2 * (y % s->window_height) + x % s->window_width);
    if (up >= s->pooled_height || left >= s->pooled_width) return -1;
    return ((long)n * s->pooled_height + up) * s->pooled_width + left;
}

/* The means of dy and of dy xhat over the rows that count in batch norm's statistics, and the gradients of beta
 * and gamma, which are their sums over all rows. */
static void norm_gradient(const Net *net, const Shape *s, Pass *pass, Block *b, Scratch *scratch, real *d_gamma,
                          real *d_beta) {
    int D = net->D;
    double *restrict sum = scratch->sums, *restrict along = scratch->sums + D, count = (double)rows_of(s, pass->stats);
    const real *restrict mean = b->mean;
    memset(sum, 0, 2 * D * sizeof(double));
    for (int line = 0; line < pass->batch * s->pooled_height * s->window_height; line++) {
        int n = line / (s->pooled_height * s->window_height), y = line % (s->pooled_height * s->window_height);
        for (int x = 0; x < s->pooled_width * s->window_width; x++) {
            uint8_t place;
            long at = window_of(s, n, y, x, &place) * D;
            const real *restrict da = b->da + at, *restrict z = b->z + (((size_t)n * s->height + y) * s->width + x) * D;
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

/* dz = gamma rstd (dy - mean(dy) - xhat mean(dy xhat)) of some lines; rows outside of the statistics have dy alone. */
static void norm_back(const Net *net, const Shape *s, const Pass *pass, const Block *b, const real *gamma, Lines lines,
                      real *dz) {
    int D = net->D;
    const real *restrict mean = b->mean, *restrict rstd = b->rstd;
    const real *restrict mean_dy = b->mean_dy, *restrict along = b->mean_dy_xhat;
    for (int line = lines.first; line < lines.first + lines.count; line++) {
        int n = line / s->height, y = line % s->height, counts = n < pass->stats;
        for (int x = 0; x < s->width; x++, dz += D) {
            uint8_t place;
            long row = window_of(s, n, y, x, &place), at = row < 0 ? 0 : row * D;
            if (row < 0) place = NO_WINNER - 1;
            real *restrict out = dz;
            const real *restrict da = b->da + at, *restrict z = b->z + ((size_t)line * s->width + x) * D;
            const uint8_t *restrict index = b->index + at;
            for (int j = 0; j < D; j++) {
                real dy = index[j] == place ? da[j] : 0;
                real centred = dy - mean_dy[j] - (z[j] - mean[j]) * rstd[j] * along[j];
                out[j] = gamma[j] * rstd[j] * (counts ? centred : dy);
            }
        }
    }
}

static void backward_block(const Net *net, const Shape *s, const real *p, Pass *pass, Block *b, Scratch *scratch, real *g,
                           real *d_in) {
    norm_gradient(net, s, pass, b, scratch, g + s->gamma, g + s->beta);
    if (d_in) {
        transpose(s->K, net->filters, p + s->weight, net->D, scratch->weight_t, s->K);
        memset(d_in, 0, (size_t)pass->batch * s->in_height * s->in_width * s->in_channels * sizeof(real));
    }
    FOR_LINES(s, pass->batch, lines) {
        norm_back(net, s, pass, b, p + s->gamma, lines, scratch->dz);
        weight_gradient(net, s, b->in, lines, scratch->dz, scratch, g + s->weight, lines.first > 0);
        if (d_in) input_gradient(net, s, lines, scratch->dz, scratch->weight_t, NULL, NULL, scratch, d_in);
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
    for (int n = 0; n < images; n++)
        for (int y = 0; y < s->height; y++)
            for (int x = 0; x < s->width; x++) {
                uint8_t place;
                long row = window_of(s, n, y, x, &place);
                if (row < 0) continue;
                size_t at = (((size_t)n * s->height + y) * s->width + x) * D;
                const real *restrict z = b->z + at, *restrict z_dot = b->z_dot + at;
                const uint8_t *restrict index = b->index + row * D;
                real *restrict a_dot = b->a_dot + row * D;
                for (int j = 0; j < D; j++) {
                    real xhat = (z[j] - mean[j]) * rstd[j];
                    real xhat_dot = rstd[j] * (z_dot[j] - mean_dot[j] - xhat * along[j]);
                    real y_dot = v_beta[j] + v_gamma[j] * xhat + gamma[j] * xhat_dot;
                    a_dot[j] = index[j] == place ? y_dot : a_dot[j];
                }
            }
}

static void forward_block_tangent(const Net *net, const Shape *s, const real *p, const real *v, Pass *pass, Block *b,
                                  Scratch *scratch) {
    int D = net->D;
    size_t rows = rows_of(s, pass->batch);
    double *restrict sum = scratch->sums, *restrict along = scratch->sums + D;
    FOR_LINES(s, pass->batch, lines) {
        convolve(net, s, b->in, lines, v + s->weight, scratch, b->z_dot, 0);
        if (b->in_dot) convolve(net, s, b->in_dot, lines, p + s->weight, scratch, b->z_dot, 1);
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
    pool_tangent(net, s, pass->batch, b, p + s->gamma, v + s->gamma, v + s->beta);
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
    int D = net->D;
    double *restrict sum = scratch->sums, *restrict along = scratch->sums + D;
    const real *restrict mean = b->mean, *restrict rstd = b->rstd;
    memset(sum, 0, 2 * D * sizeof(double));
    for (size_t i = 0; i < rows_of(s, pass->batch); i++) {
        uint8_t place;
        int pixel = (int)(i % ((size_t)s->height * s->width));
        long row = window_of(s, (int)(i / ((size_t)s->height * s->width)), pixel / s->width, pixel % s->width, &place);
        if (row < 0) continue;
        const real *restrict z = b->z + i * D, *restrict z_dot = b->z_dot + i * D;
        const real *restrict da = b->da + row * D, *restrict dot = da_dot + row * D;
        const uint8_t *restrict index = b->index + row * D;
        for (int j = 0; j < D; j++) {
            real dy = index[j] == place ? da[j] : 0, dy_dot = index[j] == place ? dot[j] : 0;
            real xhat = (z[j] - mean[j]) * rstd[j];
            real xhat_dot = rstd[j] * (z_dot[j] - b->mean_dot[j] - xhat * b->along_dot[j]);
            sum[j] += dy_dot;
            along[j] += (double)(dy_dot * xhat + dy * xhat_dot);
        }
    }
    for (int j = 0; j < D; j++) d_beta[j] = (real)sum[j], d_gamma[j] = (real)along[j];
}

/* dz and its tangent, of some lines:
 * dz_dot = (gamma rstd)_dot (dy - mean(dy) - xhat mean(dy xhat))
 *          + gamma rstd (dy_dot - mean(dy_dot) - xhat_dot mean(dy xhat) - xhat mean((dy xhat)_dot)) */
static void norm_back_tangent(const Net *net, const Shape *s, const Block *b, const real *da_dot, Lines lines,
                              Scratch *scratch) {
    int D = net->D;
    const real *restrict mean = b->mean, *restrict rstd = b->rstd, *restrict mean_dot = b->mean_dot;
    const real *restrict along_dot = b->along_dot, *restrict mean_dy = b->mean_dy, *restrict along = b->mean_dy_xhat;
    const real *restrict scale = scratch->scale, *restrict scale_dot = scratch->terms[0];
    const real *restrict mean_dy_dot = scratch->terms[1], *restrict mean_along_dot = scratch->terms[2];
    real *dz_at = scratch->dz, *dz_dot_at = scratch->dz_dot;
    for (int line = lines.first; line < lines.first + lines.count; line++)
        for (int x = 0; x < s->width; x++, dz_at += D, dz_dot_at += D) {
            uint8_t place;
            long row = window_of(s, line / s->height, line % s->height, x, &place), at = row < 0 ? 0 : row * D;
            if (row < 0) place = NO_WINNER - 1;
            size_t i = ((size_t)line * s->width + x) * D;
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

static void backward_block_tangent(const Net *net, const Shape *s, const real *p, const real *v, Pass *pass, Block *b,
                                   const real *da_dot, Scratch *scratch, real *hv, real *d_in) {
    real rows = (real)rows_of(s, pass->batch);
    norm_gradient_tangent(net, s, pass, b, da_dot, scratch, hv + s->gamma, hv + s->beta);
    for (int j = 0; j < net->D; j++) {
        real rstd = b->rstd[j], rstd_dot = -rstd * rstd * b->along_dot[j];
        scratch->scale[j] = rstd * p[s->gamma + j];
        scratch->terms[0][j] = rstd_dot * p[s->gamma + j] + rstd * v[s->gamma + j];
        scratch->terms[1][j] = hv[s->beta + j] / rows, scratch->terms[2][j] = hv[s->gamma + j] / rows;
    }
    if (d_in) {
        transpose(s->K, net->filters, p + s->weight, net->D, scratch->weight_t, s->K);
        transpose(s->K, net->filters, v + s->weight, net->D, scratch->v_weight_t, s->K);
        memset(d_in, 0, (size_t)pass->batch * s->in_height * s->in_width * s->in_channels * sizeof(real));
    }
    FOR_LINES(s, pass->batch, lines) {
        norm_back_tangent(net, s, b, da_dot, lines, scratch);
        weight_gradient(net, s, b->in, lines, scratch->dz_dot, scratch, hv + s->weight, lines.first > 0);
        if (!d_in) continue;
        weight_gradient(net, s, b->in_dot, lines, scratch->dz, scratch, hv + s->weight, 1);
        input_gradient(net, s, lines, scratch->dz_dot, scratch->weight_t, scratch->dz, scratch->v_weight_t, scratch, d_in);
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
