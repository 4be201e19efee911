#include "../fastiseat.h"

#include <cuda_runtime_api.h>

int32_t fastiseat_abi_version(void) {
    return FASTISEAT_ABI_VERSION;
}

const char *fastiseat_error_name(int32_t code) {
    if (code == FASTISEAT_OK) return "no error";
    if (code == FASTISEAT_UNSUPPORTED) return "a dtype, size or choice that it does not serve";
    return cudaGetErrorName(static_cast<cudaError_t>(code));
}
