/* What the kernels share on the device. No host headers: NVRTC compiles every .cuh of this folder as it stands. */
#ifndef FASTISEAT_CUDA_COMMON_CUH
#define FASTISEAT_CUDA_COMMON_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace fastiseat {

using int64 = long long;  // NVRTC has no <cstdint>

__device__ __forceinline__ float to_float(float value) {
    return value;
}

__device__ __forceinline__ float to_float(__nv_bfloat16 value) {
    return __bfloat162float(value);
}

__device__ __forceinline__ float to_float(__half value) {
    return __half2float(value);
}

template <typename T>
__device__ __forceinline__ T from_float(float value);

template <>
__device__ __forceinline__ float from_float<float>(float value) {
    return value;
}

template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
    return __float2bfloat16(value);
}

template <>
__device__ __forceinline__ __half from_float<__half>(float value) {
    return __float2half(value);
}

// A number that the host knows, or that lies on the device so that a captured graph can see it change.
struct Number {
    float value;
    const float *tensor;

    __device__ __forceinline__ float get() const {
        return tensor ? *tensor : value;
    }
};

// VEC elements in one access; the address must be a multiple of its size.
template <typename T, int VEC>
struct alignas(sizeof(T) * VEC) Pack {
    T items[VEC];
};

template <typename T, int VEC>
__device__ __forceinline__ Pack<T, VEC> load_pack(const T *address) {
    return *reinterpret_cast<const Pack<T, VEC> *>(address);
}

// Where there is a word of the pack's size, by an instruction that the compiler can't tear into single items.
template <typename T, int VEC>
__device__ __forceinline__ void store_pack(T *address, const Pack<T, VEC> &pack) {
    if constexpr (sizeof(pack) == 16) {
        __stwb(reinterpret_cast<uint4 *>(address), *reinterpret_cast<const uint4 *>(&pack));
    } else if constexpr (sizeof(pack) == 8) {
        __stwb(reinterpret_cast<uint2 *>(address), *reinterpret_cast<const uint2 *>(&pack));
    } else {
        *reinterpret_cast<Pack<T, VEC> *>(address) = pack;
    }
}

// For every lane, and the same bits for each: in every turn both of a pair add the same two numbers. The order is
// fixed, as nothing here is added by whoever comes first.
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, offset);
    return value;
}

// The sum over the block, for every thread of it. `scratch` is shared memory of 33 elements.
template <typename T>
__device__ T block_sum(T value, T *scratch) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int num_warps = (blockDim.x + 31) / 32;
    value = warp_sum(value);
    if (lane == 0) scratch[warp] = value;
    __syncthreads();
    if (warp == 0) {
        value = warp_sum(lane < num_warps ? scratch[lane] : T(0));
        if (lane == 0) scratch[32] = value;
    }
    __syncthreads();  // the threads outside of the first warp read what it wrote
    const T sum = scratch[32];
    __syncthreads();  // the next call may write scratch
    return sum;
}

}  // namespace fastiseat

#endif
