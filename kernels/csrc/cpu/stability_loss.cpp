#include "../stability_loss.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "parallel.h"
#include "softmax.h"

namespace {

using fastiseat::Normaliser;

struct Batch {
    const float *logits, *clean_logits;
    const int64_t *labels;
    int64_t num_samples, num_classes;
    float lam;
    int64_t distance;
    float *losses, *clean_losses, *weights, *of_adversarial, *of_stability, *of_stability_clean;
    Normaliser *normalisers, *clean_normalisers;
    float *weighted;  // w d
};

// Below this many elements for each thread, waking a thread costs about what it saves.
constexpr int64_t kMinElementsPerThread = 1 << 12;

inline float cross_entropy(const Normaliser &normaliser, const float *logits, int64_t label, int64_t num_classes) {
    if (label < 0 || label >= num_classes) return std::numeric_limits<float>::quiet_NaN();
    return -normaliser.log_probability(logits[label]);
}

// Losses, and in the rows of the gradients what they begin with: e^(z' - max), and for the divergence e^(z - max).
FASTISEAT_CLONES void lose(const Batch &batch, int64_t begin, int64_t end) {
    const int64_t num_classes = batch.num_classes;
    for (int64_t i = begin; i < end; ++i) {
        const int64_t row = i * num_classes, label = batch.labels[i];
        const float *logits = batch.logits + row, *clean_logits = batch.clean_logits + row;
        batch.normalisers[i] = fastiseat::normalise(logits, num_classes, batch.of_adversarial + row);
        batch.clean_normalisers[i] =
            fastiseat::normalise(clean_logits, num_classes, batch.of_stability_clean + row);
        batch.losses[i] = cross_entropy(batch.normalisers[i], logits, label, num_classes);
        batch.clean_losses[i] = cross_entropy(batch.clean_normalisers[i], clean_logits, label, num_classes);
    }
}

void weigh(const Batch &batch, bool linear, int64_t num_weighted) {
    const auto m = static_cast<size_t>(batch.num_samples);
    std::vector<float> vulnerability(m);
    std::vector<size_t> order(m);
    std::iota(order.begin(), order.end(), size_t{0});
    for (size_t i = 0; i < m; ++i) vulnerability[i] = batch.losses[i] - batch.clean_losses[i];
    // By index where all else is equal: there is one order, which no sort has to keep.
    std::sort(order.begin(), order.end(), [&](size_t i, size_t j) {
        const float v_i = vulnerability[i], v_j = vulnerability[j];
        const bool i_nan = v_i != v_i, j_nan = v_j != v_j;
        if (i_nan != j_nan) return i_nan;
        return v_i > v_j || (!(v_j > v_i) && i < j);
    });
    for (size_t rank = 0; rank < m; ++rank) {
        const float share = static_cast<float>(rank) / static_cast<float>(m);
        const bool among = static_cast<int64_t>(rank) < num_weighted;
        batch.weights[order[rank]] = linear ? 1.0f - share : (among ? 1.0f : 0.0f);
    }
}

// d, and its gradients times `scale`; `squares` is room for a row.
inline float squared_gap(const float *__restrict logits, const float *__restrict clean_logits, int64_t count,
                         float scale, float *__restrict squares, float *__restrict of_logits,
                         float *__restrict of_clean) {
    for (int64_t c = 0; c < count; ++c) {
        const float gap = logits[c] - clean_logits[c];
        squares[c] = gap * gap;
        of_logits[c] = scale * (2.0f * gap);
        of_clean[c] = -(scale * (2.0f * gap));
    }
    return fastiseat::row_sum(squares, count);
}

// The same for the divergence. `exponentials` holds e^(z' - max), and `of_clean` e^(z - max).
inline float divergence(const float *__restrict logits, const float *__restrict clean_logits, int64_t count,
                        const Normaliser &normaliser, const Normaliser &clean,
                        const float *__restrict exponentials, float scale, float *__restrict terms,
                        float *__restrict of_logits, float *__restrict of_clean) {
    for (int64_t c = 0; c < count; ++c) {
        const float p = of_clean[c] / clean.sum;
        const float ratio = clean.log_probability(clean_logits[c]) - normaliser.log_probability(logits[c]);
        of_clean[c] = p;
        of_logits[c] = p == 0.0f ? 0.0f : ratio;
        terms[c] = p * of_logits[c];
    }
    const float sum = fastiseat::row_sum(terms, count);
    for (int64_t c = 0; c < count; ++c) {
        const float p = of_clean[c], ratio = of_logits[c];
        of_clean[c] = scale * (p * (ratio - sum));
        of_logits[c] = scale * (exponentials[c] / normaliser.sum - p);
    }
    return sum;
}

FASTISEAT_CLONES void differentiate(const Batch &batch, int64_t begin, int64_t end) {
    const int64_t count = batch.num_classes;
    const float m = static_cast<float>(batch.num_samples);
    std::vector<float> room(static_cast<size_t>(count));
    for (int64_t i = begin; i < end; ++i) {
        const int64_t row = i * count;
        const Normaliser &normaliser = batch.normalisers[i];
        float *__restrict of_adversarial = batch.of_adversarial + row;
        const float scale = batch.lam * batch.weights[i] / m;
        const float distance =
            batch.distance == FASTISEAT_KL ? divergence(batch.logits + row, batch.clean_logits + row, count, normaliser,
                                  batch.clean_normalisers[i], of_adversarial, scale, room.data(),
                                  batch.of_stability + row, batch.of_stability_clean + row)
                     : squared_gap(batch.logits + row, batch.clean_logits + row, count, scale, room.data(),
                                   batch.of_stability + row, batch.of_stability_clean + row);
        batch.weighted[i] = batch.weights[i] * distance;
        const int64_t label = batch.labels[i];
        const float other = label >= 0 && label < count ? of_adversarial[label] / normaliser.sum - 1.0f : 0.0f;
        for (int64_t c = 0; c < count; ++c) of_adversarial[c] = of_adversarial[c] / normaliser.sum / m;
        if (label >= 0 && label < count) of_adversarial[label] = other / m;
    }
}

float mean(const float *values, int64_t count) {
    return static_cast<float>(std::accumulate(values, values + count, 0.0) / static_cast<double>(count));
}

}  // namespace

