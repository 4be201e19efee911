/* The inner loops of bn_act: over runs of memory, which are rows of all channels (channels_last) or planes of one
 * (contiguous). All are inlined into functions that are built for several processors. */
#ifndef FASTISEAT_CPU_BN_ACT_LOOPS_H
#define FASTISEAT_CPU_BN_ACT_LOOPS_H

#include <cstdint>

#include "half.h"

#if defined(__GNUC__)
#define FASTISEAT_INLINE inline __attribute__((always_inline))
#define FASTISEAT_INLINE_BODY __attribute__((always_inline))
#else
#define FASTISEAT_INLINE inline
#define FASTISEAT_INLINE_BODY
#endif

namespace fastiseat {

constexpr int64_t kLanes = 16;     // sums that a plane keeps, so that they are vectors
constexpr int64_t kRows = 4;       // rows that are added up before a sum in memory is touched
constexpr int64_t kBlockRows = 64; // rows in one float32 sum; sums of blocks are added in float64

// What a channel does to its elements: weight * rstd is `scale`.
struct Affine {
    const float *mean, *scale, *bias;

    FASTISEAT_INLINE Affine from(int64_t channel) const {
        return {mean + channel, scale + channel, bias + channel};
    }
};

// NaN stays NaN.
FASTISEAT_INLINE float relu(float value) {
    return 0.0f > value ? 0.0f : value;
}

// s = a + b.
template <typename T>
FASTISEAT_INLINE void add(const T *__restrict a, const T *__restrict b, T *__restrict s, int64_t size) {
    for (int64_t i = 0; i < size; ++i) s[i] = from_float<T>(to_float(a[i]) + to_float(b[i]));
}

// y of a run: of `size` channels, or of one.
template <typename T, bool kIsRow>
FASTISEAT_INLINE void activate(const T *__restrict s, T *__restrict y, Affine affine, int64_t size) {
    const float *__restrict mean = affine.mean, *__restrict scale = affine.scale, *__restrict bias = affine.bias;
    const float mean_0 = mean[0], scale_0 = scale[0], bias_0 = bias[0];
    for (int64_t i = 0; i < size; ++i) {
        const float value = kIsRow ? (to_float(s[i]) - mean[i]) * scale[i] + bias[i]
                                   : (to_float(s[i]) - mean_0) * scale_0 + bias_0;
        y[i] = from_float<T>(relu(value));
    }
}

// The gradient that passes the ReLU; `centred` is s - mean.
FASTISEAT_INLINE float passed(float dy, float centred, float scale, float bias) {
    return centred * scale + bias <= 0.0f ? 0.0f : dy;
}

// What the mean and the variance take from a channel's gradient; nothing in evaluation.
struct Share {
    const float *constant, *slope;

    FASTISEAT_INLINE Share from(int64_t channel) const {
        return slope ? Share{constant + channel, slope + channel} : *this;
    }
};

// dx of a run. kTrain: less the shares of mean and variance; kSum: plus ds.
template <typename T, bool kIsRow, bool kTrain, bool kSum>
FASTISEAT_INLINE void differentiate(const T *__restrict dy, const T *__restrict ds, const T *__restrict s,
                                    T *__restrict dx, Affine affine, Share share, int64_t size) {
    const float *__restrict mean = affine.mean, *__restrict scale = affine.scale, *__restrict bias = affine.bias;
    const float *__restrict constant = share.constant, *__restrict slope = share.slope;
    const float mean_0 = mean[0], scale_0 = scale[0], bias_0 = bias[0];
    const float constant_0 = kTrain ? constant[0] : 0.0f, slope_0 = kTrain ? slope[0] : 0.0f;
    for (int64_t i = 0; i < size; ++i) {
        const float factor = kIsRow ? scale[i] : scale_0;
        const float centred = to_float(s[i]) - (kIsRow ? mean[i] : mean_0);
        float g = passed(to_float(dy[i]), centred, factor, kIsRow ? bias[i] : bias_0);
        if (kTrain) g = g - (kIsRow ? constant[i] : constant_0) - centred * (kIsRow ? slope[i] : slope_0);
        g *= factor;
        dx[i] = from_float<T>(kSum ? g + to_float(ds[i]) : g);
    }
}

// Adds kNum rows to each channel's sum.
template <typename T, int64_t kNum>
FASTISEAT_INLINE void sum_rows(const T *__restrict s, float *__restrict sum, int64_t channels) {
    for (int64_t c = 0; c < channels; ++c) {
        float total = 0.0f;
        for (int64_t row = 0; row < kNum; ++row) total += to_float(s[row * channels + c]);
        sum[c] += total;
    }
}

// Adds what kNum rows are off `centre`, and its squares.
template <typename T, int64_t kNum>
FASTISEAT_INLINE void sum_deviations(const T *__restrict s, const float *__restrict centre,
                                     float *__restrict first, float *__restrict second, int64_t channels) {
    for (int64_t c = 0; c < channels; ++c) {
        float total = 0.0f, squares = 0.0f;
        for (int64_t row = 0; row < kNum; ++row) {
            const float off = to_float(s[row * channels + c]) - centre[c];
            total += off;
            squares += off * off;
        }
        first[c] += total;
        second[c] += squares;
    }
}

// Adds the gradients of kNum rows that pass the ReLU, and their products with s - mean.
template <typename T, int64_t kNum>
FASTISEAT_INLINE void sum_gradients(const T *__restrict dy, const T *__restrict s, Affine affine,
                                    float *__restrict first, float *__restrict second, int64_t channels) {
    const float *__restrict mean = affine.mean, *__restrict scale = affine.scale, *__restrict bias = affine.bias;
    for (int64_t c = 0; c < channels; ++c) {
        float total = 0.0f, products = 0.0f;
        for (int64_t row = 0; row < kNum; ++row) {
            const float centred = to_float(s[row * channels + c]) - mean[c];
            const float g = passed(to_float(dy[row * channels + c]), centred, scale[c], bias[c]);
            total += g;
            products += g * centred;
        }
        first[c] += total;
        second[c] += products;
    }
}

}  // namespace fastiseat

#endif
