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
    bool nesterov;
};

// a * x + y, rounded twice.
__device__ __forceinline__ float times_plus(float a, float x, float y) {
    return __fadd_rn(__fmul_rn(a, x), y);
}

// What a thread reads, all of it before it works on any: a store is passed by no load.
template <typename G>
struct SgdPacks {
    Four theta, buffer, average;
    Pack<G, kFlatVec> grad, second_grad, perturbation_grad;

    __device__ __forceinline__ SgdPacks(const SgdJob<G> &job, int64 place)
        : theta(load_pack<float, kFlatVec>(job.weights + place)),
          buffer(load_where_given(job.momentum_buffer, place)),
          average(load_where_given(job.ema, place)),
          grad(load_pack<G, kFlatVec>(job.grad + place)),
          second_grad(load_where_given(job.second_grad, place)),
          perturbation_grad(load_where_given(job.perturbation_grad, place)) {}
};

template <typename G>
__device__ __forceinline__ Four sgd_step(const SgdJob<G> &job, const SgdPacks<G> &packs, int segment) {
    Four step = to_four(packs.grad), decayed = packs.theta;
    if (job.second_grad) {
        const Four second = to_four(packs.second_grad);
#pragma unroll
        for (int i = 0; i < kFlatVec; ++i) step.items[i] = __fadd_rn(step.items[i], second.items[i]);
    }
    if (job.perturbation_grad && job.perturbed[segment]) {
        const float ratio = job.ratio[segment];
        const Four g = to_four(packs.perturbation_grad);
#pragma unroll
        for (int i = 0; i < kFlatVec; ++i) decayed.items[i] = times_plus(ratio, g.items[i], decayed.items[i]);
    }
    const float weight_decay = job.weight_decay.get();
#pragma unroll
    for (int i = 0; i < kFlatVec; ++i) step.items[i] = times_plus(weight_decay, decayed.items[i], step.items[i]);
    return step;
}

template <typename G>
__global__ void __launch_bounds__(kFlatThreads) sgd_kernel(SgdJob<G> job) {
    const int64 place = flat_place();
    const SgdPacks<G> packs(job, place);
    const int segment = job.block_segment[blockIdx.x];
    // After the loads: few blocks stay as they are, and all others would wait for the flag before they read.
    if ((job.skip && *job.skip) || (job.active && !job.active[segment])) return;
    const float momentum = job.momentum.get(), lr = job.lr.get(), decay = job.ema_decay.get();
    Four step = sgd_step(job, packs, segment), theta = packs.theta;
    if (job.momentum_buffer) {
        Four buffer = packs.buffer;
#pragma unroll
        for (int i = 0; i < kFlatVec; ++i) {
            buffer.items[i] = times_plus(momentum, buffer.items[i], step.items[i]);
            step.items[i] = job.nesterov ? times_plus(momentum, buffer.items[i], step.items[i]) : buffer.items[i];
        }
        store_four(job.momentum_buffer, place, buffer);
    }
#pragma unroll
    for (int i = 0; i < kFlatVec; ++i) {
        theta.items[i] = __fsub_rn(theta.items[i], __fmul_rn(lr, step.items[i]));
    }
    store_four(job.weights, place, theta);
    if (job.ema) {
        Four average = packs.average;
        const float rest = __fsub_rn(1.0f, decay);
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
