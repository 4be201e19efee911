#include "augment.cuh"

#include "../augment.h"
#include "launch.h"

namespace {

using fastiseat::AugmentBatch;
using fastiseat::AugmentDivisor;

// Outputs from which a block works on several packs a thread: there are blocks enough, and a sample's fate, which
// all threads wait for, is found less often.
constexpr int64_t kMany = int64_t{1} << 22;

// Granlund & Montgomery, 1994: the quotient is (high word of dividend * factor + dividend) >> shift.
AugmentDivisor divisor(int64_t number) {
    unsigned shift = 0;
    while (int64_t{1} << shift < number) ++shift;
    const int64_t factor = (((int64_t{1} << shift) - number) << 32) / number + 1;
    return {static_cast<unsigned>(number), static_cast<unsigned>(factor), shift};
}

template <typename T, bool CHANNELS_LAST, int VEC>
int32_t launch(const AugmentBatch &batch, T *out, int64_t num_samples, int64_t size, cudaStream_t stream) {
    const unsigned packs = num_samples >= kMany / size ? 4 : 1;
    const unsigned blocks_per_sample =
        fastiseat::num_blocks(size, int64_t{fastiseat::kAugmentThreads} * VEC * packs);
    const int64_t blocks = num_samples * blocks_per_sample;
    if (blocks > INT32_MAX) return FASTISEAT_UNSUPPORTED;
    fastiseat::augment_kernel<T, CHANNELS_LAST, VEC>
        <<<static_cast<unsigned>(blocks), fastiseat::kAugmentThreads, 0, stream>>>(batch, out, blocks_per_sample,
                                                                                   packs);
    return fastiseat::launched();
}

// Packs of four where every sample begins with one.
template <typename T, bool CHANNELS_LAST>
int32_t launch_packed(const AugmentBatch &batch, T *out, int64_t num_samples, int64_t size, cudaStream_t stream) {
    if (size % 4 == 0) return launch<T, CHANNELS_LAST, 4>(batch, out, num_samples, size, stream);
    return launch<T, CHANNELS_LAST, 1>(batch, out, num_samples, size, stream);
}

}  // namespace

int32_t fastiseat_cuda_augment(FASTISEAT_AUGMENT_ARGUMENTS, void *stream) {
    if (pad_mode != FASTISEAT_PAD_ZERO && pad_mode != FASTISEAT_PAD_REFLECT) return FASTISEAT_UNSUPPORTED;
    if (layout != FASTISEAT_CONTIGUOUS && layout != FASTISEAT_CHANNELS_LAST) return FASTISEAT_UNSUPPORTED;
    const bool channels_last = layout == FASTISEAT_CHANNELS_LAST;
    const int64_t size = height * width * channels;
    if (size == 0 || num_samples == 0) return FASTISEAT_OK;
    const AugmentBatch batch{images,
                             reinterpret_cast<const fastiseat::int64 *>(index),
                             reinterpret_cast<const fastiseat::int64 *>(rows),
                             reinterpret_cast<const fastiseat::int64 *>(epoch_at),
                             num_images,
                             static_cast<int>(height),
                             static_cast<int>(width),
                             static_cast<int>(channels),
                             static_cast<unsigned>(seed),
                             static_cast<unsigned>(static_cast<uint64_t>(seed) >> 32),
                             static_cast<unsigned>(epoch),
                             static_cast<int>(pad),
                             flip != 0,
                             pad_mode == FASTISEAT_PAD_REFLECT,
                             divisor(channels_last ? channels : width),
                             divisor(channels_last ? width : height)};
    const auto on = static_cast<cudaStream_t>(stream);
    return fastiseat::with_dtype(static_cast<int32_t>(dtype), [&](auto value) {
        using T = decltype(value);
        T *values = static_cast<T *>(out);
        return channels_last ? launch_packed<T, true>(batch, values, num_samples, size, on)
                             : launch_packed<T, false>(batch, values, num_samples, size, on);
    });
}
