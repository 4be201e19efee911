/* Loops over several threads: OpenMP's where the compiler has it, which are PyTorch's own where both use the same
 * runtime, so that no second team of threads competes for the cores. */
#ifndef FASTISEAT_CPU_PARALLEL_H
#define FASTISEAT_CPU_PARALLEL_H

#include <algorithm>
#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

// The loader picks the build of a function that suits the processor, so one library is both portable and fast.
// No build contracts a product and a sum: all give the same bits. 16-bit elements need all of x86-64-v4.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define FASTISEAT_CLONES __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#elif defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define FASTISEAT_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FASTISEAT_CLONES
#endif

namespace fastiseat {

// How many parts to cut `count` items into: no more than threads, none smaller than `grain` items.
inline int64_t num_parts(int64_t count, int64_t grain, int32_t num_threads) {
#ifdef _OPENMP
    return std::clamp<int64_t>(num_threads, 1, std::max<int64_t>(1, count / std::max<int64_t>(grain, 1)));
#else
    (void)count, (void)grain, (void)num_threads;
    return 1;
#endif
}

// Calls body(part, begin, end) for each of `parts` contiguous ranges that make up 0 ... count.
template <typename Body>
void for_each_part(int64_t parts, int64_t count, const Body &body) {
    const int64_t size = (count + parts - 1) / parts;
    if (parts == 1) {
        body(int64_t{0}, int64_t{0}, count);
        return;
    }
#ifdef _OPENMP
#pragma omp parallel for schedule(static, 1) num_threads(static_cast<int>(parts))
#endif
    for (int64_t part = 0; part < parts; ++part) {
        const int64_t begin = std::min(part * size, count);
        body(part, begin, std::min(begin + size, count));
    }
}

}  // namespace fastiseat

#endif
