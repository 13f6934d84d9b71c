/* A decode step's norm and attention, for elements of one type; included by kernels.c. */

/* One row of n: x / sqrt(mean(x^2) + epsilon), rounded, times weight; returns the factor of x. */
static float NAME(normal_row)(const ELEMENT *x, const ELEMENT *weight, float epsilon, int64_t n, ELEMENT *y)
{
    float square = 0.0f;
#pragma omp simd reduction(+ : square)
    for (int64_t i = 0; i < n; i++)
        square += WIDE(x[i]) * WIDE(x[i]);
    const float scale = 1.0f / sqrtf(square / (float)n + epsilon);
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = NARROW(WIDE(NARROW(WIDE(x[i]) * scale)) * WIDE(weight[i]));
    return scale;
}

void NAME(rms_norm)(const ELEMENT *x, const ELEMENT *weight, float epsilon, int64_t rows, int64_t n, ELEMENT *y)
{
    for (int64_t row = 0; row < rows; row++)
        NAME(normal_row)(x + row * n, weight, epsilon, n, y + row * n);
}

/* Halves (a, b) of d entries to (a cos - b sin, b cos + a sin). */
static ALWAYS_INLINE void NAME(rotate)(const ELEMENT *x, const ELEMENT *cos, const ELEMENT *sin, int64_t d, float *y)
{
    const int64_t half = d / 2;
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        const float a = WIDE(x[i]), b = WIDE(x[i + half]);
        y[i] = WIDE(NARROW(a * WIDE(cos[i]) - b * WIDE(sin[i])));
        y[i + half] = WIDE(NARROW(b * WIDE(cos[i + half]) + a * WIDE(sin[i + half])));
    }
}

/* n elements as floats: in `buffer`, unless they are floats already. */
static ALWAYS_INLINE const float *NAME(widen)(const ELEMENT *restrict x, int64_t n, float *restrict buffer)
{
    if (IS_FLOAT)
        return (const float *)x;
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        buffer[i] = WIDE(x[i]);
    return buffer;
}

/* A query or key as attention takes it: normalised where the model has a norm for it, and rotated. */
static ALWAYS_INLINE void NAME(prepare)(const ELEMENT *x, const void *norm, float epsilon, const ELEMENT *cos,
                                        const ELEMENT *sin, int64_t d, float *y)
{
    ELEMENT normal[d];
    if (norm) {
        NAME(normal_row)(x, (const ELEMENT *)norm, epsilon, d, normal);
        x = normal;
    }
    NAME(rotate)(x, cos, sin, d, y);
}

/* scores[r][j] = q[r] . keys[j] for j < count and r < shared; raises top[r] to the largest of them. */
static ALWAYS_INLINE void NAME(score)(const float *restrict q, const ELEMENT *restrict keys, int64_t shared, int64_t d,
                                      int64_t count, float *restrict scores, int64_t stride, float *restrict top,
                                      float *restrict block)
{
    for (int64_t begin = 0; begin < count; begin += BLOCK) {
        const int64_t size = count - begin < BLOCK ? count - begin : BLOCK;
        const float *wide = NAME(widen)(keys + begin * d, size * d, block);
        for (int64_t r = 0; r < shared; r++)
            for (int64_t j = 0; j < size; j++) {
                float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
                for (int64_t i = 0; i < d; i++)
                    sum += q[r * d + i] * wide[j * d + i];
                scores[r * stride + begin + j] = sum;
                top[r] = sum > top[r] ? sum : top[r];
            }
    }
}

/* mixed[r] += sum over j < count of p[r][j] values[j]. */
static ALWAYS_INLINE void NAME(mix)(const float *restrict p, const ELEMENT *restrict values, int64_t shared, int64_t d,
                                    int64_t count, int64_t stride, float *restrict mixed, float *restrict block)
{
    for (int64_t begin = 0; begin < count; begin += BLOCK) {
        const int64_t size = count - begin < BLOCK ? count - begin : BLOCK;
        const float *wide = NAME(widen)(values + begin * d, size * d, block);
        for (int64_t r = 0; r < shared; r++)
            for (int64_t j = 0; j < size; j++)
#pragma omp simd
                for (int64_t i = 0; i < d; i++)
                    mixed[r * d + i] += p[r * stride + begin + j] * wide[j * d + i];
    }
}

