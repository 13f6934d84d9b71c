/* A learner's norms, rotations, gates, scores of tokens and attention, for elements of one type; included by kernels.c.
 *
 * Loops over rows are shared out among threads; each row is computed by one of them, from first to last.
 */

/* y = w u with u = x scale, scale = 1 / sqrt(mean(x^2) + epsilon): rows of n; scales [rows]. */
void NAME(normal_forward)(const ELEMENT *x, const ELEMENT *weight, float epsilon, int64_t rows, int64_t n,
                          int64_t threads, ELEMENT *y, float *scales)
{
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; row++)
        scales[row] = NAME(normal_row)(x + row * n, weight, epsilon, n, y + row * n);
}

/* With g = w dy: dx = (g - u mean(g u)) scale, dw = sum over rows of dy u. Rows are added up in `NORM_BLOCKS` parts,
 * sums [NORM_BLOCKS, n], then part by part into grad_weight [n]. */
void NAME(normal_backward)(const ELEMENT *x, const ELEMENT *weight, const float *scales, const ELEMENT *grad,
                           int64_t rows, int64_t n, int64_t threads, ELEMENT *grad_x, float *sums, float *grad_weight)
{
    const int64_t size = (rows + NORM_BLOCKS - 1) / NORM_BLOCKS;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t block = 0; block < NORM_BLOCKS; block++) {
        float *sum = sums + block * n;
        memset(sum, 0, (size_t)n * sizeof(float));
        for (int64_t row = block * size; row < rows && row < (block + 1) * size; row++) {
            const ELEMENT *xs = x + row * n, *dy = grad + row * n;
            ELEMENT *dx = grad_x + row * n;
            const float scale = scales[row];
            float mean = 0.0f;
#pragma omp simd reduction(+ : mean)
            for (int64_t i = 0; i < n; i++) {
                const float product = WIDE(dy[i]) * WIDE(xs[i]) * scale;
                sum[i] += product;
                mean += product * WIDE(weight[i]);
            }
            mean /= (float)n;
#pragma omp simd
            for (int64_t i = 0; i < n; i++)
                dx[i] = NARROW((WIDE(dy[i]) * WIDE(weight[i]) - WIDE(xs[i]) * scale * mean) * scale);
        }
    }
    memset(grad_weight, 0, (size_t)n * sizeof(float));
    for (int64_t block = 0; block < NORM_BLOCKS; block++)
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            grad_weight[i] += sums[block * n + i];
}

/* Halves (a, b) of d entries to (a cos - s b sin, b cos + s a sin), s = direction; x [tokens, heads, d], cos and sin
 * [tokens, d]. */
void NAME(rotate_tokens)(const ELEMENT *x, const ELEMENT *cos, const ELEMENT *sin, float direction, int64_t tokens,
                         int64_t heads, int64_t d, int64_t threads, ELEMENT *y)
{
    const int64_t half = d / 2;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t token = 0; token < tokens; token++) {
        const ELEMENT *c = cos + token * d, *s = sin + token * d;
        for (int64_t head = 0; head < heads; head++) {
            const ELEMENT *from = x + (token * heads + head) * d;
            ELEMENT *to = y + (token * heads + head) * d;
#pragma omp simd
            for (int64_t i = 0; i < half; i++) {
                const float a = WIDE(from[i]), b = WIDE(from[i + half]);
                to[i] = NARROW(a * WIDE(c[i]) - direction * b * WIDE(s[i]));
                to[i + half] = NARROW(b * WIDE(c[i + half]) + direction * a * WIDE(s[i + half]));
            }
        }
    }
}

/* y = silu(g) u over n entries. */
void NAME(gate_forward)(const ELEMENT *gate, const ELEMENT *up, int64_t n, int64_t threads, ELEMENT *y)
{
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t begin = 0; begin < n; begin += WORDS) {
        const int64_t end = begin + WORDS < n ? begin + WORDS : n;
#pragma omp simd
        for (int64_t i = begin; i < end; i++) {
            const float g = WIDE(gate[i]);
            y[i] = NARROW(WIDE(NARROW(g * sigmoid(g))) * WIDE(up[i]));
        }
    }
}

/* dg = dy u silu'(g), du = dy silu(g). */
void NAME(gate_backward)(const ELEMENT *gate, const ELEMENT *up, const ELEMENT *grad, int64_t n, int64_t threads,
                         ELEMENT *grad_gate, ELEMENT *grad_up)
{
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t begin = 0; begin < n; begin += WORDS) {
        const int64_t end = begin + WORDS < n ? begin + WORDS : n;
#pragma omp simd
        for (int64_t i = begin; i < end; i++) {
            const float g = WIDE(gate[i]), s = sigmoid(g), dy = WIDE(grad[i]);
            grad_gate[i] = NARROW(WIDE(NARROW(dy * WIDE(up[i]))) * s * (1.0f + g * (1.0f - s)));
            grad_up[i] = NARROW(WIDE(NARROW(g * s)) * dy);
        }
    }
}

