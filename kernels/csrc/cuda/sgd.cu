#include "../sgd.h"

#include "launch.h"
#include "sgd.cuh"

int32_t fastiseat_cuda_sgd(float *weights, float *momentum_buffer, float *ema, const void *grad,
                           const void *second_grad, const void *perturbation_grad, int64_t grad_dtype,
                           const float *ratio, const int32_t *block_segment, const uint8_t *perturbed,
                           const uint8_t *active, const uint8_t *skip, int64_t num_blocks, float lr,
                           const float *lr_tensor, float momentum, const float *momentum_tensor, float weight_decay,
                           const float *weight_decay_tensor, float ema_decay, const float *ema_decay_tensor,
                           int32_t nesterov, void *stream) {
    using namespace fastiseat;
    if (num_blocks == 0) return FASTISEAT_OK;
    return with_dtype(static_cast<int32_t>(grad_dtype), [&](auto zero) {
        using G = decltype(zero);
        const SgdJob<G> job{weights,
                            momentum_buffer,
                            ema,
                            static_cast<const G *>(grad),
                            static_cast<const G *>(second_grad),
                            static_cast<const G *>(perturbation_grad),
                            ratio,
                            block_segment,
                            perturbed,
                            active,
                            skip,
                            {lr, lr_tensor},
                            {momentum, momentum_tensor},
                            {weight_decay, weight_decay_tensor},
                            {ema_decay, ema_decay_tensor},
                            nesterov != 0};
        sgd_kernel<G><<<static_cast<unsigned>(num_blocks), kFlatThreads, 0, static_cast<cudaStream_t>(stream)>>>(job);
        return launched();
    });
}
