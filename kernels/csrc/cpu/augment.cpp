#include "../augment.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "half.h"
#include "parallel.h"
#include "philox.h"

namespace {

using fastiseat::BFloat16;
using fastiseat::Float16;

struct Batch {
    const uint8_t *images;
    const int64_t *index, *rows;
    int64_t num_images, height, width, channels;
    uint64_t seed;
    uint32_t epoch;
    int64_t pad;
    bool flip, reflect, channels_last;

    int64_t image_size() const {
        return height * width * channels;
    }
};

// What becomes of a sample: its window's first row and column, counted from the image's own, -pad ... pad.
struct Fate {
    bool mirrored;
    int64_t top, left;
};

// Below this many values for each thread, waking a thread costs about what it saves.
constexpr int64_t kMinValuesPerThread = 1 << 15;
// The counter's last word: Stream.AUGMENT of kernels/core/philox.py.
constexpr uint32_t kStream = 1;

Fate draw(const Batch &batch, int64_t sample) {
    const uint64_t place = static_cast<uint64_t>(batch.index[sample]);
    const fastiseat::Words words = fastiseat::philox(
        {{static_cast<uint32_t>(place), static_cast<uint32_t>(place >> 32), batch.epoch, kStream}}, batch.seed);
    const int64_t bound = 2 * batch.pad + 1;
    return {batch.flip && words.at[0] >> 31, fastiseat::below(words.at[1], bound) - batch.pad,
            fastiseat::below(words.at[2], bound) - batch.pad};
}

inline int64_t reflected(int64_t place, int64_t size) {
    if (place < 0) return -place;
    return place < size ? place : 2 * (size - 1) - place;
}

// CHANNELS is 0 where the compiler is not told how many bytes a pixel has.
template <int CHANNELS>
struct Pixels {
    int64_t width, any_channels;

    int64_t channels() const {
        return CHANNELS ? CHANNELS : any_channels;
    }

    size_t bytes(int64_t pixels) const {
        return static_cast<size_t>(pixels * channels());
    }

    void mirror(const uint8_t *row, uint8_t *out) const {
        for (int64_t x = 0; x < width; ++x)
            std::memcpy(out + x * channels(), row + (width - 1 - x) * channels(), bytes(1));
    }

    void crop(const uint8_t *row, int64_t left, bool reflect, uint8_t *out) const {
        const int64_t begin = std::clamp<int64_t>(-left, 0, width);
        const int64_t end = std::clamp<int64_t>(width - left, begin, width);
        if (end > begin) std::memcpy(out + begin * channels(), row + (begin + left) * channels(), bytes(end - begin));
        const auto fill = [&](int64_t x, int64_t stop) {
            for (; x < stop; ++x) {
                if (reflect)
                    std::memcpy(out + x * channels(), row + reflected(x + left, width) * channels(), bytes(1));
                else
                    std::memset(out + x * channels(), 0, bytes(1));
            }
        };
        fill(0, begin);
        fill(end, width);
    }

