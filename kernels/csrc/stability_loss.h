#ifndef FASTISEAT_STABILITY_LOSS_H
#define FASTISEAT_STABILITY_LOSS_H

#include "fastiseat.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How a sample is weighted by its rank, and what is between two rows of logits. */
enum { FASTISEAT_TOP = 0, FASTISEAT_LINEAR = 1 };
enum { FASTISEAT_SQUARED_L2 = 0, FASTISEAT_KL = 1 };

/*
 * ISEAT's objective for num_samples rows of num_classes logits z' and clean logits z, both of `dtype`:
 *
 *     losses, clean_losses = cross entropies, NaN where a label is no class
 *     weights      = 1 - rank / m for FASTISEAT_LINEAR; for FASTISEAT_TOP 1 where rank < num_weighted, else 0;
 *                    rank 0 is the highest losses - clean_losses, NaN before all, equals in order of index
 *     adversarial  = mean of losses
 *     stability    = lam * mean of weights * d; d = |z' - z|^2 for FASTISEAT_SQUARED_L2, and
 *                    KL(softmax z | softmax z') for FASTISEAT_KL
 *     total        = adversarial + stability
 *
 * and the gradients of `adversarial` for z', of `stability` for z' and of `stability` for z. All outputs are float;
 * lam_tensor, where it is not NULL, holds lam.
 */

#define FASTISEAT_STABILITY_LOSS_ARGUMENTS                                                                           \
    const void *logits, const void *clean_logits, const int64_t *labels, int64_t dtype, int64_t num_samples,         \
    int64_t num_classes, float lam, const float *lam_tensor, int64_t weighting, int64_t num_weighted,                \
    int64_t distance, float *total, float *adversarial, float *stability, float *losses, float *clean_losses,        \
    float *weights, float *of_adversarial, float *of_stability, float *of_stability_clean

/* dtype: FASTISEAT_FLOAT32. Any size; the results do not depend on num_threads. */
FASTISEAT_API int32_t fastiseat_stability_loss(FASTISEAT_STABILITY_LOSS_ARGUMENTS, int32_t num_threads);

/* In one launch of one block; num_samples is at most 1,024. */
FASTISEAT_API int32_t fastiseat_cuda_stability_loss(FASTISEAT_STABILITY_LOSS_ARGUMENTS, void *stream);

#ifdef __cplusplus
}
#endif

#endif
