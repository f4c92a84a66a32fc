/* What Python calls, for any model: gradients, Hessian-vector products and unrolled inner loops of many tasks.
 *
 * A model's file defines Net, Pass, Scratch and the functions used here, and includes this file at its end.
 * Every function works on the tasks [begin, end) of arrays that hold all of them, one task at a time so that
 * what a task needs stays in the cache; Python shares the tasks out among threads. Each returns a Status.
 */

enum Status { DONE = 0, BAD_LABEL = 1, BAD_INPUT = 2, NO_MEMORY = 3 };

#define JOIN_NAMES(model, name) model##_##name
#define JOIN(model, name) JOIN_NAMES(model, name)
#define EXPORT(name) JOIN(MODEL, name)

/* Parameters of every task; with `stride` 0 all tasks share them. */
typedef struct {
    const real *at;
    long stride;
} Parameters;

/* Inputs and targets of `examples` examples a task. Batch norm's statistics are those of the first `stats`
 * examples, which then have no targets; 0: those of all. */
typedef struct {
    int examples, stats;
    const char *x, *y;
} Batch;

static int target_rows(const Net *net, const Batch *batch) {
    return (batch->examples - batch->stats) * outputs_per_example(net);
}

static const void *inputs_of(const Net *net, const Batch *batch, long task) {
    return batch->x + (size_t)task * batch->examples * input_size(net);
}

static const void *targets_of(const Net *net, const Batch *batch, int loss, long task) {
    size_t one = loss == CROSS_ENTROPY ? sizeof(int64_t) : output_width(net) * sizeof(real);
    return batch->y + (size_t)task * target_rows(net, batch) * one;
}

/* Refuse inputs and labels that would be read as indices outside of a table. */
static int check_batch(const Net *net, const Batch *batch, int loss, long task) {
    if (!inputs_valid(net, inputs_of(net, batch, task), batch->examples)) return BAD_INPUT;
    if (!batch->y || loss != CROSS_ENTROPY) return DONE;
    const int64_t *labels = targets_of(net, batch, loss, task);
    for (int i = 0; i < target_rows(net, batch); i++)
        if (labels[i] < 0 || labels[i] >= output_width(net)) return BAD_LABEL;
    return DONE;
}

/* The gradient g of a task's loss at parameters p; returns the loss. */
static double gradient(const Net *net, const Batch *batch, int loss, long task, const real *p, Pass *pass,
                       Scratch *scratch, real *g) {
    set_inputs(pass, inputs_of(net, batch, task));
    forward(net, p, pass, scratch);
    int first = batch->stats * outputs_per_example(net);
    double value = loss_gradient(loss, &pass->out, first, targets_of(net, batch, loss, task));
    backward(net, p, pass, scratch, g);
    return value;
}

/* hv = H v, the Hessian of the loss whose gradient `pass` holds. */
static void hessian_vector(const Net *net, int loss, const real *p, const real *v, Pass *pass, Scratch *scratch,
                           real *hv) {
    forward_tangent(net, p, v, pass, scratch);
    loss_tangent(loss, &pass->out);
    backward_tangent(net, p, v, pass, scratch, hv);
}

/* Copy the predictions of the examples that have targets to `prediction [T, rows, width]`. */
static void store_prediction(const Net *net, const Batch *batch, const Pass *pass, long task, real *prediction) {
    const Outputs *out = &pass->out;
    int rows = target_rows(net, batch), first = out->rows - rows;
    real *to = prediction + (size_t)task * rows * out->width;
    for (int i = 0; i < rows; i++)
        memcpy(to + (size_t)i * out->width, out->value + (size_t)(first + i) * out->room, out->width * sizeof(real));
}

/* An inner loop theta_{k+1} = theta_k - rate * grad L_support(theta_k) of `steps` steps, and the gradient of
 * L_query(theta_K) by theta_0; without steps, the plain gradient. */
typedef struct {
    int steps, second_order, loss;
    double rate;         /* where `rates` is NULL */
    Parameters parameters, rates;
    Batch support, query;
    real *gradient;      /* [T, parameters] */
    real *rates_gradient; /* likewise, or NULL */
    real *losses;        /* [T, 2]: on the support set before the first step, on the query set after the last */
    real *prediction_before, *prediction;
} Unroll;

/* Memory of `bytes` bytes, aligned to a cache line. */
static char *allocate(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }

/* Take padded parameters; their padding is zero. */
static real *take_parameters(const Net *net, Arena *arena) {
    real *p = take_reals(arena, net->layout.padded_size);
    if (arena->base) memset(p, 0, net->layout.padded_size * sizeof(real));
    return p;
}

/* Memory of one thread: padded parameters, gradients g and the pass of each step, as far as the way back needs
 * them again: a first-order loop keeps the last two parameters and one of the others. */
typedef struct {
    int thetas, gs;
    real **theta, **g, *v, *scaled, *rate, *rate_sum;
    Pass *passes, query;
    Scratch scratch;
} Workspace;

static real *theta_of(const Workspace *w, int step) { return w->theta[step % w->thetas]; }
static real *g_of(const Workspace *w, int step) { return w->g[step % w->gs]; }

