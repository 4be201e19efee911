#include "../sgd.h"

#include "flat.h"
#include "parallel.h"

namespace {

using fastiseat::kBlock;

struct Job {
    float *weights, *momentum_buffer, *ema;
    const void *grad, *second_grad, *perturbation_grad;
    int64_t grad_dtype;
    const float *ratio;
    const int32_t *block_segment;
    const uint8_t *perturbed, *active;
    float lr, momentum, weight_decay, ema_decay;
    bool nesterov;
};

// d: the gradients, and the decay of what the weights are at.
FASTISEAT_INLINE void make_step(const Job &job, int64_t block, float *__restrict step) {
    const int32_t segment = job.block_segment[block];
    const float *__restrict weights = job.weights + block * kBlock;
    const float weight_decay = job.weight_decay;
    float other[kBlock];
    fastiseat::read_block(job.grad, job.grad_dtype, block, step);
    if (job.second_grad) {
        fastiseat::read_block(job.second_grad, job.grad_dtype, block, other);
        for (int64_t i = 0; i < kBlock; ++i) step[i] += other[i];
    }
    if (job.perturbation_grad && job.perturbed[segment]) {
        const float ratio = job.ratio[segment];
        fastiseat::read_block(job.perturbation_grad, job.grad_dtype, block, other);
        for (int64_t i = 0; i < kBlock; ++i) step[i] += weight_decay * (weights[i] + ratio * other[i]);
    } else {
        for (int64_t i = 0; i < kBlock; ++i) step[i] += weight_decay * weights[i];
    }
}

FASTISEAT_CLONES void update_blocks(const Job &job, int64_t begin, int64_t end) {
    const float lr = job.lr, momentum = job.momentum, decay = job.ema_decay, rest = 1.0f - decay;
    float step[kBlock];
    for (int64_t block = begin; block < end; ++block) {
        if (job.active && !job.active[job.block_segment[block]]) continue;
        make_step(job, block, step);
        if (job.momentum_buffer) {
            float *__restrict buffer = job.momentum_buffer + block * kBlock;
            if (job.nesterov) {
                for (int64_t i = 0; i < kBlock; ++i) {
                    buffer[i] = momentum * buffer[i] + step[i];
                    step[i] += momentum * buffer[i];
                }
            } else {
                for (int64_t i = 0; i < kBlock; ++i) buffer[i] = step[i] = momentum * buffer[i] + step[i];
            }
        }
        float *__restrict weights = job.weights + block * kBlock;
        for (int64_t i = 0; i < kBlock; ++i) weights[i] -= lr * step[i];
        if (job.ema) {
            float *__restrict ema = job.ema + block * kBlock;
            for (int64_t i = 0; i < kBlock; ++i) ema[i] = decay * ema[i] + rest * weights[i];
        }
    }
}

inline float number(float value, const float *tensor) {
    return tensor ? *tensor : value;
}

}  // namespace

int32_t fastiseat_sgd(FASTISEAT_SGD_ARGUMENTS, int32_t num_threads) {
    if (!fastiseat::is_dtype(grad_dtype)) return FASTISEAT_UNSUPPORTED;
    if (skip && *skip) return FASTISEAT_OK;
    const Job job{weights,
                  momentum_buffer,
                  ema,
                  grad,
                  second_grad,
                  perturbation_grad,
                  grad_dtype,
                  ratio,
                  block_segment,
                  perturbed,
                  active,
                  number(lr, lr_tensor),
                  number(momentum, momentum_tensor),
                  number(weight_decay, weight_decay_tensor),
                  number(ema_decay, ema_decay_tensor),
                  nesterov != 0};
    const int64_t parts = fastiseat::num_parts(num_blocks, fastiseat::kMinBlocksPerThread, num_threads);
    fastiseat::for_each_part(parts, num_blocks, [&](int64_t, int64_t begin, int64_t end) {
        update_blocks(job, begin, end);
    });
    return FASTISEAT_OK;
}
