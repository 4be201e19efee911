#ifndef FASTISEAT_SGD_H
#define FASTISEAT_SGD_H

#include "fastiseat.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * A step of SGD with momentum in flat buffers of num_blocks blocks of 1024 elements:
 *
 *     d               = (grad + second_grad) + weight_decay * (weights + ratio * perturbation_grad)
 *     momentum_buffer = momentum * momentum_buffer + d
 *     weights         = weights - lr * (nesterov ? momentum * momentum_buffer + d : momentum_buffer)
 *     ema             = ema_decay * ema + (1 - ema_decay) * weights
 *
 * momentum_buffer (d takes its place), ema, second_grad, perturbation_grad (then ratio too), active and skip may be
 * NULL. The gradients hold grad_dtype. ratio, perturbed and active have a value for each tensor, of which
 * block_segment names the block's; where perturbed is 0 no perturbation is added, where active is 0 nothing is
 * written, and nowhere if *skip is not 0. Each number counts where its tensor is NULL.
 */
#define FASTISEAT_SGD_ARGUMENTS                                                                                      \
    float *weights, float *momentum_buffer, float *ema, const void *grad, const void *second_grad,                   \
    const void *perturbation_grad, int64_t grad_dtype, const float *ratio, const int32_t *block_segment,             \
    const uint8_t *perturbed, const uint8_t *active, const uint8_t *skip, int64_t num_blocks, float lr,              \
    const float *lr_tensor, float momentum, const float *momentum_tensor, float weight_decay,                        \
    const float *weight_decay_tensor, float ema_decay, const float *ema_decay_tensor, int32_t nesterov

FASTISEAT_API int32_t fastiseat_sgd(FASTISEAT_SGD_ARGUMENTS, int32_t num_threads);

/* The same on a device; the buffers begin at multiples of 16 bytes. */
FASTISEAT_API int32_t fastiseat_cuda_sgd(FASTISEAT_SGD_ARGUMENTS, void *stream);

#ifdef __cplusplus
}
#endif

#endif
