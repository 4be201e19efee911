#ifndef FASTISEAT_PGD_STEP_H
#define FASTISEAT_PGD_STEP_H

#include "fastiseat.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The balls. */
enum { FASTISEAT_LINF = 0, FASTISEAT_L2 = 1 };

/*
 * One ascent step inside a ball, projected and kept in [0, 1]. For FASTISEAT_LINF,
 *
 *     moved     = clamp(delta + step_size * sign(grad), -eps, eps)
 *
 * and for FASTISEAT_L2, sample by sample and in double up to the last rounding,
 *
 *     moved     = delta + step_size * grad / |grad|;  moved *= min(1, eps / |moved|)
 *
 * where |grad| 0 or not finite means no step. Then
 *
 *     x_adv_out = clamp(images + moved, 0, 1),  delta_out = x_adv_out - images
 *
 * sign(0) and sign(NaN) are 0; a NaN in images, delta, eps or step_size comes out as NaN. *nan_grad, which the caller
 * has set to 0, becomes 1 where grad holds a NaN.
 *
 * The arrays hold num_samples rows of sample_size elements, floats but for grad. Where that is turned, its element
 * k * (sample_size / inner) + o of a row is the others' o * inner + k.
 * eps_tensor and step_size_tensor, where not NULL, hold the numbers: one, or with ..._each one a row.
 * The outputs must not overlap the inputs. The CPU's runs on at most num_threads threads.
 */
#define FASTISEAT_PGD_STEP_ARGUMENTS                                                                                 \
    const float *images, const float *delta, const void *grad, int64_t grad_dtype, float eps, const float *eps_tensor,\
    int32_t eps_each, float step_size, const float *step_size_tensor, int32_t step_size_each, int64_t norm,          \
    float *delta_out, float *x_adv_out, uint8_t *nan_grad, int64_t num_samples, int64_t sample_size, int64_t inner,  \
    int32_t grad_turned

FASTISEAT_API int32_t fastiseat_pgd_step(FASTISEAT_PGD_STEP_ARGUMENTS, int32_t num_threads);
FASTISEAT_API int32_t fastiseat_cuda_pgd_step(FASTISEAT_PGD_STEP_ARGUMENTS, void *stream);

#ifdef __cplusplus
}
#endif

#endif
