/* Gather, flip, crop and conversion in one pass over the output; ../augment.h says what is computed. */
#ifndef FASTISEAT_CUDA_AUGMENT_CUH
#define FASTISEAT_CUDA_AUGMENT_CUH

#include "common.cuh"

namespace fastiseat {

constexpr int kAugmentThreads = 256;
// The counter's last word: Stream.AUGMENT of kernels/core/philox.py.
constexpr unsigned kAugmentStream = 1;

// Divides what is below 2^31 by a multiplication; augment.cu makes it.
struct AugmentDivisor {
    unsigned divisor, factor, shift;

    __device__ __forceinline__ unsigned quotient(unsigned dividend) const {
        return (__umulhi(dividend, factor) + dividend) >> shift;
    }
};

struct AugmentBatch {
    const unsigned char *images;
    const int64 *index, *rows, *epoch_at;
    int64 num_images;
    int height, width, channels;
    unsigned seed_low, seed_high, epoch;
    int pad;
    bool flip, reflect;
    AugmentDivisor inner, middle;  // of the output's last dimension and the one before
};

// What becomes of a sample: its window's first row and column, counted from the image's own, -pad ... pad.
struct AugmentFate {
    const unsigned char *image;  // null where the row names none
    bool mirrored;
    int top, left;
};

__device__ __forceinline__ int augment_shift(unsigned word, int pad) {
    return static_cast<int>(__umulhi(word, 2u * pad + 1u)) - pad;
}

// Philox4x32-10, as kernels/core/philox.py defines it.
__device__ inline AugmentFate augment_fate(const AugmentBatch &batch, int64 sample) {
    const unsigned long long place = batch.index[sample];
    unsigned c0 = static_cast<unsigned>(place), c1 = static_cast<unsigned>(place >> 32);
    unsigned c2 = batch.epoch_at ? static_cast<unsigned>(*batch.epoch_at) : batch.epoch, c3 = kAugmentStream;
    unsigned k0 = batch.seed_low, k1 = batch.seed_high;
    for (int round = 0; round < 10; ++round) {
        const unsigned high_0 = __umulhi(0xD2511F53u, c0), low_0 = 0xD2511F53u * c0;
        const unsigned high_1 = __umulhi(0xCD9E8D57u, c2), low_1 = 0xCD9E8D57u * c2;
        c0 = high_1 ^ c1 ^ k0, c1 = low_1, c2 = high_0 ^ c3 ^ k1, c3 = low_0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    const int64 row = batch.rows ? batch.rows[sample] : sample;
    const int64 size = static_cast<int64>(batch.height) * batch.width * batch.channels;
    const bool exists = row >= 0 && row < batch.num_images;
    return {exists ? batch.images + row * size : nullptr, batch.flip && c0 >> 31, augment_shift(c1, batch.pad),
            augment_shift(c2, batch.pad)};
}

__device__ __forceinline__ int augment_reflected(int place, int size) {
    if (place < 0) return -place;
    return place < size ? place : 2 * (size - 1) - place;
}

// level / 255 rounded once, for 0 ... 255: a quotient near enough, and what it is still off.
__device__ __forceinline__ float augment_scaled(unsigned char level) {
    const float value = level, reciprocal = 1.0f / 255.0f, near = value * reciprocal;
    return __fmaf_rn(__fmaf_rn(-255.0f, near, value), reciprocal, near);
}

// The value at a place of the window.
__device__ __forceinline__ float augment_value(const AugmentBatch &batch, const AugmentFate &fate, int y, int x,
                                               int channel) {
    if (!fate.image) return __int_as_float(0x7FC00000);  // NaN
    y += fate.top, x += fate.left;
    if (batch.reflect) y = augment_reflected(y, batch.height), x = augment_reflected(x, batch.width);
    if (y < 0 || y >= batch.height || x < 0 || x >= batch.width) return 0.0f;
    if (fate.mirrored) x = batch.width - 1 - x;
    return augment_scaled(fate.image[(y * batch.width + x) * batch.channels + channel]);
}

// VEC neighbours of a sample's output: divided for the first, counted on for the others.
template <typename T, bool CHANNELS_LAST, int VEC>
__device__ __forceinline__ Pack<T, VEC> augment_pack(const AugmentBatch &batch, const AugmentFate &fate,
                                                     unsigned first) {
    const unsigned row = batch.inner.quotient(first), plane = batch.middle.quotient(row);
    int inner = static_cast<int>(first - row * batch.inner.divisor);
    int middle = static_cast<int>(row - plane * batch.middle.divisor), outer = static_cast<int>(plane);
    Pack<T, VEC> values;
#pragma unroll
    for (int i = 0; i < VEC; ++i) {
        values.items[i] = from_float<T>(CHANNELS_LAST ? augment_value(batch, fate, outer, middle, inner)
                                                      : augment_value(batch, fate, middle, inner, outer));
        if (++inner < static_cast<int>(batch.inner.divisor)) continue;
        inner = 0;
        if (++middle < static_cast<int>(batch.middle.divisor)) continue;
        middle = 0, ++outer;
    }
    return values;
}

// blocks_per_sample blocks fill one sample, each thread `packs` times VEC neighbours of the output.
template <typename T, bool CHANNELS_LAST, int VEC>
__global__ void __launch_bounds__(kAugmentThreads)
    augment_kernel(AugmentBatch batch, T *out, unsigned blocks_per_sample, unsigned packs) {
    __shared__ AugmentFate shared_fate;
    const int64 sample = blockIdx.x / blocks_per_sample;
    if (threadIdx.x == 0) shared_fate = augment_fate(batch, sample);
    __syncthreads();
    const AugmentFate fate = shared_fate;
    const unsigned size = static_cast<unsigned>(batch.height) * batch.width * batch.channels;
    unsigned first = (blockIdx.x % blocks_per_sample * packs * kAugmentThreads + threadIdx.x) * VEC;
    for (unsigned pack = 0; pack < packs && first < size; ++pack, first += kAugmentThreads * VEC) {
        store_pack(out + sample * size + first, augment_pack<T, CHANNELS_LAST, VEC>(batch, fate, first));
    }
}

#ifdef FASTISEAT_INSTANTIATE
#define FASTISEAT_AUGMENT(T, VEC)                                                                  \
    template __global__ void augment_kernel<T, true, VEC>(AugmentBatch, T *, unsigned, unsigned);  \
    template __global__ void augment_kernel<T, false, VEC>(AugmentBatch, T *, unsigned, unsigned);
FASTISEAT_AUGMENT(float, 1)
FASTISEAT_AUGMENT(float, 4)
FASTISEAT_AUGMENT(__nv_bfloat16, 1)
FASTISEAT_AUGMENT(__nv_bfloat16, 4)
FASTISEAT_AUGMENT(__half, 1)
FASTISEAT_AUGMENT(__half, 4)
#undef FASTISEAT_AUGMENT
#endif

}  // namespace fastiseat

#endif
