/* Philox4x32-10, as kernels/core/philox.py defines it: four words as a function of a counter and a key. */
#ifndef FASTISEAT_CPU_PHILOX_H
#define FASTISEAT_CPU_PHILOX_H

#include <cstdint>

namespace fastiseat {

struct Words {
    uint32_t at[4];
};

inline Words philox(Words counter, uint64_t key) {
    uint32_t key_0 = static_cast<uint32_t>(key), key_1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round) {
        const uint64_t product_0 = uint64_t{0xD2511F53u} * counter.at[0];
        const uint64_t product_1 = uint64_t{0xCD9E8D57u} * counter.at[2];
        counter = {{static_cast<uint32_t>(product_1 >> 32) ^ counter.at[1] ^ key_0,
                    static_cast<uint32_t>(product_1),
                    static_cast<uint32_t>(product_0 >> 32) ^ counter.at[3] ^ key_1,
                    static_cast<uint32_t>(product_0)}};
        key_0 += 0x9E3779B9u;
        key_1 += 0xBB67AE85u;
    }
    return counter;
}

// A word as an integer 0 ... bound - 1.
inline int64_t below(uint32_t word, int64_t bound) {
    return static_cast<int64_t>((static_cast<uint64_t>(word) * static_cast<uint64_t>(bound)) >> 32);
}

}  // namespace fastiseat

#endif
