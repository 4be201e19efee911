#ifndef FASTISEAT_PGD_STEP_H
#define FASTISEAT_PGD_STEP_H

#include "fastiseat.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * One ascent step inside the Linf ball, projected and kept in [0, 1]:
 *
 *     moved     = clamp(delta + step_size * sign(grad), -eps, eps)
 *     x_adv_out = clamp(images + moved, 0, 1)
 *     delta_out = x_adv_out - images
 *
 * The five arrays hold num_samples rows of sample_size floats, eps and step_size one float a row.
 * sign(0) and sign(NaN) are 0; a NaN in images, delta, eps or step_size comes out as NaN.
 * The outputs must not overlap the inputs. Runs on at most num_threads threads.
 */
FASTISEAT_API int32_t fastiseat_pgd_step_f32(const float *images, const float *delta, const float *grad,
                                          const float *eps, const float *step_size, float *delta_out,
                                          float *x_adv_out, int64_t num_samples, int64_t sample_size,
                                          int32_t num_threads);

#ifdef __cplusplus
}
#endif

#endif
