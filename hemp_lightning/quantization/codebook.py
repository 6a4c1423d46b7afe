"""The codebook of a tensor: it turns weights into indices, and indices back into weights."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from hemp_lightning.quantization.assign import quantize
from hemp_lightning.quantization.transforms import coefficients_of, to_coefficients, weights_of
from hemp_reader.cosines import to_weights
from hemp_reader.limits import MAX_LEVELS
from hemp_reader.transforms import MAX_LEVEL, TRANSFORMS

MAX_COMPARED = 256
"""Up to here a weight is compared with all thresholds; a search is quicker with more of them."""


@dataclass(frozen=True, eq=False)
class Codebook:
    """Levels and thresholds of one tensor.

    Args:
        levels: Reconstruction values, float32 `(num_levels,)`, strictly ascending, finite.
        thresholds: Borders between cells, float32 `(num_levels - 1,)`, ascending; by default the
            midpoints, which assign each weight to its nearest level. A weight that equals a
            threshold belongs to the upper cell.
        transform: What is done to kernels before they are compared with the levels, and undone
            after, one of `hemp_lightning.quantization.transforms.TRANSFORMS`: with `dct` levels
            and indices are those of the coefficients of weights with shape `(O, I, *kernel)`.

    Raises:
        ValueError: If `levels`, `thresholds` or `transform` are not as said.

    Example:
        >>> codebook = Codebook(torch.tensor([-1.0, 0.0, 2.0]))
        >>> codebook.thresholds
        tensor([-0.5000,  1.0000])
        >>> codebook.assign(torch.tensor([[-3.0, 0.2], [1.0, 9.0]]))
        tensor([[0, 1],
                [2, 2]])
        >>> codebook.quantize(torch.tensor([0.9, 1.1]))
        tensor([0., 2.])
        >>> Codebook(torch.tensor([0.0, 2.0]), transform="dct").quantize(torch.full((1, 1, 4), 0.8))
        tensor([[[1., 1., 1., 1.]]])
    """

    levels: Tensor
    thresholds: Tensor = field(default=None)  # type: ignore[assignment]
    transform: str = TRANSFORMS[0]

    def __post_init__(self) -> None:
        levels = torch.as_tensor(self.levels).detach().to(torch.float32)
        if levels.ndim != 1 or not 1 <= len(levels) <= MAX_LEVELS:
            raise ValueError(
                f"`levels` must have shape (num_levels,) with 1 to {MAX_LEVELS} entries; "
                f"found shape {tuple(levels.shape)}"
            )
        if not torch.isfinite(levels).all() or not (levels[1:] > levels[:-1]).all():
            raise ValueError(
                "`levels` must be finite and strictly ascending in float32; "
                f"found {levels[:8].tolist()}{'...' if len(levels) > 8 else ''}"
            )
        if self.thresholds is None:
            middle = ((levels[1:].double() + levels[:-1].double()) / 2).float()
            # between neighbours in float32 the middle may round down onto the lower one
            thresholds = torch.where(middle > levels[:-1], middle, levels[1:])
        else:
            thresholds = torch.as_tensor(self.thresholds).detach().to(levels)
            if thresholds.shape != (len(levels) - 1,):
                raise ValueError(
                    f"`thresholds` must have shape ({len(levels) - 1},), one less than `levels`; "
                    f"found {tuple(thresholds.shape)}"
                )
            if not torch.isfinite(thresholds).all() or (thresholds[1:] < thresholds[:-1]).any():
                raise ValueError("`thresholds` must be finite and ascending")
        if self.transform not in TRANSFORMS:
            raise ValueError(
                f"`transform` must be one of {', '.join(TRANSFORMS)}; found {self.transform!r}"
            )
        if self.transform != TRANSFORMS[0] and float(levels.abs().max()) > MAX_LEVEL:
            raise ValueError(
                f"`levels` of coefficients must be at most {MAX_LEVEL:g} either way; "
                f"found {float(levels.abs().max()):g}"
            )
        object.__setattr__(self, "levels", levels)
        object.__setattr__(self, "thresholds", thresholds)

    @property
    def num_levels(self) -> int:
        """Number of levels."""
        return len(self.levels)

    def assign(self, weights: Tensor) -> Tensor:
        """Index of the cell each weight lies in.

        Args:
            weights: Any shape, floating dtype, on any device.

        Returns:
            Indices in `[0, num_levels)`, int64, of the same shape and device.
        """
        thresholds = self.thresholds.to(weights.device)
        weights = self.coefficients(weights)
        # contiguous: torch warns where it has to copy, as with weights in channels_last
        return torch.bucketize(weights.detach().float().contiguous(), thresholds, right=True)

    def reconstruct(self, indices: Tensor) -> Tensor:
        """Levels that the indices stand for: float32, of the shape of `indices`.

        Raises:
            IndexError: If an index is not in `[0, num_levels)`.
        """
        levels = self.levels.to(indices.device)
        found = levels.index_select(0, indices.reshape(-1).int()).reshape(indices.shape)
        return self._weights(found)

    def coefficients(self, weights: Tensor) -> Tensor:
        """What is compared with the levels: the weights, or their coefficients in float32.

        On the CPU they are the same bits on every machine, as in a file.

        Args:
            weights: With a transform `(O, I, *kernel)`, floating, on any device.

        Example:
            >>> book = Codebook(torch.tensor([0.0, 2.0]), transform="dct")
            >>> book.coefficients(torch.ones(1, 1, 2, 2)).flatten().tolist()
            [2.0, 0.0, 0.0, 0.0]
        """
        if self.transform == TRANSFORMS[0]:
            return weights
        if not weights.is_cpu:
            return coefficients_of(weights.detach().float(), self.transform)
        if weights.dtype != torch.float64:
            weights = weights.float()
        return torch.from_numpy(to_coefficients(weights.detach().numpy()))

    def _weights(self, coefficients: Tensor) -> Tensor:
        """Weights with these coefficients, float32; the inverse of `coefficients`."""
        if self.transform == TRANSFORMS[0]:
            return coefficients
        if not coefficients.is_cpu:
            return weights_of(coefficients, self.transform)
        return torch.from_numpy(to_weights(coefficients.numpy()))

    def quantize(self, weights: Tensor, out: Tensor | None = None) -> Tensor:
        """Reconstruction of `weights`: float32, of the same shape; NaN stays NaN.

        Else `reconstruct(assign(weights))`.

        Args:
            weights: Any shape, floating dtype, on any device.
            out: Where to put the result, of the shape and device of `weights` and any floating
                dtype, `weights` itself too; autograd does not see it change.

        Returns:
            `out`, or a new tensor.

        Raises:
            ValueError: If `out` has another shape or lies on another device.

        Example:
            >>> weights = torch.tensor([0.9, 1.1])
            >>> Codebook(torch.tensor([-1.0, 0.0, 2.0])).quantize(weights, out=weights)
            tensor([0., 2.])
        """
        if out is not None and (out.shape, out.device) != (weights.shape, weights.device):
            raise ValueError(
                f"`out` must have the shape {tuple(weights.shape)} of `weights` and lie on "
                f"{weights.device}; found {tuple(out.shape)} on {out.device}"
            )
        if self.transform != TRANSFORMS[0]:
            turned = self._weights(self.plain().quantize(self.coefficients(weights)))
            return turned if out is None else out.data.copy_(turned)
        source = weights.detach().float()
        if source.is_cpu and self.levels.is_cpu and self.num_levels <= MAX_COMPARED:
            source, found = source.contiguous(), out
            if (
                found is None
                or found.dtype != torch.float32
                or not found.is_contiguous()
                or found.data_ptr() == source.data_ptr()
            ):
                found = torch.empty_like(source)
            quantize(source, self.thresholds, self.levels, found)  # the same, in one pass
        else:
            found = self.reconstruct(self.assign(source)).where(source == source, source)
        return found if out is None or found is out else out.data.copy_(found)

    def to(self, device: torch.device | str) -> Codebook:
        """The same codebook on another device."""
        return Codebook(self.levels.to(device), self.thresholds.to(device), self.transform)

    def plain(self) -> Codebook:
        """The codebook for the coefficients themselves: the same without a transform."""
        return Codebook(self.levels, self.thresholds)

    def half_precision(self) -> Codebook:
        """The codebook with levels that float16 holds exactly, where that moves none noticeably.

        A level may move by at most a hundredth of the gap to its nearest neighbour; else, or if a
        single level stands alone and would move at all, the codebook comes back as it is. A file
        then spends two bytes a level and not four, and loses nothing.

        Example:
            >>> Codebook(torch.tensor([-0.1, 0.0, 0.3])).half_precision().levels.tolist()
            [-0.0999755859375, 0.0, 0.300048828125]
        """
        levels = self.levels.half().float()
        gaps = self.levels.diff()
        if not len(gaps):
            return self
        nearest = torch.minimum(torch.cat([gaps[:1], gaps]), torch.cat([gaps, gaps[-1:]]))
        if not ((levels - self.levels).abs() <= nearest / 100).all():
            return self
        return Codebook(levels, self.thresholds, self.transform)
