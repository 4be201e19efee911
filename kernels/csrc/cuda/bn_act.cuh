/* bn_act on the device: two passes over memory, and a small kernel that ends the sums. No atomics: sums are taken in
 * a fixed order. An array is num x channels x inner; with kIsRows inner is 1 (channels_last) and a thread owns VEC
 * channels of some rows, otherwise a block owns one channel and a thread takes VEC elements of a plane at a time.
 * Blocks are (tx, ty): tx packs of channels, ty rows. Block x is the part, block y the channels. */
#ifndef FASTISEAT_CUDA_BN_ACT_CUH
#define FASTISEAT_CUDA_BN_ACT_CUH

#include "common.cuh"

namespace fastiseat {

constexpr int kBnThreads = 256, kBnFinishThreads = 128;

struct BnShape {
    int64 num, channels, inner;
    int64 parts;

    __device__ __forceinline__ int64 count() const {
        return num * inner;
    }
};

// What a thread reads: which channels, and which of the rows (packs of a plane count as rows).
template <bool kIsRows, int VEC>
struct BnWalk {
    static constexpr int kSlots = kIsRows ? VEC : 1;  // channels of a thread
    int64 first, last, pack, planes_stride, channel;
    int64 packs_of_plane;
    bool active;

    __device__ __forceinline__ BnWalk(const BnShape &shape, int64 part) {
        pack = static_cast<int64>(blockIdx.y) * blockDim.x + threadIdx.x;
        channel = kIsRows ? pack * VEC : pack;
        active = channel < shape.channels;
        packs_of_plane = kIsRows ? 1 : shape.inner / VEC;
        planes_stride = shape.channels * shape.inner;
        const int64 rows = shape.num * packs_of_plane, size = (rows + shape.parts - 1) / shape.parts;
        first = part * size;
        last = first + size < rows ? first + size : rows;
    }

    __device__ __forceinline__ int64 offset(int64 row) const {
        if (kIsRows) return row * planes_stride + channel;
        const int64 plane = row / packs_of_plane;
        return plane * planes_stride + (channel * packs_of_plane + row - plane * packs_of_plane) * VEC;
    }

    __device__ __forceinline__ int64 begin() const {
        return active ? first + threadIdx.y : last;
    }
};

template <int kSlots>
struct BnAffine {
    float mean[kSlots], scale[kSlots], bias[kSlots];
};

// 1 / sqrt(var + eps): given in training, taken of the variance in evaluation.
template <bool kTrain>
__device__ __forceinline__ float inverse_deviation(float spread, float eps) {
    return kTrain ? spread : 1.0f / sqrtf(spread + eps);
}

template <bool kTrain, int kSlots>
__device__ __forceinline__ BnAffine<kSlots> load_affine(const float *weight, const float *bias, const float *mean,
                                                        const float *spread, float eps, int64 channel,
                                                        bool active) {
    BnAffine<kSlots> affine = {};
    for (int slot = 0; active && slot < kSlots; ++slot) {
        affine.mean[slot] = mean[channel + slot];
        affine.bias[slot] = bias[channel + slot];
        affine.scale[slot] = weight[channel + slot] * inverse_deviation<kTrain>(spread[channel + slot], eps);
    }
    return affine;
}

// The gradient that passes the ReLU.
__device__ __forceinline__ float passed(float dy, float centred, float scale, float bias) {
    return centred * scale + bias <= 0.0f ? 0.0f : dy;
}

template <typename T, int VEC>
__device__ __forceinline__ Pack<T, VEC> load_sum(const T *a, const T *b, int64 at) {
    Pack<T, VEC> s = load_pack<T, VEC>(a + at);
    if (b == nullptr) return s;
    const Pack<T, VEC> other = load_pack<T, VEC>(b + at);
#pragma unroll
    for (int i = 0; i < VEC; ++i) s.items[i] = from_float<T>(to_float(s.items[i]) + to_float(other.items[i]));
    return s;
}

// How many elements of a channel a part has.
template <bool kIsRows, int VEC>
__device__ __forceinline__ double part_count(const BnWalk<kIsRows, VEC> &walk) {
    const int64 rows = walk.last > walk.first ? walk.last - walk.first : 0;
    return static_cast<double>(kIsRows ? rows : rows * VEC);
}

// Calls use(offset, load(offset)) for each row of this thread, kAhead in a round. The loads of a round come before its
// stores, which no load may pass; where a round is not full, the first row is read again and not used.
template <int kAhead, typename Walk, typename Load, typename Use>
__device__ __forceinline__ void for_each_row(const Walk &walk, const Load &load, const Use &use) {
    const int64 step = blockDim.y;
#pragma unroll 1
    for (int64 row = walk.begin(); row < walk.last; row += kAhead * step) {
        decltype(load(row)) loaded[kAhead];
#pragma unroll
        for (int k = 0; k < kAhead; ++k) {
            loaded[k] = load(walk.offset(row + k * step < walk.last ? row + k * step : row));
        }
#pragma unroll
        for (int k = 0; k < kAhead; ++k) {
            if (row + k * step < walk.last) use(walk.offset(row + k * step), loaded[k]);
        }
    }
}

// A pack of s, of the gradient and, where there is one, of the other gradient.
template <typename T, int VEC>
struct BnPacks {
    Pack<T, VEC> s, dy, ds;
};

template <typename T, int VEC>
__device__ __forceinline__ BnPacks<T, VEC> load_gradients(const T *s, const T *dy, const T *ds, int64 at) {
    BnPacks<T, VEC> packs;
    packs.s = load_pack<T, VEC>(s + at);
    packs.dy = load_pack<T, VEC>(dy + at);
    if (ds != nullptr) packs.ds = load_pack<T, VEC>(ds + at);
    return packs;
}

// The block's sums of all slots, for the threads of the first row in their column; in the order of a tree.
template <int kSlots>
__device__ __forceinline__ void column_sums(const float (&first)[kSlots], const float (&second)[kSlots],
                                            float2 (&scratch)[kSlots][kBnThreads]) {
    const int own = threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) scratch[slot][own] = make_float2(first[slot], second[slot]);
    __syncthreads();
    for (int half = blockDim.y / 2; half > 0; half /= 2) {
        if (threadIdx.y < half) {
#pragma unroll
            for (int slot = 0; slot < kSlots; ++slot) {
                const float2 other = scratch[slot][own + half * blockDim.x];
                scratch[slot][own].x += other.x;
                scratch[slot][own].y += other.y;
            }
        }
        __syncthreads();
    }
}

