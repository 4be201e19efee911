/* The host's side of a launch: from a dtype code to a type, from a size to a grid. */
#ifndef FASTISEAT_CUDA_LAUNCH_H
#define FASTISEAT_CUDA_LAUNCH_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "../fastiseat.h"

namespace fastiseat {

// Calls body(T{}) with the type that `dtype` stands for.
template <typename Body>
int32_t with_dtype(int32_t dtype, const Body &body) {
    switch (dtype) {
        case FASTISEAT_FLOAT32: return body(float{});
        case FASTISEAT_BFLOAT16: return body(__nv_bfloat16{});
        case FASTISEAT_FLOAT16: return body(__half{});
        default: return FASTISEAT_UNSUPPORTED;
    }
}

// What a launch came to: configuration errors only, since nothing here waits for the device.
inline int32_t launched() {
    return static_cast<int32_t>(cudaGetLastError());
}

inline unsigned num_blocks(int64_t items, int64_t items_per_block, int64_t most = 1 << 30) {
    return static_cast<unsigned>(std::min((items + items_per_block - 1) / items_per_block, most));
}

}  // namespace fastiseat

#endif
