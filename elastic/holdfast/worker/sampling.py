"""Which samples a microbatch holds, and every seed: functions of position alone, never of rank or layout.

Imports no torch. The samples of a job are one endless stream: position `p` is sample `p % size` of epoch
`p // size`, each epoch a permutation of the dataset of its own, of which nothing is ever stored.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

_MASK_64 = (1 << 64) - 1

# An even number, so that the two halves of an odd-width block are back in their places at the end. Four rounds make
# a strong pseudo-random permutation (Luby and Rackoff, 1988); two more for the tiny halves of small datasets.
_ROUNDS = 6


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed for `parts`, such as (job seed, purpose, step, microbatch, layer); stable for ever.

    Different parts give different encodings, whatever they are: ("ab", "c") is not ("a", "bc"), 1 is not "1".
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        kind, payload = (b"s", part.encode()) if isinstance(part, str) else (b"i", b"%d" % part)
        digest.update(b"%c%d:%b" % (kind, len(payload), payload))
    return int.from_bytes(digest.digest(), "big") >> 1


def microbatch_positions(step: int, index: int, *, global_batch: int, microbatch: int) -> range:
    """Stream positions of microbatch `index` of zero-based `step`."""
    start = step * global_batch + index * microbatch
    return range(start, start + microbatch)


def sample_index(seed: int, position: int, size: int) -> int:
    """Dataset index of stream `position`, for a dataset of `size` samples."""
    epoch, offset = divmod(position, size)
    return _epoch_permutation(seed, epoch, size)(offset)


def sample_indices(seed: int, positions: range, size: int) -> list[int]:
    """`sample_index` of each of `positions`."""
    return [sample_index(seed, position, size) for position in positions]


@dataclass(frozen=True, slots=True, kw_only=True)
class Permutation:
    """A keyed pseudo-random permutation of [0, size) that stores only its keys.

    A Feistel network permutes the smallest power of two that holds `size`; what falls outside is permuted again
    until it falls inside ("cycle walking": Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002, section
    3), which at most doubles the expected work. Where the block has an odd number of bits its halves differ in
    width and swap it every round.
    """

    size: int
    left_bits: int
    right_bits: int
    keys: tuple[int, ...]

    def __call__(self, value: int) -> int:
        value = self._permute_block(value)
        while value >= self.size:
            value = self._permute_block(value)
        return value

    def _permute_block(self, value: int) -> int:
        left_bits, right_bits = self.left_bits, self.right_bits
        left, right = value >> right_bits, value & ((1 << right_bits) - 1)
        for key in self.keys:
            left, right = right, left ^ (_mix(right ^ key) >> (64 - left_bits))
            left_bits, right_bits = right_bits, left_bits
        return left << right_bits | right


@lru_cache(maxsize=8)
def _epoch_permutation(seed: int, epoch: int, size: int) -> Permutation:
    bits = max(2, (size - 1).bit_length())
    return Permutation(
        size=size,
        left_bits=bits // 2,
        right_bits=bits - bits // 2,
        keys=tuple(derive_seed(seed, "permutation", epoch, round_) for round_ in range(_ROUNDS)),
    )


def _mix(value: int) -> int:
    """The finalizer of splitmix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, 2014)."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return value ^ (value >> 31)
