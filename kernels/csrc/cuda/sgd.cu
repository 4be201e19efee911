#include "../sgd.h"

#include "launch.h"
#include "sgd.cuh"

int32_t fastiseat_cuda_sgd(FASTISEAT_SGD_ARGUMENTS, void *stream) {
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
