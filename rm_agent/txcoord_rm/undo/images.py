"""Images as the undo log holds them where the database has no text of a whole row: JSON, compressed when it is long.

Numbers and texts stand as JSON has them (Python writes floating-point numbers so that they are read back to the bit), bytes as
`{"hex": "..."}`. The first byte tells: `[` is JSON, anything else is zlib's.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any

from txcoord_rm.undo.item import Image

_LONG = 4096


def encode(images: Sequence[Image | None]) -> bytes:
    """Images of the rows of one statement; None: there is no such row."""
    return packed(written(images))


def written(images: Sequence[Image | None]) -> bytes:
    """They as JSON."""
    return json.dumps(images, default=_hex, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def packed(data: bytes) -> bytes:
    """JSON of them, compressed if it is long."""
    return zlib.compress(data, 1) if len(data) > _LONG else data


def decode(data: object) -> tuple[Image | None, ...]:
    """The images that `encode` was given.

    Raises:
        ValueError: It is nothing that `encode` makes.
    """
    if not isinstance(data, bytes):  # SQLite keeps whatever was written there
        raise ValueError(f"{type(data).__name__} instead of bytes")
    try:
        found = json.loads(
            (data if data[:1] == b"[" else zlib.decompress(data)).decode("utf-8", "surrogatepass"), object_hook=_bytes
        )
    except zlib.error as error:
        raise ValueError(f"neither JSON nor compressed: {error}") from error
    if not isinstance(found, list) or not all(image is None or isinstance(image, list) for image in found):
        raise ValueError("no list of rows")
    return tuple(None if image is None else tuple(image) for image in found)


def _hex(value: Any) -> dict[str, str]:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"hex": bytes(value).hex()}
    raise TypeError(f"an image cannot hold {type(value).__name__}")


def _bytes(found: dict[str, Any]) -> bytes:
    if found.keys() != {"hex"} or not isinstance(found["hex"], str):
        raise ValueError(f"no value of an image: {found!r}"[:120])
    return bytes.fromhex(found["hex"])
