#include "../pgd_step.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "half.h"
#include "parallel.h"

namespace {

// Below this many elements for each thread, waking a thread costs about what it saves.
constexpr int64_t kMinElementsPerThread = 1 << 14;
// What is converted at once; it stays in the first cache.
constexpr int64_t kTile = 512;
constexpr int64_t kLanes = 8;

struct PerSample {
    float value;
    const float *tensor;
    bool each;

    float of(int64_t sample) const {
        return tensor ? tensor[each ? sample : 0] : value;
    }
};

// The gradient has a dtype of its own, and perhaps the other order of a sample's elements.
struct Grad {
    const void *data;
    int64_t dtype;
    bool turned;
};

struct Batch {
    const float *images, *delta;
    Grad grad;
    PerSample eps, step_size;
    float *delta_out, *x_adv_out;
    int64_t sample_size, inner;
    bool still;  // the gradient is no use: zeros in its place

    int64_t turn(int64_t element) const {
        return (element % inner) * (sample_size / inner) + element / inner;
    }
};

// A comparison with NaN is false, so a NaN value passes through, as it does through PyTorch's clamp.
inline float clamp(float value, float low, float high) {
    value = low > value ? low : value;
    return high < value ? high : value;
}

inline float sign(float value) {
    return static_cast<float>((value > 0.0f) - (value < 0.0f));
}

template <typename T>
inline void widen(const T *__restrict from, float *__restrict to, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i] = fastiseat::to_float(from[i]);
}

FASTISEAT_CLONES void widen_bf16(const fastiseat::BFloat16 *from, float *to, int64_t count) {
    widen(from, to, count);
}

FASTISEAT_CLONES void widen_fp16(const fastiseat::Float16 *from, float *to, int64_t count) {
    widen(from, to, count);
}

// Walks the other order: the first element's place by division, the rest by steps.
template <typename Body>
inline void each_turned(const Batch &batch, int64_t first, int64_t count, const Body &body) {
    const int64_t outer = batch.sample_size / batch.inner, wrap = 1 - outer * batch.inner;
    int64_t place = batch.turn(first), k = first % batch.inner;
    for (int64_t i = 0; i < count; ++i) {
        body(i, place);
        place += ++k == batch.inner ? outer + wrap : outer;
        k = k == batch.inner ? 0 : k;
    }
}

template <typename T>
const float *gather(const Batch &batch, int64_t row, int64_t first, int64_t count, float *tile) {
    const T *from = static_cast<const T *>(batch.grad.data) + row;
    each_turned(batch, first, count, [&](int64_t i, int64_t place) { tile[i] = fastiseat::to_float(from[place]); });
    return tile;
}

// `count` elements of the gradient as floats, from element `first` of the sample that begins at `row`.
const float *load_grad(const Batch &batch, int64_t row, int64_t first, int64_t count, float *tile) {
    if (batch.still) {
        std::fill_n(tile, count, 0.0f);
        return tile;
    }
    const bool turned = batch.grad.turned;
    switch (batch.grad.dtype) {
        case FASTISEAT_BFLOAT16:
            if (turned) return gather<fastiseat::BFloat16>(batch, row, first, count, tile);
            widen_bf16(static_cast<const fastiseat::BFloat16 *>(batch.grad.data) + row + first, tile, count);
            return tile;
        case FASTISEAT_FLOAT16:
            if (turned) return gather<fastiseat::Float16>(batch, row, first, count, tile);
            widen_fp16(static_cast<const fastiseat::Float16 *>(batch.grad.data) + row + first, tile, count);
            return tile;
        default:
            if (turned) return gather<float>(batch, row, first, count, tile);
            return static_cast<const float *>(batch.grad.data) + row + first;
    }
}

// The next three return or add up over one tile. The first two write it, and tell whether a gradient was NaN.
FASTISEAT_CLONES bool step_linf(const float *__restrict images, const float *__restrict delta,
                                const float *__restrict grad, float eps, float step_size,
                                float *__restrict delta_out, float *__restrict x_adv_out, int64_t count) {
    int32_t nan = 0;
    for (int64_t i = 0; i < count; ++i) {
        const float moved = clamp(delta[i] + step_size * sign(grad[i]), -eps, eps);
        const float x_adv = clamp(images[i] + moved, 0.0f, 1.0f);
        nan |= grad[i] != grad[i];
        x_adv_out[i] = x_adv;
        delta_out[i] = x_adv - images[i];
    }
    return nan != 0;
}

FASTISEAT_CLONES void step_l2(const float *__restrict images, const float *__restrict delta,
                              const float *__restrict grad, double along, double shrink,
                              float *__restrict delta_out, float *__restrict x_adv_out, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        const float moved = static_cast<float>(shrink * (delta[i] + along * grad[i]));
        const float x_adv = clamp(images[i] + moved, 0.0f, 1.0f);
        x_adv_out[i] = x_adv;
        delta_out[i] = x_adv - images[i];
    }
}

// Σ (delta + along · grad)², in lanes that become a vector; without delta Σ grad². The number of lanes is that of no
// processor's vectors: the order of the additions, and so the bits, are the same on each.
FASTISEAT_CLONES void add_squares(const float *delta, const float *grad, double along, int64_t count, double *lanes) {
    double sums[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        for (int64_t lane = 0; lane < kLanes; ++lane) {
            const double value = (delta ? delta[i + lane] : 0.0) + along * grad[i + lane];
            sums[lane] += value * value;
        }
    }
    for (; i < count; ++i) {
        const double value = (delta ? delta[i] : 0.0) + along * grad[i];
        sums[i % kLanes] += value * value;
    }
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += sums[lane];
}

