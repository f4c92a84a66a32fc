/* A character LSTM: an embedding, layers of cells, a linear head at every position.
 *
 *   i, f, o = sigmoid(a_i, a_f, a_o), g = tanh(a_g), a = x W + h_{t-1} U + b
 *   c_t = f c_{t-1} + i g,  h_t = o tanh(c_t)
 *
 * B examples of L characters are n = B L rows, example by example; H units, four gates of H columns each.
 */
#include "kernels.h"
#include "loss.h"

#define DEEPEST 8

/* sizes: vocabulary, embedding, hidden, layers, outputs, length. */
typedef struct {
    int vocabulary, embedding, hidden, layers, outputs, length;
    int H, G, E; /* padded: units, their four gates, embedding */
    size_t table, weight[DEEPEST], recurrent[DEEPEST], bias[DEEPEST], head, head_bias;
    Layout layout;
} Net;

static void plan_net(Net *net, const int *sizes) {
    *net = (Net){.vocabulary = sizes[0], .embedding = sizes[1], .hidden = sizes[2], .layers = sizes[3],
                 .outputs = sizes[4], .length = sizes[5]};
    Layout *layout = &net->layout;
    net->H = padded(net->hidden), net->G = 4 * net->H, net->E = padded(net->embedding);
    net->table = add_dense(layout, net->vocabulary, net->embedding);
    for (int l = 0; l < net->layers; l++) {
        int in = l ? net->hidden : net->embedding;
        net->weight[l] = add_matrix(layout, 1, in, in, 4, net->hidden);
        net->recurrent[l] = add_matrix(layout, 1, net->hidden, net->hidden, 4, net->hidden);
        net->bias[l] = add_matrix(layout, 1, 1, 1, 4, net->hidden);
    }
    net->head = add_dense(layout, net->hidden, net->outputs);
    net->head_bias = add_dense(layout, 1, net->outputs);
}

static size_t input_size(const Net *net) { return net->length * sizeof(int64_t); }
static int outputs_per_example(const Net *net) { return net->length; }
static int output_width(const Net *net) { return net->outputs; }

static int inputs_valid(const Net *net, const void *x, size_t examples) {
    const int64_t *tokens = x;
    for (size_t i = 0; i < examples * net->length; i++)
        if (tokens[i] < 0 || tokens[i] >= net->vocabulary) return 0;
    return 1;
}

/* What a layer keeps of a pass, [n, H] or [n, G] each: gates, c, tanh(c), h; their gradients dh, dc, da; the
 * transposed weights; and tangents. */
typedef struct {
    real *gate, *c, *tanh_c, *h;
    real *dh, *dc, *da, *weight_t, *recurrent_t;
    real *gate_dot, *c_dot, *tanh_c_dot, *h_dot;
} Layer;

typedef struct {
    Outputs out;
    int batch, n;
    const int64_t *tokens;
    Layer layers[DEEPEST];
    real *d_table; /* gradient by the rows of E W + b */
} Pass;

typedef struct {
    real *table, *carry, *nothing, *transposed;
    real *da_dot, *dh_dot[2];
} Scratch;

static void lay_pass(const Net *net, int examples, int stats, int tangents, Arena *arena, Pass *pass) {
    (void)stats;
    size_t n = (size_t)examples * net->length, H = net->H, G = net->G;
    pass->batch = examples, pass->n = (int)n;
    lay_outputs(&pass->out, (int)n, net->outputs, tangents, arena);
    for (int l = 0; l < net->layers; l++) {
        Layer *k = pass->layers + l;
        real **narrow[] = {&k->c, &k->tanh_c, &k->h, &k->dh, &k->dc, &k->c_dot, &k->tanh_c_dot, &k->h_dot};
        real **gates[] = {&k->gate, &k->da, &k->gate_dot};
        for (int i = 0; i < (tangents ? 8 : 5); i++) *narrow[i] = take_reals(arena, n * H);
        for (int i = 0; i < (tangents ? 3 : 2); i++) *gates[i] = take_reals(arena, n * G);
        k->weight_t = take_reals(arena, G * (l ? net->H : net->E));
        k->recurrent_t = take_reals(arena, G * H);
    }
    pass->d_table = take_reals(arena, net->vocabulary * G);
}

