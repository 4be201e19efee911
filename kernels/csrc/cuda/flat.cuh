/* Flat buffers on the device: a thread block of 256 works on a block of 1024 elements, four a thread. */
#ifndef FASTISEAT_CUDA_FLAT_CUH
#define FASTISEAT_CUDA_FLAT_CUH

#include "common.cuh"

namespace fastiseat {

constexpr int kFlatBlock = 1024;
constexpr int kFlatVec = 4;
constexpr int kFlatThreads = kFlatBlock / kFlatVec;

using Four = Pack<float, kFlatVec>;

// This thread's place in a buffer.
__device__ __forceinline__ int64 flat_place() {
    return static_cast<int64>(blockIdx.x) * kFlatBlock + threadIdx.x * kFlatVec;
}

template <typename T>
__device__ __forceinline__ Four to_four(const Pack<T, kFlatVec> &pack) {
    Four values;
#pragma unroll
    for (int i = 0; i < kFlatVec; ++i) values.items[i] = to_float(pack.items[i]);
    return values;
}

template <typename T>
__device__ __forceinline__ Four load_four(const T *buffer, int64 place) {
    return to_four(load_pack<T, kFlatVec>(buffer + place));
}

// As it lies in memory, so that nothing waits for it yet; zeros of a buffer that is NULL.
template <typename T>
__device__ __forceinline__ Pack<T, kFlatVec> load_where_given(const T *buffer, int64 place) {
    Pack<T, kFlatVec> pack = {};
    if (buffer) pack = load_pack<T, kFlatVec>(buffer + place);
    return pack;
}

template <typename T>
__device__ __forceinline__ void store_four(T *buffer, int64 place, const Four &values) {
    Pack<T, kFlatVec> pack;
#pragma unroll
    for (int i = 0; i < kFlatVec; ++i) pack.items[i] = from_float<T>(values.items[i]);
    store_pack<T, kFlatVec>(buffer + place, pack);
}

}  // namespace fastiseat

#endif
