#include "pgd_step.cuh"

#include "../pgd_step.h"
#include "launch.h"

namespace {

using fastiseat::PgdStep;

constexpr int kVec = 4;  // 16 bytes of floats
// In the L2 ball a row is one block's alone, whatever its size: more threads go over it.
constexpr unsigned kThreads = 256, kThreadsL2 = 512;

bool aligned(const void *address, size_t size) {
    return reinterpret_cast<uintptr_t>(address) % size == 0;
}

// Whether every row of every array can be accessed by packs.
template <typename G>
bool packable(const PgdStep<G> &step, bool one_row) {
    return !step.grad_turned && (one_row || step.row_size % kVec == 0) &&
           aligned(step.images, kVec * sizeof(float)) && aligned(step.delta, kVec * sizeof(float)) &&
           aligned(step.grad, kVec * sizeof(G)) && aligned(step.delta_out, kVec * sizeof(float)) &&
           aligned(step.x_adv_out, kVec * sizeof(float));
}

template <int VEC, typename G>
int32_t launch(PgdStep<G> step, int64_t norm, int64_t num_rows, cudaStream_t stream) {
    if (norm == FASTISEAT_L2) {
        fastiseat::pgd_step_l2<G, VEC><<<static_cast<unsigned>(num_rows), kThreadsL2, 0, stream>>>(step);
        return fastiseat::launched();
    }
    step.blocks_per_row = fastiseat::num_blocks(step.row_size, int64_t{kThreads} * VEC);
    const unsigned blocks = static_cast<unsigned>(num_rows * step.blocks_per_row);
    fastiseat::pgd_step_linf<G, VEC><<<blocks, kThreads, 0, stream>>>(step);
    return fastiseat::launched();
}

}  // namespace

int32_t fastiseat_cuda_pgd_step(FASTISEAT_PGD_STEP_ARGUMENTS, void *stream) {
    if (norm != FASTISEAT_LINF && norm != FASTISEAT_L2) return FASTISEAT_UNSUPPORTED;
    if (num_samples * sample_size == 0) return FASTISEAT_OK;
    const bool one_row = norm == FASTISEAT_LINF && !(eps_each || step_size_each || grad_turned);
    const int64_t num_rows = one_row ? 1 : num_samples, row_size = num_samples * sample_size / num_rows;
    return fastiseat::with_dtype(static_cast<int32_t>(grad_dtype), [&](auto g) {
        using G = decltype(g);
        const PgdStep<G> step{images,
                              delta,
                              static_cast<const G *>(grad),
                              {{eps, eps_tensor}, eps_each},
                              {{step_size, step_size_tensor}, step_size_each},
                              delta_out,
                              x_adv_out,
                              nan_grad,
                              row_size,
                              1,
                              static_cast<unsigned>(inner),
                              static_cast<unsigned>(sample_size / inner),
                              grad_turned != 0};
        const auto on = static_cast<cudaStream_t>(stream);
        return packable(step, one_row) ? launch<kVec>(step, norm, num_rows, on) : launch<1>(step, norm, num_rows, on);
    });
}
