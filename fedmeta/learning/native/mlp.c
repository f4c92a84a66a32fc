/* A multilayer perceptron: h_0 = x, h_{l+1} = f(h_l W_l + b_l); the head, if there is one, is linear. */
#include "kernels.h"
#include "loss.h"

#define DEEPEST 16
enum { RELU = 0, TANH = 1, SIGMOID = 2 };

/* sizes: depth, activation, head (whether the last layer is linear), then the widths h_0 ... h_depth. */
typedef struct {
    int depth, activation, head;
    int width[DEEPEST + 1], room[DEEPEST + 1];
    size_t weight[DEEPEST], bias[DEEPEST];
    Layout layout;
} Net;

static void plan_net(Net *net, const int *sizes) {
    *net = (Net){.depth = sizes[0], .activation = sizes[1], .head = sizes[2]};
    for (int l = 0; l <= net->depth; l++) {
        net->width[l] = sizes[3 + l];
        net->room[l] = l ? padded(sizes[3 + l]) : sizes[3]; /* inputs are read as they come */
    }
    for (int l = 0; l < net->depth; l++) {
        net->weight[l] = add_dense(&net->layout, net->width[l], net->width[l + 1]);
        net->bias[l] = add_dense(&net->layout, 1, net->width[l + 1]);
    }
}

static size_t input_size(const Net *net) { return net->width[0] * sizeof(real); }
static int outputs_per_example(const Net *net) { return (void)net, 1; }
static int output_width(const Net *net) { return net->width[net->depth]; }
static int inputs_valid(const Net *net, const void *x, size_t examples) { return (void)net, (void)x, (void)examples, 1; }

/* What a pass over a batch keeps: by layer the activations h, their gradients e = dL/dh, d = dL/dz, the
 * transposed weights, and the tangents of h. The last h and e are the outputs'. */
typedef struct {
    Outputs out;
    int rows;
    const real *h[DEEPEST + 1];
    real *e[DEEPEST + 1], *d[DEEPEST], *transposed[DEEPEST], *h_dot[DEEPEST + 1];
} Pass;

typedef struct {
    real *e_dot[2], *d_dot, *transposed;
} Scratch;

static int widest(const Net *net) {
    int most = 0;
    for (int l = 1; l <= net->depth; l++) most = net->room[l] > most ? net->room[l] : most;
    return most;
}

static void lay_pass(const Net *net, int examples, int stats, int tangents, Arena *arena, Pass *pass) {
    (void)stats;
    pass->rows = examples;
    lay_outputs(&pass->out, examples, net->width[net->depth], tangents, arena);
    for (int l = 1; l <= net->depth; l++) {
        size_t size = (size_t)examples * net->room[l];
        int last = l == net->depth;
        pass->h[l] = last ? pass->out.value : take_reals(arena, size);
        pass->e[l] = last ? pass->out.delta : take_reals(arena, size);
        pass->d[l - 1] = take_reals(arena, size);
        pass->transposed[l - 1] = l > 1 ? take_reals(arena, (size_t)net->width[l] * net->room[l - 1]) : NULL;
        pass->h_dot[l] = !tangents ? NULL : last ? pass->out.value_dot : take_reals(arena, size);
    }
}

static void lay_scratch(const Net *net, int examples, Arena *arena, Scratch *scratch) {
    size_t size = (size_t)examples * widest(net);
    for (int i = 0; i < 2; i++) scratch->e_dot[i] = take_reals(arena, size);
    scratch->d_dot = take_reals(arena, size);
    scratch->transposed = take_reals(arena, (size_t)widest(net) * widest(net));
}

static int is_linear(const Net *net, int l) { return net->head && l == net->depth - 1; }

static void activate(int kind, int count, real *restrict z) {
    if (kind == RELU)
        for (int i = 0; i < count; i++) z[i] = z[i] > 0 ? z[i] : 0;
    else if (kind == TANH)
        for (int i = 0; i < count; i++) z[i] = hyperbolic_tangent(z[i]);
    else
        for (int i = 0; i < count; i++) z[i] = sigmoid(z[i]);
}

/* out = f'(z) e, with f' written in h = f(z); `out` may be `e`. */
static void times_slope(int kind, int count, const real *restrict h, const real *e, real *out) {
    if (kind == RELU)
        for (int i = 0; i < count; i++) out[i] = h[i] > 0 ? e[i] : 0;
    else if (kind == TANH)
        for (int i = 0; i < count; i++) out[i] = e[i] * (1 - h[i] * h[i]);
    else
        for (int i = 0; i < count; i++) out[i] = e[i] * (h[i] - h[i] * h[i]);
}

