#include "../weight_perturb.h"

#include "launch.h"
#include "weight_perturb.cuh"

namespace {

constexpr int kThreads = 256;

struct Job {
    const float *weights;
    const void *grad;
    const int32_t *block_segment, *first_block;
    const uint8_t *perturbed;
    int64_t num_blocks, num_segments;
    fastiseat::Number gamma;
    bool global;
    double *sums;
    float *ratio;
    int64_t out_blocks;
    float *out_full;
    cudaStream_t stream;
};

template <typename G, typename H>
int32_t run(const Job &job, const G *grad, H *out) {
    using namespace fastiseat;
    const unsigned grid = static_cast<unsigned>(job.num_blocks), segments = static_cast<unsigned>(job.num_segments);
    if (segments == 0) return FASTISEAT_OK;
    double *segment_sums = job.sums + 2 * job.num_blocks;
    if (grid > 0) block_square_sums<G><<<grid, kFlatThreads, 0, job.stream>>>(job.weights, grad, job.sums);
    segment_ratios<kThreads><<<segments, kThreads, 0, job.stream>>>(job.sums, job.first_block, job.perturbed,
                                                                    job.gamma, segment_sums, job.ratio);
    if (job.global) {
        global_ratio<kThreads><<<1, kThreads, 0, job.stream>>>(
            segment_sums, job.perturbed, static_cast<int>(job.num_segments), job.gamma, job.ratio);
    }
    if (grid == 0) return launched();  // tensors without elements have ratios too
    perturb_weights<G, H><<<grid, kFlatThreads, 0, job.stream>>>(
        job.weights, grad, job.block_segment, job.perturbed, job.ratio, out, job.out_blocks, job.out_full);
    return launched();
}

}  // namespace

int32_t fastiseat_cuda_weight_perturb(FASTISEAT_WEIGHT_PERTURB_ARGUMENTS, void *stream) {
    if (norm != FASTISEAT_EACH_TENSOR && norm != FASTISEAT_ALL_PERTURBED) return FASTISEAT_UNSUPPORTED;
    const Job job{weights,
                  grad,
                  block_segment,
                  first_block,
                  perturbed,
                  num_blocks,
                  num_segments,
                  {gamma, gamma_tensor},
                  norm == FASTISEAT_ALL_PERTURBED,
                  sums,
                  ratio,
                  out_length / fastiseat::kFlatBlock,
                  out_full,
                  static_cast<cudaStream_t>(stream)};
    return fastiseat::with_dtype(static_cast<int32_t>(grad_dtype), [&](auto g) {
        return fastiseat::with_dtype(static_cast<int32_t>(out_dtype), [&](auto h) {
            return run(job, static_cast<const decltype(g) *>(grad), static_cast<decltype(h) *>(out));
        });
    });
}
