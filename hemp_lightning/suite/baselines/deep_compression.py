"""Deep Compression: prune, share weights with trained centroids, code the indices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.quantization.quantizers import LloydMaxQuantizer
from hemp_lightning.suite.baselines.method import Method
from hemp_lightning.suite.baselines.pruning import magnitude_masks
from hemp_lightning.suite.baselines.weights import weights_of


def cluster_means(values: Tensor, indices: Tensor, num_clusters: int) -> Tensor:
    """Mean of the values in each cluster; 0 for an empty one.

    Args:
        values: Any shape, floating.
        indices: int64, same shape, from 0 to `num_clusters - 1`.
        num_clusters: Number of clusters.

    Returns:
        `(num_clusters,)`, dtype of `values`.

    Example:
        >>> cluster_means(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 1]), 3).tolist()
        [2.0, 5.0, 0.0]
    """
    flat = indices.flatten()
    sums = torch.zeros(num_clusters, dtype=torch.float64, device=values.device)
    sums.index_add_(0, flat, values.flatten().double())  # float64: the same on any thread count
    return (sums / flat.bincount(minlength=num_clusters).clamp(min=1)).to(values.dtype)


class DeepCompression(Method):
    """The three stages in one `fit`, then the file.

    From `start_epoch` on a share of each tensor's weights is pruned and the rest trained on; half
    way to the end the others are clustered with k-means and share their cluster's value, which is
    trained with the mean gradient of its members.

    Source: Han, Mao, Dally, Deep Compression, ICLR 2016. Where the paper codes the distances
    between non-zero weights with Huffman codes, our file codes all indices, zeros included, with
    an arithmetic coder, which spends what their entropy says: its files are smaller.

    Args:
        path: The file to write.
        share: Share of each tensor to prune.
        bits: Bits of an index: `2 ** bits - 1` shared values beside 0.
        start_epoch: Epoch at which pruning sets in.
        coder: Name of the coder of the indices.
        name: What the results call it.
    """

    without_term = "whose weights share trained values, and keep the one that they were given"
    num_levels: int

    def __init__(
        self,
        path: str | Path,
        share: float = 0.9,
        bits: int = 5,
        start_epoch: int = 0,
        coder: str = "context",
        name: str = "deep_compression",
    ) -> None:
        if not 0.0 <= share < 1.0:
            raise ValueError(
                f"`quantization.share`: expected 0 or more and less than 1; found {share}"
            )
        if not 1 <= bits <= 8:
            raise ValueError(f"`quantization.bits`: expected 1 to 8; found {bits}")
        super().__init__(path, coder, name, num_levels=2**bits)
        self.start_epoch = start_epoch
        self.share = share
        self.bits = bits
        self._masks: dict[str, Tensor] = {}
        self._clusters: dict[str, Tensor] = {}  # index 0 is the cluster of the zeros

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune at `start_epoch`, cluster half way from there to the end."""
        epoch = trainer.current_epoch
        weights = weights_of(pl_module)
        if epoch >= self.start_epoch and not self._masks:
            plain = {name: weight.detach() for name, weight in weights.items()}
            self._masks = magnitude_masks(plain, self.share, "tensor")
        half_way = (self.start_epoch + (trainer.max_epochs or 0)) // 2
        if epoch >= max(half_way, self.start_epoch) and not self._clusters:
            self._clusters = {
                name: self._cluster(weight.detach(), self._masks[name].to(weight.device))
                for name, weight in weights.items()
            }
        self._project(weights)

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """All members of a cluster get the cluster's gradient."""
        for name, weight in weights_of(pl_module).items():
            if name in self._clusters and weight.grad is not None:
                indices = self._clusters[name].to(weight.device)
                means = cluster_means(weight.grad, indices, self.num_levels)
                weight.grad.copy_(means[indices])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Pruned weights back to 0, the others to their cluster's value."""
        self._project(weights_of(pl_module))

    def codebooks(self, pl_module: LightningModule) -> dict[str, Codebook]:
        """The values that are left in each tensor."""
        return {
            name: Codebook(weight.detach().cpu().unique()).half_precision()
            for name, weight in weights_of(pl_module).items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Masks and clusters go into checkpoints."""
        return {"masks": self._masks, "clusters": self._clusters}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take masks and clusters from a checkpoint."""
        self._masks, self._clusters = state_dict["masks"], state_dict["clusters"]

    def _cluster(self, weights: Tensor, mask: Tensor) -> Tensor:
        indices = torch.zeros(weights.shape, dtype=torch.int64, device=weights.device)
        kept = weights[mask]
        if kept.numel():
            quantizer = LloydMaxQuantizer(max(2, self.num_levels - 1), keep_zero=False)
            indices[mask] = 1 + quantizer.fit(kept).assign(kept)
        return indices

    @torch.no_grad()
    def _project(self, weights: dict[str, Any]) -> None:
        for name, weight in weights.items():
            if name in self._masks:
                weight.mul_(self._masks[name].to(weight.device))
            if name in self._clusters:
                indices = self._clusters[name].to(weight.device)
                weight.copy_(cluster_means(weight, indices, self.num_levels)[indices])
