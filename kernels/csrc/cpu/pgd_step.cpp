#include "../pgd_step.h"

#include <algorithm>

#include "parallel.h"

namespace {

struct Batch {
    const float *images, *delta, *grad, *eps, *step_size;
    float *delta_out, *x_adv_out;
    int64_t sample_size;
};

// Below this many elements for each thread, waking a thread costs about what it saves.
constexpr int64_t kMinElementsPerThread = 1 << 14;

// A comparison with NaN is false, so a NaN value passes through, as it does through PyTorch's clamp.
inline float clamp(float value, float low, float high) {
    value = low > value ? low : value;
    return high < value ? high : value;
}

inline float sign(float value) {
    return static_cast<float>((value > 0.0f) - (value < 0.0f));
}

// `begin` and `end` count elements of the whole batch: a range may start and stop inside a sample.
FASTISEAT_CLONES void step_range(const Batch &batch, int64_t begin, int64_t end) {
    const float *__restrict images = batch.images;
    const float *__restrict delta = batch.delta;
    const float *__restrict grad = batch.grad;
    float *__restrict delta_out = batch.delta_out;
    float *__restrict x_adv_out = batch.x_adv_out;
    while (begin < end) {
        const int64_t sample = begin / batch.sample_size;
        const int64_t stop = std::min(end, (sample + 1) * batch.sample_size);
        const float eps = batch.eps[sample];
        // A NaN bound would be lost in the comparisons of clamp; as the step it reaches every element.
        const float step_size = eps == eps ? batch.step_size[sample] : eps;
        for (int64_t i = begin; i < stop; ++i) {
            const float moved = clamp(delta[i] + step_size * sign(grad[i]), -eps, eps);
            const float x_adv = clamp(images[i] + moved, 0.0f, 1.0f);
            x_adv_out[i] = x_adv;
            delta_out[i] = x_adv - images[i];
        }
        begin = stop;
    }
}

}  // namespace

int32_t fastiseat_pgd_step_f32(const float *images, const float *delta, const float *grad, const float *eps,
                               const float *step_size, float *delta_out, float *x_adv_out, int64_t num_samples,
                               int64_t sample_size, int32_t num_threads) {
    const Batch batch{images, delta, grad, eps, step_size, delta_out, x_adv_out, sample_size};
    const int64_t total = num_samples * sample_size;
    const int64_t parts = fastiseat::num_parts(total, kMinElementsPerThread, num_threads);
    fastiseat::for_each_part(parts, total, [&](int64_t, int64_t begin, int64_t end) {
        step_range(batch, begin, end);
    });
    return FASTISEAT_OK;
}
