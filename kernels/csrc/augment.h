#ifndef FASTISEAT_AUGMENT_H
#define FASTISEAT_AUGMENT_H

#include "fastiseat.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What lies around an image, and the order of a result's elements. */
enum { FASTISEAT_PAD_ZERO = 0, FASTISEAT_PAD_REFLECT = 1 };
enum { FASTISEAT_CONTIGUOUS = 0, FASTISEAT_CHANNELS_LAST = 1 };

/*
 * Gather, horizontal flip, crop and conversion of num_samples images, as docs/kernels.md defines them.
 *
 *     images     uint8, num_images x height x width x channels
 *     index      places in the data set, which with seed (its 64 bits) and epoch (its low 32) tell each draw
 *     rows       which image each sample is; NULL where sample i is image i. A row of no image gives NaN.
 *     epoch_at   where the epoch lies, on the device of the arrays; NULL where it is `epoch`
 *     out        of `dtype`, num_samples x height x width x channels (FASTISEAT_CHANNELS_LAST) or
 *                num_samples x channels x height x width (FASTISEAT_CONTIGUOUS)
 *
 * FASTISEAT_PAD_REFLECT needs pad below height and width. height * width * channels, height + 2 * pad and width + 2 * pad stay
 * below 2^30.
 */
#define FASTISEAT_AUGMENT_ARGUMENTS                                                                                  \
    const uint8_t *images, const int64_t *index, const int64_t *rows, const int64_t *epoch_at, void *out,            \
    int64_t num_samples, int64_t num_images, int64_t height, int64_t width, int64_t channels, int64_t seed,          \
    int64_t epoch, int64_t pad, int32_t flip, int64_t pad_mode, int64_t layout, int64_t dtype

FASTISEAT_API int32_t fastiseat_augment(FASTISEAT_AUGMENT_ARGUMENTS, int32_t num_threads);
FASTISEAT_API int32_t fastiseat_cuda_augment(FASTISEAT_AUGMENT_ARGUMENTS, void *stream);

#ifdef __cplusplus
}
#endif

#endif
