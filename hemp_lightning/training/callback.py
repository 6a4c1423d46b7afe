"""HEMPCallback: when the entropy term acts on a training run, and how strongly.

The formulas are in `entropy/` and `quantization/`, the file in `file/`; how forward passes see
quantized weights is in `quantized_forward.py`.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelPruning
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import nn
from torch.optim import Optimizer

from hemp_lightning.entropy.context_lengths import ContextRates
from hemp_lightning.entropy.context_lengths import warm_up as warm_up_context
from hemp_lightning.entropy.formula import warm_up
from hemp_lightning.file.options import FileOptions
from hemp_lightning.file.summary import Summary
from hemp_lightning.ground.scan_order import check_scan
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.quantization.quantizers import Quantizer, get_quantizer
from hemp_lightning.quantization.transforms import check_transform
from hemp_lightning.training.arguments import (
    check_arguments,
    check_levels,
    check_trainer,
    check_training,
    submodule,
)
from hemp_lightning.training.chosen import ChosenTensors
from hemp_lightning.training.entropy_term import (
    add_gradient,
    distortion_and_errors,
    fit_transformed,
    rate_and_gradients,
    stepped_names,
)
from hemp_lightning.training.quantized_forward import QuantizedForward, quantize_like
from hemp_lightning.training.recalibration import recalibrate
from hemp_lightning.training.step_watch import StepWatch
from hemp_lightning.training.target_steering import Approach, index_rate
from hemp_lightning.training.write_file import check_state, size_quantized, write_quantized


class HEMPCallback(Callback):
    """Trains a network whose quantized weights have little entropy, and writes it as a file.

    The loss becomes `task + lambda_entropy * R + lambda_reconstruction * D`, with the rate `R` in
    bits per weight and the distortion `D` the mean squared error of the quantized weights, both
    over all chosen tensors that are trained. Their gradients are added once per optimizer step,
    after backward and before clipping. Source: Tartaglione et al., *HEMP*, Neurocomputing 461 2021.

    The real-valued weights stay in their place; only forward passes see quantized ones. Parameter
    names and `state_dict` keys never change. A callback that is used for another fit starts afresh.

    Args:
        order: Length n of the tuples whose entropy is minimized, at least 1.
        num_levels: Levels per tensor, at least 2.
        lambda_entropy: Loss units per bit per weight, >= 0. With a target, where lambda starts.
        lambda_reconstruction: Loss units per squared weight unit, >= 0.
        quantizer: Name in `hemp_lightning.quantization.QUANTIZERS` or an object with `fit`.
        rate_model: `tuples` for the entropy of order n; `context` for the code lengths of the
            context coder, taken at each refit and at the start of each epoch, see
            `hemp_lightning.entropy.context_lengths`: `order`, `scope` and `scan` do not count then,
            and memory is 4 bytes for each level of each weight.
        scope: `tensor` for one table per tensor, `network` for one pooled by index.
        scan: Scan order in which tensors are cut into tuples, one of
            `hemp_lightning.ground.scan_order.SCANS`.
        forward: `straight_through` trains through the quantized weights; `continuous`, the paper's
            own, through the real ones.
        insensitivity: Scale both terms by `1 - |g| / max|g|` with the loss gradient `g` of each
            weight (the paper's equation for S).
        start_epoch: Epochs of plain float training before any of this.
        warmup_epochs: Epochs over which both lambdas rise linearly from 0; may be a fraction.
        refit_every_n_epochs: Refit the codebooks at the start of every n-th epoch; 0 for never.
        refit_every_n_steps: Refit after every n-th optimizer step as well; 0 for never.
        transform: What is done to kernels of convolutions before they are quantized: `dct`, and the
            levels, the rate and the file are those of their cosine coefficients, while parameters
            and gradients stay those of the weights; `none`; `auto` for `dct` but where most
            weights are 0 or few values; or these by the names of tensors.
        tensors: `weights`, `layers`, `all`, or parameter names or patterns, see `select_tensors`.
        target_bytes: Size the file should have: lambda is steered there during training, codebooks
            are kept from half of it on, and what is left is trimmed from the rarest levels. None:
            lambda stays.
        target_accuracy: Value of `monitor` to end at, in (0, 1): lambda rises while the quantized
            network does better, and falls while it does worse; in the last third of training it
            only falls. None: lambda stays.
        monitor: Logged metric for `target_accuracy`, of the validation.
        path: File to write at the end of training; None for none. A trial run with `fast_dev_run`
            writes none.
        file: How it is written, see `FileOptions`; `order` and `scan` there do not count. None
            for `float_dtype='steps'`, all else as there.
        module: Name of the submodule that is trained and written, such as `network`, so that the
            file has the keys of the plain network; None for the whole LightningModule.
        recalibrate_batches: Training batches on which BatchNorm statistics are taken anew with
            quantized weights before writing; 0 keeps those of the training.

    Attributes:
        codebooks: Codebook of each tensor, by name; empty before `start_epoch`.
        approach: How lambda finds its way to a target, see `target_steering`.
        summary: `Summary` of the written file, or None.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> callback = HEMPCallback(order=3, lambda_entropy=0.5, path="model.hemp")
        >>> callback.order, callback.codebooks
        (3, {})
    """

    def __init__(
        self,
        order: int = 2,
        num_levels: int = 16,
        lambda_entropy: float = 0.1,
        lambda_reconstruction: float = 0.0,
        quantizer: str | Quantizer = "lloyd_max",
        *,
        rate_model: str = "tuples",
        scope: str = "tensor",
        scan: str = "row_major",
        forward: str = "straight_through",
        insensitivity: bool = False,
        start_epoch: int = 0,
        warmup_epochs: float = 0.0,
        refit_every_n_epochs: int = 1,
        refit_every_n_steps: int = 0,
        transform: str | Mapping[str, str] = "auto",
        tensors: str | Sequence[str] = "weights",
        target_bytes: int | None = None,
        target_accuracy: float | None = None,
        monitor: str = "val/accuracy",
        path: str | Path | None = None,
        file: FileOptions | None = None,
        module: str | None = None,
        recalibrate_batches: int = 100,
    ) -> None:
        check_arguments(
            rate_model,
            scope,
            forward,
            order=order,
            lambda_entropy=lambda_entropy,
            lambda_reconstruction=lambda_reconstruction,
            start_epoch=start_epoch,
            warmup_epochs=warmup_epochs,
            refit_every_n_epochs=refit_every_n_epochs,
            refit_every_n_steps=refit_every_n_steps,
            recalibrate_batches=recalibrate_batches,
        )
        self.order = order
        self.lambda_entropy = lambda_entropy
        self.lambda_reconstruction = lambda_reconstruction
        self.quantizer = get_quantizer(quantizer, num_levels)
        self.num_levels = self.quantizer.num_levels
        check_levels(rate_model, self.num_levels)
        self.rate_model = rate_model
        self.scope = scope
        self.scan = check_scan(scan)
        self.forward = forward
        self.insensitivity = insensitivity
        self.start_epoch = start_epoch
        self.warmup_epochs = warmup_epochs
        self.refit_every_n_epochs = refit_every_n_epochs
        self.refit_every_n_steps = refit_every_n_steps
        check_transform(transform)
        self.transform = transform
        self.tensors = tensors
        self.path = None if path is None else Path(path)
        self.file = file or FileOptions(float_dtype="steps")
        self.module = module
        self.recalibrate_batches = recalibrate_batches
        self._forward = QuantizedForward()
        self._new_approach = partial(
            Approach, target_bytes, target_accuracy, monitor, lambda_entropy
        )
        self._reset()

    def _reset(self) -> None:
        """Forget every earlier fit."""
        self.codebooks: dict[str, Codebook] = {}
        self.summary: Summary | None = None
        self.approach = self._new_approach()
        self._chosen = ChosenTensors(self.tensors)
        self._rates = ContextRates()
        self._watch: StepWatch | None = None
        self._fitted: tuple[Any, ...] = ()  # Trainer and module of the last fit, weakly
        self._owner: Any = None  # the module that the codebooks belong to, weakly
        self._last_refit = -1  # optimizer step
        self._last_epoch = -1  # whose start was seen
        self._batch_fraction = 0.0
        self._in_batch = False
        self._ended = False

    # What is decided.

    @property
    def state_key(self) -> str:
        """Key of this callback's state in a checkpoint: one per compressed module and choice."""
        return self._generate_state_key(module=self.module, tensors=self.tensors)

    def is_active(self, trainer: Trainer) -> bool:
        """Whether weights are quantized and the terms added: from `start_epoch` on."""
        return trainer.current_epoch >= self.start_epoch and bool(self.codebooks)

    def should_refit(self, trainer: Trainer, epoch_start: bool) -> bool:
        """Whether codebooks are fitted now: before the first batch of an epoch, or after a step."""
        if self.codebooks and self.approach.is_landing(trainer):
            return False
        since = trainer.current_epoch - self.start_epoch
        if epoch_start:
            every = self.refit_every_n_epochs
            return since >= 0 and (not self.codebooks or bool(every and since % every == 0))
        every = self.refit_every_n_steps
        return (
            self.is_active(trainer)
            and bool(every and trainer.global_step % every == 0)
            and trainer.global_step != self._last_refit
        )

    def ramp(self, trainer: Trainer) -> float:
        """Factor of both lambdas, from 0 to 1, linear over `warmup_epochs`."""
        if not self.warmup_epochs:
            return 1.0
        epochs = trainer.current_epoch - self.start_epoch + self._batch_fraction
        return min(1.0, max(0.0, epochs / self.warmup_epochs))

    def current_lambda(self, trainer: Trainer) -> float:
        """Lambda of the entropy term now: ramped, and steered where there is a target."""
        return self.lambda_entropy * self.ramp(trainer) * self.approach.factor

    # When it happens.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work; forget an earlier fit that this one does not continue."""
        check_trainer(trainer)
        if stage != "fit":
            return
        if self._fitted and (
            self._fitted[0]() is not trainer or self._fitted[1]() is not pl_module
        ):
            self._reset()
        self._ended = False
        rank_zero_info("HEMP: preparing the kernels of the entropy term (compiled once)")
        warm_up(self.order, trainer.strategy.root_device)
        if self.rate_model == "context":
            warm_up_context()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the module as it was found."""
        self._forward.enabled = self._in_batch = False
        self._forward.detach()
        if self._watch:
            self._watch.stop()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the tensors; refuse what no file could hold."""
        self._fitted = weakref.ref(trainer), weakref.ref(pl_module)
        self._owner = weakref.ref(pl_module)
        self._sync(trainer, pl_module)
        if self.path is not None:
            check_state(self._root(pl_module))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the optimizers, and that a target can be steered to; watch every step."""
        self.approach.check(trainer)
        check_training(trainer, self.warmup_epochs)
        self._watch = StepWatch(
            lambda optimizer: self._add_terms(trainer, pl_module, optimizer),
            lambda: self._stepping(trainer),
        )
        self._watch.start()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Refit the codebooks if an epoch begins; from now on forward passes are quantized."""
        self._forward.close()
        self._sync(trainer, pl_module)
        # not in `on_train_epoch_start`: a run resumed after the last batch of an epoch skips that
        if trainer.current_epoch != self._last_epoch:
            self._last_epoch = trainer.current_epoch
            self._start_epoch(trainer, pl_module)
        total = trainer.num_training_batches
        self._batch_fraction = batch_idx / total if 0 < total < float("inf") else 0.0
        self._in_batch = True
        if self.forward == "straight_through" and self.is_active(trainer):
            self._enable(pl_module)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Add the gradient of the two terms."""
        if self._watch and self.is_active(trainer):
            self._watch.announce(optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Forward passes are no longer quantized; refit if it is time."""
        self._forward.enabled = self._in_batch = False
        if self.should_refit(trainer, epoch_start=False):
            self._refit_codebooks(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As at the end of a batch, which Lightning leaves out where a hook skips the epoch."""
        self._forward.enabled = self._in_batch = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the quantized network, once there is one."""
        if self._sync(trainer, pl_module) and self.codebooks:
            self._enable(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forward passes are no longer quantized; steer by the accuracy."""
        self._forward.enabled = False
        fits = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if fits and self.is_active(trainer):
            self.approach.follow_accuracy(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forward passes are no longer quantized."""
        self._forward.enabled = False

    on_test_start = on_predict_start = on_validation_start
    on_predict_end = on_test_end

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file; after all others where pruning is still to be made permanent."""
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, ModelPruning) for callback in callbacks):
            self._finish(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file also where there was nothing left to train.

        So it is for a run that was killed between its last checkpoint and its file, and then
        resumed: Lightning calls no other hook.
        """
        if not self._ended:
            self._finish(trainer, pl_module)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the module as it was found."""
        self.teardown(trainer, pl_module, "fit")

    def state_dict(self) -> dict[str, Any]:
        """Codebooks, when they and the lengths were last taken, how far lambda was steered."""
        return {
            "num_levels": self.num_levels,
            "codebooks": {
                name: {
                    "levels": book.levels.cpu(),
                    "thresholds": book.thresholds.cpu(),
                    "transform": book.transform,
                }
                for name, book in self.codebooks.items()
            },
            "last_refit": self._last_refit,
            "last_epoch": self._last_epoch,
            "rates": self._rates.state_dict(),
            "approach": self.approach.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`; codebooks of another `num_levels` are fitted afresh."""
        books = {
            name: Codebook(entry["levels"], entry["thresholds"], entry.get("transform", "none"))
            for name, entry in state_dict["codebooks"].items()
        }
        self._owner = None  # they belong to the module that is trained or validated next
        self._last_refit = state_dict["last_refit"]
        self._last_epoch = state_dict["last_epoch"]
        self._rates.load_state_dict(state_dict["rates"])
        self.approach.load_state_dict(state_dict["approach"])
        most = max((book.num_levels for book in books.values()), default=0)
        found = state_dict.get("num_levels", self.num_levels if most <= self.num_levels else most)
        if found != self.num_levels:
            rank_zero_warn(
                f"HEMPCallback goes on with `num_levels` {self.num_levels} from a checkpoint with "
                f"{found}: the codebooks are fitted afresh"
            )
            books, self._last_epoch = {}, -1
        self.codebooks = books

    # How it is done.

    def _root(self, pl_module: LightningModule) -> nn.Module:
        return submodule(pl_module, self.module)

    @property
    def _parameters(self) -> dict[str, nn.Parameter]:
        return self._chosen.parameters

    def _sync(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Follow the network where it has changed; False if it is another than was trained."""
        if self._owner is None:
            self._owner = weakref.ref(pl_module)
        if self._owner() is not pl_module:
            rank_zero_warn(
                f"HEMPCallback leaves this {type(pl_module).__name__} as it is: its codebooks "
                "belong to the network that it was trained with"
            )
            return False
        changes = self._chosen.update(pl_module, self._root(pl_module))
        if changes:
            self._forward.detach()
            renamed = {changes.renamed.get(name, name): b for name, b in self.codebooks.items()}
            for name in changes.replaced:
                renamed.pop(name, None)
            self.codebooks = {n: renamed[n] for n in self._parameters if n in renamed}
        if not self.codebooks:
            return True
        for name, book in self.codebooks.items():
            device = self._parameters[name].device
            if book.levels.device != device:
                self.codebooks[name] = book.to(device)
        missing = [name for name in self._parameters if name not in self.codebooks]
        if missing:
            rank_zero_warn(f"HEMPCallback fits codebooks to what is new: {', '.join(missing)}")
            self._fit(trainer, missing)
        if self.rate_model == "context" and not self._rates.fits(self._parameters, self.codebooks):
            self._rates.take(self._parameters, self.codebooks)
        return True

    def _enable(self, pl_module: LightningModule) -> None:
        """Quantize the forward passes to come."""
        if not self._forward.is_attached(pl_module):
            self._forward.attach(pl_module, self._parameters)
        self._forward.quantizers = _quantizers(self.codebooks)
        self._forward.enabled = True

    def _start_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.should_refit(trainer, epoch_start=True):
            self._refit_codebooks(trainer)
        elif self.rate_model == "context" and self.is_active(trainer):
            self._rates.take(self._parameters, self.codebooks)
        if self.approach.target_bytes is not None and self.is_active(trainer):
            summary = self._size(pl_module, self.codebooks)
            self.approach.measure(summary, self.codebooks, self._index_rate())

    def _refit_codebooks(self, trainer: Trainer) -> None:
        self._fit(trainer, list(self._parameters))
        if self.rate_model == "context":
            self._rates.take(self._parameters, self.codebooks)
        self._last_refit = trainer.global_step

    def _fit(self, trainer: Trainer, names: list[str]) -> None:
        for name in names:
            weights = self._parameters[name].detach()
            try:
                self.codebooks[name] = fit_transformed(
                    self.quantizer, name, weights, self.transform, self.codebooks.get(name)
                )
            except ValueError as error:
                raise ValueError(f"Cannot fit a codebook to `{name}`: {error}") from None
        if trainer.world_size > 1:
            # every process fits the same weights; this holds even where their libraries differ
            books = {
                name: (book.levels.cpu(), book.thresholds.cpu(), book.transform)
                for name, book in self.codebooks.items()
            }
            self.codebooks = {
                name: Codebook(*parts).to(self._parameters[name].device)
                for name, parts in trainer.strategy.broadcast(books).items()
            }

    def _stepping(self, trainer: Trainer) -> set[int]:
        """The `id` of each parameter whose step gets the two terms now."""
        if not (self._in_batch and self.is_active(trainer)):
            return set()
        return {id(p) for p in self._parameters.values() if p.requires_grad}

    @torch.no_grad()
    def _add_terms(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        trained = [name for name, p in self._parameters.items() if p.requires_grad]
        stepped = stepped_names(optimizer, self._parameters, trained)
        if not stepped:
            return
        self.approach.follow_bytes(trainer, self._index_rate)
        every = max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        logs = trainer.global_step % every == 0
        # a part of the tensors is enough for their gradients, where each has a table of its own
        names = trained if logs or self.scope == "network" else stepped
        weights = {name: self._parameters[name].detach() for name in names}
        rate, gradients = rate_and_gradients(
            weights,
            self.codebooks,
            self.order,
            self.scope,
            self.scan,
            self._rates if self.rate_model == "context" else None,
        )
        part = sum(w.numel() for w in weights.values())
        share = part / sum(self._parameters[name].numel() for name in trained)
        ramp, strength = self.ramp(trainer), self.lambda_entropy * self.approach.factor
        if logs or self.lambda_reconstruction:
            distortion, errors = distortion_and_errors(weights, self.codebooks)
        for name in stepped:
            gradient, factor = gradients[name], ramp * strength * share
            if self.lambda_reconstruction:
                error = errors[name] * (2 * self.lambda_reconstruction / part)
                gradient, factor = gradient * strength + error, ramp * share
            add_gradient(self._parameters[name], gradient, factor, optimizer, self.insensitivity)
        if logs:
            pl_module.log_dict(
                {
                    "hemp/rate": rate.float(),
                    "hemp/distortion": distortion,
                    "hemp/lambda": self.current_lambda(trainer),
                },
                batch_size=1,  # one value a step; Lightning asks for it with `dataloader_iter`
            )
            ratio = 32 / rate.float().clamp_min(1e-6)
            pl_module.log("hemp/ratio", ratio, prog_bar=True, batch_size=1)

    def _index_rate(self) -> float:
        return index_rate(self._parameters, self.codebooks, self.order, self.scan)

    # The file.

    def _finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Recalibrate BatchNorm on the quantized network and write the file."""
        self._ended = True
        self._forward.close()
        self._sync(trainer, pl_module)
        if not self.codebooks:
            rank_zero_warn(
                f"Training ended before `start_epoch` {self.start_epoch}: the network was never "
                "trained with the entropy term, and is quantized as it is"
            )
            self._refit_codebooks(trainer)
        if self.path is None:
            return
        try:
            self._land(pl_module)
            self._enable(pl_module)
            recalibrate(trainer, pl_module, self._root(pl_module), self.recalibrate_batches)
            self._forward.enabled = False
            self._land(pl_module)  # other statistics may take more bytes
            if trainer.fast_dev_run:  # type: ignore[attr-defined]
                self.summary = self._size(pl_module, self.codebooks)
            elif trainer.is_global_zero:
                self.summary = self._file(pl_module, self.codebooks, self.path)
        except Exception as error:
            rank_zero_warn(
                f"HEMPCallback could not write {self.path}: {error}. The trained weights are in "
                "the module; `hemp_lightning.save` writes them once the reason is gone"
            )
            raise
        finally:
            self._forward.enabled = False

    def _land(self, pl_module: LightningModule) -> None:
        self.codebooks = self.approach.land(
            {name: parameter.detach() for name, parameter in self._parameters.items()},
            self.codebooks,
            lambda codebooks: self._size(pl_module, codebooks).file_bytes,
        )

    def _size(self, pl_module: LightningModule, codebooks: Mapping[str, Codebook]) -> Summary:
        """The summary of the file that these codebooks would make."""
        return self._file(pl_module, codebooks, None)

    def _file(
        self, pl_module: LightningModule, codebooks: Mapping[str, Codebook], path: Path | None
    ) -> Summary:
        """Write the file that these codebooks make; only measure it where `path` is None."""
        if not self._forward.is_attached(pl_module):
            self._forward.attach(pl_module, self._parameters)
        write = size_quantized if path is None else partial(write_quantized, path)
        with self._forward.within(pl_module, _quantizers(codebooks)):
            return write(self._root(pl_module), codebooks, self.file, self.order, self.scan)


def _quantizers(codebooks: Mapping[str, Codebook]) -> dict[str, Any]:
    return {name: partial(quantize_like, book) for name, book in codebooks.items()}
