"""Counter-based randomness: the same integers from (stream, seed, position) on every device, nothing stored.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) maps a 128-bit counter and a
64-bit key to 128 random bits. The key is the seed; the counter is (block, position, stream, 0), so that a row's noise
depends on nothing but its seed and the absolute position in the response: not on the batch, its order, or what was
drawn before.

    integers  philox(counters, keys)                          exact everywhere
    Gaussians gaussians(seeds, positions, dim)                equal to 1e-6 across devices (Box-Muller)
    uniforms  uniforms(seeds, positions)                      for token draws; a stream of its own
    seeds     root_seed(seed, prompt) -> row_seed(root, round, row)
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

GAUSSIAN_STREAM = 0
TOKEN_STREAM = 1

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_MASK = 0xFFFFFFFF
_SEED_BITS = 64


def philox(counter: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Return Philox4x32-10 of a counter under a key.

    Args:
        counter: int64 of shape (4, ...) that holds 32-bit words.
        key: int64 of shape (2, ...) that holds 32-bit words and broadcasts against a counter word.

    Returns:
        int64 of shape (4, ...), 32-bit words.

    The 32 x 32 -> 64 bit product may exceed int64; two's complement keeps its bits, and the shift is masked to 32 of
    them.
    """
    import torch

    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product1 >> 32) & _MASK) ^ c1 ^ k0,
            product1 & _MASK,
            ((product0 >> 32) & _MASK) ^ c3 ^ k1,
            product0 & _MASK,
        )
        k0, k1 = (k0 + _KEY_INCREMENTS[0]) & _MASK, (k1 + _KEY_INCREMENTS[1]) & _MASK
    return torch.stack([c0, c1, c2, c3])


def words(seeds: Sequence[int], positions: torch.Tensor, blocks: int, stream: int) -> torch.Tensor:
    """Return random 32-bit words.

    Args:
        seeds: n 64-bit seeds, one a row.
        positions: int64 of shape (n, steps) or (1, steps): response positions, on the device to draw on.
        blocks: Philox blocks a position, of four words each.
        stream: `GAUSSIAN_STREAM` or `TOKEN_STREAM`.

    Returns:
        int64 of shape (4, n, steps, blocks).
    """
    import torch

    device = positions.device
    low = torch.tensor([seed & _MASK for seed in seeds], dtype=torch.int64, device=device)
    high = torch.tensor([(seed >> 32) & _MASK for seed in seeds], dtype=torch.int64, device=device)
    block = torch.arange(blocks, device=device).expand(len(seeds), positions.shape[1], blocks)
    position = positions[..., None].expand_as(block)
    counter = torch.stack([block, position, torch.full_like(block, stream), torch.zeros_like(block)])
    return philox(counter, torch.stack([low, high])[:, :, None, None])


def gaussians(seeds: Sequence[int], positions: torch.Tensor, dim: int) -> torch.Tensor:
    """Draw standard normal noise.

    Args:
        seeds: n seeds, one a row.
        positions: int64 of shape (n, steps), or (1, steps) where all rows are at the same positions.
        dim: Size of a pre-logit.

    Returns:
        float32 of shape (n, steps, dim), on the device of `positions`.
    """
    import torch

    # float64 keeps devices within 1e-6 of each other; MPS has none, and float32 stays within 5e-6 there.
    dtype = torch.float32 if positions.device.type == "mps" else torch.float64
    bits = words(seeds, positions, math.ceil(dim / 4), GAUSSIAN_STREAM)
    unit = (bits.to(dtype) + 0.5) * 2.0**-32
    radius = torch.sqrt(-2.0 * torch.log(unit[0::2].clamp_(min=2.0**-33)))
    angle = (2.0 * math.pi) * unit[1::2]
    normal = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)  # (2, n, steps, blocks, 2)
    n, steps = bits.shape[1:3]
    return normal.permute(1, 2, 3, 0, 4).reshape(n, steps, -1)[..., :dim].float()


def uniforms(seeds: Sequence[int], positions: torch.Tensor) -> torch.Tensor:
    """Draw the uniform numbers that choose tokens.

    Args:
        seeds: n seeds, one a row.
        positions: int64 of shape (n, steps) or (1, steps).

    Returns:
        float64 (float32 on MPS) of shape (n, steps), in the open interval (0, 1).
    """
    import torch

    dtype = torch.float32 if positions.device.type == "mps" else torch.float64
    bits = words(seeds, positions, 1, TOKEN_STREAM)[0, :, :, 0]
    return ((bits.to(dtype) + 0.5) * 2.0**-32).clamp_(max=1.0 - 2.0**-24)


def fresh_seed() -> int:
    """Draw a seed from the system's entropy, small enough to survive JSON in any language."""
    return secrets.randbits(53)


def root_seed(seed: int, prompt_tokens: Sequence[int]) -> int:
    """Return the 64-bit seed of a request from its own seed and its prompt."""
    tokens = ",".join(map(str, prompt_tokens))
    return _digest(f"request {seed} {tokens}")


def row_seed(root: int, round_index: int, row: int) -> int:
    """Return the 64-bit seed of a row: it depends on the request, the round and the row, never on a batch."""
    return _digest(f"row {root} {round_index} {row}")


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=_SEED_BITS // 8).digest(), "little")