static void lay_scratch(const Net *net, int examples, Arena *arena, Scratch *scratch) {
    size_t n = (size_t)examples * net->length, H = net->H, G = net->G;
    size_t across = net->E > net->H ? net->E : net->H;
    size_t rows = G > (size_t)net->outputs ? G : (size_t)net->outputs;
    scratch->table = take_reals(arena, net->vocabulary * G);
    scratch->carry = take_reals(arena, examples * H);
    scratch->nothing = take_reals(arena, H); /* c before the first character */
    if (arena->base) memset(scratch->nothing, 0, H * sizeof(real));
    scratch->transposed = take_reals(arena, rows * across);
    scratch->da_dot = take_reals(arena, n * G);
    for (int i = 0; i < 2; i++) scratch->dh_dot[i] = take_reals(arena, n * H);
}

static void set_inputs(Pass *pass, const void *x) { pass->tokens = x; }

/* rows [n, G] = the rows of `table` that the tokens name. */
static void look_up(const Net *net, const Pass *pass, const real *table, real *rows) {
    for (int i = 0; i < pass->n; i++)
        memcpy(rows + (size_t)i * net->G, table + pass->tokens[i] * net->G, net->G * sizeof(real));
}

/* The adjoint of `look_up`. */
static void sum_by_token(const Net *net, const Pass *pass, const real *rows, real *table) {
    memset(table, 0, (size_t)net->vocabulary * net->G * sizeof(real));
    for (int i = 0; i < pass->n; i++) {
        real *restrict to = table + pass->tokens[i] * net->G;
        const real *restrict from = rows + (size_t)i * net->G;
        for (int j = 0; j < net->G; j++) to[j] += from[j];
    }
}

/* Rows at one position, or all rows but the first (or last) of an example, as factors of a product. */
static Left at_position(const Net *net, const real *rows, int t, int width) {
    return (Left){rows + (size_t)t * width, (long)net->length * width, 1};
}

/* c += A B where A's rows are [n, inner] at positions 0 .. L-2, and c's one position later. */
static void matmul_to_next(const Net *net, const Pass *pass, const real *a, int lda, int inner, const real *b, int ldb,
                           real *c) {
    for (int e = 0; e < pass->batch; e++) {
        size_t row = (size_t)e * net->length;
        matmul(net->length - 1, ldb, inner, plain(a + row * lda, lda), b, ldb, c + (row + 1) * ldb, ldb, 1);
    }
}

/* c += A' B summed over rows: A at positions 0 .. L-2, B one position later; `add` as in matmul. */
static void outer_with_next(const Net *net, const Pass *pass, const real *h, const real *da, real *c, int add) {
    for (int e = 0; e < pass->batch; e++) {
        size_t row = (size_t)e * net->length;
        matmul(net->hidden, net->G, net->length - 1, transposed(h + row * net->H, net->H), da + (row + 1) * net->G,
               net->G, c, net->G, add || e);
    }
}

/* ---- forward ------------------------------------------------------------------------------------- */

static void cell(int H, real *restrict a, const real *restrict c_before, real *restrict c, real *restrict tanh_c,
                 real *restrict h) {
    for (int j = 0; j < 2 * H; j++) a[j] = sigmoid(a[j]);
    for (int j = 2 * H; j < 3 * H; j++) a[j] = hyperbolic_tangent(a[j]);
    for (int j = 3 * H; j < 4 * H; j++) a[j] = sigmoid(a[j]);
    for (int j = 0; j < H; j++) c[j] = a[H + j] * c_before[j] + a[j] * a[2 * H + j];
    for (int j = 0; j < H; j++) tanh_c[j] = hyperbolic_tangent(c[j]);
    for (int j = 0; j < H; j++) h[j] = a[3 * H + j] * tanh_c[j];
}

