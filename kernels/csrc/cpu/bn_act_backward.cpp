#include "bn_act_call.h"

namespace {

using namespace fastiseat;

// Adds the sums of g and g * (s - mean) over rows begin ... end.
FASTISEAT_CLONES void gradients_of_rows(const Call &call, Affine affine, int64_t begin, int64_t end,
                                        float *scratch, double *sum, double *product) {
    with_dtype(call.dtype, [&](auto zero) FASTISEAT_INLINE_BODY {
        using T = decltype(zero);
        for (int64_t row = begin; row < end; row += kBlockRows)
            row_gradients(in<T>(call.a), in<T>(call.s), affine, call.shape.channels, row,
                          std::min(row + kBlockRows, end), scratch, sum, product);
    });
}

// The same for channels begin ... end of planes.
FASTISEAT_CLONES void gradients_of_planes(const Call &call, Affine affine, int64_t begin, int64_t end, double *sum,
                                          double *product) {
    const Shape shape = call.shape;
    const int64_t step = planes_at_once(shape);
    float mean[kLanes], scale[kLanes], bias[kLanes];
    with_dtype(call.dtype, [&](auto zero) FASTISEAT_INLINE_BODY {
        using T = decltype(zero);
        for (int64_t n = 0; n < shape.num; n += step) {
            const int64_t stop = std::min(n + step, shape.num);
            for (int64_t c = begin; c < end; ++c) {
                std::fill(mean, mean + kLanes, affine.mean[c]);
                std::fill(scale, scale + kLanes, affine.scale[c]);
                std::fill(bias, bias + kLanes, affine.bias[c]);
                each_stretch(shape, c, n, stop, [&](const Stretch &stretch) FASTISEAT_INLINE_BODY {
                    stretch_gradients(in<T>(call.a), in<T>(call.s), Affine{mean, scale, bias}, stretch, sum[c],
                                      product[c]);
                });
            }
        }
    });
}

// Sums of g and of g * (s - mean) of all channels, in 2 * channels numbers.
std::vector<double> gradients_of(const Call &call, Affine affine) {
    const int64_t channels = call.shape.channels;
    if (!call.is_rows()) {
        std::vector<double> found(static_cast<size_t>(2 * channels));
        over(call, channels, [&](int64_t begin, int64_t end) {
            gradients_of_planes(call, affine, begin, end, found.data(), found.data() + channels);
        });
        return found;
    }
    const Chunks chunks(call);
    std::vector<double> found(static_cast<size_t>(2 * channels * chunks.number));
    over(call, chunks.number, [&](int64_t begin, int64_t end) {
        std::vector<float> scratch(static_cast<size_t>(2 * channels));
        for (int64_t chunk = begin; chunk < end; ++chunk) {
            double *sum = found.data() + 2 * channels * chunk;
            const int64_t row = chunk * chunks.rows, stop = std::min(row + chunks.rows, call.shape.num);
            gradients_of_rows(call, affine, row, stop, scratch.data(), sum, sum + channels);
        }
    });
    const size_t size = static_cast<size_t>(2 * channels);
    for (size_t at = size; at < found.size(); ++at) found[at % size] += found[at];
    return found;
}

template <typename T, bool kIsRow>
FASTISEAT_INLINE void differentiate_run(const Call &call, Affine affine, Share share, int64_t at, int64_t size) {
    const T *dy = in<T>(call.a) + at, *s = in<T>(call.s) + at;
    T *dx = out<T>(call.y) + at;
    const T *ds = call.b ? in<T>(call.b) + at : nullptr;
    if (share.slope && ds) differentiate<T, kIsRow, true, true>(dy, ds, s, dx, affine, share, size);
    else if (share.slope) differentiate<T, kIsRow, true, false>(dy, ds, s, dx, affine, share, size);
    else if (ds) differentiate<T, kIsRow, false, true>(dy, ds, s, dx, affine, share, size);
    else differentiate<T, kIsRow, false, false>(dy, ds, s, dx, affine, share, size);
}

FASTISEAT_CLONES void differentiate_runs(const Call &call, Affine affine, Share share, int64_t begin,
                                         int64_t end) {
    const int64_t size = call.run_size(), channels = call.shape.channels;
    const bool is_rows = call.is_rows();
    with_dtype(call.dtype, [&](auto zero) FASTISEAT_INLINE_BODY {
        using T = decltype(zero);
        for (int64_t run = begin; run < end; ++run) {
            const int64_t c = run % channels;
            if (is_rows) differentiate_run<T, true>(call, affine, share, run * size, size);
            else differentiate_run<T, false>(call, affine.from(c), share.from(c), run * size, size);
        }
    });
}

void differentiate_all(const Call &call, Affine affine, Share share) {
    const int64_t per_item = call.is_rows() ? Chunks(call).rows : call.shape.channels;
    const int64_t items = (call.num_runs() + per_item - 1) / per_item;
    over(call, items, [&](int64_t first, int64_t last) {
        const int64_t begin = first * per_item, end = std::min(last * per_item, call.num_runs());
        backwards(begin, end, call.run_size(), [&](int64_t from, int64_t to) {
            differentiate_runs(call, affine, share, from, to);
        });
    });
}

// dweight and dbias, and per channel the shares that dx loses to the mean and the variance.
std::vector<float> finish(const Call &call, Affine affine, const float *rstd, float *dweight, float *dbias) {
    const int64_t channels = call.shape.channels;
    const std::vector<double> sums = gradients_of(call, affine);
    std::vector<float> shares(static_cast<size_t>(2 * channels));
    const double count = static_cast<double>(call.count());
    for (int64_t c = 0; c < channels; ++c) {
        const double sum = sums[static_cast<size_t>(c)], inverse = static_cast<double>(rstd[c]);
        const double product = sums[static_cast<size_t>(channels + c)] * inverse;
        dbias[c] = static_cast<float>(sum);
        dweight[c] = static_cast<float>(product);
        shares[static_cast<size_t>(c)] = static_cast<float>(sum / count);
        shares[static_cast<size_t>(channels + c)] = static_cast<float>(product * inverse / count);
    }
    return shares;
}

}  // namespace

int32_t fastiseat_bn_act_backward(FASTISEAT_BN_ACT_BACKWARD_ARGUMENTS, int32_t num_threads) {
    const Call call{dy, ds, const_cast<void *>(s), dx, {num, channels, inner}, dtype, num_threads};
    if (!call.served()) return FASTISEAT_UNSUPPORTED;
    const std::vector<float> scale = scales(weight, std::vector<float>(rstd, rstd + channels));
    const Affine affine{mean, scale.data(), bias};
    const std::vector<float> shares = finish(call, affine, rstd, dweight, dbias);
    differentiate_all(call, affine, Share{shares.data(), shares.data() + channels});
    return FASTISEAT_OK;
}

int32_t fastiseat_bn_act_eval_backward(FASTISEAT_BN_ACT_EVAL_BACKWARD_ARGUMENTS, int32_t num_threads) {
    const Call call{dy, ds, const_cast<void *>(s), dx, {num, channels, inner}, dtype, num_threads};
    if (!call.served()) return FASTISEAT_UNSUPPORTED;
    const std::vector<float> rstd = inverse_deviations(var, eps, channels);
    const std::vector<float> scale = scales(weight, rstd);
    const Affine affine{mean, scale.data(), bias};
    if (dweight != nullptr) finish(call, affine, rstd.data(), dweight, dbias);
    differentiate_all(call, affine, Share{nullptr, nullptr});
    return FASTISEAT_OK;
}
