"""The two terms of the loss: their values, and their gradients into the parameters.

`loss = task + lambda_entropy * R + lambda_reconstruction * D`, both over all weights that are
trained, whichever optimizer steps them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer, SparseAdam

from hemp_lightning.entropy.context_lengths import ContextRates
from hemp_lightning.entropy.context_lengths import warm_up as warm_up_context
from hemp_lightning.entropy.formula import entropy_and_gradients, warm_up
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.quantization.transforms import weights_of


def prepare(order: int, device: torch.device, rate_model: str) -> None:
    """Compile what the terms need, before the first batch waits for it."""
    rank_zero_info("HEMP: preparing the kernels of the entropy term (compiled once)")
    warm_up(order, device)
    if rate_model == "context":
        warm_up_context()


def rate_and_gradients(
    weights: Mapping[str, Tensor],
    codebooks: Mapping[str, Codebook],
    order: int,
    scope: str,
    scan: str,
    context: ContextRates | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The rate of some tensors, and its gradient.

    Args:
        weights: Weights by name, any shapes.
        codebooks: Codebooks by name; with a transform the rate is that of the coefficients.
        order: Length n of the tuples.
        scope: `tensor` or `network`, see `network_entropy`.
        scan: Scan order.
        context: Where code lengths come from; None for the entropy of the tuples.

    Returns:
        Bits per weight, a scalar; the gradient of each tensor, by name.

    Example:
        >>> books = {"w": Codebook(torch.tensor([0.0, 1.0]))}
        >>> rate, _ = rate_and_gradients(
        ...     {"w": torch.tensor([0.0, 1.0])}, books, 1, "tensor", "row_major"
        ... )
        >>> rate.item()
        1.0
    """
    names = list(weights)
    tensors = [codebooks[name].coefficients(weights[name]) for name in names]
    levels = [codebooks[name].levels for name in names]
    if context is not None:
        rate, gradients = context.rate_and_gradients(names, tensors, levels)
    else:
        rate, gradients = entropy_and_gradients(tensors, levels, order, scope=scope, scan=scan)
    back = [
        weights_of(gradient, codebooks[name].transform)
        for name, gradient in zip(names, gradients, strict=True)
    ]
    return rate, dict(zip(names, back, strict=True))


