#include "../stability_loss.h"

#include "launch.h"
#include "stability_loss.cuh"

int32_t fastiseat_cuda_stability_loss(FASTISEAT_STABILITY_LOSS_ARGUMENTS, void *stream) {
    if (num_samples > fastiseat::MOST_SAMPLES) return FASTISEAT_UNSUPPORTED;
    if (weighting != FASTISEAT_TOP && weighting != FASTISEAT_LINEAR) return FASTISEAT_UNSUPPORTED;
    if (distance != FASTISEAT_SQUARED_L2 && distance != FASTISEAT_KL) return FASTISEAT_UNSUPPORTED;
    return fastiseat::with_dtype(static_cast<int32_t>(dtype), [&](auto zero) {
        using T = decltype(zero);
        const fastiseat::StabilityLoss<T> loss{static_cast<const T *>(logits),
                                               static_cast<const T *>(clean_logits),
                                               reinterpret_cast<const fastiseat::int64 *>(labels),
                                               static_cast<int>(num_samples),
                                               static_cast<int>(num_classes),
                                               {lam, lam_tensor},
                                               weighting == FASTISEAT_LINEAR,
                                               static_cast<int>(num_weighted),
                                               distance == FASTISEAT_KL,
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