// Where a part leaves its two sums of a channel; those of all parts lie together.
__device__ __forceinline__ int64 partial_place(const BnShape &shape, int64 channel, int64 part) {
    return 2 * (channel * shape.parts + part);
}

// s = a + b (with b), and the mean and squared deviations of each part: partial[channel][part][2].
template <typename T, int VEC, bool kIsRows>
__global__ void __launch_bounds__(kBnThreads)
    bn_moments(const T *a, const T *b, T *s, double *partial, BnShape shape) {
    using Walk = BnWalk<kIsRows, VEC>;
    constexpr int kSlots = Walk::kSlots;
    const Walk walk(shape, blockIdx.x);
    // Distances are taken from the part's first element: squares of numbers far from zero would lose digits.
    float centre[kSlots] = {}, first[kSlots] = {}, second[kSlots] = {};
    if (walk.active && walk.first < walk.last) {
        const Pack<T, VEC> pack = load_sum<T, VEC>(a, b, walk.offset(walk.first));
        for (int slot = 0; slot < kSlots; ++slot) centre[slot] = to_float(pack.items[slot]);
    }
    const auto load = [&](int64 at) { return load_sum<T, VEC>(a, b, at); };
    for_each_row<2>(walk, load, [&](int64 at, const Pack<T, VEC> &pack) {
        if (b != nullptr) store_pack<T, VEC>(s + at, pack);
#pragma unroll
        for (int i = 0; i < VEC; ++i) {
            const int slot = kIsRows ? i : 0;
            const float off = to_float(pack.items[i]) - centre[slot];
            first[slot] += off;
            second[slot] += off * off;
        }
    });
    __shared__ float2 scratch[kSlots][kBnThreads];
    column_sums<kSlots>(first, second, scratch);
    const double count = part_count<kIsRows, VEC>(walk);
    if (threadIdx.y != 0 || !walk.active || count == 0.0) return;
    for (int slot = 0; slot < kSlots; ++slot) {
        const float2 sums = scratch[slot][threadIdx.x];
        const double off = static_cast<double>(sums.x), mean_off = off / count;
        double *found = partial + partial_place(shape, walk.channel + slot, blockIdx.x);
        found[0] = static_cast<double>(centre[slot]) + mean_off;
        found[1] = static_cast<double>(sums.y) - off * mean_off;
    }
}

