"""Ways in which a file comes to be wrong, each a function of its bytes, at places that a seed chooses."""

import random
from collections.abc import Callable

Damage = Callable[[bytes], bytes]


def cut(share: float) -> Damage:
    """The file ends early."""
    return lambda content: content[: int(share * len(content))]


def flipped(seed: int, bits: int = 1) -> Damage:
    """Bits are flipped."""

    def damage(content: bytes) -> bytes:
        rng, changed = random.Random(seed), bytearray(content)
        for _ in range(bits):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed)

    return damage


def blank(seed: int, size: int = 512) -> Damage:
    """A block is all zeros, as after a power failure."""

    def damage(content: bytes) -> bytes:
        start = random.Random(seed).randrange(max(1, len(content) - size))
        return content[:start] + bytes(size) + content[start + size :]

    return damage


def missing(seed: int, size: int = 512) -> Damage:
    """A block is left out."""

    def damage(content: bytes) -> bytes:
        start = random.Random(seed).randrange(max(1, len(content) - size))
        return content[:start] + content[start + size :]

    return damage


def replaced(content: bytes) -> Damage:
    """The file has other contents."""
    return lambda _: content


def followed_by(more: bytes) -> Damage:
    """Something was appended."""
    return lambda content: content + more
