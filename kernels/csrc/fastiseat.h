/* What every part of the native libraries shares: a flat C interface, no C++ types and no torch, so that one build
 * serves every torch. Two libraries have it: one for the CPU, one for CUDA devices. */
#ifndef FASTISEAT_H
#define FASTISEAT_H

#include <stdint.h>

#if defined(_WIN32)
#define FASTISEAT_API __declspec(dllexport)
#else
#define FASTISEAT_API __attribute__((visibility("default")))
#endif

/* Raised whenever a signature changes; the Python side refuses a library of another number. */
#define FASTISEAT_ABI_VERSION 4

/* What an array holds; its pointer is a void * where several are taken. */
enum { FASTISEAT_FLOAT32 = 0, FASTISEAT_BFLOAT16 = 1, FASTISEAT_FLOAT16 = 2 };

/* What a function returns: 0, or why nothing was done; unsupported is also a choice whose number has no name here, as
 * no function takes one that it lacks for one that it has. Positive numbers are a cudaError_t. */
enum { FASTISEAT_OK = 0, FASTISEAT_UNSUPPORTED = -1 };

#ifdef __cplusplus
extern "C" {
#endif

FASTISEAT_API int32_t fastiseat_abi_version(void);

/* The name of what a function returned; of a static string. */
FASTISEAT_API const char *fastiseat_error_name(int32_t code);

#ifdef __cplusplus
}
#endif

#endif
