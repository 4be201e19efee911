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
__device__ __forceinline__ Four load_four(const T *buffer, int64 place) {
    const Pack<T, kFlatVec> pack = load_pack<T, kFlatVec>(buffer + place);
    Four values;
#pragma unroll
    for (int i = 0; i < kFlatVec; ++i) values.items[i] = to_float(pack.items[i]);
    return values;
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