    void separate(const uint8_t *row, uint8_t *out, int64_t plane_size) const {
        for (int64_t channel = 0; channel < channels(); ++channel)
            for (int64_t x = 0; x < width; ++x) out[channel * plane_size + x] = row[x * channels() + channel];
    }
};

// The window as bytes, in the order of the output. `row` and `mirrored` have room for one row each.
template <int CHANNELS>
void cut(const Batch &batch, const Fate &fate, const uint8_t *image, uint8_t *out, uint8_t *row, uint8_t *mirrored) {
    const Pixels<CHANNELS> pixels{batch.width, batch.channels};
    for (int64_t y = 0; y < batch.height; ++y) {
        uint8_t *line = batch.channels_last ? out + y * batch.width * pixels.channels() : row;
        const int64_t from = batch.reflect ? reflected(y + fate.top, batch.height) : y + fate.top;
        if (from < 0 || from >= batch.height) {
            std::memset(line, 0, pixels.bytes(batch.width));
        } else {
            const uint8_t *source = image + from * batch.width * pixels.channels();
            if (fate.mirrored) pixels.mirror(source, mirrored);
            pixels.crop(fate.mirrored ? mirrored : source, fate.left, batch.reflect, line);
        }
        if (!batch.channels_last) pixels.separate(line, out + y * batch.width, batch.height * batch.width);
    }
}

template <typename T>
inline __attribute__((always_inline)) void levels(const uint8_t *__restrict bytes, T *__restrict out, int64_t count) {
    for (int64_t i = 0; i < count; ++i) out[i] = fastiseat::from_float<T>(static_cast<float>(bytes[i]) / 255.0f);
}

FASTISEAT_CLONES void convert(const uint8_t *bytes, float *out, int64_t count) {
    levels(bytes, out, count);
}

FASTISEAT_CLONES void convert(const uint8_t *bytes, BFloat16 *out, int64_t count) {
    levels(bytes, out, count);
}

FASTISEAT_CLONES void convert(const uint8_t *bytes, Float16 *out, int64_t count) {
    levels(bytes, out, count);
}

template <typename T>
void augment_range(const Batch &batch, T *out, int64_t begin, int64_t end) {
    const int64_t size = batch.image_size(), row_size = batch.width * batch.channels;
    std::vector<uint8_t> window(static_cast<size_t>(size)), rows(static_cast<size_t>(2 * row_size));
    const auto cut_pixels = batch.channels == 3 ? cut<3> : batch.channels == 1 ? cut<1> : cut<0>;
    for (int64_t sample = begin; sample < end; ++sample) {
        const int64_t row = batch.rows ? batch.rows[sample] : sample;
        if (row < 0 || row >= batch.num_images) {
            const T nan = fastiseat::from_float<T>(std::numeric_limits<float>::quiet_NaN());
            std::fill_n(out + sample * size, size, nan);
            continue;
        }
        cut_pixels(batch, draw(batch, sample), batch.images + row * size, window.data(), rows.data(),
                   rows.data() + row_size);
        convert(window.data(), out + sample * size, size);
    }
}

template <typename T>
int32_t augment(const Batch &batch, void *out, int64_t num_samples, int32_t num_threads) {
    const int64_t grain = kMinValuesPerThread / std::max<int64_t>(batch.image_size(), 1);
    const int64_t parts = fastiseat::num_parts(num_samples, grain, num_threads);
    fastiseat::for_each_part(parts, num_samples, [&](int64_t, int64_t begin, int64_t end) {
        augment_range(batch, static_cast<T *>(out), begin, end);
    });
    return FASTISEAT_OK;
}

}  // namespace

int32_t fastiseat_augment(FASTISEAT_AUGMENT_ARGUMENTS, int32_t num_threads) {
    if (pad_mode != FASTISEAT_PAD_ZERO && pad_mode != FASTISEAT_PAD_REFLECT) return FASTISEAT_UNSUPPORTED;
    if (layout != FASTISEAT_CONTIGUOUS && layout != FASTISEAT_CHANNELS_LAST) return FASTISEAT_UNSUPPORTED;
    if (!fastiseat::is_dtype(dtype)) return FASTISEAT_UNSUPPORTED;
    const Batch batch{images,
                      index,
                      rows,
                      num_images,
                      height,
                      width,
                      channels,
                      static_cast<uint64_t>(seed),
                      static_cast<uint32_t>(epoch_at ? *epoch_at : epoch),
                      pad,
                      flip != 0,
                      pad_mode == FASTISEAT_PAD_REFLECT,
                      layout == FASTISEAT_CHANNELS_LAST};
    if (batch.image_size() == 0) return FASTISEAT_OK;
    switch (dtype) {
        case FASTISEAT_FLOAT32: return augment<float>(batch, out, num_samples, num_threads);
        case FASTISEAT_BFLOAT16: return augment<BFloat16>(batch, out, num_samples, num_threads);
        case FASTISEAT_FLOAT16: return augment<Float16>(batch, out, num_samples, num_threads);
        default: return FASTISEAT_UNSUPPORTED;
    }
}