/* With z = logits / temperature: n = log sum e^z, log p of the target = z_o - n, and, unless entropies is null,
 * H = n - sum p z. logits [rows, words]. */
void NAME(score_tokens)(const ELEMENT *logits, const int64_t *targets, int64_t rows, int64_t words, float temperature,
                        int64_t threads, float *logprobs, float *normalisers, float *entropies)
{
    const float inverse = 1.0f / temperature;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; row++) {
        const ELEMENT *z = logits + row * words;
        float top = -INFINITY;
#pragma omp simd reduction(max : top)
        for (int64_t j = 0; j < words; j++)
            top = WIDE(z[j]) > top ? WIDE(z[j]) : top;
        double total = 0.0, mixed = 0.0;
        for (int64_t begin = 0; begin < words; begin += WORDS) {
            const int64_t end = begin + WORDS < words ? begin + WORDS : words;
            float sum = 0.0f, part = 0.0f;
            if (entropies) {
#pragma omp simd reduction(+ : sum, part)
                for (int64_t j = begin; j < end; j++) {
                    const float below = (WIDE(z[j]) - top) * inverse, e = exponential(below);
                    sum += e;
                    part += e > 0.0f ? e * below : 0.0f; /* a word that cannot come may be infinitely far */
                }
            } else {
#pragma omp simd reduction(+ : sum)
                for (int64_t j = begin; j < end; j++)
                    sum += exponential((WIDE(z[j]) - top) * inverse);
            }
            total += sum;
            mixed += part;
        }
        normalisers[row] = top * inverse + (float)log(total);
        logprobs[row] = WIDE(z[targets[row]]) * inverse - normalisers[row];
        if (entropies)
            entropies[row] = (float)(log(total) - mixed / total);
    }
}

/* The gradient of logits takes their place: ([j = o] - p_j) dlogp / temperature, and, unless entropies is null,
 * - p_j (log p_j + H) dH / temperature. */
void NAME(score_tokens_backward)(ELEMENT *logits, const int64_t *targets, const float *normalisers,
                                 const float *entropies, const float *grad_logprobs, const float *grad_entropies,
                                 int64_t rows, int64_t words, float temperature, int64_t threads)
{
    const float inverse = 1.0f / temperature;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; row++) {
        ELEMENT *z = logits + row * words;
        const float n = normalisers[row], slope = grad_logprobs[row] * inverse;
        const float target = WIDE(z[targets[row]]) * inverse - n;
        float at_target = slope * (1.0f - exponential(target));
        if (entropies) {
            const float h = entropies[row], steep = grad_entropies[row] * inverse;
            at_target -= exponential(target) * (target + h) * steep;
#pragma omp simd
            for (int64_t j = 0; j < words; j++) {
                const float below = WIDE(z[j]) * inverse - n, p = exponential(below);
                z[j] = NARROW(p > 0.0f ? -p * (slope + (below + h) * steep) : 0.0f);
            }
        } else {
#pragma omp simd
            for (int64_t j = 0; j < words; j++)
                z[j] = NARROW(-exponential(WIDE(z[j]) * inverse - n) * slope);
        }
        z[targets[row]] = NARROW(at_target);
    }
}

/* Tiles of tokens, heads apart: tokens [l, groups * shared, d] at places [n, t] to rows [n, groups, shared, t, d].
 * Where lengths [n] are given, what a tile has behind its length is zero. Rows are of elements, or of floats times
 * `scale`. */
void NAME(gather)(const ELEMENT *tokens, const int64_t *places, const int64_t *lengths, int64_t n, int64_t t,
                  int64_t groups, int64_t shared, int64_t d, int64_t threads, ELEMENT *rows)
{
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t block = 0; block < n * groups * shared; block++) {
        const int64_t tile = block / (groups * shared), head = block % (groups * shared);
        const int64_t real = lengths ? lengths[tile] : t;
        for (int64_t j = 0; j < t; j++) {
            ELEMENT *row = rows + (block * t + j) * d;
            if (j < real)
                memcpy(row, tokens + (places[tile * t + j] * groups * shared + head) * d, (size_t)d * sizeof *row);
            else
                memset(row, 0, (size_t)d * sizeof *row);
        }
    }
}

void NAME(gather_wide)(const ELEMENT *tokens, const int64_t *places, const int64_t *lengths, int64_t n, int64_t t,
                       int64_t groups, int64_t shared, int64_t d, float scale, int64_t threads, float *rows)
{
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t block = 0; block < n * groups * shared; block++) {
        const int64_t tile = block / (groups * shared), head = block % (groups * shared);
        const int64_t real = lengths ? lengths[tile] : t;
        for (int64_t j = 0; j < t; j++) {
            float *row = rows + (block * t + j) * d;
            if (j >= real) {
                memset(row, 0, (size_t)d * sizeof *row);
                continue;
            }
            const ELEMENT *token = tokens + (places[tile * t + j] * groups * shared + head) * d;
#pragma omp simd
            for (int64_t i = 0; i < d; i++)
                row[i] = WIDE(token[i]) * scale;
        }
    }
}

