"""Independent random streams, each a function of the run's seed and a name."""

import hashlib


def stream_seed(seed: int, name: str) -> int:
    """A 63-bit seed for the stream of that name; other names and other seeds give unrelated streams."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1
