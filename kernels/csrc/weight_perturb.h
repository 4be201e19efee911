#ifndef FASTISEAT_WEIGHT_PERTURB_H
#define FASTISEAT_WEIGHT_PERTURB_H

#include "fastiseat.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a norm is taken of. */
enum { FASTISEAT_EACH_TENSOR = 0, FASTISEAT_ALL_PERTURBED = 1 };

/*
 * Adversarial weight perturbation in flat buffers of num_blocks blocks of 1024 elements, which belong to
 * num_segments tensors:
 *
 *     ratio = gamma * |weights| / (|grad| + 1e-20)   of FASTISEAT_EACH_TENSOR, or of FASTISEAT_ALL_PERTURBED together
 *     out   = weights + ratio * grad
 *
 * Where perturbed is 0, ratio is 0 and out is weights. block_segment has the tensor of each block, first_block the
 * num_segments + 1 places where the blocks of each begin. gamma counts where gamma_tensor is NULL. sums is scratch
 * memory of 2 * (num_blocks + num_segments) doubles. out receives the first out_length elements, out_full, which
 * may be NULL, the others; both are whole blocks. The outputs must not overlap the inputs.
 *
 * The results do not depend on num_threads.
 */
#define FASTISEAT_WEIGHT_PERTURB_ARGUMENTS                                                                           \
    const float *weights, const void *grad, int64_t grad_dtype, const int32_t *block_segment,                        \
    const int32_t *first_block, const uint8_t *perturbed, int64_t num_blocks, int64_t num_segments, float gamma,     \
    const float *gamma_tensor, int64_t norm, double *sums, float *ratio, void *out, int64_t out_dtype,               \
    int64_t out_length, float *out_full

FASTISEAT_API int32_t fastiseat_weight_perturb(FASTISEAT_WEIGHT_PERTURB_ARGUMENTS, int32_t num_threads);

/* The same on a device; the buffers begin at multiples of 16 bytes. */
FASTISEAT_API int32_t fastiseat_cuda_weight_perturb(FASTISEAT_WEIGHT_PERTURB_ARGUMENTS, void *stream);

#ifdef __cplusplus
}
#endif

#endif
