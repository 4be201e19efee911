/* Rows of a softmax in loops that become vector code: the exponential is arithmetic alone, sums go by lanes. */
#ifndef FASTISEAT_CPU_SOFTMAX_H
#define FASTISEAT_CPU_SOFTMAX_H

#include <cmath>
#include <cstdint>
#include <limits>

#include "half.h"

namespace fastiseat {

constexpr int64_t kLanes = 16;

// e^x for x <= 0 within two units in the last place, subnormal results included; NaN for NaN.
inline float exp_nonpositive(float x) {
    x = x < -105.0f ? -105.0f : x;  // there and below it rounds to 0
    // x = n ln 2 + r: adding and taking off 1.5 * 2^23 rounds to the integer n, which the sum's low bits hold.
    const float shifted = x * 1.44269504f + 12582912.0f;
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
    float series = 1.0f / 5040;
    series = series * r + 1.0f / 720;
    series = series * r + 1.0f / 120;
    series = series * r + 1.0f / 24;
    series = series * r + 1.0f / 6;
    series = series * r + 0.5f;
    series = series * r * r + r + 1.0f;
    // 2^n in two factors, since it may be no normal number itself.
    const uint32_t exponent = bits_of(shifted) - 0x4B400000u + 256;
    const uint32_t half = exponent / 2;
    return series * float_of((half - 1) << 23) * float_of((exponent - half - 1) << 23);
}

// The largest value; a NaN may be passed over.
inline float row_max(const float *values, int64_t count) {
    float lanes[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] = -std::numeric_limits<float>::infinity();
    int64_t c = 0;
    for (; c + kLanes <= count; c += kLanes) {
        for (int64_t lane = 0; lane < kLanes; ++lane) {
            lanes[lane] = values[c + lane] > lanes[lane] ? values[c + lane] : lanes[lane];
        }
    }
    float max = lanes[0];
    for (int64_t lane = 1; lane < kLanes; ++lane) max = lanes[lane] > max ? lanes[lane] : max;
    for (; c < count; ++c) max = values[c] > max ? values[c] : max;
    return max;
}

inline float row_sum(const float *values, int64_t count) {
    float lanes[kLanes] = {};
    int64_t c = 0;
    for (; c + kLanes <= count; c += kLanes) {
        for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += values[c + lane];
    }
    float sum = 0.0f;
    for (; c < count; ++c) sum += values[c];
    for (int64_t lane = 0; lane < kLanes; ++lane) sum += lanes[lane];
    return sum;
}

// What turns a row of logits into probabilities and their logarithms.
struct Normaliser {
    float max, sum, log_sum;

    inline float log_probability(float logit) const {
        return (logit - max) - log_sum;
    }
};

// Writes e^(logit - max) into `exponentials`.
inline Normaliser normalise(const float *__restrict logits, int64_t count, float *__restrict exponentials) {
    const float max = row_max(logits, count);
    for (int64_t c = 0; c < count; ++c) exponentials[c] = exp_nonpositive(logits[c] - max);
    const float sum = row_sum(exponentials, count);
    return {max, sum, std::log(sum)};
}

}  // namespace fastiseat

#endif
