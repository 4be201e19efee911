#include "../bn_act.h"

#include "bn_act.cuh"
#include "launch.h"

namespace {

using namespace fastiseat;

struct Launch {
    BnShape shape;
    dim3 block, grid;
    cudaStream_t stream;
};

bool is_aligned(const void *array) {
    return reinterpret_cast<uintptr_t>(array) % 16 == 0;
}

// Blocks of 256 threads: as many packs of channels in a row as there are, up to 32, and rows above each other. A
// narrower row, down to 8, where fewer threads are then without a pack.
Launch plan(BnShape shape, bool is_rows, int vec, void *stream) {
    const int64_t packs = is_rows ? shape.channels / vec : shape.channels;
    unsigned across = 1;
    while (is_rows && across < 32 && across < packs) across *= 2;
    for (unsigned narrower = across / 2; is_rows && narrower >= 8; narrower /= 2) {
        if (num_blocks(packs, narrower) * narrower < num_blocks(packs, across) * across) across = narrower;
    }
    const dim3 block(across, kBnThreads / across);
    return {shape, block, dim3(static_cast<unsigned>(shape.parts), num_blocks(packs, across)),
            static_cast<cudaStream_t>(stream)};
}

template <int kSize>
struct Constant {
    static constexpr int value = kSize;
};

// Calls body(T{}, Constant<VEC>, Constant<is_rows>, launch): packs of 16 bytes where sizes and addresses allow it.
template <typename Body>
int32_t with_layout(int64_t dtype, BnShape shape, bool aligned, void *stream, const Body &body) {
    if (shape.channels > (int64_t{1} << 16) - 1) return FASTISEAT_UNSUPPORTED;
    return with_dtype(static_cast<int32_t>(dtype), [&](auto zero) {
        using T = decltype(zero);
        constexpr int kWide = 16 / sizeof(T);
        const bool is_rows = shape.inner == 1;
        const bool wide = aligned && (is_rows ? shape.channels : shape.inner) % kWide == 0;
        const Launch launch = plan(shape, is_rows, wide ? kWide : 1, stream);
        if (is_rows && wide) body(zero, Constant<kWide>{}, Constant<true>{}, launch);
        else if (is_rows) body(zero, Constant<1>{}, Constant<true>{}, launch);
        else if (wide) body(zero, Constant<kWide>{}, Constant<false>{}, launch);
        else body(zero, Constant<1>{}, Constant<false>{}, launch);
        return launched();
    });
}

template <bool kTrain>
int32_t backward(const void *dy, const void *ds, const void *s, const float *weight, const float *bias,
                 const float *mean, const float *spread, float eps, void *dx, float *dweight, float *dbias,
                 double *partial, BnShape shape, int64_t dtype, void *stream) {
    const bool aligned = is_aligned(dy) && is_aligned(ds) && is_aligned(s) && is_aligned(dx);
    return with_layout(dtype, shape, aligned, stream, [&](auto zero, auto vec, auto rows, const Launch &launch) {
        using T = decltype(zero);
        constexpr int VEC = decltype(vec)::value;
        constexpr bool kIsRows = decltype(rows)::value;
        const T *gradient = static_cast<const T *>(dy), *sum = static_cast<const T *>(s);
        if (dweight != nullptr) {
            bn_gradients<T, VEC, kIsRows, kTrain><<<launch.grid, launch.block, 0, launch.stream>>>(
                gradient, sum, partial, weight, bias, mean, spread, eps, shape);
            bn_finish_gradients<kTrain><<<static_cast<unsigned>(shape.channels), kBnFinishThreads, 0, launch.stream>>>(
                partial, spread, dweight, dbias, eps, shape);
        }
        bn_differentiate<T, VEC, kIsRows, kTrain><<<launch.grid, launch.block, 0, launch.stream>>>(
            gradient, static_cast<const T *>(ds), sum, static_cast<T *>(dx), weight, bias, mean, spread, dweight,
            dbias, eps, shape);
    });
}

}  // namespace

int32_t fastiseat_cuda_bn_act(FASTISEAT_BN_ACT_ARGUMENTS, double *partial, int64_t parts, void *stream) {
    const BnShape shape{num, channels, inner, parts};
    const bool aligned = is_aligned(a) && is_aligned(b) && is_aligned(s) && is_aligned(y);
    return with_layout(dtype, shape, aligned, stream, [&](auto zero, auto vec, auto rows, const Launch &launch) {
        using T = decltype(zero);
        constexpr int VEC = decltype(vec)::value;
        constexpr bool kIsRows = decltype(rows)::value;
        const T *from = static_cast<const T *>(a);
        T *sum = static_cast<T *>(s);
        bn_moments<T, VEC, kIsRows><<<launch.grid, launch.block, 0, launch.stream>>>(
            from, static_cast<const T *>(b), sum, partial, shape);
        bn_finish_moments<VEC, kIsRows><<<static_cast<unsigned>(channels), kBnFinishThreads, 0, launch.stream>>>(
            partial, mean, rstd, var, eps, shape);
        bn_activate<T, VEC, kIsRows, true><<<launch.grid, launch.block, 0, launch.stream>>>(
            b == nullptr ? from : sum, nullptr, nullptr, static_cast<T *>(y), weight, bias, mean, rstd, eps, shape);
    });
}

int32_t fastiseat_cuda_bn_act_backward(FASTISEAT_BN_ACT_BACKWARD_ARGUMENTS,
                                       double *partial, int64_t parts, void *stream) {
    return backward<true>(dy, ds, s, weight, bias, mean, rstd, 0.0f, dx, dweight, dbias, partial,
                          BnShape{num, channels, inner, parts}, dtype, stream);
}

int32_t fastiseat_cuda_bn_act_eval(FASTISEAT_BN_ACT_EVAL_ARGUMENTS, int64_t parts, void *stream) {
    const BnShape shape{num, channels, inner, parts};
    const bool aligned = is_aligned(a) && is_aligned(b) && is_aligned(s) && is_aligned(y);
    return with_layout(dtype, shape, aligned, stream, [&](auto zero, auto vec, auto rows, const Launch &launch) {
        using T = decltype(zero);
        constexpr int VEC = decltype(vec)::value;
        bn_activate<T, VEC, decltype(rows)::value, false><<<launch.grid, launch.block, 0, launch.stream>>>(
            static_cast<const T *>(a), static_cast<const T *>(b), static_cast<T *>(s), static_cast<T *>(y), weight,
            bias, mean, var, eps, shape);
    });
}

int32_t fastiseat_cuda_bn_act_eval_backward(FASTISEAT_BN_ACT_EVAL_BACKWARD_ARGUMENTS,
                                            double *partial, int64_t parts, void *stream) {
    return backward<false>(dy, ds, s, weight, bias, mean, var, eps, dx, dweight, dbias, partial,
                           BnShape{num, channels, inner, parts}, dtype, stream);
}