int32_t fastiseat_stability_loss(FASTISEAT_STABILITY_LOSS_ARGUMENTS, int32_t num_threads) {
    if (dtype != FASTISEAT_FLOAT32) return FASTISEAT_UNSUPPORTED;
    if (weighting != FASTISEAT_TOP && weighting != FASTISEAT_LINEAR) return FASTISEAT_UNSUPPORTED;
    if (distance != FASTISEAT_SQUARED_L2 && distance != FASTISEAT_KL) return FASTISEAT_UNSUPPORTED;
    const auto m = static_cast<size_t>(num_samples);
    std::vector<Normaliser> normalisers(m), clean_normalisers(m);
    std::vector<float> weighted(m);
    const Batch batch{static_cast<const float *>(logits), static_cast<const float *>(clean_logits), labels,
                      num_samples, num_classes, lam_tensor ? *lam_tensor : lam, distance, losses, clean_losses,
                      weights, of_adversarial, of_stability, of_stability_clean, normalisers.data(),
                      clean_normalisers.data(), weighted.data()};
    const int64_t rows_per_thread = kMinElementsPerThread / num_classes + 1;
    const int64_t parts = fastiseat::num_parts(num_samples, rows_per_thread, num_threads);
    fastiseat::for_each_part(parts, num_samples, [&](int64_t, int64_t begin, int64_t end) {
        lose(batch, begin, end);
    });
    weigh(batch, weighting == FASTISEAT_LINEAR, num_weighted);
    fastiseat::for_each_part(parts, num_samples, [&](int64_t, int64_t begin, int64_t end) {
        differentiate(batch, begin, end);
    });
    *adversarial = mean(losses, num_samples);
    *stability = batch.lam * mean(weighted.data(), num_samples);
    *total = *adversarial + *stability;
    return FASTISEAT_OK;
}
