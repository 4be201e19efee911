/* A step of SGD with momentum, weight decay at the perturbed weights, and a running average: one pass. */
#ifndef FASTISEAT_CUDA_SGD_CUH
#define FASTISEAT_CUDA_SGD_CUH

#include "flat.cuh"

namespace fastiseat {

template <typename G>
struct SgdJob {
    float *weights, *momentum_buffer, *ema;
    const G *grad, *second_grad, *perturbation_grad;
    const float *ratio;
    const int *block_segment;
    const unsigned char *perturbed, *active, *skip;
    Number lr, momentum, weight_decay, ema_decay;
};

// a * x + y, rounded twice.
__device__ __forceinline__ float times_plus(float a, float x, float y) {
    return __fadd_rn(__fmul_rn(a, x), y);
}

template <typename G>
__device__ __forceinline__ Four sgd_step(const SgdJob<G> &job, int64 place, int segment, const Four &theta) {
    Four step = load_four(job.grad, place), decayed = theta;
    if (job.second_grad) {
        const Four second = load_four(job.second_grad, place);
#pragma unroll
        for (int i = 0; i < kFlatVec; ++i) step.items[i] = __fadd_rn(step.items[i], second.items[i]);
    }
    if (job.perturbation_grad && job.perturbed[segment]) {
        const float ratio = job.ratio[segment];
        const Four g = load_four(job.perturbation_grad, place);
#pragma unroll
        for (int i = 0; i < kFlatVec; ++i) decayed.items[i] = times_plus(ratio, g.items[i], theta.items[i]);
    }
    const float weight_decay = job.weight_decay.get();
#pragma unroll
    for (int i = 0; i < kFlatVec; ++i) step.items[i] = times_plus(weight_decay, decayed.items[i], step.items[i]);
    return step;
}

template <typename G>
__global__ void __launch_bounds__(kFlatThreads) sgd_kernel(SgdJob<G> job) {
    const int segment = job.block_segment[blockIdx.x];
    if ((job.skip && *job.skip) || (job.active && !job.active[segment])) return;
    const int64 place = flat_place();
    Four theta = load_four(job.weights, place);
    Four step = sgd_step(job, place, segment, theta);
    if (job.momentum_buffer) {
        const Four buffer = load_four(job.momentum_buffer, place);
        const float momentum = job.momentum.get();
#pragma unroll
        for (int i = 0; i < kFlatVec; ++i) step.items[i] = times_plus(momentum, buffer.items[i], step.items[i]);
        store_four(job.momentum_buffer, place, step);
    }
    const float lr = job.lr.get();
#pragma unroll
    for (int i = 0; i < kFlatVec; ++i) {
        theta.items[i] = __fsub_rn(theta.items[i], __fmul_rn(lr, step.items[i]));
    }
    store_four(job.weights, place, theta);
    if (job.ema) {
        Four average = load_four(job.ema, place);
        const float decay = job.ema_decay.get(), rest = __fsub_rn(1.0f, decay);
#pragma unroll
        for (int i = 0; i < kFlatVec; ++i) {
            average.items[i] = __fadd_rn(__fmul_rn(decay, average.items[i]), __fmul_rn(rest, theta.items[i]));
        }
        store_four(job.ema, place, average);
    }
}

#ifdef FASTISEAT_INSTANTIATE
template __global__ void sgd_kernel<float>(SgdJob<float>);
template __global__ void sgd_kernel<__nv_bfloat16>(SgdJob<__nv_bfloat16>);
template __global__ void sgd_kernel<__half>(SgdJob<__half>);
#endif

}  // namespace fastiseat

#endif
