"""Philox4x32-10 in plain integers: the generator that the augmentation draws from."""

from __future__ import annotations


def philox_oracle(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Salmon et al. 2011, section 3.3: one S-box on each half, the halves' words crossed, the key bumped."""
    left_a, right_a, left_b, right_b = counter
    key_a, key_b = key
    for _ in range(10):
        product_a, product_b = 0xD2511F53 * left_a, 0xCD9E8D57 * left_b
        left_a, right_a, left_b, right_b = (
            (product_b // 2**32) ^ right_a ^ key_a,
            product_b % 2**32,
            (product_a // 2**32) ^ right_b ^ key_b,
            product_a % 2**32,
        )
        key_a, key_b = (key_a + 0x9E3779B9) % 2**32, (key_b + 0xBB67AE85) % 2**32
    return left_a, right_a, left_b, right_b
