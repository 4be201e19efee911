#include "../fastiseat.h"

int32_t fastiseat_abi_version(void) {
    return FASTISEAT_ABI_VERSION;
}

const char *fastiseat_error_name(int32_t code) {
    return code == FASTISEAT_OK ? "no error" : "a dtype, size or choice that it does not serve";
}
