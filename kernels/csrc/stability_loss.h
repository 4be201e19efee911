#ifndef FASTISEAT_STABILITY_LOSS_H
#define FASTISEAT_STABILITY_LOSS_H

#include "fastiseat.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * ISEAT's objective for num_samples rows of num_classes logits z' and clean logits z, both of `dtype`:
 *
 *     losses, clean_losses = cross entropies, NaN where a label is no class
 *     weights      = 1 - rank / m where `linear`, else 1 for rank < num_weighted, else 0; rank 0 is the highest
 *                    losses - clean_losses, NaN before all, equals in order of index
 *     adversarial  = mean of losses
 *     stability    = lam * mean of weights * d; d = |z' - z|^2, or KL(softmax z | softmax z') where `kl`
 *     total        = adversarial + stability
 *
 * and the gradients of `adversarial` for z', of `stability` for z' and of `stability` for z. All outputs are float;
 * lam_tensor, where it is not NULL, holds lam.
 */

/* dtype: FASTISEAT_FLOAT32. Any size; the results do not depend on num_threads. */
FASTISEAT_API int32_t fastiseat_stability_loss(const void *logits, const void *clean_logits, const int64_t *labels,
                                               int64_t dtype, int64_t num_samples, int64_t num_classes, float lam,
                                               const float *lam_tensor, int32_t linear, int64_t num_weighted,
                                               int32_t kl, float *total, float *adversarial, float *stability,
                                               float *losses, float *clean_losses, float *weights,
                                               float *of_adversarial, float *of_stability,
                                               float *of_stability_clean, int32_t num_threads);

/* In one launch of one block; num_samples is at most 1,024. */
FASTISEAT_API int32_t fastiseat_cuda_stability_loss(const void *logits, const void *clean_logits,
                                                    const int64_t *labels, int64_t dtype, int64_t num_samples,
                                                    int64_t num_classes, float lam, const float *lam_tensor,
                                                    int32_t linear, int64_t num_weighted, int32_t kl, float *total,
                                                    float *adversarial, float *stability, float *losses,
                                                    float *clean_losses, float *weights, float *of_adversarial,
                                                    float *of_stability, float *of_stability_clean, void *stream);

#ifdef __cplusplus
}
#endif

#endif
