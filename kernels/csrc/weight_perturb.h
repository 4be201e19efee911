#ifndef FASTISEAT_WEIGHT_PERTURB_H
#define FASTISEAT_WEIGHT_PERTURB_H

#include "fastiseat.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Adversarial weight perturbation in flat buffers of num_blocks blocks of 1024 elements, which belong to
 * num_segments tensors:
 *
 *     ratio = gamma * |weights| / (|grad| + 1e-20)   of each tensor, or of all perturbed ones together (global)
 *     out   = weights + ratio * grad
 *
 * Where perturbed is 0, ratio is 0 and out is weights. block_segment has the tensor of each block, first_block the
 * num_segments + 1 places where the blocks of each begin. gamma counts where gamma_tensor is NULL. sums is scratch
 * memory of 2 * (num_blocks + num_segments) doubles. out receives the first out_length elements, out_full, which
 * may be NULL, the others; both are whole blocks. The outputs must not overlap the inputs.
 *
 * The results do not depend on num_threads.
 */
FASTISEAT_API int32_t fastiseat_weight_perturb(const float *weights, const void *grad, int64_t grad_dtype,
                                               const int32_t *block_segment, const int32_t *first_block,
                                               const uint8_t *perturbed, int64_t num_blocks, int64_t num_segments,
                                               float gamma, const float *gamma_tensor, int32_t global, double *sums,
                                               float *ratio, void *out, int64_t out_dtype, int64_t out_length,
                                               float *out_full, int32_t num_threads);

/* The same on a device; the buffers begin at multiples of 16 bytes. */
FASTISEAT_API int32_t fastiseat_cuda_weight_perturb(const float *weights, const void *grad, int64_t grad_dtype,
                                                    const int32_t *block_segment, const int32_t *first_block,
                                                    const uint8_t *perturbed, int64_t num_blocks,
                                                    int64_t num_segments, float gamma, const float *gamma_tensor,
                                                    int32_t global, double *sums, float *ratio, void *out,
                                                    int64_t out_dtype, int64_t out_length, float *out_full,
                                                    void *stream);

#ifdef __cplusplus
}
#endif

#endif
