/* What a model of the Llama family computes between its matrix products, for processors. decode.h has the parts of a
 * decode step, learn.h those of a learner's forward and backward pass; decode.py and learn.py say what each computes.
 *
 * All arithmetic is in float32. What the model's own code rounds to the precision of its weights (normalised, rotated,
 * gated and mixed values) is rounded here at the same places. No result depends on the number of threads.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* As decode.py's _Attention lays it out. Lengths are in elements; all tables are contiguous. */
struct attention {
    const void *joined;             /* [rows, heads + 2 kv_heads, head_dim]: queries, keys and values, not rotated */
    const void *query_norm;         /* [head_dim], or null */
    const void *key_norm;           /* [head_dim], or null */
    const void *cos, *sin;          /* [positions, head_dim] */
    void *own_keys, *own_values;    /* [rows, kv_heads, capacity, head_dim]; the new position is written */
    const int64_t *own_lengths;     /* [rows]: positions a row had before this one */
    const void *prompt_keys, *prompt_values; /* [prompts, kv_heads, longest, head_dim] */
    const int64_t *prompt_lengths;  /* [prompts] */
    const int64_t *prompt_of;       /* [rows] */
    void *out;                      /* [rows, heads, head_dim] */
    int64_t rows, heads, kv_heads, head_dim, capacity, longest, threads;
    float scale, epsilon;
};

#define NORM_BLOCKS 16
#define WORDS 512 /* exponentials added up in float32 before they go on in float64 */
#define BLOCK 32 /* positions turned to floats at a time: they stay in the innermost cache */
#define ALWAYS_INLINE inline __attribute__((always_inline))

static inline float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float wide_bfloat16(uint16_t x)
{
    return from_bits((uint32_t)x << 16);
}

/* To the nearest, ties to even; a NaN stays one. */
static inline uint16_t narrow_bfloat16(float y)
{
    const uint32_t bits = to_bits(y);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
}

/* e^x for x <= 0 within 2 units in the last place: 2^n times a polynomial in the rest, written so that compilers
 * can do many at once. Below -87 the result is 0. */
static inline float exponential(float x)
{
    const float n = rintf(x * 1.44269504f);
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return x < -87.0f ? 0.0f : p * from_bits((uint32_t)((int32_t)n + 127) << 23);
}

/* 1 / (1 + e^-x) */
static inline float sigmoid(float x)
{
    const float e = exponential(-fabsf(x)), whole = 1.0f / (1.0f + e);
    return x < 0.0f ? e * whole : whole;
}

/* x_j becomes e^(x_j - top); returns their sum. */
static float exponentials(float *x, int64_t count, float top)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < count; j++) {
        x[j] = exponential(x[j] - top);
        sum += x[j];
    }
    return sum;
}

/* The templates read:
 *   ELEMENT  type of an element in memory       NAME(f)  name of a function for that type
 *   WIDE(x)  float value of element x           NARROW(y)  element nearest to float y
 *   IS_FLOAT whether elements are floats
 */
#define ELEMENT uint16_t
#define NAME(f) f##_bfloat16
#define WIDE(x) wide_bfloat16(x)
#define NARROW(y) narrow_bfloat16(y)
#define IS_FLOAT 0
#include "decode.h"
#include "learn.h"
#undef ELEMENT
#undef NAME
#undef WIDE
#undef NARROW
#undef IS_FLOAT

#define ELEMENT float
#define NAME(f) f##_float32
#define WIDE(x) (x)
#define NARROW(y) (y)
#define IS_FLOAT 1
#include "decode.h"
#include "learn.h"