static void forward_layer(const Net *net, const real *recurrent, Pass *pass, Layer *k, Scratch *scratch) {
    int H = net->H, G = net->G, L = net->length;
    for (int t = 0; t < L; t++) {
        if (t)
            matmul(pass->batch, G, net->hidden, at_position(net, k->h, t - 1, H), recurrent, G, k->gate + (size_t)t * G,
                   (long)L * G, 1);
        for (int e = 0; e < pass->batch; e++) {
            size_t row = (size_t)e * L + t, at = row * H;
            cell(H, k->gate + row * G, t ? k->c + at - H : scratch->nothing, k->c + at, k->tanh_c + at, k->h + at);
        }
    }
}

static void forward(const Net *net, const real *p, Pass *pass, Scratch *scratch) {
    int G = net->G, H = net->H;
    fill_rows(net->vocabulary, G, p + net->bias[0], scratch->table);
    matmul(net->vocabulary, G, net->embedding, plain(p + net->table, net->E), p + net->weight[0], G, scratch->table, G, 1);
    look_up(net, pass, scratch->table, pass->layers[0].gate);
    for (int l = 0; l < net->layers; l++) {
        Layer *k = pass->layers + l;
        if (l) {
            fill_rows(pass->n, G, p + net->bias[l], k->gate);
            matmul(pass->n, G, net->hidden, plain(k[-1].h, H), p + net->weight[l], G, k->gate, G, 1);
        }
        forward_layer(net, p + net->recurrent[l], pass, k, scratch);
    }
    int room = pass->out.room;
    fill_rows(pass->n, room, p + net->head_bias, pass->out.value);
    matmul(pass->n, room, net->hidden, plain(pass->layers[net->layers - 1].h, H), p + net->head, room, pass->out.value,
           room, 1);
}

/* ---- backward ------------------------------------------------------------------------------------ */

/* From dh and the carried dc_{t+1} f_{t+1} to da; `carry` becomes dc f. */
static void cell_back(int H, const real *restrict gate, const real *restrict c_before, const real *restrict tanh_c,
                      const real *restrict dh, real *restrict carry, real *restrict dc, real *restrict da) {
    for (int j = 0; j < H; j++) {
        real i = gate[j], f = gate[H + j], g = gate[2 * H + j], o = gate[3 * H + j];
        real d = dh[j] * o * (1 - tanh_c[j] * tanh_c[j]) + carry[j];
        dc[j] = d;
        carry[j] = d * f;
        da[j] = d * g * i * (1 - i);
        da[H + j] = d * c_before[j] * f * (1 - f);
        da[2 * H + j] = d * i * (1 - g * g);
        da[3 * H + j] = dh[j] * tanh_c[j] * o * (1 - o);
    }
}

static void backward_layer(const Net *net, const real *recurrent, Pass *pass, Layer *k, Scratch *scratch, real *g) {
    int H = net->H, G = net->G, L = net->length;
    transpose(net->hidden, G, recurrent, G, k->recurrent_t, H);
    memset(scratch->carry, 0, (size_t)pass->batch * H * sizeof(real));
    for (int t = L - 1; t >= 0; t--) {
        if (t < L - 1)
            matmul(pass->batch, H, G, at_position(net, k->da, t + 1, G), k->recurrent_t, H, k->dh + (size_t)t * H,
                   (long)L * H, 1);
        for (int e = 0; e < pass->batch; e++) {
            size_t row = (size_t)e * L + t, at = row * H;
            cell_back(H, k->gate + row * G, t ? k->c + at - H : scratch->nothing, k->tanh_c + at, k->dh + at,
                      scratch->carry + (size_t)e * H, k->dc + at, k->da + row * G);
        }
    }
    outer_with_next(net, pass, k->h, k->da, g, 0);
}

