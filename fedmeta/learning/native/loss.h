/* The outputs of a network with their loss, its gradient and the tangents of both. */

enum { CROSS_ENTROPY = 0, SQUARED_ERROR = 1 };

/* Outputs of `rows` predictions, [rows, room] each, of which the first `width` columns count. */
typedef struct {
    int rows, width, room;
    real *value;       /* z: logits or values */
    real *delta;       /* dL/dz */
    real *share;       /* softmax of z, for cross-entropy */
    real *value_dot;   /* tangents of z and of dL/dz */
    real *delta_dot;
} Outputs;

static void lay_outputs(Outputs *out, int rows, int width, int tangents, Arena *arena) {
    size_t size = (size_t)rows * padded(width);
    *out = (Outputs){.rows = rows, .width = width, .room = padded(width)};
    out->value = take_reals(arena, size);
    out->delta = take_reals(arena, size);
    out->share = take_reals(arena, size);
    out->value_dot = tangents ? take_reals(arena, size) : NULL;
    out->delta_dot = tangents ? take_reals(arena, size) : NULL;
}

/* Mean cross-entropy of the rows from `first` on, and its gradient: softmax(z) - onehot(y), over the rows. */
static double cross_entropy(Outputs *out, int first, const int64_t *labels) {
    int count = out->rows - first;
    double loss = 0;
    for (int i = first; i < out->rows; i++) {
        real *z = out->value + (size_t)i * out->room, *p = out->share + (size_t)i * out->room;
        real *d = out->delta + (size_t)i * out->room;
        int64_t label = labels[i - first];
        real most = z[0], sum = 0;
        for (int j = 1; j < out->width; j++) most = z[j] > most ? z[j] : most;
        for (int j = 0; j < out->width; j++) p[j] = exponential(z[j] - most);
        for (int j = 0; j < out->width; j++) sum += p[j];
        for (int j = 0; j < out->width; j++) p[j] /= sum;
        for (int j = 0; j < out->width; j++) d[j] = p[j] / count;
        d[label] = (p[label] - 1) / count;
        loss += log((double)sum) + ((double)most - z[label]);
    }
    return loss / count;
}

/* Mean squared error of the rows from `first` on, and its gradient. */
static double squared_error(Outputs *out, int first, const real *targets) {
    double loss = 0, count = (double)(out->rows - first) * out->width;
    for (int i = first; i < out->rows; i++)
        for (int j = 0; j < out->width; j++) {
            real miss = out->value[(size_t)i * out->room + j] - targets[(size_t)(i - first) * out->width + j];
            loss += (double)miss * miss;
            out->delta[(size_t)i * out->room + j] = 2 * miss / (real)count;
        }
    return loss / count;
}

/* The loss of the rows from `first` on; rows before it have no targets and no gradient. */
static double loss_gradient(int kind, Outputs *out, int first, const void *targets) {
    memset(out->delta, 0, (size_t)out->rows * out->room * sizeof(real));
    return kind == CROSS_ENTROPY ? cross_entropy(out, first, targets) : squared_error(out, first, targets);
}

/* Tangent of dL/dz along value_dot: for softmax, p (zdot - sum(p zdot)). */
static void loss_tangent(int kind, Outputs *out) {
    memset(out->delta_dot, 0, (size_t)out->rows * out->room * sizeof(real));
    for (int i = 0; i < out->rows; i++) {
        const real *p = out->share + (size_t)i * out->room, *z = out->value_dot + (size_t)i * out->room;
        real *d = out->delta_dot + (size_t)i * out->room;
        real mean = 0;
        if (kind == CROSS_ENTROPY) {
            for (int j = 0; j < out->width; j++) mean += p[j] * z[j];
            for (int j = 0; j < out->width; j++) d[j] = p[j] * (z[j] - mean) / out->rows;
        } else {
            for (int j = 0; j < out->width; j++) d[j] = 2 * z[j] / ((real)out->rows * out->width);
        }
    }
}