/* One row's attention with one head of keys, of d entries each. See `struct attention`. */
static ALWAYS_INLINE void NAME(attend_head)(const struct attention *a, int64_t row, int64_t head, int64_t d,
                                            float *scratch)
{
    const int64_t shared = a->heads / a->kv_heads, place = row * a->kv_heads + head, stride = a->longest + a->capacity;
    const int64_t prompt = a->prompt_of[row], before = a->prompt_lengths[prompt], own = a->own_lengths[row];
    const int64_t table = (prompt * a->kv_heads + head) * a->longest * d;
    const ELEMENT *joined = (const ELEMENT *)a->joined + row * (a->heads + 2 * a->kv_heads) * d;
    const ELEMENT *prompt_keys = (const ELEMENT *)a->prompt_keys + table;
    const ELEMENT *prompt_values = (const ELEMENT *)a->prompt_values + table;
    ELEMENT *own_keys = (ELEMENT *)a->own_keys + place * a->capacity * d;
    ELEMENT *own_values = (ELEMENT *)a->own_values + place * a->capacity * d;
    const ELEMENT *cos = (const ELEMENT *)a->cos + (before + own) * d, *sin = (const ELEMENT *)a->sin + (before + own) * d;
    float *q = scratch, *mixed = q + shared * d, *top = mixed + shared * d, *block = top + shared;
    float *scores = block + BLOCK * d;

    NAME(prepare)(joined + (a->heads + head) * d, a->key_norm, a->epsilon, cos, sin, d, q);
    for (int64_t i = 0; i < d; i++) {
        own_keys[own * d + i] = NARROW(q[i]);
        own_values[own * d + i] = joined[(a->heads + a->kv_heads + head) * d + i];
    }
    for (int64_t r = 0; r < shared; r++) {
        NAME(prepare)(joined + (head * shared + r) * d, a->query_norm, a->epsilon, cos, sin, d, q + r * d);
        for (int64_t i = 0; i < d; i++)
            q[r * d + i] *= a->scale;
        top[r] = -INFINITY;
    }
    NAME(score)(q, prompt_keys, shared, d, before, scores, stride, top, block);
    NAME(score)(q, own_keys, shared, d, own + 1, scores + before, stride, top, block);
    for (int64_t r = 0; r < shared; r++) {
        const float total = exponentials(scores + r * stride, before + own + 1, top[r]);
        for (int64_t i = 0; i < d; i++)
            mixed[r * d + i] = 0.0f;
        for (int64_t j = 0; j < before + own + 1; j++)
            scores[r * stride + j] /= total;
    }
    NAME(mix)(scores, prompt_values, shared, d, before, stride, mixed, block);
    NAME(mix)(scores + before, own_values, shared, d, own + 1, stride, mixed, block);
    ELEMENT *out = (ELEMENT *)a->out + (row * a->heads + head * shared) * d;
    for (int64_t i = 0; i < shared * d; i++)
        out[i] = NARROW(mixed[i]);
}

/* Attention of all rows; 0, or -1 without memory for scratch. */
int NAME(attend)(const struct attention *a)
{
    const int64_t items = a->rows * a->kv_heads, shared = a->heads / a->kv_heads;
    const int64_t size = (2 * shared + BLOCK) * a->head_dim + shared * (1 + a->longest + a->capacity);
    int failed = 0;
#pragma omp parallel num_threads(a->threads) if (a->threads > 1)
    {
        float *scratch = malloc((size_t)size * sizeof(float));
        if (!scratch) {
#pragma omp atomic write
            failed = -1;
        }
#pragma omp for schedule(static)
        for (int64_t item = 0; item < items; item++) {
            const int64_t row = item / a->kv_heads, head = item % a->kv_heads;
            if (!scratch)
                continue;
            if (a->head_dim == 64) /* known to the compiler, so that sums stay in registers */
                NAME(attend_head)(a, row, head, 64, scratch);
            else if (a->head_dim == 128)
                NAME(attend_head)(a, row, head, 128, scratch);
            else
                NAME(attend_head)(a, row, head, a->head_dim, scratch);
        }
        free(scratch);
    }
    return failed;
}