// A block for each channel.
template <int VEC, bool kIsRows>
__global__ void __launch_bounds__(kBnFinishThreads)
    bn_finish_moments(const double *partial, float *mean, float *rstd, float *var, float eps, BnShape shape) {
    __shared__ double scratch[33];
    const int64 channel = blockIdx.x;
    const double *own = partial + partial_place(shape, channel, 0);
    double total = 0.0, squares = 0.0;
    for (int64 part = threadIdx.x; part < shape.parts; part += kBnFinishThreads) {
        const double size = part_count(BnWalk<kIsRows, VEC>(shape, part));
        if (size > 0.0) total += size * own[2 * part];
    }
    const double count = static_cast<double>(shape.count()), centre = block_sum(total, scratch) / count;
    for (int64 part = threadIdx.x; part < shape.parts; part += kBnFinishThreads) {
        const double size = part_count(BnWalk<kIsRows, VEC>(shape, part));
        if (size == 0.0) continue;
        const double off = own[2 * part] - centre;
        squares += own[2 * part + 1] + off * off * size;
    }
    squares = block_sum(squares, scratch);
    if (threadIdx.x != 0) return;
    mean[channel] = static_cast<float>(centre);
    rstd[channel] = static_cast<float>(1.0 / sqrt(squares / count + static_cast<double>(eps)));
    var[channel] = static_cast<float>(squares / (count - 1.0));
}

// y, and s = a + b with b. The last rows come first: of the pass before they are still in the cache.
template <typename T, int VEC, bool kIsRows, bool kTrain>
__global__ void __launch_bounds__(kBnThreads)
    bn_activate(const T *a, const T *b, T *s, T *y, const float *weight, const float *bias, const float *mean,
                const float *spread, float eps, BnShape shape) {
    using Walk = BnWalk<kIsRows, VEC>;
    const Walk walk(shape, gridDim.x - 1 - blockIdx.x);
    const auto affine =
        load_affine<kTrain, Walk::kSlots>(weight, bias, mean, spread, eps, walk.channel, walk.active);
    const auto load = [&](int64 at) { return load_sum<T, VEC>(a, b, at); };
    for_each_row<2>(walk, load, [&](int64 at, Pack<T, VEC> &pack) {
        if (b != nullptr) store_pack<T, VEC>(s + at, pack);
#pragma unroll
        for (int i = 0; i < VEC; ++i) {
            const int slot = kIsRows ? i : 0;
            const float value =
                (to_float(pack.items[i]) - affine.mean[slot]) * affine.scale[slot] + affine.bias[slot];
            pack.items[i] = from_float<T>(0.0f > value ? 0.0f : value);  // NaN stays
        }
        store_pack<T, VEC>(y + at, pack);
    });
}

// The sums of g and g * (s - mean) of each part: partial[channel][part][2].
template <typename T, int VEC, bool kIsRows, bool kTrain>
__global__ void __launch_bounds__(kBnThreads)
    bn_gradients(const T *dy, const T *s, double *partial, const float *weight, const float *bias,
                 const float *mean, const float *spread, float eps, BnShape shape) {
    using Walk = BnWalk<kIsRows, VEC>;
    constexpr int kSlots = Walk::kSlots;
    const Walk walk(shape, blockIdx.x);
    const auto affine = load_affine<kTrain, kSlots>(weight, bias, mean, spread, eps, walk.channel, walk.active);
    float first[kSlots] = {}, second[kSlots] = {};
    const auto load = [&](int64 at) { return load_gradients<T, VEC>(s, dy, nullptr, at); };
    for_each_row<2>(walk, load, [&](int64, const BnPacks<T, VEC> &packs) {
#pragma unroll
        for (int i = 0; i < VEC; ++i) {
            const int slot = kIsRows ? i : 0;
            const float centred = to_float(packs.s.items[i]) - affine.mean[slot];
            const float g = passed(to_float(packs.dy.items[i]), centred, affine.scale[slot], affine.bias[slot]);
            first[slot] += g;
            second[slot] += g * centred;
        }
    });
    __shared__ float2 scratch[kSlots][kBnThreads];
    column_sums<kSlots>(first, second, scratch);
    if (threadIdx.y != 0 || !walk.active) return;
    for (int slot = 0; slot < kSlots; ++slot) {
        const float2 sums = scratch[slot][threadIdx.x];
        double *found = partial + partial_place(shape, walk.channel + slot, blockIdx.x);
        found[0] = static_cast<double>(sums.x);
        found[1] = static_cast<double>(sums.y);
    }
}