/* The inverse of gather: rows [n, heads, t, d] to tokens [l, heads, d], up to each tile's length. */
void NAME(scatter)(const ELEMENT *rows, const int64_t *places, const int64_t *lengths, int64_t n, int64_t t,
                   int64_t heads, int64_t d, int64_t threads, ELEMENT *tokens)
{
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t tile = 0; tile < n; tile++)
        for (int64_t j = 0; j < (lengths ? lengths[tile] : t); j++)
            for (int64_t head = 0; head < heads; head++)
                memcpy(tokens + (places[tile * t + j] * heads + head) * d, rows + ((tile * heads + head) * t + j) * d,
                       (size_t)d * sizeof *tokens);
}

/* Adds rows [n, groups, t, d] to the tokens they came from, sums [l, groups, d]. A token may be in several tiles, so
 * threads share out the groups' entries, not the tiles. */
void NAME(add_rows)(const ELEMENT *rows, const int64_t *places, int64_t n, int64_t t, int64_t groups, int64_t d,
                    int64_t threads, float *sums)
{
    const int64_t parts = d % 32 ? 1 : d / 32, size = d / parts;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t part = 0; part < groups * parts; part++) {
        const int64_t group = part / parts, begin = part % parts * size;
        for (int64_t tile = 0; tile < n; tile++)
            for (int64_t j = 0; j < t; j++) {
                const ELEMENT *row = rows + ((tile * groups + group) * t + j) * d + begin;
                float *sum = sums + (places[tile * t + j] * groups + group) * d + begin;
#pragma omp simd
                for (int64_t i = 0; i < size; i++)
                    sum[i] += WIDE(row[i]);
            }
    }
}

/* One query's softmax over the first `above` of p keys and `own` keys behind them; the others get 0. */
static ALWAYS_INLINE void NAME(softmax_row)(float *scores, int64_t above, int64_t p, int64_t own, int64_t keys)
{
    float top = -INFINITY;
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < above; j++)
        top = scores[j] > top ? scores[j] : top;
#pragma omp simd reduction(max : top)
    for (int64_t j = p; j < p + own; j++)
        top = scores[j] > top ? scores[j] : top;
    const float total = exponentials(scores, above, top) + exponentials(scores + p, own, top);
    for (int64_t j = above; j < p; j++)
        scores[j] = 0.0f;
    for (int64_t j = p + own; j < keys; j++)
        scores[j] = 0.0f;
    const float inverse = 1.0f / total;
#pragma omp simd
    for (int64_t j = 0; j < p + own; j++)
        scores[j] *= inverse;
}

/* Probabilities of scores [n, heads, t, p + t]: a tile's queries see the first above[tile] of p keys and, causally, the
 * tile's own t. The scores are overwritten. */
void NAME(softmax)(float *scores, const int64_t *above, int64_t n, int64_t heads, int64_t t, int64_t p, int64_t threads,
                   ELEMENT *probabilities)
{
    const int64_t keys = p + t;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < n * heads * t; row++) {
        float *s = scores + row * keys;
        NAME(softmax_row)(s, above[row / (heads * t)], p, row % t + 1, keys);
#pragma omp simd
        for (int64_t j = 0; j < keys; j++)
            probabilities[row * keys + j] = NARROW(s[j]);
    }
}

/* The same, and dS = P (dP - products), products [n, heads, t]. */
void NAME(softmax_backward)(float *scores, const float *grad, const float *products, const int64_t *above, int64_t n,
                            int64_t heads, int64_t t, int64_t p, int64_t threads, ELEMENT *probabilities,
                            ELEMENT *grad_scores)
{
    const int64_t keys = p + t;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < n * heads * t; row++) {
        float *s = scores + row * keys;
        const float *dp = grad + row * keys;
        NAME(softmax_row)(s, above[row / (heads * t)], p, row % t + 1, keys);
#pragma omp simd
        for (int64_t j = 0; j < keys; j++) {
            probabilities[row * keys + j] = NARROW(s[j]);
            grad_scores[row * keys + j] = NARROW(s[j] * (dp[j] - products[row]));
        }
    }
}

/* scale times the product of each two rows of n entries. */
void NAME(row_products)(const ELEMENT *a, const ELEMENT *b, float scale, int64_t rows, int64_t n, int64_t threads,
                        float *products)
{
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; row++) {
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; i++)
            sum += WIDE(a[row * n + i]) * WIDE(b[row * n + i]);
        products[row] = sum * scale;
    }
}
