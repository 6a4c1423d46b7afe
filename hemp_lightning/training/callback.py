"""HEMPCallback: when the entropy term acts on a training run, and how strongly.

The formulas are in `entropy/` and `quantization/`, the file in `file/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from hemp_lightning.entropy.context_lengths import RATE_MODELS, ContextRates
from hemp_lightning.entropy.context_lengths import warm_up as warm_up_context
from hemp_lightning.entropy.formula import SCOPES, entropy_and_gradients, warm_up
from hemp_lightning.file import options as file_options
from hemp_lightning.file.save import save, size_of
from hemp_lightning.file.summary import Summary
from hemp_lightning.ground.scan_order import check_scan
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.quantization.quantizers import Quantizer, get_quantizer
from hemp_lightning.quantization.selection import select_tensors
from hemp_lightning.training.recalibration import recalibrate
from hemp_lightning.training.target_steering import Approach, index_rate
from hemp_lightning.training.weight_swap import StandIn

FORWARDS = ("straight_through", "continuous")
SHARDED = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")
AVERAGING = ("StochasticWeightAveraging", "WeightAveraging", "EMAWeightAveraging")


@dataclass(frozen=True)
class FileOptions(file_options.FileOptions):
    """What is written at the end of training: as `save` has it, and two words of the training.

    Args:
        module: Name of the submodule that is trained and written, such as `network`, so that the
            file has the keys of the plain network; None for the whole LightningModule.
        recalibrate_batches: Training batches on which BatchNorm statistics are taken anew with
            quantized weights before writing; 0 keeps those of the training.
    """

    float_dtype: str = "steps"
    module: str | None = None
    recalibrate_batches: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recalibrate_batches < 0:
            raise ValueError(
                f"`recalibrate_batches` must be at least 0; found {self.recalibrate_batches}"
            )


class HEMPCallback(Callback):
    """Trains a network whose quantized weights have little entropy, and writes it as a file.

    The loss becomes `task + lambda_entropy * R + lambda_reconstruction * D`, with the rate `R` in
    bits per weight and the distortion `D` the mean squared error of the quantized weights, both
    over all chosen tensors. The gradients of the two terms are added once per optimizer step, after
    backward and before clipping. Source: Tartaglione et al., *HEMP*, Neurocomputing 461 (2021).

    Parameter names and `state_dict` keys never change. Checkpoints hold the real-valued weights.

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
        tensors: `weights`, `layers`, `all`, or parameter names or patterns, see `select_tensors`.
        target_bytes: Size the file should have: lambda is steered there during training, codebooks
            are kept from half of it on, and what is left is trimmed from the rarest levels. None:
            lambda stays.
        target_accuracy: Value of `monitor` to end at, in (0, 1): lambda rises while the quantized
            network does better, and falls while it does worse; in the last third of training it
            only falls. None: lambda stays.
        monitor: Logged metric for `target_accuracy`, of the validation.
        path: File to write at the end of training; None for none.
        file: What is written, see `FileOptions`.

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
        tensors: str | Sequence[str] = "weights",
        target_bytes: int | None = None,
        target_accuracy: float | None = None,
        monitor: str = "val/accuracy",
        path: str | Path | None = None,
        file: FileOptions | None = None,
    ) -> None:
        for name, value, low in (
            ("order", order, 1),
            ("lambda_entropy", lambda_entropy, 0),
            ("lambda_reconstruction", lambda_reconstruction, 0),
            ("start_epoch", start_epoch, 0),
            ("warmup_epochs", warmup_epochs, 0),
            ("refit_every_n_epochs", refit_every_n_epochs, 0),
            ("refit_every_n_steps", refit_every_n_steps, 0),
        ):
            if not low <= value < float("inf"):
                raise ValueError(f"`{name}` must be finite and at least {low}; found {value}")
        for name, word, words in (
            ("rate_model", rate_model, RATE_MODELS),
            ("scope", scope, SCOPES),
            ("forward", forward, FORWARDS),
        ):
            if word not in words:
                raise ValueError(f"`{name}` must be one of {', '.join(words)}; found {word!r}")
        self.order = order
        self.lambda_entropy = lambda_entropy
        self.lambda_reconstruction = lambda_reconstruction
        self.quantizer = get_quantizer(quantizer, num_levels)
        self.num_levels = self.quantizer.num_levels
        self.rate_model = rate_model
        self.scope = scope
        self.scan = check_scan(scan)
        self.forward = forward
        self.insensitivity = insensitivity
        self.start_epoch = start_epoch
        self.warmup_epochs = warmup_epochs
        self.refit_every_n_epochs = refit_every_n_epochs
        self.refit_every_n_steps = refit_every_n_steps
        self.tensors = tensors
        self.approach = Approach(target_bytes, target_accuracy, monitor, lambda_entropy)
        self.path = None if path is None else Path(path)
        self.file = file or FileOptions()
        self.codebooks: dict[str, Codebook] = {}
        self.summary: Summary | None = None
        self._parameters: dict[str, nn.Parameter] = {}
        self._rates = ContextRates()
        self._stand_in = StandIn({})
        self._last_refit = -1  # optimizer step
        self._last_epoch = -1  # whose start was seen
        self._batch_fraction = 0.0
        self._in_batch = False
        self._ended = False

    # What is decided.

    @property
    def state_key(self) -> str:
        """Key of this callback's state in a checkpoint: one per compressed module and choice."""
        return self._generate_state_key(module=self.file.module, tensors=self.tensors)

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
        """Choose the tensors; refuse what cannot work."""
        strategy = type(trainer.strategy).__name__
        if strategy in SHARDED:
            raise ValueError(
                f"HEMPCallback needs whole parameters on every process; found {strategy}, which "
                "shards them. Use strategy='ddp' or one device"
            )
        averaging = [
            type(callback).__name__
            for callback in trainer.callbacks  # type: ignore[attr-defined]
            if any(base.__name__ in AVERAGING for base in type(callback).__mro__)
        ]
        if averaging:
            raise ValueError(
                "HEMPCallback trains the weights that the file gets, on their levels; found "
                f"{averaging[0]}, which puts averages between the levels in their place. "
                "Leave it out, or average before `start_epoch` in a run of its own"
            )
        self._parameters = select_tensors(self._root(pl_module), self.tensors)
        self._stand_in = StandIn(self._parameters)
        self._ended = False
        if stage == "fit":
            rank_zero_info("HEMP: preparing the kernels of the entropy term (compiled once)")
            warm_up(self.order, trainer.strategy.root_device)
            if self.rate_model == "context":
                warm_up_context()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the memory that held the real weights."""
        self._stand_in.leave()
        self._stand_in = StandIn(self._parameters)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the optimizers, and that a target can be steered to."""
        self.approach.check(trainer)
        for optimizer in trainer.optimizers:
            if isinstance(optimizer, LBFGS):
                raise ValueError(
                    "HEMPCallback adds its gradient once per optimizer step; found LBFGS, which "
                    "evaluates the loss several times a step. Use a first-order optimizer"
                )
            if not pl_module.automatic_optimization:
                # the next forward of the same batch sees quantized weights again
                optimizer.register_step_post_hook(lambda *_: self._requantize(trainer))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Refit the codebooks if an epoch begins; put the quantized weights in place."""
        # not in `on_train_epoch_start`: a run resumed after the last batch of an epoch skips that
        if trainer.current_epoch != self._last_epoch:
            self._last_epoch = trainer.current_epoch
            self._start_epoch(trainer, pl_module)
        total = trainer.num_training_batches
        self._batch_fraction = batch_idx / total if 0 < total < float("inf") else 0.0
        self._in_batch = True
        self._requantize(trainer)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Put the real weights back and add the gradient of the two terms."""
        self._stand_in.leave()
        if self.is_active(trainer):
            self._add_terms(trainer, pl_module, optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Put the real weights back, whatever the batch did; refit if it is time."""
        self._in_batch = False
        self._stand_in.leave()
        if self.should_refit(trainer, epoch_start=False):
            self._refit_codebooks(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the quantized network, once there is one."""
        self._stand_in.enter(self.codebooks)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the real weights back, bit for bit; steer by the accuracy."""
        self._stand_in.leave()
        fits = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if fits and self.is_active(trainer):
            self.approach.follow_accuracy(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the real weights back, bit for bit."""
        self._stand_in.leave()

    on_test_start = on_predict_start = on_validation_start
    on_predict_end = on_test_end

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Recalibrate BatchNorm on the quantized network and write the file."""
        self._ended = True
        self._stand_in.leave()
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
            self._stand_in.enter(self.codebooks)
            recalibrate(trainer, pl_module, self._root(pl_module), self.file.recalibrate_batches)
            self._stand_in.leave()
            self._land(pl_module)  # other statistics may take more bytes
            if trainer.is_global_zero:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.summary = self._save_quantized(self.path, pl_module, self.codebooks)
        finally:
            self._stand_in.leave()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file also where there was nothing left to train.

        So it is for a run that was killed between its last checkpoint and its file, and then
        resumed: Lightning calls no other hook.
        """
        if not self._ended:
            self.on_train_end(trainer, pl_module)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the real weights behind."""
        self._in_batch = False
        self._stand_in.leave()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep real weights in a checkpoint that is taken while quantized ones stand in."""
        if not self._stand_in.active:
            return
        prefix = f"{self.file.module}." if self.file.module else ""
        for name, real in self._stand_in.real_weights().items():
            checkpoint["state_dict"][prefix + name] = real

    def state_dict(self) -> dict[str, Any]:
        """Codebooks, when they and the lengths were last taken, how far lambda was steered."""
        return {
            "codebooks": {
                name: {"levels": book.levels.cpu(), "thresholds": book.thresholds.cpu()}
                for name, book in self.codebooks.items()
            },
            "last_refit": self._last_refit,
            "last_epoch": self._last_epoch,
            "rates": self._rates.state_dict(),
            "approach": self.approach.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.codebooks = {
            name: Codebook(entry["levels"], entry["thresholds"])
            for name, entry in state_dict["codebooks"].items()
        }
        self._last_refit = state_dict["last_refit"]
        self._last_epoch = state_dict["last_epoch"]
        self._rates.load_state_dict(state_dict["rates"])
        self.approach.load_state_dict(state_dict["approach"])

    # How it is done.

    def _root(self, pl_module: LightningModule) -> nn.Module:
        if self.file.module is None:
            return pl_module
        try:
            return pl_module.get_submodule(self.file.module)
        except AttributeError:
            names = ", ".join(name for name, _ in pl_module.named_children())
            raise ValueError(
                f"`module` must be a submodule of {type(pl_module).__name__}, one of {names}; "
                f"found {self.file.module!r}"
            ) from None

    def _start_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.should_refit(trainer, epoch_start=True):
            self._refit_codebooks(trainer)
        elif self.rate_model == "context" and self.is_active(trainer):
            self._rates.take(self._parameters, self.codebooks)
        if self.approach.target_bytes is not None and self.is_active(trainer):
            summary = self._size(pl_module, self.codebooks)
            self.approach.measure(summary, self.codebooks, self._index_rate())

    def _refit_codebooks(self, trainer: Trainer) -> None:
        for name, parameter in self._parameters.items():
            init = self.codebooks.get(name)
            try:
                codebook = self.quantizer.fit(parameter.detach(), init)
            except ValueError as error:
                raise ValueError(f"Cannot fit a codebook to `{name}`: {error}") from None
            self.codebooks[name] = codebook.half_precision().to(parameter.device)
        if self.rate_model == "context":
            self._rates.take(self._parameters, self.codebooks)
        self._last_refit = trainer.global_step
        if trainer.world_size > 1:
            # every process fits the same weights; this holds even where their libraries differ
            self.load_state_dict(trainer.strategy.broadcast(self.state_dict()))

    def _requantize(self, trainer: Trainer) -> None:
        if self._in_batch and self.forward == "straight_through" and self.is_active(trainer):
            self._stand_in.enter(self.codebooks)

    @torch.no_grad()
    def _add_terms(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        optimizer: Optimizer,
    ) -> None:
        stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
        names = [
            name for name, p in self._parameters.items() if id(p) in stepped and p.requires_grad
        ]
        if not names:
            return
        weights = [self._parameters[name].detach() for name in names]
        levels = [self.codebooks[name].levels for name in names]
        if self.rate_model == "context":
            rate, gradients = self._rates.rate_and_gradients(names, weights, levels)
        else:
            rate, gradients = entropy_and_gradients(
                weights, levels, self.order, scope=self.scope, scan=self.scan
            )
        self.approach.follow_bytes(trainer, self._index_rate)
        every = max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        logs = trainer.global_step % every == 0
        ramp, strength = self.ramp(trainer), self.lambda_entropy * self.approach.factor
        if logs or self.lambda_reconstruction:
            errors = [
                w - self.codebooks[n].quantize(w) for n, w in zip(names, weights, strict=True)
            ]
            count = sum(error.numel() for error in errors)
            distortion = torch.stack([error.square().sum() for error in errors]).sum() / count
        if self.lambda_reconstruction:
            gradients = [
                gradient * strength + error * (2 * self.lambda_reconstruction / count)
                for gradient, error in zip(gradients, errors, strict=True)
            ]
            strength = 1.0
        for name, gradient in zip(names, gradients, strict=True):
            self._add(self._parameters[name], gradient, ramp * strength)
        if logs:
            pl_module.log_dict(
                {
                    "hemp/rate": rate.float(),
                    "hemp/distortion": distortion,
                    "hemp/lambda": self.current_lambda(trainer),
                }
            )
            pl_module.log("hemp/ratio", 32 / rate.float().clamp_min(1e-6), prog_bar=True)

    def _add(self, parameter: nn.Parameter, gradient: Tensor, strength: float) -> None:
        if parameter.grad is None:
            parameter.grad = (strength * gradient).to(parameter.dtype)
            return
        if self.insensitivity:
            size = parameter.grad.abs()
            gradient = gradient * (1 - size / size.max().clamp_min(torch.finfo(size.dtype).tiny))
        parameter.grad.add_(gradient.to(parameter.grad.dtype), alpha=strength)

    def _index_rate(self) -> float:
        return index_rate(self._parameters, self.codebooks, self.order, self.scan)

    # The file.

    def _land(self, pl_module: LightningModule) -> None:
        self.codebooks = self.approach.land(
            {name: parameter.detach() for name, parameter in self._parameters.items()},
            self.codebooks,
            lambda codebooks: self._size(pl_module, codebooks).file_bytes,
        )

    def _size(self, pl_module: LightningModule, codebooks: Mapping[str, Codebook]) -> Summary:
        """The summary of the file that these codebooks would make."""
        self._stand_in.enter(codebooks)
        try:
            return size_of(
                self._root(pl_module),
                codebooks={name: Codebook(book.levels.cpu()) for name, book in codebooks.items()},
                options=replace(self.file, order=self.order, scan=self.scan),
            )
        finally:
            self._stand_in.leave()

    def _save_quantized(
        self, path: Path, pl_module: LightningModule, codebooks: Mapping[str, Codebook]
    ) -> Summary:
        self._stand_in.enter(codebooks)
        try:
            return save(
                self._root(pl_module),
                path,
                coder=self.file.coder,
                # each weight is at its level now, which trimmed thresholds may put in another cell
                codebooks={name: Codebook(book.levels.cpu()) for name, book in codebooks.items()},
                order=self.order,
                scan=self.scan,
                float_dtype=self.file.float_dtype,
                fold_norms=self.file.fold_norms,
                reorder_units=self.file.reorder_units,
            )
        finally:
            self._stand_in.leave()