static void lay_workspace(const Net *net, const Unroll *u, Arena *arena, Workspace *w) {
    size_t size = net->layout.padded_size;
    int passes = u->second_order ? u->steps : u->steps > 0;
    w->thetas = u->second_order ? u->steps + 1 : 2;
    w->gs = u->rates.at ? u->steps + 1 : 1;
    w->theta = take(arena, w->thetas, sizeof *w->theta);
    w->g = take(arena, w->gs, sizeof *w->g);
    w->passes = take(arena, passes + 1, sizeof *w->passes);
    for (int k = 0; k < w->thetas; k++) {
        real *theta = take_parameters(net, arena);
        if (arena->base) w->theta[k] = theta;
    }
    for (int k = 0; k < w->gs; k++) {
        real *g = take_reals(arena, size);
        if (arena->base) w->g[k] = g;
    }
    for (int k = 0; k < passes; k++) {
        Pass pass = {0};
        lay_pass(net, u->support.examples, u->support.stats, u->second_order, arena, &pass);
        if (arena->base) w->passes[k] = pass;
    }
    lay_pass(net, u->query.examples, u->query.stats, 0, arena, &w->query);
    int most = u->support.examples > u->query.examples ? u->support.examples : u->query.examples;
    lay_scratch(net, most, arena, &w->scratch);
    w->v = take_reals(arena, size);
    w->scaled = take_reals(arena, size);
    w->rate = take_parameters(net, arena);
    w->rate_sum = take_reals(arena, size);
}

/* theta = from - rate * g */
static void descend(const Unroll *u, size_t size, const real *restrict from, const real *restrict g,
                    const real *restrict rate, real *restrict theta) {
    real one = (real)u->rate;
    if (u->rates.at)
        for (size_t i = 0; i < size; i++) theta[i] = from[i] - rate[i] * g[i];
    else
        for (size_t i = 0; i < size; i++) theta[i] = from[i] - one * g[i];
}

static void scale(const Unroll *u, size_t size, const real *restrict v, const real *restrict rate,
                  real *restrict scaled) {
    real one = (real)u->rate;
    for (size_t i = 0; i < size; i++) scaled[i] = (u->rates.at ? rate[i] : one) * v[i];
}

/* v <- v - H_k (rate * v), from the last step to the first; the rates' gradient is the sum of -g_k * v. */
static void unroll_back(const Net *net, const Unroll *u, Workspace *w) {
    size_t size = net->layout.padded_size;
    memset(w->rate_sum, 0, size * sizeof(real));
    for (int k = u->steps - 1; k >= 0; k--) {
        if (u->rates_gradient)
            for (size_t i = 0; i < size; i++) w->rate_sum[i] -= g_of(w, k)[i] * w->v[i];
        if (!u->second_order) continue;
        real *hv = g_of(w, u->steps);
        scale(u, size, w->v, w->rate, w->scaled);
        hessian_vector(net, u->loss, theta_of(w, k), w->scaled, w->passes + k, &w->scratch, hv);
        for (size_t i = 0; i < size; i++) w->v[i] -= hv[i];
    }
}

static int unroll_task(const Net *net, const Unroll *u, long task, Workspace *w) {
    const Layout *layout = &net->layout;
    int status = u->steps ? check_batch(net, &u->support, u->loss, task) : DONE;
    if (!status) status = check_batch(net, &u->query, u->loss, task);
    if (status) return status;
    for (int k = 0; k < u->steps; k++) {
        Pass *pass = w->passes + (u->second_order ? k : 0);
        double loss = gradient(net, &u->support, u->loss, task, theta_of(w, k), pass, &w->scratch, g_of(w, k));
        if (!k) {
            u->losses[2 * task] = (real)loss;
            store_prediction(net, &u->support, pass, task, u->prediction_before);
        }
        descend(u, layout->padded_size, theta_of(w, k), g_of(w, k), w->rate, theta_of(w, k + 1));
    }
    double loss = gradient(net, &u->query, u->loss, task, theta_of(w, u->steps), &w->query, &w->scratch, w->v);
    u->losses[2 * task + 1] = (real)loss;
    store_prediction(net, &u->query, &w->query, task, u->prediction);
    unroll_back(net, u, w);
    store(layout, w->v, u->gradient + (size_t)task * layout->plain_size);
    if (u->rates_gradient) store(layout, w->rate_sum, u->rates_gradient + (size_t)task * layout->plain_size);
    return DONE;
}

int EXPORT(unroll)(const int *sizes, const Unroll *u, long begin, long end) {
    Net net;
    plan_net(&net, sizes);
    Arena arena = {0};
    Workspace w = {0};
    lay_workspace(&net, u, &arena, &w);
    arena = (Arena){allocate(arena.used), 0};
    if (!arena.base) return NO_MEMORY;
    lay_workspace(&net, u, &arena, &w);
    int status = DONE;
    for (long task = begin; task < end && !status; task++) {
        /* A first-order loop has written over where it began. */
        load(&net.layout, u->parameters.at + task * u->parameters.stride, w.theta[0]);
        if (u->rates.at && (task == begin || u->rates.stride)) load(&net.layout, u->rates.at + task * u->rates.stride, w.rate);
        status = unroll_task(&net, u, task, &w);
    }
    free(arena.base);
    return status;
}

