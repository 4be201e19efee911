/* The arguments of a bn_act call, and how its work is cut up. */
#ifndef FASTISEAT_CPU_BN_ACT_CALL_H
#define FASTISEAT_CPU_BN_ACT_CALL_H

#include <cmath>
#include <vector>

#include "../bn_act.h"
#include "bn_act_sums.h"
#include "parallel.h"

namespace fastiseat {

constexpr int64_t kMinElementsPerThread = 1 << 14;
constexpr int64_t kChunkElements = 1 << 15, kMostChunks = 64;
constexpr int64_t kSegment = kBlockRows * kLanes;  // elements of a plane in one float32 sum
constexpr int64_t kSmallPlane = 128;               // planes below this size are summed several at a time
constexpr int64_t kElementsAtOnce = 1 << 12;

struct Call {
    const void *a, *b;  // b may be NULL; in the backward functions they are dy and ds
    void *s, *y;        // s without b is a; in the backward functions they are s and dx
    Shape shape;
    int64_t dtype;
    int32_t num_threads;

    bool is_rows() const { return shape.inner == 1; }
    int64_t count() const { return shape.num * shape.inner; }
    int64_t size() const { return count() * shape.channels; }
    int64_t run_size() const { return is_rows() ? shape.channels : shape.inner; }
    int64_t num_runs() const { return is_rows() ? shape.num : shape.num * shape.channels; }
    bool served() const { return is_dtype(dtype); }
};

// Calls body(T{}) with the type of the call's elements.
template <typename Body>
FASTISEAT_INLINE void with_dtype(int64_t dtype, const Body &body) {
    switch (dtype) {
        case FASTISEAT_FLOAT32: return body(float{});
        case FASTISEAT_BFLOAT16: return body(BFloat16{});
        default: return body(Float16{});
    }
}

template <typename T>
FASTISEAT_INLINE const T *in(const void *array) {
    return static_cast<const T *>(array);
}

template <typename T>
FASTISEAT_INLINE T *out(void *array) {
    return static_cast<T *>(array);
}

// 1 / sqrt(var + eps).
inline std::vector<float> inverse_deviations(const float *var, float eps, int64_t channels) {
    std::vector<float> rstd(static_cast<size_t>(channels));
    for (int64_t c = 0; c < channels; ++c) rstd[static_cast<size_t>(c)] = 1.0f / std::sqrt(var[c] + eps);
    return rstd;
}

// weight * rstd.
inline std::vector<float> scales(const float *weight, std::vector<float> rstd) {
    for (size_t c = 0; c < rstd.size(); ++c) rstd[c] *= weight[c];
    return rstd;
}

// The rows of a call in chunks whose number depends on its size alone: sums don't depend on the threads.
struct Chunks {
    int64_t rows, number;

    explicit Chunks(const Call &call) {
        const int64_t wanted = std::clamp<int64_t>(call.size() / kChunkElements, 1, kMostChunks);
        const int64_t blocks = (call.shape.num + kBlockRows - 1) / kBlockRows;
        rows = (blocks + wanted - 1) / wanted * kBlockRows;
        number = (call.shape.num + rows - 1) / rows;
    }
};

// Calls body(begin, end) for the parts of `count` items that make up the call, on several threads.
template <typename Body>
void over(const Call &call, int64_t count, const Body &body) {
    const int64_t grain = kMinElementsPerThread * count / std::max<int64_t>(call.size(), 1) + 1;
    const int64_t parts = num_parts(count, grain, call.num_threads);
    for_each_part(parts, count, [&](int64_t, int64_t begin, int64_t end) {
        if (begin < end) body(begin, end);
    });
}

// The stretches that channel `c` is summed in, with body(stretch) for each. Planes begin ... end.
template <typename Body>
FASTISEAT_INLINE void each_stretch(const Shape &shape, int64_t c, int64_t begin, int64_t end, const Body &body) {
    const int64_t plane = shape.inner, stride = shape.channels * plane;
    const int64_t offset = begin * stride + c * plane;
    if (plane < kSmallPlane) return body(Stretch{offset, end - begin, plane, stride});
    for (int64_t at = 0; at < plane; at += kSegment)
        body(Stretch{offset + at, 1, std::min(kSegment, plane - at), stride});
}

// How many planes of a channel are summed at once.
inline int64_t planes_at_once(const Shape &shape) {
    return std::max<int64_t>(1, kSmallPlane / shape.inner);
}

// Calls body(begin, end) for runs begin ... end in pieces, the last first: they are still in the cache.
template <typename Body>
FASTISEAT_INLINE void backwards(int64_t begin, int64_t end, int64_t run_size, const Body &body) {
    const int64_t piece = std::max<int64_t>(1, kElementsAtOnce / run_size);
    for (int64_t stop = end; stop > begin; stop -= std::min(piece, stop - begin))
        body(std::max(begin, stop - piece), stop);
}

}  // namespace fastiseat

#endif