static void backward(const Net *net, const real *p, Pass *pass, Scratch *scratch, real *g) {
    int G = net->G, H = net->H, E = net->E, room = pass->out.room, n = pass->n;
    Layer *top = pass->layers + net->layers - 1;
    matmul(net->hidden, room, n, transposed(top->h, H), pass->out.delta, room, g + net->head, room, 0);
    sum_rows(n, room, pass->out.delta, g + net->head_bias);
    transpose(net->hidden, net->outputs, p + net->head, room, scratch->transposed, H);
    matmul(n, H, net->outputs, plain(pass->out.delta, room), scratch->transposed, H, top->dh, H, 0);
    for (int l = net->layers - 1; l >= 0; l--) {
        Layer *k = pass->layers + l;
        backward_layer(net, p + net->recurrent[l], pass, k, scratch, g + net->recurrent[l]);
        transpose(l ? net->hidden : net->embedding, G, p + net->weight[l], G, k->weight_t, l ? H : E);
        sum_rows(n, G, k->da, g + net->bias[l]);
        if (!l) break;
        matmul(net->hidden, G, n, transposed(k[-1].h, H), k->da, G, g + net->weight[l], G, 0);
        matmul(n, H, G, plain(k->da, G), k->weight_t, H, k[-1].dh, H, 0);
    }
    sum_by_token(net, pass, pass->layers[0].da, pass->d_table);
    matmul(net->embedding, G, net->vocabulary, transposed(p + net->table, E), pass->d_table, G, g + net->weight[0], G, 0);
    matmul(net->vocabulary, E, G, plain(pass->d_table, G), pass->layers[0].weight_t, E, g + net->table, E, 0);
}

/* ---- tangents of both ---------------------------------------------------------------------------- */

/* From the tangent of a, in `gate_dot`, to those of gates, c, tanh(c) and h. */
static void cell_tangent(int H, const Layer *k, const real *c_before, const real *c_before_dot, size_t row) {
    const real *restrict gate = k->gate + row * 4 * H, *restrict tanh_c = k->tanh_c + row * H;
    real *restrict dot = k->gate_dot + row * 4 * H, *restrict c_dot = k->c_dot + row * H;
    real *restrict tanh_dot = k->tanh_c_dot + row * H, *restrict h_dot = k->h_dot + row * H;
    for (int j = 0; j < H; j++) {
        real i = gate[j], f = gate[H + j], g = gate[2 * H + j], o = gate[3 * H + j];
        real i_dot = dot[j] * i * (1 - i), f_dot = dot[H + j] * f * (1 - f);
        real g_dot = dot[2 * H + j] * (1 - g * g), o_dot = dot[3 * H + j] * o * (1 - o);
        dot[j] = i_dot, dot[H + j] = f_dot, dot[2 * H + j] = g_dot, dot[3 * H + j] = o_dot;
        c_dot[j] = f_dot * c_before[j] + f * c_before_dot[j] + i_dot * g + i * g_dot;
        tanh_dot[j] = c_dot[j] * (1 - tanh_c[j] * tanh_c[j]);
        h_dot[j] = o_dot * tanh_c[j] + o * tanh_dot[j];
    }
}

static void forward_layer_tangent(const Net *net, const real *recurrent, Pass *pass, Layer *k, Scratch *scratch) {
    int H = net->H, G = net->G, L = net->length;
    for (int t = 0; t < L; t++) {
        if (t)
            matmul(pass->batch, G, net->hidden, at_position(net, k->h_dot, t - 1, H), recurrent, G,
                   k->gate_dot + (size_t)t * G, (long)L * G, 1);
        for (int e = 0; e < pass->batch; e++) {
            size_t row = (size_t)e * L + t, at = row * H;
            cell_tangent(H, k, t ? k->c + at - H : scratch->nothing, t ? k->c_dot + at - H : scratch->nothing, row);
        }
    }
}

