/* One step of projected gradient ascent on the device: pgd_step.h says what, this how. */
#ifndef FASTISEAT_CUDA_PGD_STEP_CUH
#define FASTISEAT_CUDA_PGD_STEP_CUH

#include "common.cuh"

namespace fastiseat {

// One number, or with a stride of 1 one a row.
struct PerRow {
    Number number;
    int64 stride;

    __device__ __forceinline__ float get(int64 row) const {
        return number.tensor ? number.tensor[row * stride] : number.value;
    }
};

// Rows are the samples, or where one number serves for all, the whole batch is one row.
template <typename G>
struct PgdStep {
    const float *images, *delta;
    const G *grad;
    PerRow eps, step_size;
    float *delta_out, *x_adv_out;
    unsigned char *nan_grad;
    int64 row_size;
    unsigned blocks_per_row, inner, outer;
    bool grad_turned;

    // Where the other order has an element; only arrays of less than 2^31 elements a row are turned.
    __device__ __forceinline__ int64 turn(int64 element) const {
        const unsigned i = static_cast<unsigned>(element);
        return static_cast<int64>(i % inner) * outer + i / inner;
    }
};

// Only single elements are turned.
template <int VEC, typename G>
__device__ __forceinline__ Pack<G, VEC> load_grad(const PgdStep<G> &step, int64 start, int64 i) {
    return load_pack<G, VEC>(step.grad + start + (VEC == 1 && step.grad_turned ? step.turn(i) : i));
}

// A comparison with NaN is false, so a NaN value passes through, as it does through PyTorch's clamp.
__device__ __forceinline__ float clamp(float value, float low, float high) {
    value = low > value ? low : value;
    return high < value ? high : value;
}

// Both of these are what moves one element: the first in the Linf ball, the second in the L2 ball.
struct MoveLinf {
    float eps, step_size;

    __device__ __forceinline__ float operator()(float delta, float grad) const {
        const float sign = static_cast<float>((grad > 0.0f) - (grad < 0.0f));
        return clamp(delta + step_size * sign, -eps, eps);
    }
};

struct MoveL2 {
    double along, shrink;
    bool usable;

    __device__ __forceinline__ double raw(float delta, float grad) const {
        return delta + along * (usable ? grad : 0.0f);
    }

    __device__ __forceinline__ float operator()(float delta, float grad) const {
        return static_cast<float>(shrink * raw(delta, grad));
    }
};

// VEC elements of a row that begins at `start`, from its element i on. Whether a gradient is NaN.
template <int VEC, typename G, typename Move>
__device__ __forceinline__ bool move_pack(const PgdStep<G> &step, int64 start, int64 i, const Move &move) {
    const Pack<float, VEC> images = load_pack<float, VEC>(step.images + start + i);
    const Pack<float, VEC> delta = load_pack<float, VEC>(step.delta + start + i);
    const Pack<G, VEC> grad = load_grad<VEC>(step, start, i);
    Pack<float, VEC> delta_out, x_adv;
    bool nan = false;
#pragma unroll
    for (int lane = 0; lane < VEC; ++lane) {
        const float g = to_float(grad.items[lane]), image = images.items[lane];
        nan |= g != g;
        x_adv.items[lane] = clamp(image + move(delta.items[lane], g), 0.0f, 1.0f);
        delta_out.items[lane] = x_adv.items[lane] - image;
    }
    store_pack<float, VEC>(step.delta_out + start + i, delta_out);
    store_pack<float, VEC>(step.x_adv_out + start + i, x_adv);
    return nan;
}

// One pack a thread; every row begins with a block. Only a batch that is one row may end in part of a pack.
template <typename G, int VEC>
__global__ void pgd_step_linf(const PgdStep<G> step) {
    const int64 row = blockIdx.x / step.blocks_per_row;
    const int64 start = row * step.row_size;
    const int64 first = (static_cast<int64>(blockIdx.x % step.blocks_per_row) * blockDim.x + threadIdx.x) * VEC;
    const float eps = step.eps.get(row);
    // A NaN bound would be lost in the comparisons of clamp; as the step it reaches every element.
    const MoveLinf move{eps, eps == eps ? step.step_size.get(row) : eps};
    bool nan = false;
    if (first + VEC <= step.row_size) {
        nan = move_pack<VEC>(step, start, first, move);
    } else {
#pragma unroll 1
        for (int64 i = first; i < step.row_size; ++i) nan |= move_pack<1>(step, start, i, move);
    }
    if (nan) *step.nan_grad = 1;  // all that write it write the same
}

// One block a row, which is a sample; what the first pass reads the later two find in a cache.
template <typename G, int VEC>
__global__ void pgd_step_l2(const PgdStep<G> step) {
    __shared__ double scratch[33];
    const int64 row = blockIdx.x, start = row * step.row_size;
    const int64 begin = static_cast<int64>(threadIdx.x) * VEC, stride = static_cast<int64>(blockDim.x) * VEC;
    double squares = 0.0;
    for (int64 i = begin; i < step.row_size; i += stride) {
        const Pack<G, VEC> grad = load_grad<VEC>(step, start, i);
#pragma unroll
        for (int lane = 0; lane < VEC; ++lane) {
            const double g = to_float(grad.items[lane]);
            squares += g * g;
        }
    }
    squares = block_sum(squares, scratch);
    const bool usable = squares > 0.0 && squares <= 1.7976931348623157e308;
    MoveL2 move{step.step_size.get(row) / (usable ? sqrt(squares) : 1.0), 1.0, usable};
    squares = 0.0;
    for (int64 i = begin; i < step.row_size; i += stride) {
        const Pack<float, VEC> delta = load_pack<float, VEC>(step.delta + start + i);
        const Pack<G, VEC> grad = load_grad<VEC>(step, start, i);
#pragma unroll
        for (int lane = 0; lane < VEC; ++lane) {
            const double moved = move.raw(delta.items[lane], to_float(grad.items[lane]));
            squares += moved * moved;
        }
    }
    const double eps = step.eps.get(row), length = sqrt(block_sum(squares, scratch));
    move.shrink = length <= eps ? 1.0 : eps / length;
    bool nan = false;
    for (int64 i = begin; i < step.row_size; i += stride) nan |= move_pack<VEC>(step, start, i, move);
    if (nan) *step.nan_grad = 1;
}

#ifdef FASTISEAT_INSTANTIATE
template __global__ void pgd_step_linf<float, 4>(PgdStep<float>);
template __global__ void pgd_step_linf<__half, 4>(PgdStep<__half>);
template __global__ void pgd_step_linf<__nv_bfloat16, 1>(PgdStep<__nv_bfloat16>);
template __global__ void pgd_step_l2<float, 1>(PgdStep<float>);
template __global__ void pgd_step_l2<__half, 4>(PgdStep<__half>);
template __global__ void pgd_step_l2<__nv_bfloat16, 4>(PgdStep<__nv_bfloat16>);
#endif

}  // namespace fastiseat

#endif
