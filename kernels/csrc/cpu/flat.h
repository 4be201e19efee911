/* Flat buffers on the CPU: a block of 1024 elements at a time, read as floats whatever it holds. */
#ifndef FASTISEAT_CPU_FLAT_H
#define FASTISEAT_CPU_FLAT_H

#include <cstdint>

#include "half.h"

// A function with several builds calls these; inlined, they become vector code of each.
#if defined(__GNUC__)
#define FASTISEAT_INLINE inline __attribute__((always_inline))
#else
#define FASTISEAT_INLINE inline
#endif

namespace fastiseat {

constexpr int64_t kBlock = 1024;
// Below this many blocks for each thread, waking a thread costs about what it saves.
constexpr int64_t kMinBlocksPerThread = 16;

template <typename T>
FASTISEAT_INLINE void read_as(const void *buffer, int64_t block, float *__restrict values) {
    const T *items = static_cast<const T *>(buffer) + block * kBlock;
    for (int64_t i = 0; i < kBlock; ++i) values[i] = to_float(items[i]);
}

template <typename T>
FASTISEAT_INLINE void write_as(void *buffer, int64_t block, const float *__restrict values) {
    T *items = static_cast<T *>(buffer) + block * kBlock;
    for (int64_t i = 0; i < kBlock; ++i) items[i] = from_float<T>(values[i]);
}

FASTISEAT_INLINE void read_block(const void *buffer, int64_t dtype, int64_t block, float *__restrict values) {
    switch (dtype) {
        case FASTISEAT_BFLOAT16: return read_as<BFloat16>(buffer, block, values);
        case FASTISEAT_FLOAT16: return read_as<Float16>(buffer, block, values);
        default: return read_as<float>(buffer, block, values);
    }
}

FASTISEAT_INLINE void write_block(void *buffer, int64_t dtype, int64_t block, const float *__restrict values) {
    switch (dtype) {
        case FASTISEAT_BFLOAT16: return write_as<BFloat16>(buffer, block, values);
        case FASTISEAT_FLOAT16: return write_as<Float16>(buffer, block, values);
        default: return write_as<float>(buffer, block, values);
    }
}

}  // namespace fastiseat

#endif