static void forward_tangent(const Net *net, const real *p, const real *v, Pass *pass, Scratch *scratch) {
    int G = net->G, H = net->H, E = net->E, room = pass->out.room, n = pass->n, V = net->vocabulary;
    fill_rows(V, G, v + net->bias[0], scratch->table);
    matmul(V, G, net->embedding, plain(v + net->table, E), p + net->weight[0], G, scratch->table, G, 1);
    matmul(V, G, net->embedding, plain(p + net->table, E), v + net->weight[0], G, scratch->table, G, 1);
    look_up(net, pass, scratch->table, pass->layers[0].gate_dot);
    for (int l = 0; l < net->layers; l++) {
        Layer *k = pass->layers + l;
        if (l) {
            fill_rows(n, G, v + net->bias[l], k->gate_dot);
            matmul(n, G, net->hidden, plain(k[-1].h, H), v + net->weight[l], G, k->gate_dot, G, 1);
            matmul(n, G, net->hidden, plain(k[-1].h_dot, H), p + net->weight[l], G, k->gate_dot, G, 1);
        }
        matmul_to_next(net, pass, k->h, H, net->hidden, v + net->recurrent[l], G, k->gate_dot);
        forward_layer_tangent(net, p + net->recurrent[l], pass, k, scratch);
    }
    Layer *top = pass->layers + net->layers - 1;
    fill_rows(n, room, v + net->head_bias, pass->out.value_dot);
    matmul(n, room, net->hidden, plain(top->h, H), v + net->head, room, pass->out.value_dot, room, 1);
    matmul(n, room, net->hidden, plain(top->h_dot, H), p + net->head, room, pass->out.value_dot, room, 1);
}

/* The tangent of `cell_back`: from dh_dot and the carried tangent to da_dot. */
static void cell_back_tangent(int H, const Layer *k, const real *c_before, const real *c_before_dot, size_t row,
                              const real *restrict dh_dot, real *restrict carry, real *restrict da_dot) {
    const real *restrict gate = k->gate + row * 4 * H, *restrict dot = k->gate_dot + row * 4 * H;
    const real *restrict dh = k->dh + row * H, *restrict dc = k->dc + row * H;
    const real *restrict tanh_c = k->tanh_c + row * H, *restrict tanh_dot = k->tanh_c_dot + row * H;
    for (int j = 0; j < H; j++) {
        real i = gate[j], f = gate[H + j], g = gate[2 * H + j], o = gate[3 * H + j];
        real i_dot = dot[j], f_dot = dot[H + j], g_dot = dot[2 * H + j], o_dot = dot[3 * H + j];
        real s = 1 - tanh_c[j] * tanh_c[j], d = dc[j];
        real d_dot = (dh_dot[j] * o + dh[j] * o_dot) * s - 2 * dh[j] * o * tanh_c[j] * tanh_dot[j] + carry[j];
        da_dot[j] = (d_dot * g + d * g_dot) * i * (1 - i) + d * g * (1 - 2 * i) * i_dot;
        da_dot[H + j] = (d_dot * c_before[j] + d * c_before_dot[j]) * f * (1 - f) + d * c_before[j] * (1 - 2 * f) * f_dot;
        da_dot[2 * H + j] = (d_dot * i + d * i_dot) * (1 - g * g) - 2 * d * i * g * g_dot;
        da_dot[3 * H + j] = (dh_dot[j] * tanh_c[j] + dh[j] * tanh_dot[j]) * o * (1 - o) + dh[j] * tanh_c[j] * (1 - 2 * o) * o_dot;
        carry[j] = d_dot * f + d * f_dot;
    }
}

/* Complete dh_dot of a layer, position by position from the last, and fill da_dot. */
static void backward_layer_tangent(const Net *net, const real *v_recurrent, Pass *pass, Layer *k, Scratch *scratch,
                                   real *dh_dot) {
    int H = net->H, G = net->G, L = net->length;
    transpose(net->hidden, G, v_recurrent, G, scratch->transposed, H);
    for (int e = 0; e < pass->batch; e++) {
        size_t row = (size_t)e * L;
        matmul(L - 1, H, G, plain(k->da + (row + 1) * G, G), scratch->transposed, H, dh_dot + row * H, H, 1);
    }
    memset(scratch->carry, 0, (size_t)pass->batch * H * sizeof(real));
    for (int t = L - 1; t >= 0; t--) {
        if (t < L - 1)
            matmul(pass->batch, H, G, at_position(net, scratch->da_dot, t + 1, G), k->recurrent_t, H,
                   dh_dot + (size_t)t * H, (long)L * H, 1);
        for (int e = 0; e < pass->batch; e++) {
            size_t row = (size_t)e * L + t, at = row * H;
            cell_back_tangent(H, k, t ? k->c + at - H : scratch->nothing, t ? k->c_dot + at - H : scratch->nothing, row,
                              dh_dot + at, scratch->carry + (size_t)e * H, scratch->da_dot + row * G);
        }
    }
}

