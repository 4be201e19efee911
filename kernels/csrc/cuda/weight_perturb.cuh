/* Adversarial weight perturbation: sums of squares of blocks, ratios of segments, and the perturbed weights. */
#ifndef FASTISEAT_CUDA_WEIGHT_PERTURB_CUH
#define FASTISEAT_CUDA_WEIGHT_PERTURB_CUH

#include "flat.cuh"

namespace fastiseat {

// The sum of squares over the thread block, in float: unless squares were lost below or above its range. Then in
// double, which many cards are slow at.
__device__ __forceinline__ double square_sum(const Four &values, float *scratch, double *double_scratch) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kFlatVec; ++i) sum += values.items[i] * values.items[i];
    const float total = block_sum(sum, scratch);
    // Squares below float's normal range are off by 1e-45 each at most: of such a sum that is less than its rounding.
    // The condition is the same for the whole block, so that all of it comes to the second sum or none.
    if (total > 1e-33f && total < 3e38f) return total;
    double exact = 0.0;
#pragma unroll
    for (int i = 0; i < kFlatVec; ++i) {
        const double value = values.items[i];
        exact += value * value;
    }
    return block_sum(exact, double_scratch);
}

// sums[2 b] and sums[2 b + 1]: those of the weights and of the gradient in block b.
template <typename G>
__global__ void __launch_bounds__(kFlatThreads)
    block_square_sums(const float *__restrict__ weights, const G *__restrict__ grad, double *__restrict__ sums) {
    __shared__ float scratch[33];
    __shared__ double double_scratch[33];
    const Four theta = load_four(weights, flat_place());
    const Four g = load_four(grad, flat_place());
    const double weight_sum = square_sum(theta, scratch, double_scratch);
    const double grad_sum = square_sum(g, scratch, double_scratch);
    if (threadIdx.x == 0) {
        sums[2 * static_cast<int64>(blockIdx.x)] = weight_sum;
        sums[2 * static_cast<int64>(blockIdx.x) + 1] = grad_sum;
    }
}

__device__ __forceinline__ float perturbation_ratio(Number gamma, double weight_squares, double grad_squares) {
    const double scaled = static_cast<double>(gamma.get()) * sqrt(weight_squares);
    return static_cast<float>(scaled / (sqrt(grad_squares) + 1e-20));
}

// A thread block for each segment; its blocks' sums are added in an order that is always the same.
template <int THREADS>
__global__ void __launch_bounds__(THREADS)
    segment_ratios(const double *__restrict__ sums, const int *__restrict__ first_block,
                   const unsigned char *__restrict__ perturbed, Number gamma, double *__restrict__ segment_sums,
                   float *__restrict__ ratio) {
    __shared__ double scratch[33];
    const int segment = blockIdx.x;
    double weight_sum = 0.0, grad_sum = 0.0;
    for (int64 block = first_block[segment] + threadIdx.x; block < first_block[segment + 1]; block += THREADS) {
        weight_sum += sums[2 * block];
        grad_sum += sums[2 * block + 1];
    }
    weight_sum = block_sum(weight_sum, scratch);
    grad_sum = block_sum(grad_sum, scratch);
    if (threadIdx.x == 0) {
        segment_sums[2 * segment] = weight_sum;
        segment_sums[2 * segment + 1] = grad_sum;
        ratio[segment] = perturbed[segment] ? perturbation_ratio(gamma, weight_sum, grad_sum) : 0.0f;
    }
}

// One thread block: the same ratio for all segments that are perturbed, of their norms together.
template <int THREADS>
__global__ void __launch_bounds__(THREADS)
    global_ratio(const double *__restrict__ segment_sums, const unsigned char *__restrict__ perturbed,
                 int num_segments, Number gamma, float *__restrict__ ratio) {
    __shared__ double scratch[33];
    double weight_sum = 0.0, grad_sum = 0.0;
    for (int segment = threadIdx.x; segment < num_segments; segment += THREADS) {
        if (perturbed[segment]) {
            weight_sum += segment_sums[2 * segment];
            grad_sum += segment_sums[2 * segment + 1];
        }
    }
    weight_sum = block_sum(weight_sum, scratch);
    grad_sum = block_sum(grad_sum, scratch);
    const float common = perturbation_ratio(gamma, weight_sum, grad_sum);
    for (int segment = threadIdx.x; segment < num_segments; segment += THREADS) {
        ratio[segment] = perturbed[segment] ? common : 0.0f;
    }
}

// Blocks before out_blocks go to `out`, those from there on to `out_full`.
template <typename G, typename H>
__global__ void __launch_bounds__(kFlatThreads)
    perturb_weights(const float *__restrict__ weights, const G *__restrict__ grad,
                    const int *__restrict__ block_segment, const unsigned char *__restrict__ perturbed,
                    const float *__restrict__ ratio, H *__restrict__ out, int64 out_blocks,
                    float *__restrict__ out_full) {
    const int64 place = flat_place();
    Four theta = load_four(weights, place);
    const Four g = load_four(grad, place);  // needed or not: it has not to wait for the table
    const int segment = block_segment[blockIdx.x];
    if (perturbed[segment]) {
        const float factor = ratio[segment];
#pragma unroll
        for (int i = 0; i < kFlatVec; ++i) {
            theta.items[i] = __fadd_rn(theta.items[i], __fmul_rn(factor, g.items[i]));
        }
    }
    if (blockIdx.x < out_blocks) {
        store_four(out, place, theta);
    } else {
        store_four(out_full, place - out_blocks * kFlatBlock, theta);
    }
}

#ifdef FASTISEAT_INSTANTIATE
template __global__ void block_square_sums<float>(const float *, const float *, double *);
template __global__ void block_square_sums<__nv_bfloat16>(const float *, const __nv_bfloat16 *, double *);
template __global__ void block_square_sums<__half>(const float *, const __half *, double *);
template __global__ void segment_ratios<256>(const double *, const int *, const unsigned char *, Number, double *,
                                             float *);
template __global__ void global_ratio<256>(const double *, const unsigned char *, int, Number, float *);
template __global__ void perturb_weights<float, float>(const float *, const float *, const int *,
                                                       const unsigned char *, const float *, float *, int64,
                                                       float *);
template __global__ void perturb_weights<float, __half>(const float *, const float *, const int *,
                                                        const unsigned char *, const float *, __half *, int64,
                                                        float *);
template __global__ void perturb_weights<__half, __half>(const float *, const __half *, const int *,
                                                         const unsigned char *, const float *, __half *, int64,
                                                         float *);
template __global__ void perturb_weights<__nv_bfloat16, __nv_bfloat16>(const float *, const __nv_bfloat16 *,
                                                                       const int *, const unsigned char *,
                                                                       const float *, __nv_bfloat16 *, int64,
                                                                       float *);
#endif

}  // namespace fastiseat

#endif
