"""The options of the context coders: what stands at the front of a payload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hemp_reader.scan_order import SCANS

_OPTION_ONE = 8192  # of 65,536: an option that is not the usual one costs 3 bits, a usual one 0.2
_SCALE_ONE = 24_576
MAX_SCALE = 15
MAX_UNARY = 40  # largest magnitude that may be coded in unary


@dataclass(frozen=True)
class Options:
    """What the encoder chose for a tensor; it stands at the front of the payload.

    Attributes:
        plain: All indices are coded as equally likely; the rest is not used.
        scan: Which axis runs fastest.
        half: Differences count from between two levels, `num_levels // 2 - 1` and the next, so
            that there is no difference 0; otherwise from the level `centre`.
        centre: The most frequent level.
        binary: Magnitudes are coded digit by digit; otherwise in unary.
        flags: Each row has a flag that says whether all its differences are 0.
        scale: log2 of the magnitude that counts as large.
        frequencies: Places of a kernel are frequencies. It does not stand in the payload: the
            coder says it.
    """

    plain: bool = False
    scan: str = SCANS[0]
    half: bool = False
    centre: int = 0
    binary: bool = False
    flags: bool = False
    scale: int = 0
    frequencies: bool = False

    def sides(self, num_levels: int) -> tuple[int, int]:
        """Largest magnitude below and above the centre."""
        if self.half:
            return num_levels // 2, num_levels - num_levels // 2
        return self.centre, num_levels - 1 - self.centre


class Decisions(Protocol):
    """Something that reads decisions, or writes those that it is given."""

    def decide(self, one: int, bit: int = 0) -> int:
        """A decision that is 1 with probability `one` / 65536."""
        ...

    def uniform(self, size: int, value: int = 0) -> int:
        """A number below `size`, all of them equally likely."""
        ...


def code_options(
    decisions: Decisions, num_levels: int, ndim: int, options: Options | None = None
) -> Options:
    """Write the options, or read them: the ones that were coded."""
    options = Options() if options is None else options

    def flag(value: bool, one: int = _OPTION_ONE) -> bool:
        return bool(decisions.decide(one, int(value)))

    if flag(options.plain):
        return Options(plain=True, frequencies=options.frequencies)
    half = flag(options.half)
    middle = num_levels // 2
    centre = middle if half else options.centre
    if not half:
        if flag(centre != middle):
            centre = decisions.uniform(num_levels, centre)
        else:
            centre = middle
    found = Options(half=half, centre=centre)
    binary = max(found.sides(num_levels)) > MAX_UNARY or flag(options.binary)
    flags = not half and flag(options.flags)
    scan = SCANS.index(options.scan) if ndim >= 2 else 0
    if ndim >= 2:
        scan = 2 * flag(bool(scan & 2)) + flag(bool(scan & 1))
    scale = 0
    while scale < MAX_SCALE and flag(scale < options.scale, _SCALE_ONE):
        scale += 1
    return Options(
        False, SCANS[scan], half, centre, binary, flags, scale, frequencies=options.frequencies
    )