// A block for each channel.
template <bool kTrain>
__global__ void __launch_bounds__(kBnFinishThreads)
    bn_finish_gradients(const double *partial, const float *spread, float *dweight, float *dbias, float eps,
                        BnShape shape) {
    __shared__ double scratch[33];
    const int64 channel = blockIdx.x;
    const double *own = partial + partial_place(shape, channel, 0);
    double sum = 0.0, product = 0.0;
    for (int64 part = threadIdx.x; part < shape.parts; part += kBnFinishThreads) {
        sum += own[2 * part];
        product += own[2 * part + 1];
    }
    sum = block_sum(sum, scratch);
    product = block_sum(product, scratch);
    if (threadIdx.x != 0) return;
    dbias[channel] = static_cast<float>(sum);
    dweight[channel] =
        static_cast<float>(product * static_cast<double>(inverse_deviation<kTrain>(spread[channel], eps)));
}

// dx; in training less the shares of mean and variance. ds may be NULL.
template <typename T, int VEC, bool kIsRows, bool kTrain>
__global__ void __launch_bounds__(kBnThreads)
    bn_differentiate(const T *dy, const T *ds, const T *s, T *dx, const float *weight, const float *bias,
                     const float *mean, const float *spread, const float *dweight, const float *dbias, float eps,
                     BnShape shape) {
    using Walk = BnWalk<kIsRows, VEC>;
    constexpr int kSlots = Walk::kSlots;
    const Walk walk(shape, gridDim.x - 1 - blockIdx.x);
    const auto affine = load_affine<kTrain, kSlots>(weight, bias, mean, spread, eps, walk.channel, walk.active);
    float constant[kSlots] = {}, slope[kSlots] = {};
    if (kTrain && walk.active) {
        const float count = static_cast<float>(shape.count());
        for (int slot = 0; slot < kSlots; ++slot) {
            constant[slot] = dbias[walk.channel + slot] / count;
            slope[slot] = spread[walk.channel + slot] * dweight[walk.channel + slot] / count;
        }
    }
    const auto load = [&](int64 at) { return load_gradients<T, VEC>(s, dy, ds, at); };
    for_each_row<1>(walk, load, [&](int64 at, BnPacks<T, VEC> &packs) {
#pragma unroll
        for (int i = 0; i < VEC; ++i) {
            const int slot = kIsRows ? i : 0;
            const float centred = to_float(packs.s.items[i]) - affine.mean[slot];
            float g = passed(to_float(packs.dy.items[i]), centred, affine.scale[slot], affine.bias[slot]);
            if (kTrain) g = g - constant[slot] - centred * slope[slot];
            g *= affine.scale[slot];
            packs.dy.items[i] = from_float<T>(ds == nullptr ? g : g + to_float(packs.ds.items[i]));
        }
        store_pack<T, VEC>(dx + at, packs.dy);
    });
}

#ifdef FASTISEAT_INSTANTIATE
#define FASTISEAT_BN_ROWS(T, VEC, ROWS)                                                                        \
    template __global__ void bn_moments<T, VEC, ROWS>(const T *, const T *, T *, double *, BnShape);           \
    template __global__ void bn_activate<T, VEC, ROWS, true>(const T *, const T *, T *, T *, const float *,    \
                                                             const float *, const float *, const float *,      \
                                                             float, BnShape);                                  \
    template __global__ void bn_gradients<T, VEC, ROWS, false>(const T *, const T *, double *, const float *,  \
                                                               const float *, const float *, const float *,    \
                                                               float, BnShape);                                \
    template __global__ void bn_differentiate<T, VEC, ROWS, true>(                                             \
        const T *, const T *, const T *, T *, const float *, const float *, const float *, const float *,      \
        const float *, const float *, float, BnShape);
FASTISEAT_BN_ROWS(float, 4, true)
FASTISEAT_BN_ROWS(float, 1, false)
FASTISEAT_BN_ROWS(__half, 8, true)
FASTISEAT_BN_ROWS(__half, 8, false)
FASTISEAT_BN_ROWS(__nv_bfloat16, 8, true)
FASTISEAT_BN_ROWS(__nv_bfloat16, 1, false)
#undef FASTISEAT_BN_ROWS
template __global__ void bn_finish_moments<1, true>(const double *, float *, float *, float *, float, BnShape);
template __global__ void bn_finish_gradients<true>(const double *, const float *, float *, float *, float, BnShape);
#endif

}  // namespace fastiseat

#endif
