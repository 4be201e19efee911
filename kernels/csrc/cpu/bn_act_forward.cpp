#include "bn_act_call.h"

namespace {

using namespace fastiseat;

// The elements begin ... end of s, which are written first where there is a sum to take.
template <typename T>
FASTISEAT_INLINE const T *summed(const Call &call, int64_t begin, int64_t end) {
    if (call.b == nullptr) return in<T>(call.a);
    add(in<T>(call.a) + begin, in<T>(call.b) + begin, out<T>(call.s) + begin, end - begin);
    return in<T>(call.s);
}

FASTISEAT_CLONES void moments_of_rows(const Call &call, int64_t begin, int64_t end, float *scratch,
                                      Moments &moments) {
    const int64_t channels = call.shape.channels;
    with_dtype(call.dtype, [&](auto zero) FASTISEAT_INLINE_BODY {
        using T = decltype(zero);
        for (int64_t row = begin; row < end; row += kBlockRows) {
            const int64_t stop = std::min(row + kBlockRows, end);
            const T *s = summed<T>(call, row * channels, stop * channels);
            row_moments(s, channels, row, stop, scratch, moments);
        }
    });
}

// The moments of channels begin ... end.
FASTISEAT_CLONES void moments_of_planes(const Call &call, int64_t begin, int64_t end, double *mean,
                                        double *second) {
    const Shape shape = call.shape;
    const int64_t step = planes_at_once(shape);
    with_dtype(call.dtype, [&](auto zero) FASTISEAT_INLINE_BODY {
        using T = decltype(zero);
        for (int64_t n = 0; n < shape.num; n += step) {
            const int64_t stop = std::min(n + step, shape.num);
            for (int64_t c = begin; c < end; ++c) {
                Moments moments{mean + c, second + c, static_cast<double>(n * shape.inner)};
                each_stretch(shape, c, n, stop, [&](const Stretch &stretch) FASTISEAT_INLINE_BODY {
                    const T *s = in<T>(call.a);
                    for (int64_t piece = 0; piece < stretch.count; ++piece) {
                        const int64_t at = stretch.offset + piece * stretch.stride;
                        s = summed<T>(call, at, at + stretch.size);
                    }
                    stretch_moments(s, stretch, moments);
                });
            }
        }
    });
}

// Mean and squared deviations of all channels, in 2 * channels numbers.
std::vector<double> moments_of(const Call &call) {
    const int64_t channels = call.shape.channels;
    if (!call.is_rows()) {
        std::vector<double> found(static_cast<size_t>(2 * channels));
        over(call, channels, [&](int64_t begin, int64_t end) {
            moments_of_planes(call, begin, end, found.data(), found.data() + channels);
        });
        return found;
    }
    const Chunks chunks(call);
    std::vector<double> found(static_cast<size_t>(2 * channels * chunks.number));
    const auto chunk_moments = [&](int64_t chunk, double count) {
        double *mean = found.data() + 2 * channels * chunk;
        return Moments{mean, mean + channels, count};
    };
    over(call, chunks.number, [&](int64_t begin, int64_t end) {
        std::vector<float> scratch(static_cast<size_t>(3 * channels));
        for (int64_t chunk = begin; chunk < end; ++chunk) {
            Moments moments = chunk_moments(chunk, 0.0);
            const int64_t row = chunk * chunks.rows;
            moments_of_rows(call, row, std::min(row + chunks.rows, call.shape.num), scratch.data(), moments);
        }
    });
    Moments all = chunk_moments(0, static_cast<double>(std::min(chunks.rows, call.shape.num)));
    for (int64_t chunk = 1; chunk < chunks.number; ++chunk) {
        const int64_t rows = std::min(chunks.rows, call.shape.num - chunk * chunks.rows);
        all.join(channels, chunk_moments(chunk, static_cast<double>(rows)));
    }
    return found;
}

// y of runs begin ... end, and s where it is not there yet.
FASTISEAT_CLONES void activate_runs(const Call &call, Affine affine, bool has_s, int64_t begin, int64_t end) {
    const int64_t size = call.run_size(), channels = call.shape.channels;
    const bool is_rows = call.is_rows();
    with_dtype(call.dtype, [&](auto zero) FASTISEAT_INLINE_BODY {
        using T = decltype(zero);
        const T *s = in<T>(call.b == nullptr ? call.a : call.s);
        if (!has_s) s = summed<T>(call, begin * size, end * size);
        T *y = out<T>(call.y);
        for (int64_t run = begin; run < end; ++run) {
            const int64_t at = run * size;
            if (is_rows) activate<T, true>(s + at, y + at, affine, size);
            else activate<T, false>(s + at, y + at, affine.from(run % channels), size);
        }
    });
}

void activate_all(const Call &call, Affine affine, bool has_s) {
    // The cut is that of the statistics, so that a thread finds its elements in its cache.
    const int64_t per_item = call.is_rows() ? Chunks(call).rows : call.shape.channels;
    const int64_t items = (call.num_runs() + per_item - 1) / per_item;
    over(call, items, [&](int64_t first, int64_t last) {
        const int64_t begin = first * per_item, end = std::min(last * per_item, call.num_runs());
        backwards(begin, end, call.run_size(), [&](int64_t from, int64_t to) {
            activate_runs(call, affine, has_s, from, to);
        });
    });
}

}  // namespace

int32_t fastiseat_bn_act(FASTISEAT_BN_ACT_ARGUMENTS, int32_t num_threads) {
    const Call call{a, b, s, y, {num, channels, inner}, dtype, num_threads};
    if (!call.served() || call.count() < 2) return FASTISEAT_UNSUPPORTED;
    const std::vector<double> moments = moments_of(call);
    std::vector<float> scale(static_cast<size_t>(channels));
    const double count = static_cast<double>(call.count());
    for (int64_t c = 0; c < channels; ++c) {
        const double second = moments[static_cast<size_t>(channels + c)];
        mean[c] = static_cast<float>(moments[static_cast<size_t>(c)]);
        var[c] = static_cast<float>(second / (count - 1.0));
        rstd[c] = static_cast<float>(1.0 / std::sqrt(second / count + static_cast<double>(eps)));
        scale[static_cast<size_t>(c)] = weight[c] * rstd[c];
    }
    activate_all(call, Affine{mean, scale.data(), bias}, true);
    return FASTISEAT_OK;
}

int32_t fastiseat_bn_act_eval(FASTISEAT_BN_ACT_EVAL_ARGUMENTS, int32_t num_threads) {
    const Call call{a, b, s, y, {num, channels, inner}, dtype, num_threads};
    if (!call.served()) return FASTISEAT_UNSUPPORTED;
    const std::vector<float> scale = scales(weight, inverse_deviations(var, eps, channels));
    activate_all(call, Affine{mean, scale.data(), bias}, b == nullptr);
    return FASTISEAT_OK;
}