def distortion_and_errors(
    weights: Mapping[str, Tensor], codebooks: Mapping[str, Codebook]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared error of the quantized weights, a scalar; each weight's error, by name.

    Example:
        >>> books = {"w": Codebook(torch.tensor([0.0, 1.0]))}
        >>> distortion, errors = distortion_and_errors({"w": torch.tensor([0.25, 1.0])}, books)
        >>> distortion.item(), errors["w"].tolist()
        (0.03125, [0.25, 0.0])
    """
    errors = {name: w - codebooks[name].quantize(w) for name, w in weights.items()}
    count = sum(error.numel() for error in errors.values())
    return torch.stack([error.square().sum() for error in errors.values()]).sum() / count, errors


def add_gradient(
    parameter: nn.Parameter,
    gradient: Tensor,
    strength: float,
    optimizer: Optimizer,
    insensitivity: bool = False,
) -> None:
    """Add `strength * gradient` to the gradient of a parameter.

    A sparse gradient becomes dense. For SparseAdam, which takes no dense one, the term acts on the
    rows that the batch has touched.

    Args:
        parameter: Its `grad` is changed.
        gradient: Of one term, of the parameter's shape.
        strength: Factor.
        optimizer: Will step the parameter.
        insensitivity: Scale by `1 - |g| / max|g|`, with `g` the gradient that is there.

    Example:
        >>> weight = nn.Parameter(torch.zeros(2))
        >>> add_gradient(weight, torch.ones(2), 0.5, torch.optim.SGD([weight], lr=1.0))
        >>> weight.grad
        tensor([0.5000, 0.5000])
    """
    grad = parameter.grad
    if isinstance(optimizer, SparseAdam):
        if grad is None:
            return
        grad = grad.coalesce()
        values = grad.values() + strength * gradient[grad.indices()[0]].to(grad.dtype)
        parameter.grad = torch.sparse_coo_tensor(
            grad.indices(), values, grad.shape, is_coalesced=True
        )
        return
    if grad is None:
        parameter.grad = (strength * gradient).to(parameter.dtype)
        return
    if grad.layout != torch.strided:
        grad = parameter.grad = grad.to_dense()
    if insensitivity:
        size = grad.abs()
        gradient = gradient * (1 - size / size.max().clamp_min(torch.finfo(size.dtype).tiny))
    grad.add_(gradient.to(grad.dtype), alpha=strength)


def stepped_names(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> list[str]:
    """Names of the parameters that an optimizer steps."""
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [name for name, parameter in parameters.items() if id(parameter) in stepped]


@dataclass(frozen=True)
class EntropyTerm:
    """Both terms, with the choices that HEMPCallback has for them.

    Args:
        order: Length n of the tuples.
        scope: `tensor` or `network`, see `network_entropy`.
        scan: Scan order.
        insensitivity: Whether gradients are scaled by that of the loss.
        context: Where code lengths come from; None for the entropy of the tuples.
    """

    order: int
    scope: str
    scan: str
    insensitivity: bool = False
    context: ContextRates | None = None

    def add(
        self,
        optimizer: Optimizer,
        trained: Mapping[str, nn.Parameter],
        codebooks: Mapping[str, Codebook],
        strength: float,
        reconstruction: float = 0.0,
        ramp: float = 1.0,
        whole: bool = True,
        tell: Callable[[Mapping[str, Tensor], float], None] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Add the gradient of both terms to the parameters that an optimizer steps.

        Args:
            optimizer: Will step some of the parameters, at least one.
            trained: All trained parameters, by name; the terms are means over them.
            codebooks: Codebooks by name.
            strength: Factor of the rate.
            reconstruction: Factor of the distortion.
            ramp: Factor of both.
            whole: Whether the values returned are to be those of all parameters.
            tell: Is told the gradient of the rate by the stepped parameters, and its factor.

        Returns:
            The rate in bits per weight, and the distortion, None where it was not needed.

        Example:
            >>> weight = nn.Parameter(torch.tensor([0.25, 1.0]))
            >>> books = {"w": Codebook(torch.tensor([0.0, 1.0]))}
            >>> term = EntropyTerm(order=1, scope="tensor", scan="row_major")
            >>> sgd = torch.optim.SGD([weight], lr=1.0)
            >>> term.add(sgd, {"w": weight}, books, 0.0, reconstruction=1.0)[1].item()
            0.03125
            >>> weight.grad
            tensor([0.2500, 0.0000])
        """
        stepped = stepped_names(optimizer, trained)
        # a part of the tensors is enough for their gradients, where each has a table of its own
        names = list(trained) if whole or self.scope == "network" else stepped
        weights = {name: trained[name].detach() for name in names}
        rate, gradients = rate_and_gradients(
            weights, codebooks, self.order, self.scope, self.scan, self.context
        )
        part = sum(w.numel() for w in weights.values())
        share = part / sum(parameter.numel() for parameter in trained.values())
        distortion = None
        if whole or reconstruction:
            distortion, errors = distortion_and_errors(weights, codebooks)
        for name in stepped:
            gradient, factor = gradients[name], ramp * strength * share
            if reconstruction:
                error = errors[name] * (2 * reconstruction / part)
                gradient, factor = gradient * strength + error, ramp * share
            add_gradient(trained[name], gradient, factor, optimizer, self.insensitivity)
        if tell is not None:
            tell({name: gradients[name] for name in stepped}, ramp * strength * share)
        return rate, distortion


def log_terms(
    pl_module: LightningModule, rate: Tensor, distortion: Tensor | None, strength: float
) -> None:
    """Log the values of both terms, the lambda of now, and the ratio that the rate promises."""
    assert distortion is not None  # where `whole` was asked for
    pl_module.log_dict(
        {"hemp/rate": rate.float(), "hemp/distortion": distortion, "hemp/lambda": strength},
        batch_size=1,  # one value a step; Lightning asks for it with `dataloader_iter`
    )
    ratio = 32 / rate.float().clamp_min(1e-6)
    pl_module.log("hemp/ratio", ratio, prog_bar=True, batch_size=1)