/* out += e times the tangent of f'(z), which is 0 for ReLU. */
static void add_slope_tangent(int kind, int count, const real *restrict h, const real *restrict h_dot,
                              const real *restrict e, real *restrict out) {
    if (kind == TANH)
        for (int i = 0; i < count; i++) out[i] -= 2 * e[i] * h[i] * h_dot[i];
    else if (kind == SIGMOID)
        for (int i = 0; i < count; i++) out[i] += e[i] * (1 - 2 * h[i]) * h_dot[i];
}

static void set_inputs(Pass *pass, const void *x) { pass->h[0] = x; }

static void forward(const Net *net, const real *p, Pass *pass, Scratch *scratch) {
    (void)scratch;
    for (int l = 0; l < net->depth; l++) {
        int room = net->room[l + 1];
        real *z = (real *)pass->h[l + 1];
        fill_rows(pass->rows, room, p + net->bias[l], z);
        matmul(pass->rows, room, net->width[l], plain(pass->h[l], net->room[l]), p + net->weight[l], room, z, room, 1);
        if (!is_linear(net, l)) activate(net->activation, pass->rows * room, z);
    }
}

/* From dL/dz of the outputs to the gradient g: dW = h' d, db = sum(d), dL/dh = d W'. */
static void backward(const Net *net, const real *p, Pass *pass, Scratch *scratch, real *g) {
    (void)scratch;
    for (int l = net->depth - 1; l >= 0; l--) {
        int in = net->width[l], room = net->room[l + 1], below = net->room[l], count = pass->rows * room;
        real *d = pass->d[l];
        if (is_linear(net, l)) memcpy(d, pass->e[l + 1], count * sizeof(real));
        else times_slope(net->activation, count, pass->h[l + 1], pass->e[l + 1], d);
        matmul(in, room, pass->rows, transposed(pass->h[l], below), d, room, g + net->weight[l], room, 0);
        sum_rows(pass->rows, room, d, g + net->bias[l]);
        if (!l) break;
        transpose(in, net->width[l + 1], p + net->weight[l], room, pass->transposed[l], below);
        matmul(pass->rows, below, net->width[l + 1], plain(d, room), pass->transposed[l], below, pass->e[l], below, 0);
    }
}

/* The tangents of all activations along the parameters' tangent v. */
static void forward_tangent(const Net *net, const real *p, const real *v, Pass *pass, Scratch *scratch) {
    (void)scratch;
    for (int l = 0; l < net->depth; l++) {
        int in = net->width[l], room = net->room[l + 1], below = net->room[l];
        real *z = pass->h_dot[l + 1];
        fill_rows(pass->rows, room, v + net->bias[l], z);
        matmul(pass->rows, room, in, plain(pass->h[l], below), v + net->weight[l], room, z, room, 1);
        if (l) matmul(pass->rows, room, in, plain(pass->h_dot[l], below), p + net->weight[l], room, z, room, 1);
        if (!is_linear(net, l)) times_slope(net->activation, pass->rows * room, pass->h[l + 1], z, z);
    }
}

/* The tangent hv of the gradient along v: the product rule applied to each line of `backward`. */
static void backward_tangent(const Net *net, const real *p, const real *v, Pass *pass, Scratch *scratch, real *hv) {
    (void)p;
    const real *e_dot = pass->out.delta_dot;
    real *d_dot = scratch->d_dot;
    for (int l = net->depth - 1; l >= 0; l--) {
        int in = net->width[l], out = net->width[l + 1], room = net->room[l + 1], below = net->room[l];
        int count = pass->rows * room;
        const real *d = pass->d[l];
        if (is_linear(net, l)) memcpy(d_dot, e_dot, count * sizeof(real));
        else {
            times_slope(net->activation, count, pass->h[l + 1], e_dot, d_dot);
            add_slope_tangent(net->activation, count, pass->h[l + 1], pass->h_dot[l + 1], pass->e[l + 1], d_dot);
        }
        matmul(in, room, pass->rows, transposed(pass->h[l], below), d_dot, room, hv + net->weight[l], room, 0);
        sum_rows(pass->rows, room, d_dot, hv + net->bias[l]);
        if (!l) break;
        matmul(in, room, pass->rows, transposed(pass->h_dot[l], below), d, room, hv + net->weight[l], room, 1);
        real *next = scratch->e_dot[l % 2];
        transpose(in, out, v + net->weight[l], room, scratch->transposed, below);
        matmul(pass->rows, below, out, plain(d_dot, room), pass->transposed[l], below, next, below, 0);
        matmul(pass->rows, below, out, plain(d, room), scratch->transposed, below, next, below, 1);
        e_dot = next;
    }
}

#define MODEL mlp
#include "tasks.h"
