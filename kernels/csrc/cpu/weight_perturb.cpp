#include "../weight_perturb.h"

#include <algorithm>
#include <cmath>

#include "flat.h"
#include "parallel.h"

namespace {

using fastiseat::kBlock;

struct Job {
    const float *weights;
    const void *grad;
    int64_t grad_dtype;
    const int32_t *block_segment, *first_block;
    const uint8_t *perturbed;
    int64_t num_blocks, num_segments;
    float gamma;
    double *sums;
    float *ratio;
    void *out;
    int64_t out_dtype, out_blocks;
    float *out_full;
};

// The order of the additions is fixed here, so that every build and number of threads gives the same bits.
constexpr int kLanes = 16;

FASTISEAT_INLINE double square_sum(const float *__restrict values) {
    double lanes[kLanes] = {};
    for (int64_t i = 0; i < kBlock; i += kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) {
            const double value = static_cast<double>(values[i + lane]);
            lanes[lane] += value * value;
        }
    }
    double sum = 0.0;
    for (double lane : lanes) sum += lane;
    return sum;
}

FASTISEAT_CLONES void sum_blocks(const Job &job, int64_t begin, int64_t end) {
    float grad[kBlock];
    for (int64_t block = begin; block < end; ++block) {
        fastiseat::read_block(job.grad, job.grad_dtype, block, grad);
        job.sums[2 * block] = square_sum(job.weights + block * kBlock);
        job.sums[2 * block + 1] = square_sum(grad);
    }
}

float ratio_of(double gamma, double weight_squares, double grad_squares) {
    return static_cast<float>(gamma * std::sqrt(weight_squares) / (std::sqrt(grad_squares) + 1e-20));
}

// From the sums of blocks to the ratio of each segment; `global` takes all that are perturbed together.
void make_ratios(const Job &job, bool global) {
    double all[2] = {0.0, 0.0};
    for (int64_t segment = 0; segment < job.num_segments; ++segment) {
        double sums[2] = {0.0, 0.0};
        for (int64_t block = job.first_block[segment]; block < job.first_block[segment + 1]; ++block) {
            for (int which = 0; which < 2; ++which) sums[which] += job.sums[2 * block + which];
        }
        const bool perturbed = job.perturbed[segment] != 0;
        job.ratio[segment] = perturbed ? ratio_of(static_cast<double>(job.gamma), sums[0], sums[1]) : 0.0f;
        for (int which = 0; which < 2; ++which) all[which] += perturbed ? sums[which] : 0.0;
    }
    if (!global) return;
    const float ratio = ratio_of(static_cast<double>(job.gamma), all[0], all[1]);
    for (int64_t segment = 0; segment < job.num_segments; ++segment) {
        job.ratio[segment] = job.perturbed[segment] ? ratio : 0.0f;
    }
}

FASTISEAT_CLONES void write_blocks(const Job &job, int64_t begin, int64_t end) {
    float values[kBlock];
    for (int64_t block = begin; block < end; ++block) {
        const int32_t segment = job.block_segment[block];
        const float *__restrict weights = job.weights + block * kBlock;
        if (job.perturbed[segment]) {
            const float ratio = job.ratio[segment];
            fastiseat::read_block(job.grad, job.grad_dtype, block, values);
            for (int64_t i = 0; i < kBlock; ++i) values[i] = weights[i] + ratio * values[i];
        } else {
            std::copy(weights, weights + kBlock, values);
        }
        if (block < job.out_blocks) {
            fastiseat::write_block(job.out, job.out_dtype, block, values);
        } else {
            std::copy(values, values + kBlock, job.out_full + (block - job.out_blocks) * kBlock);
        }
    }
}

}  // namespace

int32_t fastiseat_weight_perturb(FASTISEAT_WEIGHT_PERTURB_ARGUMENTS, int32_t num_threads) {
    if (!fastiseat::is_dtype(grad_dtype) || !fastiseat::is_dtype(out_dtype)) return FASTISEAT_UNSUPPORTED;
    if (norm != FASTISEAT_EACH_TENSOR && norm != FASTISEAT_ALL_PERTURBED) return FASTISEAT_UNSUPPORTED;
    const Job job{weights,    grad,         grad_dtype, block_segment, first_block, perturbed,
                  num_blocks, num_segments, gamma_tensor ? *gamma_tensor : gamma, sums, ratio,
                  out,        out_dtype,    out_length / kBlock, out_full};
    const int64_t parts = fastiseat::num_parts(num_blocks, fastiseat::kMinBlocksPerThread, num_threads);
    fastiseat::for_each_part(parts, num_blocks, [&](int64_t, int64_t begin, int64_t end) {
        sum_blocks(job, begin, end);
    });
    make_ratios(job, norm == FASTISEAT_ALL_PERTURBED);
    fastiseat::for_each_part(parts, num_blocks, [&](int64_t, int64_t begin, int64_t end) {
        write_blocks(job, begin, end);
    });
    return FASTISEAT_OK;
}
