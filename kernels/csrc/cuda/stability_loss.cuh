/* ISEAT's objective by one block: every rank depends on every loss. A warp takes a row of logits. */
#ifndef FASTISEAT_CUDA_STABILITY_LOSS_CUH
#define FASTISEAT_CUDA_STABILITY_LOSS_CUH

#include "common.cuh"

namespace fastiseat {

constexpr int MOST_SAMPLES = 1024;

template <typename T>
struct StabilityLoss {
    const T *logits, *clean_logits;
    const int64 *labels;
    int num_samples, num_classes;
    Number lam;
    bool linear;
    int num_weighted;
    bool kl;
    float *total, *adversarial, *stability;
    float *losses, *clean_losses, *weights;
    float *of_adversarial, *of_stability, *of_stability_clean;
};

// What turns a row of logits into the logarithms of probabilities.
struct RowNormaliser {
    float max, log_sum;

    __device__ __forceinline__ float log_probability(float logit) const {
        return (logit - max) - log_sum;
    }
};

__device__ __forceinline__ float nan_float() {
    return __int_as_float(0x7FC00000);
}

// By a whole warp. A NaN may be passed over by the maximum, but not by the sum.
template <typename T>
__device__ RowNormaliser normalise(const T *logits, int count) {
    const int lane = threadIdx.x % 32;
    float max = __int_as_float(0xFF800000);  // -inf
    for (int c = lane; c < count; c += 32) max = fmaxf(max, to_float(logits[c]));
    for (int offset = 16; offset > 0; offset /= 2) max = fmaxf(max, __shfl_xor_sync(0xFFFFFFFFu, max, offset));
    float sum = 0.0f;
    for (int c = lane; c < count; c += 32) sum += expf(to_float(logits[c]) - max);
    return {max, logf(warp_sum(sum))};
}

template <typename T>
__device__ float cross_entropy(const RowNormaliser &normaliser, const T *logits, int64 label, int count) {
    if (label < 0 || label >= count) return nan_float();
    return -normaliser.log_probability(to_float(logits[label]));
}

// How many come before `i`: the higher ones, NaN before all, equals in order of index.
__device__ inline int rank_of(int i, const float *vulnerability, int count) {
    const float v_i = vulnerability[i];
    const bool i_nan = v_i != v_i;
    int rank = 0;
    for (int j = 0; j < count; ++j) {
        const float v_j = vulnerability[j];
        const bool j_nan = v_j != v_j;
        const bool equal = v_j == v_i || (j_nan && i_nan);
        rank += v_j > v_i || (j_nan && !i_nan) || (equal && j < i);
    }
    return rank;
}

// By a whole warp: d of a row, and its gradients times `scale`.
template <typename T>
__device__ float squared_gap(const StabilityLoss<T> &loss, int64 row, float scale) {
    float sum = 0.0f;
    for (int c = threadIdx.x % 32; c < loss.num_classes; c += 32) {
        const float gap = to_float(loss.logits[row + c]) - to_float(loss.clean_logits[row + c]);
        sum += gap * gap;
        loss.of_stability[row + c] = scale * (2.0f * gap);
        loss.of_stability_clean[row + c] = -(scale * (2.0f * gap));
    }
    return warp_sum(sum);
}

template <typename T>
__device__ float divergence(const StabilityLoss<T> &loss, int64 row, const RowNormaliser &normaliser,
                            const RowNormaliser &clean, float scale) {
    float sum = 0.0f;
    for (int c = threadIdx.x % 32; c < loss.num_classes; c += 32) {
        const float log_clean = clean.log_probability(to_float(loss.clean_logits[row + c]));
        const float log_p = normaliser.log_probability(to_float(loss.logits[row + c]));
        const float p = expf(log_clean), ratio = p == 0.0f ? 0.0f : log_clean - log_p;
        sum += p * ratio;
        loss.of_stability[row + c] = scale * (expf(log_p) - p);
        loss.of_stability_clean[row + c] = ratio;  // until the sum is known, by the same thread
    }
    sum = warp_sum(sum);
    for (int c = threadIdx.x % 32; c < loss.num_classes; c += 32) {
        const float p = expf(clean.log_probability(to_float(loss.clean_logits[row + c])));
        const float ratio = loss.of_stability_clean[row + c];
        loss.of_stability_clean[row + c] = scale * (p * (ratio - sum));
    }
    return sum;
}

// One block of whole warps, for at most MOST_SAMPLES rows.
template <typename T>
__global__ void __launch_bounds__(1024) stability_loss(StabilityLoss<T> loss) {
    __shared__ RowNormaliser normalisers[MOST_SAMPLES], clean_normalisers[MOST_SAMPLES];
    __shared__ float vulnerability[MOST_SAMPLES], weights[MOST_SAMPLES];
    __shared__ double scratch[33];
    const int m = loss.num_samples, count = loss.num_classes;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, num_warps = blockDim.x / 32;
    const float lam = loss.lam.get();

    double loss_sum = 0.0;
    for (int i = warp; i < m; i += num_warps) {
        const int64 row = static_cast<int64>(i) * count, label = loss.labels[i];
        const RowNormaliser normaliser = normalise(loss.logits + row, count);
        const RowNormaliser clean = normalise(loss.clean_logits + row, count);
        for (int c = lane; c < count; c += 32) {
            const float p = expf(normaliser.log_probability(to_float(loss.logits[row + c])));
            loss.of_adversarial[row + c] = (p - (c == label ? 1.0f : 0.0f)) / static_cast<float>(m);
        }
        if (lane > 0) continue;
        const float adversarial_loss = cross_entropy(normaliser, loss.logits + row, label, count);
        const float clean_loss = cross_entropy(clean, loss.clean_logits + row, label, count);
        normalisers[i] = normaliser;
        clean_normalisers[i] = clean;
        vulnerability[i] = adversarial_loss - clean_loss;
        loss.losses[i] = adversarial_loss;
        loss.clean_losses[i] = clean_loss;
        loss_sum += adversarial_loss;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < m; i += blockDim.x) {
        const int rank = rank_of(i, vulnerability, m);
        const float share = static_cast<float>(rank) / static_cast<float>(m);
        weights[i] = loss.linear ? 1.0f - share : (rank < loss.num_weighted ? 1.0f : 0.0f);
        loss.weights[i] = weights[i];
    }
    __syncthreads();
    double weighted_sum = 0.0;
    for (int i = warp; i < m; i += num_warps) {
        const int64 row = static_cast<int64>(i) * count;
        const float scale = lam * weights[i] / static_cast<float>(m);
        const float distance = loss.kl ? divergence(loss, row, normalisers[i], clean_normalisers[i], scale)
                                       : squared_gap(loss, row, scale);
        if (lane == 0) weighted_sum += weights[i] * distance;
    }
    loss_sum = block_sum(loss_sum, scratch);
    weighted_sum = block_sum(weighted_sum, scratch);
    if (threadIdx.x > 0) return;
    const float adversarial = static_cast<float>(loss_sum / m);
    const float stability = lam * static_cast<float>(weighted_sum / m);
    *loss.adversarial = adversarial;
    *loss.stability = stability;
    *loss.total = adversarial + stability;
}

#ifdef FASTISEAT_INSTANTIATE
template __global__ void stability_loss<float>(StabilityLoss<float>);
template __global__ void stability_loss<__nv_bfloat16>(StabilityLoss<__nv_bfloat16>);
template __global__ void stability_loss<__half>(StabilityLoss<__half>);
#endif

}  // namespace fastiseat

#endif
