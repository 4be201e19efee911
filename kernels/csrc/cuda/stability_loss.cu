#include "../stability_loss.h"

#include "launch.h"
#include "stability_loss.cuh"

int32_t fastiseat_cuda_stability_loss(const void *logits, const void *clean_logits, const int64_t *labels,
                                      int64_t dtype, int64_t num_samples, int64_t num_classes, float lam,
                                      const float *lam_tensor, int32_t linear, int64_t num_weighted, int32_t kl,
                                      float *total, float *adversarial, float *stability, float *losses,
                                      float *clean_losses, float *weights, float *of_adversarial,
                                      float *of_stability, float *of_stability_clean, void *stream) {
    if (num_samples > fastiseat::MOST_SAMPLES) return FASTISEAT_UNSUPPORTED;
    return fastiseat::with_dtype(static_cast<int32_t>(dtype), [&](auto zero) {
        using T = decltype(zero);
        const fastiseat::StabilityLoss<T> loss{static_cast<const T *>(logits),
                                               static_cast<const T *>(clean_logits),
                                               reinterpret_cast<const fastiseat::int64 *>(labels),
                                               static_cast<int>(num_samples),
                                               static_cast<int>(num_classes),
                                               {lam, lam_tensor},
                                               linear != 0,
                                               static_cast<int>(num_weighted),
                                               kl != 0,
                                               total,
                                               adversarial,
                                               stability,
                                               losses,
                                               clean_losses,
                                               weights,
                                               of_adversarial,
                                               of_stability,
                                               of_stability_clean};
        const int threads = 32 * static_cast<int>(std::min<int64_t>(num_samples, 32));
        fastiseat::stability_loss<T><<<1, threads, 0, static_cast<cudaStream_t>(stream)>>>(loss);
        return fastiseat::launched();
    });
}