/* The embedding's and first layer's part of `backward_tangent`. */
static void table_tangent(const Net *net, const real *p, const real *v, Pass *pass, Scratch *scratch, real *hv) {
    int G = net->G, E = net->E, V = net->vocabulary;
    sum_by_token(net, pass, scratch->da_dot, scratch->table);
    matmul(net->embedding, G, V, transposed(p + net->table, E), scratch->table, G, hv + net->weight[0], G, 0);
    matmul(net->embedding, G, V, transposed(v + net->table, E), pass->d_table, G, hv + net->weight[0], G, 1);
    transpose(net->embedding, G, v + net->weight[0], G, scratch->transposed, E);
    matmul(V, E, G, plain(scratch->table, G), pass->layers[0].weight_t, E, hv + net->table, E, 0);
    matmul(V, E, G, plain(pass->d_table, G), scratch->transposed, E, hv + net->table, E, 1);
}

static void head_tangent(const Net *net, const real *p, const real *v, Pass *pass, Scratch *scratch, real *hv) {
    int H = net->H, room = pass->out.room, n = pass->n;
    Layer *top = pass->layers + net->layers - 1;
    real *dh_dot = scratch->dh_dot[(net->layers - 1) % 2];
    matmul(net->hidden, room, n, transposed(top->h, H), pass->out.delta_dot, room, hv + net->head, room, 0);
    matmul(net->hidden, room, n, transposed(top->h_dot, H), pass->out.delta, room, hv + net->head, room, 1);
    sum_rows(n, room, pass->out.delta_dot, hv + net->head_bias);
    transpose(net->hidden, net->outputs, p + net->head, room, scratch->transposed, H);
    matmul(n, H, net->outputs, plain(pass->out.delta_dot, room), scratch->transposed, H, dh_dot, H, 0);
    transpose(net->hidden, net->outputs, v + net->head, room, scratch->transposed, H);
    matmul(n, H, net->outputs, plain(pass->out.delta, room), scratch->transposed, H, dh_dot, H, 1);
}

static void backward_tangent(const Net *net, const real *p, const real *v, Pass *pass, Scratch *scratch, real *hv) {
    int G = net->G, H = net->H, n = pass->n;
    head_tangent(net, p, v, pass, scratch, hv);
    for (int l = net->layers - 1; l >= 0; l--) {
        Layer *k = pass->layers + l;
        backward_layer_tangent(net, v + net->recurrent[l], pass, k, scratch, scratch->dh_dot[l % 2]);
        outer_with_next(net, pass, k->h, scratch->da_dot, hv + net->recurrent[l], 0);
        outer_with_next(net, pass, k->h_dot, k->da, hv + net->recurrent[l], 1);
        sum_rows(n, G, scratch->da_dot, hv + net->bias[l]);
        if (!l) break;
        matmul(net->hidden, G, n, transposed(k[-1].h, H), scratch->da_dot, G, hv + net->weight[l], G, 0);
        matmul(net->hidden, G, n, transposed(k[-1].h_dot, H), k->da, G, hv + net->weight[l], G, 1);
        real *below = scratch->dh_dot[(l - 1) % 2];
        matmul(n, H, G, plain(scratch->da_dot, G), k->weight_t, H, below, H, 0);
        transpose(net->hidden, G, v + net->weight[l], G, scratch->transposed, H);
        matmul(n, H, G, plain(k->da, G), scratch->transposed, H, below, H, 1);
    }
    table_tangent(net, p, v, pass, scratch, hv);
}

#define MODEL lstm
#include "tasks.h"