/* H v of each task's loss. */
typedef struct {
    int loss;
    Parameters parameters, vector;
    Batch batch;
    real *product; /* [T, parameters] */
} Hvp;

int EXPORT(hvp)(const int *sizes, const Hvp *h, long begin, long end) {
    Net net;
    plan_net(&net, sizes);
    size_t size = net.layout.padded_size;
    Arena arena = {0};
    Pass pass = {0};
    Scratch scratch = {0};
    real *p = NULL, *v = NULL, *result = NULL;
    for (int placed = 0; placed < 2; placed++) {
        if (placed) arena = (Arena){allocate(arena.used), 0};
        if (placed && !arena.base) return NO_MEMORY;
        lay_pass(&net, h->batch.examples, h->batch.stats, 1, &arena, &pass);
        lay_scratch(&net, h->batch.examples, &arena, &scratch);
        p = take_parameters(&net, &arena), v = take_parameters(&net, &arena), result = take_reals(&arena, size);
    }
    int status = DONE;
    for (long task = begin; task < end && !status; task++) {
        status = check_batch(&net, &h->batch, h->loss, task);
        if (status) break;
        load(&net.layout, h->parameters.at + task * h->parameters.stride, p);
        load(&net.layout, h->vector.at + task * h->vector.stride, v);
        gradient(&net, &h->batch, h->loss, task, p, &pass, &scratch, result);
        hessian_vector(&net, h->loss, p, v, &pass, &scratch, result);
        store(&net.layout, result, h->product + (size_t)task * net.layout.plain_size);
    }
    free(arena.base);
    return status;
}

/* A forward pass, and the way back from the gradient of any loss by its predictions. */
typedef struct {
    Parameters parameters;
    Batch batch;         /* without targets */
    real *prediction;    /* [T, rows, width]; backward: the gradient by it */
    char *kept;          /* [T, kept bytes]: what backward needs; NULL: not wanted */
    real *gradient;      /* [T, parameters], by backward */
} Network;

size_t EXPORT(kept_bytes)(const int *sizes, const Batch *batch) {
    Net net;
    plan_net(&net, sizes);
    Arena arena = {0};
    Pass pass = {0};
    lay_pass(&net, batch->examples, batch->stats, 0, &arena, &pass);
    return arena.used;
}

/* Read the gradient by the predictions of the examples that count; it is 0 for the others. */
static void load_delta(const Net *net, const Network *n, long task, Pass *pass) {
    Outputs *out = &pass->out;
    int rows = target_rows(net, &n->batch), first = out->rows - rows;
    const real *from = n->prediction + (size_t)task * rows * out->width;
    memset(out->delta, 0, (size_t)out->rows * out->room * sizeof(real));
    for (int i = 0; i < rows; i++)
        memcpy(out->delta + (size_t)(first + i) * out->room, from + (size_t)i * out->width, out->width * sizeof(real));
}

/* Run `forward` or `backward` for each task; `back` says which. */
static int run_network(const int *sizes, const Network *n, long begin, long end, int back) {
    Net net;
    plan_net(&net, sizes);
    Arena own = {0};
    Pass pass = {0};
    Scratch scratch = {0};
    real *p = NULL, *g = NULL;
    size_t kept = EXPORT(kept_bytes)(sizes, &n->batch);
    for (int placed = 0; placed < 2; placed++) {
        if (placed) own = (Arena){allocate(own.used), 0};
        if (placed && !own.base) return NO_MEMORY;
        if (!n->kept) lay_pass(&net, n->batch.examples, n->batch.stats, 0, &own, &pass);
        lay_scratch(&net, n->batch.examples, &own, &scratch);
        p = take_parameters(&net, &own), g = take_reals(&own, net.layout.padded_size);
    }
    int status = DONE;
    for (long task = begin; task < end && !status; task++) {
        Arena arena = {n->kept + task * kept, 0};
        if (n->kept) lay_pass(&net, n->batch.examples, n->batch.stats, 0, &arena, &pass);
        if (task == begin || n->parameters.stride) load(&net.layout, n->parameters.at + task * n->parameters.stride, p);
        set_inputs(&pass, inputs_of(&net, &n->batch, task));
        if (back) {
            load_delta(&net, n, task, &pass);
            backward(&net, p, &pass, &scratch, g);
            store(&net.layout, g, n->gradient + (size_t)task * net.layout.plain_size);
        } else {
            status = check_batch(&net, &n->batch, SQUARED_ERROR, task);
            if (status) break;
            forward(&net, p, &pass, &scratch);
            store_prediction(&net, &n->batch, &pass, task, n->prediction);
        }
    }
    free(own.base);
    return status;
}

int EXPORT(forward)(const int *sizes, const Network *n, long begin, long end) {
    return run_network(sizes, n, begin, end, 0);
}

int EXPORT(backward)(const int *sizes, const Network *n, long begin, long end) {
    return run_network(sizes, n, begin, end, 1);
}
