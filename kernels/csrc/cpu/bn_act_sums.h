/* Sums over a channel for bn_act: float32 within a block of elements, float64 from block to block. */
#ifndef FASTISEAT_CPU_BN_ACT_SUMS_H
#define FASTISEAT_CPU_BN_ACT_SUMS_H

#include <algorithm>

#include "bn_act_loops.h"

namespace fastiseat {

struct Shape {
    int64_t num, channels, inner;
};

// The moments of `count` elements of each channel, by Chan's formula for joining two sets.
struct Moments {
    double *mean, *second;
    double count;

    // A block of `size` elements that lie `off` (their sum) and `squares` (its square's) away from `centre`.
    FASTISEAT_INLINE void join_block(int64_t channels, double size, const float *__restrict centre,
                                     const float *__restrict off, const float *__restrict squares) {
        const double part = size / (count + size), weight = count * part, inverse = 1.0 / size;
        for (int64_t c = 0; c < channels; ++c) {
            const double shift = off[c] * inverse;
            const double delta = centre[c] + shift - mean[c];
            mean[c] += delta * part;
            second[c] += squares[c] - off[c] * shift + delta * delta * weight;
        }
        count += size;
    }

    FASTISEAT_INLINE void join(int64_t channels, const Moments &other) {
        const double part = other.count / (count + other.count), weight = count * part;
        for (int64_t c = 0; c < channels; ++c) {
            const double delta = other.mean[c] - mean[c];
            mean[c] += delta * part;
            second[c] += other.second[c] + delta * delta * weight;
        }
        count += other.count;
    }
};

// Adds rows begin ... end of all channels to `moments`; `scratch` has room for three rows. What is squared is the
// distance from the mean so far: a part of the elements lies no farther from it than their variance allows.
template <typename T>
FASTISEAT_INLINE void row_moments(const T *s, int64_t channels, int64_t begin, int64_t end, float *scratch,
                                  Moments &moments) {
    float *centre = scratch, *first = scratch + channels, *second = scratch + 2 * channels;
    std::fill(scratch, scratch + 3 * channels, 0.0f);
    int64_t row = begin;
    if (moments.count > 0.0) {
        for (int64_t c = 0; c < channels; ++c) centre[c] = static_cast<float>(moments.mean[c]);
    } else {
        for (; row + kRows <= end; row += kRows) sum_rows<T, kRows>(s + row * channels, centre, channels);
        for (; row < end; ++row) sum_rows<T, 1>(s + row * channels, centre, channels);
        const float inverse = 1.0f / static_cast<float>(end - begin);
        for (int64_t c = 0; c < channels; ++c) centre[c] *= inverse;
    }
    row = begin;
    for (; row + kRows <= end; row += kRows)
        sum_deviations<T, kRows>(s + row * channels, centre, first, second, channels);
    for (; row < end; ++row) sum_deviations<T, 1>(s + row * channels, centre, first, second, channels);
    moments.join_block(channels, static_cast<double>(end - begin), centre, first, second);
}

// Adds the sums of g and g * (s - mean) over rows begin ... end; `scratch` has room for two rows.
template <typename T>
FASTISEAT_INLINE void row_gradients(const T *dy, const T *s, Affine affine, int64_t channels, int64_t begin,
                                    int64_t end, float *scratch, double *sum, double *product) {
    float *first = scratch, *second = scratch + channels;
    std::fill(scratch, scratch + 2 * channels, 0.0f);
    int64_t row = begin;
    for (; row + kRows <= end; row += kRows) {
        const int64_t at = row * channels;
        sum_gradients<T, kRows>(dy + at, s + at, affine, first, second, channels);
    }
    for (; row < end; ++row) {
        const int64_t at = row * channels;
        sum_gradients<T, 1>(dy + at, s + at, affine, first, second, channels);
    }
    for (int64_t c = 0; c < channels; ++c) {
        sum[c] += static_cast<double>(first[c]);
        product[c] += static_cast<double>(second[c]);
    }
}

// A stretch of one channel: `count` pieces of `size` elements, `stride` elements apart. Taken as rows of kLanes.
struct Stretch {
    int64_t offset, count, size, stride;
};

// Calls quad(offset), row(offset) and tail(offset, size) for what a stretch is made of.
template <typename Quad, typename Row, typename Tail>
FASTISEAT_INLINE void each_row(const Stretch &stretch, const Quad &quad, const Row &row, const Tail &tail) {
    for (int64_t piece = 0; piece < stretch.count; ++piece) {
        const int64_t begin = stretch.offset + piece * stretch.stride, end = begin + stretch.size;
        int64_t at = begin;
        for (; at + kRows * kLanes <= end; at += kRows * kLanes) quad(at);
        for (; at + kLanes <= end; at += kLanes) row(at);
        if (at < end) tail(at, end - at);
    }
}

FASTISEAT_INLINE float total(const float *lanes) {
    float sums[kLanes / 2];
    for (int64_t i = 0; i < kLanes / 2; ++i) sums[i] = lanes[i] + lanes[i + kLanes / 2];
    for (int64_t i = 0; i < kLanes / 4; ++i) sums[i] += sums[i + kLanes / 4];
    return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

// Adds a stretch to its channel's `moments`.
template <typename T>
FASTISEAT_INLINE void stretch_moments(const T *s, const Stretch &stretch, Moments &moments) {
    float lanes[kLanes] = {}, first[kLanes] = {}, second[kLanes] = {}, centres[kLanes];
    const int64_t size = stretch.count * stretch.size;
    float centre = static_cast<float>(*moments.mean);
    if (moments.count == 0.0) {
        each_row(
            stretch, [&](int64_t at) FASTISEAT_INLINE_BODY { sum_rows<T, kRows>(s + at, lanes, kLanes); },
            [&](int64_t at) FASTISEAT_INLINE_BODY { sum_rows<T, 1>(s + at, lanes, kLanes); },
            [&](int64_t at, int64_t rest) FASTISEAT_INLINE_BODY { sum_rows<T, 1>(s + at, lanes, rest); });
        centre = total(lanes) / static_cast<float>(size);
    }
    std::fill(centres, centres + kLanes, centre);
    each_row(
        stretch, [&](int64_t at) FASTISEAT_INLINE_BODY { sum_deviations<T, kRows>(s + at, centres, first, second, kLanes); },
        [&](int64_t at) FASTISEAT_INLINE_BODY { sum_deviations<T, 1>(s + at, centres, first, second, kLanes); },
        [&](int64_t at, int64_t rest) FASTISEAT_INLINE_BODY { sum_deviations<T, 1>(s + at, centres, first, second, rest); });
    const float off = total(first), squares = total(second);
    moments.join_block(1, static_cast<double>(size), &centre, &off, &squares);
}

// Adds a stretch's sums of g and g * (s - mean); `affine` is its channel's, kLanes times.
template <typename T>
FASTISEAT_INLINE void stretch_gradients(const T *dy, const T *s, Affine affine, const Stretch &stretch,
                                        double &sum, double &product) {
    float first[kLanes] = {}, second[kLanes] = {};
    each_row(
        stretch,
        [&](int64_t at) FASTISEAT_INLINE_BODY { sum_gradients<T, kRows>(dy + at, s + at, affine, first, second, kLanes); },
        [&](int64_t at) FASTISEAT_INLINE_BODY { sum_gradients<T, 1>(dy + at, s + at, affine, first, second, kLanes); },
        [&](int64_t at, int64_t size) FASTISEAT_INLINE_BODY { sum_gradients<T, 1>(dy + at, s + at, affine, first, second, size); });
    sum += static_cast<double>(total(first));
    product += static_cast<double>(total(second));
}

}  // namespace fastiseat

#endif
