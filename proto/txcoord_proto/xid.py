"""The identity of a global transaction.

An XID is minted by the coordinator and is opaque text to everybody else: `group.epoch.sequence`, of letters, digits, `.`, `-` and
`_`, at most 64 bytes. The epoch and the zero-padded sequence are written in base 36, so that XIDs of one epoch sort in the order
in which they were minted. A colon never occurs: clients of other systems split at it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from txcoord_proto.errors import MalformedXidError

MAX_LENGTH = 64
GROUP_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,32}")

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_EPOCH_WIDTH = 9
_SEQUENCE_WIDTH = 8
_PATTERN = re.compile(r"([A-Za-z0-9_-]{1,32})\.([0-9a-z]{1,12})\.([0-9a-z]{1,13})")


@dataclass(frozen=True, slots=True)
class Xid:
    """The three parts of an XID.

    Args:
        group: Name of the group of coordinators that minted it, without dots.
        epoch: Term of leadership in which it was minted, a positive integer.
        sequence: Running number within the epoch, from 1.
    """

    group: str
    epoch: int
    sequence: int

    @classmethod
    def parse(cls, text: str) -> Xid:
        """Read an XID.

        Raises:
            MalformedXidError: `text` is not of the form above.
        """
        match = _PATTERN.fullmatch(text)
        if match is None or len(text) > MAX_LENGTH:
            raise MalformedXidError.of(text)
        return cls(match[1], int(match[2], 36), int(match[3], 36))

    def __str__(self) -> str:
        return epoch_prefix(self.group, self.epoch) + base36(self.sequence, _SEQUENCE_WIDTH)


def epoch_prefix(group: str, epoch: int) -> str:
    """The part that all XIDs of one epoch begin with, its dot included."""
    return f"{group}.{base36(epoch, _EPOCH_WIDTH)}."


def mint(prefix: str, sequence: int) -> str:
    """The text of an XID from `epoch_prefix` and its sequence: what the coordinator's hot path calls."""
    return prefix + base36(sequence, _SEQUENCE_WIDTH)


def is_xid(text: str) -> bool:
    """Whether `Xid.parse` would read it."""
    return len(text) <= MAX_LENGTH and _PATTERN.fullmatch(text) is not None


def base36(number: int, width: int) -> str:
    """A non-negative integer in base 36, padded with zeros to at least `width` characters."""
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    return text.rjust(width, "0")
