"""HEMPCallback: when the entropy term acts on a training run, and how strongly.

What it does is in the files beside this one: see `quantized_network.py` and `entropy_term.py`.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelPruning
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from hemp_lightning.file.options import FileOptions
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.quantization.quantizers import Quantizer, get_quantizer
from hemp_lightning.quantization.transforms import check_transform
from hemp_lightning.training.arguments import check_arguments, check_trainer, check_training
from hemp_lightning.training.entropy_term import EntropyTerm, prepare
from hemp_lightning.training.quantized_network import QuantizedNetwork
from hemp_lightning.training.schedule import Schedule
from hemp_lightning.training.stepped_terms import Lambdas, SteppedTerms
from hemp_lightning.training.target_steering import Approach
from hemp_lightning.training.write_file import TrainedFile
from hemp_reader.scan_order import check_scan
from hemp_reader.summary import Summary


class HEMPCallback(Callback):
    """Trains a network whose quantized weights have little entropy, and writes it as a file.

    The loss becomes `task + lambda_entropy * R + lambda_reconstruction * D`, with the rate `R` in
    bits per weight and the distortion `D` the mean squared error of the quantized weights, both
    over all chosen tensors that are trained. Their gradients are added once per optimizer step,
    after backward and before clipping. Source: Tartaglione et al., *HEMP*, Neurocomputing 461 2021.

    The real-valued weights stay in their place; only forward passes see quantized ones. Parameter
    names and `state_dict` keys never change. A callback that is used for another fit starts afresh.

    The arguments stand in five groups: what is minimized (`order` to `insensitivity`), which
    weights (`tensors` to `forward`), when (`start_epoch` to `refit_every_n_steps`), steering to a
    target (`target_bytes` to `monitor`), and the file (`path` to `recalibrate_batches`).

    Args:
        order: Length n of the tuples whose entropy is minimized, at least 1.
        num_levels: Levels per tensor, at least 2.
        lambda_entropy: Loss units per bit per weight, >= 0. With a target, where lambda starts.
        lambda_reconstruction: Loss units per squared weight unit, >= 0.
        quantizer: Name in `hemp_lightning.quantization.QUANTIZERS` or an object with `fit`.
        rate_model: `tuples` for the entropy of order n; `context` for the code lengths of the
            context coder, see `ContextRates`. `order`, `scope` and `scan` do not count then.
        scope: `tensor` for one table per tensor, `network` for one pooled by index.
        scan: Scan order of the tuples, one of `hemp_reader.scan_order.SCANS`.
        insensitivity: Scale both terms by `1 - |g| / max|g|`, with the loss gradient `g`.
        tensors: `weights`, `layers`, `all`, or parameter names or patterns, see `select_tensors`.
        module: Name of the submodule that is trained and written, such as `network`; None for all.
        transform: Of kernels before they are quantized: `dct` for cosine coefficients, `none`,
            `auto` for `dct` but where most weights are 0 or few values, or these by name.
        forward: `straight_through` trains through the quantized weights; `continuous`, the paper's
            own, through the real ones.
        start_epoch: Epochs of plain float training before any of this.
        end_epoch: Epoch from which on both lambdas are 0, and weights stay quantized; None: never.
        warmup_epochs: Epochs over which both lambdas rise linearly from 0; may be a fraction.
        refit_every_n_epochs: Refit the codebooks at the start of every n-th epoch; 0 for never.
        refit_every_n_steps: Refit after every n-th optimizer step as well; 0 for never.
        target_bytes: Size the file should have, see `target_steering`. None: lambda stays.
        target_accuracy: Value of `monitor` to end at, in (0, 1). None: lambda stays.
        monitor: Logged metric for `target_accuracy`, of the validation.
        path: File to write at the end of training; None, and `fast_dev_run`, for none.
        file: How it is written, None for `FileOptions()`; its `order` and `scan` do not count.
        recalibrate_batches: Training batches on which BatchNorm statistics are taken anew; 0: none.

    Attributes:
        approach: How lambda finds its way to a target, see `target_steering`.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If an argument is out of range.

    Example:
        >>> callback = HEMPCallback(order=3, lambda_entropy=0.5, path="model.hemp")
        >>> callback.order, callback.codebooks
        (3, {})
    """

    def __init__(
        self,
        # What is minimized.
        order: int = 2,
        num_levels: int = 16,
        lambda_entropy: float = 0.1,
        lambda_reconstruction: float = 0.0,
        quantizer: str | Quantizer = "lloyd_max",
        *,
        rate_model: str = "tuples",
        scope: str = "tensor",
        scan: str = "row_major",
        insensitivity: bool = False,
        # Which weights.
        tensors: str | Sequence[str] = "weights",
        module: str | None = None,
        transform: str | Mapping[str, str] = "auto",
        forward: str = "straight_through",
        # When.
        start_epoch: int = 0,
        end_epoch: int | None = None,
        warmup_epochs: float = 0.0,
        refit_every_n_epochs: int = 1,
        refit_every_n_steps: int = 0,
        # Steering to a target.
        target_bytes: int | None = None,
        target_accuracy: float | None = None,
        monitor: str = "val/accuracy",
        # The file.
        path: str | Path | None = None,
        file: FileOptions | None = None,
        recalibrate_batches: int = 100,
    ) -> None:
        self.order = order
        self.lambda_entropy = lambda_entropy
        self.lambda_reconstruction = lambda_reconstruction
        self.quantizer = get_quantizer(quantizer, num_levels)
        self.num_levels = self.quantizer.num_levels
        self.rate_model = rate_model
        self.scope = scope
        self.scan = check_scan(scan)
        self.insensitivity = insensitivity
        self.tensors = tensors
        self.module = module
        check_transform(transform)
        self.transform = transform
        self.forward = forward
        self.start_epoch = start_epoch
        self.end_epoch = end_epoch
        self.warmup_epochs = warmup_epochs
        self.refit_every_n_epochs = refit_every_n_epochs
        self.refit_every_n_steps = refit_every_n_steps
        self.path = None if path is None else Path(path)
        self.file = file or FileOptions()
        self.recalibrate_batches = recalibrate_batches
        check_arguments(vars(self))
        self._new_approach = partial(
            Approach, target_bytes, target_accuracy, monitor, lambda_entropy
        )
        self._reset()

    def _reset(self) -> None:
        """Forget every earlier fit."""
        self.approach = self._new_approach()
        self._network = QuantizedNetwork(
            self.module, self.tensors, self.quantizer, self.transform, self.rate_model == "context"
        )
        term = EntropyTerm(
            self.order, self.scope, self.scan, self.insensitivity, self._network.rates
        )
        self._terms = SteppedTerms(term, self._network, self.approach)
        self._file = TrainedFile(self._network, self.approach, self.file, self.order, self.scan)
        self._fitted: tuple[Any, ...] = ()  # Trainer and module of the last fit, weakly
        self._schedule = Schedule(
            self.start_epoch,
            self.warmup_epochs,
            self.refit_every_n_epochs,
            self.refit_every_n_steps,
            self.end_epoch,
        )
        self._in_batch = False
        self._ended = False

    # What is decided.

    @property
    def codebooks(self) -> dict[str, Codebook]:
        """Codebook of each tensor, by name; empty before `start_epoch`."""
        return self._network.codebooks

    @codebooks.setter
    def codebooks(self, codebooks: Mapping[str, Codebook]) -> None:
        self._network.codebooks = dict(codebooks)

    @property
    def summary(self) -> Summary | None:
        """The sizes of the file that this fit has written; None before, and on other processes."""
        return self._file.summary

    @property
    def state_key(self) -> str:
        """Key of this callback's state in a checkpoint: one per compressed module and choice."""
        return self._generate_state_key(module=self.module, tensors=self.tensors)

    def is_active(self, trainer: Trainer) -> bool:
        """Whether weights are quantized and the terms added: from `start_epoch` on."""
        return self._schedule.has_started(trainer) and bool(self.codebooks)

    def should_refit(self, trainer: Trainer, epoch_start: bool) -> bool:
        """Whether codebooks are fitted now: before the first batch of an epoch, or after a step."""
        if self.codebooks and self.approach.is_landing(trainer):
            return False
        if not epoch_start:
            return self.is_active(trainer) and self._schedule.is_refit_step(trainer)
        if not self.codebooks:
            return self._schedule.has_started(trainer)
        return self._schedule.is_refit_epoch(trainer)

    def ramp(self, trainer: Trainer) -> float:
        """Factor of both lambdas, from 0 to 1, linear over `warmup_epochs`."""
        return self._schedule.ramp(trainer)

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
        prepare(self.order, trainer.strategy.root_device, self.rate_model)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the module as it was found."""
        self._release()
        self._network.forward.detach()
        self._terms.stop()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the tensors; refuse what no file could hold."""
        self._fitted = weakref.ref(trainer), weakref.ref(pl_module)
        self._network.join(trainer, self, pl_module)
        for other in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(other, HEMPCallback) and other is not self:
                self._network.check_apart(other._network)
        self._file.check(pl_module, self.path, self.tensors)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the optimizers, and that a target can be steered to; watch every step."""
        self.approach.check(trainer)
        check_training(trainer, self.warmup_epochs)
        self._terms.start(trainer, pl_module, lambda: self._lambdas(trainer))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Refit the codebooks if an epoch begins; from now on forward passes are quantized."""
        self._network.forward.close()
        self._network.follow(pl_module, trainer)
        if self._schedule.start_batch(trainer, batch_idx):
            self._start_epoch(trainer, pl_module)
        self._in_batch = True
        if self.forward == "straight_through" and self.is_active(trainer):
            self._network.quantize(pl_module)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Warn of weights that the loss has used past the forward passes."""
        self._network.warn_of_direct_use(loss)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Add the gradient of the two terms."""
        if self.is_active(trainer):
            self._terms.announce(optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Forward passes are no longer quantized; refit if it is time."""
        if self._lambdas(trainer) is not None:
            self._terms.end_batch()
        self._release()
        if self.should_refit(trainer, epoch_start=False):
            self._refit(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End a batch that a hook of the module has skipped; warn if no optimizer was seen."""
        self._release()
        self._terms.end_epoch(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the quantized network, once there is one."""
        if self._network.follow(pl_module, trainer) and self.codebooks:
            self._network.quantize(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forward passes are no longer quantized; steer by the accuracy."""
        self._network.release()
        fits = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if fits and self.is_active(trainer):
            self.approach.follow_accuracy(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forward passes are no longer quantized."""
        self._network.release()

    on_test_start = on_predict_start = on_validation_start
    on_predict_end = on_test_end

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file; after all others where pruning is still to be made permanent."""
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, ModelPruning) for callback in callbacks):
            self._finish(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file where a run was killed before it, or where weights were set after it."""
        if self._ended and self._file.is_stale(trainer, pl_module):
            self._ended = False
            self._network.follow(pl_module, trainer)
            self._refit(trainer)
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
            **self._network.state_dict(),
            **self._schedule.state_dict(),
            "approach": self.approach.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`; codebooks of another `num_levels` are fitted afresh."""
        self.approach.load_state_dict(state_dict["approach"])
        is_other = not self._network.load_state_dict(state_dict)
        self._schedule.load_state_dict(state_dict, refits=is_other)

    # How it is done.

    def _release(self) -> None:
        """A batch is over."""
        self._in_batch = False
        self._network.release()

    def _lambdas(self, trainer: Trainer) -> Lambdas | None:
        """The factors of both terms; None where they do not act."""
        if not (self._in_batch and self.is_active(trainer)):
            return None
        entropy = self.lambda_entropy * self.approach.factor
        return Lambdas(entropy, self.lambda_reconstruction, self.ramp(trainer))

    def _start_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.should_refit(trainer, epoch_start=True):
            self._refit(trainer)
        elif self.is_active(trainer):
            self._network.take_rates()
        if self.is_active(trainer):
            self._file.measure(pl_module)

    def _refit(self, trainer: Trainer) -> None:
        self._network.fit(trainer)
        self._schedule.note_refit(trainer)

    def _finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file, of the network as it is if it was never trained with the terms."""
        self._ended = True
        self._network.forward.close()
        self._network.settle(pl_module, trainer)
        if not self.codebooks:
            rank_zero_warn(
                f"Training ended before `start_epoch` {self.start_epoch}: the network was never "
                "trained with the entropy term, and is quantized as it is"
            )
            self._refit(trainer)
        if self.path is not None:
            self._file.finish(trainer, pl_module, self.path, self.recalibrate_batches)
