#ifndef FASTISEAT_BN_ACT_H
#define FASTISEAT_BN_ACT_H

#include "fastiseat.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Batch norm and ReLU of s = a + b, and their gradients:
 *
 *     y  = max((s - mean) * (weight * rstd) + bias, 0)
 *     g  = dy where that maximum is not 0, else 0
 *     dx = (g - dbias / m - (s - mean) * rstd * dweight / m) * (weight * rstd) + ds
 *
 * over arrays of num x channels x inner elements of `dtype`, m = num * inner of them a channel; channels_last is
 * inner = 1. Vectors over the channels are float32. Without b, s is a and is not written. The eval functions take
 * `mean` and `var` as given, and their dx is g * (weight * rstd) + ds. ds may be NULL; so may dweight and dbias
 * of the eval form, together. Outputs must not overlap inputs. The results don't depend on num_threads.
 */
#define FASTISEAT_BN_ACT_ARGUMENTS                                                                                   \
    const void *a, const void *b, const float *weight, const float *bias, float eps, void *s, void *y, float *mean,  \
    float *rstd, float *var, int64_t num, int64_t channels, int64_t inner, int64_t dtype

#define FASTISEAT_BN_ACT_BACKWARD_ARGUMENTS                                                                          \
    const void *dy, const void *ds, const void *s, const float *weight, const float *bias, const float *mean,        \
    const float *rstd, void *dx, float *dweight, float *dbias, int64_t num, int64_t channels, int64_t inner,         \
    int64_t dtype

#define FASTISEAT_BN_ACT_EVAL_ARGUMENTS                                                                              \
    const void *a, const void *b, const float *weight, const float *bias, const float *mean, const float *var,       \
    float eps, void *s, void *y, int64_t num, int64_t channels, int64_t inner, int64_t dtype

#define FASTISEAT_BN_ACT_EVAL_BACKWARD_ARGUMENTS                                                                     \
    const void *dy, const void *ds, const void *s, const float *weight, const float *bias, const float *mean,        \
    const float *var, float eps, void *dx, float *dweight, float *dbias, int64_t num, int64_t channels, int64_t inner,\
    int64_t dtype

FASTISEAT_API int32_t fastiseat_bn_act(FASTISEAT_BN_ACT_ARGUMENTS, int32_t num_threads);
FASTISEAT_API int32_t fastiseat_bn_act_backward(FASTISEAT_BN_ACT_BACKWARD_ARGUMENTS, int32_t num_threads);
FASTISEAT_API int32_t fastiseat_bn_act_eval(FASTISEAT_BN_ACT_EVAL_ARGUMENTS, int32_t num_threads);
FASTISEAT_API int32_t fastiseat_bn_act_eval_backward(FASTISEAT_BN_ACT_EVAL_BACKWARD_ARGUMENTS, int32_t num_threads);

/* The same on a device, cut into `parts` parts, at most 65,535; `partial` has room for 2 * parts * channels doubles,
 * and is not read without dweight. Channels are at most 65,535. */
FASTISEAT_API int32_t fastiseat_cuda_bn_act(FASTISEAT_BN_ACT_ARGUMENTS, double *partial, int64_t parts, void *stream);
FASTISEAT_API int32_t fastiseat_cuda_bn_act_backward(FASTISEAT_BN_ACT_BACKWARD_ARGUMENTS, double *partial,
                                                     int64_t parts, void *stream);
FASTISEAT_API int32_t fastiseat_cuda_bn_act_eval(FASTISEAT_BN_ACT_EVAL_ARGUMENTS, int64_t parts, void *stream);
FASTISEAT_API int32_t fastiseat_cuda_bn_act_eval_backward(FASTISEAT_BN_ACT_EVAL_BACKWARD_ARGUMENTS, double *partial,
                                                          int64_t parts, void *stream);

#ifdef __cplusplus
}
#endif

#endif