// Calls body(first, count, gradient) for the tiles of a sample from `begin` to `end`.
template <typename Body>
void each_tile(const Batch &batch, int64_t row, int64_t begin, int64_t end, const Body &body) {
    alignas(64) float tile[kTile];
    for (int64_t first = begin; first < end; first += kTile) {
        const int64_t count = std::min(kTile, end - first);
        body(first, count, load_grad(batch, row, first, count, tile));
    }
}

// `begin` and `end` count elements of the whole batch: a range may start and stop inside a sample.
bool range_linf(const Batch &batch, int64_t begin, int64_t end) {
    bool nan = false;
    while (begin < end) {
        const int64_t sample = begin / batch.sample_size, row = sample * batch.sample_size;
        const int64_t stop = std::min(end, row + batch.sample_size);
        const float eps = batch.eps.of(sample);
        // A NaN bound would be lost in the comparisons of clamp; as the step it reaches every element.
        const float step_size = eps == eps ? batch.step_size.of(sample) : eps;
        each_tile(batch, row, begin - row, stop - row, [&](int64_t first, int64_t count, const float *grad) {
            const int64_t at = row + first;
            nan |= step_linf(batch.images + at, batch.delta + at, grad, eps, step_size, batch.delta_out + at,
                             batch.x_adv_out + at, count);
        });
        begin = stop;
    }
    return nan;
}

double norm_of_moved(const Batch &batch, int64_t row, const float *delta, double along) {
    double lanes[kLanes] = {};
    each_tile(batch, row, 0, batch.sample_size, [&](int64_t first, int64_t count, const float *grad) {
        add_squares(delta ? delta + row + first : nullptr, grad, along, count, lanes);
    });
    double sum = 0.0;
    for (const double lane : lanes) sum += lane;
    return std::sqrt(sum);
}

bool has_nan(const Batch &batch, int64_t row) {
    bool nan = false;
    each_tile(batch, row, 0, batch.sample_size, [&](int64_t, int64_t count, const float *grad) {
        nan |= std::any_of(grad, grad + count, [](float value) { return value != value; });
    });
    return nan;
}

bool sample_l2(const Batch &batch, int64_t sample) {
    const int64_t row = sample * batch.sample_size;
    const double norm = norm_of_moved(batch, row, nullptr, 1.0);
    const bool usable = norm > 0.0 && std::isfinite(norm);
    const double eps = batch.eps.of(sample), along = batch.step_size.of(sample) / (usable ? norm : 1.0);
    Batch moving = batch;
    moving.still = !usable;
    const double length = norm_of_moved(moving, row, batch.delta, along);
    const double shrink = length <= eps ? 1.0 : eps / length;
    each_tile(moving, row, 0, batch.sample_size, [&](int64_t first, int64_t count, const float *grad) {
        const int64_t at = row + first;
        step_l2(batch.images + at, batch.delta + at, grad, along, shrink, batch.delta_out + at, batch.x_adv_out + at,
                count);
    });
    return !usable && has_nan(batch, row);  // only such a gradient can hold one
}

bool samples_l2(const Batch &batch, int64_t begin, int64_t end) {
    bool nan = false;
    for (int64_t sample = begin; sample < end; ++sample) nan |= sample_l2(batch, sample);
    return nan;
}

// Steps over all items on several threads; body(begin, end) tells whether a gradient was NaN.
template <typename Body>
void find_nan(int64_t items, int64_t grain, int32_t num_threads, uint8_t *nan_grad, const Body &body) {
    std::atomic<bool> nan{false};
    fastiseat::for_each_part(fastiseat::num_parts(items, grain, num_threads), items,
                             [&](int64_t, int64_t begin, int64_t end) {
                                 if (body(begin, end)) nan = true;
                             });
    if (nan) *nan_grad = 1;
}

}  // namespace

int32_t fastiseat_pgd_step(FASTISEAT_PGD_STEP_ARGUMENTS, int32_t num_threads) {
    if (!fastiseat::is_dtype(grad_dtype)) return FASTISEAT_UNSUPPORTED;
    const Batch batch{images,
                      delta,
                      {grad, grad_dtype, grad_turned != 0},
                      {eps, eps_tensor, eps_each != 0},
                      {step_size, step_size_tensor, step_size_each != 0},
                      delta_out,
                      x_adv_out,
                      sample_size,
                      inner,
                      false};
    switch (norm) {
        case FASTISEAT_LINF:
            find_nan(num_samples * sample_size, kMinElementsPerThread, num_threads, nan_grad,
                     [&](int64_t begin, int64_t end) { return range_linf(batch, begin, end); });
            return FASTISEAT_OK;
        case FASTISEAT_L2:
            find_nan(num_samples, kMinElementsPerThread / std::max<int64_t>(sample_size, 1), num_threads, nan_grad,
                     [&](int64_t begin, int64_t end) { return samples_l2(batch, begin, end); });
            return FASTISEAT_OK;
        default: return FASTISEAT_UNSUPPORTED;
    }
}
