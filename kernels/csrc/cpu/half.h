/* bfloat16 and IEEE half as bit patterns, converted the way PyTorch does: to nearest, ties to even. */
#ifndef FASTISEAT_CPU_HALF_H
#define FASTISEAT_CPU_HALF_H

#include <cstdint>
#include <cstring>

#include "../fastiseat.h"

namespace fastiseat {

// Whether a code of fastiseat.h is one that arrays have here; all that read and write them rely on it.
inline bool is_dtype(int64_t dtype) {
    return dtype >= FASTISEAT_FLOAT32 && dtype <= FASTISEAT_FLOAT16;
}

inline uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float float_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

struct BFloat16 {
    uint16_t bits;
};

struct Float16 {
    uint16_t bits;
};

inline float to_float(float value) {
    return value;
}

inline float to_float(BFloat16 value) {
    return float_of(static_cast<uint32_t>(value.bits) << 16);
}

// Without branches, so that loops of it become vector code: the exponent is moved by a product, infinities apart.
inline float to_float(Float16 value) {
    const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
    const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7FFFu) << 13;
    const uint32_t scaled = bits_of(float_of(magnitude) * float_of(0x77800000u));  // 2^112
    const uint32_t special = 0x7F800000u | (magnitude & 0x007FFFFFu);
    return float_of(sign | (magnitude >= 0x0F800000u ? special : scaled));
}

template <typename T>
T from_float(float value);

template <>
inline float from_float<float>(float value) {
    return value;
}

template <>
inline BFloat16 from_float<BFloat16>(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    return {static_cast<uint16_t>(value != value ? 0x7FC0u : rounded)};
}

template <>
inline Float16 from_float<Float16>(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7FFFFFFFu;
    // Normal numbers: the exponent's bias changes by 112 and 13 bits are rounded off.
    const uint32_t normal = (magnitude - 0x38000000u + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
    // Below 2^-14 the sum with 0.5 has the result in its low bits, rounded by the addition itself.
    const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3F000000u;
    uint32_t result = magnitude < 0x38800000u ? subnormal : normal;
    result = magnitude >= 0x477FF000u ? 0x7C00u : result;
    result = magnitude > 0x7F800000u ? 0x7E00u : result;
    return {static_cast<uint16_t>(sign | result)};
}

}  // namespace fastiseat

#endif
