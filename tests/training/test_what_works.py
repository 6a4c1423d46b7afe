"""The table of what works with what: each row is a case here, and each case a row."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelPruning, StochasticWeightAveraging
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hemp_lightning import HEMPCallback, load, load_into
from hemp_lightning.suite.baselines import (
    LOBSTER,
    LSQ,
    DeepCompression,
    FilterPruning,
    KeepZeros,
    MagnitudePruning,
    NNCodec,
    PostTraining,
)
from tests.training.networks import (
    Clipped,
    ExtraState,
    Halved,
    InConfigureModel,
    InSetup,
    Iterating,
    Manual,
    Named,
    Net,
    NewLayers,
    NotFinite,
    Penalty,
    Raw,
    Recomputed,
    Skipping,
    SparseRows,
    Teacher,
    Tied,
    TwoPasses,
    Unfrozen,
    broken,
    compiled,
    constant,
    convolutions,
    loss_scaling,
    normed,
    pruned,
    qat,
    sparse_buffer,
)

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
_spec = importlib.util.spec_from_file_location(
    "test_distributed", Path(__file__).with_name("test_distributed.py")
)
test_distributed = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(test_distributed)


# row: (module, options of the Trainer, options of the callback)
CASES = {
    "gradient accumulation": (Net, {"accumulate_grad_batches": 3}, {}),
    "gradient clipping by norm": (Net, {"gradient_clip_val": 0.1}, {}),
    "gradient clipping by value": (
        Net,
        {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
        {},
    ),
    "bf16 autocast": (Net, {"precision": "bf16-mixed"}, {}),
    "fp16 autocast with loss scaling": (Net, {"plugins": loss_scaling}, {}),
    "float64 training": (Net, {"precision": "64-true"}, {}),
    "manual optimization, several optimizers": (Manual, {}, {}),
    "frozen parameters, tied weights": (lambda: Net(Tied()), {}, {}),
    "early stopping": (
        Net,
        {"callbacks": [EarlyStopping("loss", patience=1, min_delta=10.0)]},
        {},
    ),
    "modules of `torch.compile`": (compiled, {}, {}),
    "a `LightningModule` of `torch.compile`": (
        lambda: torch.compile(Net(), backend="eager"),
        {},
        {},
    ),
    "a module of nested names with dots and Unicode": (lambda: Net(Named()), {}, {}),
    "transposed and grouped convolutions": (lambda: Net(convolutions()), {}, {}),
    "a tensor of one value": (constant, {}, {}),
    "a lambda that drives all to 0": (Net, {}, {"lambda_entropy": 1e6}),
    "weight averaging callbacks": (Net, {"callbacks": [StochasticWeightAveraging(1e-2)]}, {}),
    "LBFGS": (lambda: Net(optimizer=torch.optim.LBFGS), {}, {}),
    "a gradient that is not finite": (NotFinite, {}, {}),
    "weights that are not finite": (broken, {}, {}),
    "sharded parameters (FSDP)": (Net, {"sharded": True}, {}),
    "a network built in `setup`": (InSetup, {}, {}),
    "a network built in `configure_model`": (InConfigureModel, {}, {}),
    "layers and parameters set anew": (NewLayers, {}, {}),
    "a teacher that follows the weights": (Teacher, {}, {}),
    "weights clipped in `training_step`": (Clipped, {}, {}),
    "`ModelPruning`": (
        Net,
        {
            "callbacks": lambda: [
                ModelPruning("l1_unstructured", amount=0.3, use_lottery_ticket_hypothesis=False)
            ]
        },
        {},
    ),
    "an optimizer stepped without Lightning": (Raw, {}, {}),
    "two passes a step (SAM)": (lambda: Net(optimizer=TwoPasses), {}, {}),
    "`training_step(dataloader_iter)`": (Iterating, {}, {}),
    "a hook that skips the rest of an epoch": (Skipping, {}, {}),
    "sparse gradients, `max_norm`": (SparseRows, {}, {}),
    "gradients within `training_step`": (Penalty, {}, {}),
    "bf16 training": (lambda: Net(normed()), {"precision": "bf16-true"}, {}),
    "layers unfrozen during training": (Unfrozen, {}, {}),
    "modules computed again for backward": (Recomputed, {}, {}),
    "weights set anew in `on_train_end`": (Halved, {}, {}),
    "two callbacks for one tensor": (
        Net,
        {"callbacks": [HEMPCallback(tensors="*.3.weight")]},
        {},
    ),
    "more than 256 levels with `rate_model='context'`": (
        Net,
        {},
        {"rate_model": "context", "num_levels": 257},
    ),
    "a sparse buffer": (sparse_buffer, {}, {}),
    "extra state of a module": (
        lambda: Net(nn.Sequential(nn.Flatten(), ExtraState(64, 4))),
        {},
        {},
    ),
    "`LSQ`, whose learned grid it takes": (Net, {"before": lambda: [LSQ(bits=3)]}, {}),
    "`LSQ` and pruning": (
        Net,
        {"before": lambda: [MagnitudePruning(0.5), LSQ(bits=3)]},
        {},
    ),
    "`MagnitudePruning`, at once or gradually": (
        Net,
        {"before": lambda: [MagnitudePruning(0.5, end_epoch=2, every_n_steps=1)]},
        {},
    ),
    "`FilterPruning`": (
        lambda: Net(convolutions()),
        {"before": lambda: [FilterPruning(0.5)]},
        {},
    ),
    "`LOBSTER`": (Net, {"before": lambda: [LOBSTER(0.01, tolerance=0.5)]}, {}),
    "`KeepZeros` after pruning": (pruned, {"before": lambda: [KeepZeros()]}, {}),
    "a network of `torch.nn.utils.prune`": (lambda: pruned(permanent=False), {}, {}),
    "torchao's layers for quantization-aware training": (qat, {}, {}),
    "`DeepCompression`, whose weights share trained values": (
        Net,
        {"before": lambda: [DeepCompression("unused.hemp")]},
        {},
    ),
    "`PostTraining`, which quantizes after training": (
        Net,
        {"before": lambda: [PostTraining("unused.hemp")]},
        {},
    ),
    "`NNCodec`, which has a file of its own": (
        Net,
        {"before": lambda: [NNCodec("unused.nnc")], "needs": "nncodec"},
        {},
    ),
    "`LSQ` behind HEMPCallback in the list": (Net, {"callbacks": lambda: [LSQ(bits=3)]}, {}),
    "pruning with `transform='dct'`": (
        Net,
        {"before": lambda: [MagnitudePruning(0.5)]},
        {"transform": "dct"},
    ),
}


def table():
    text = PAGE.read_text(encoding="utf-8").split("<!-- works -->")[1].split("\n\n")[0]
    return dict(re.findall(r"^\| (.+?) \| (works|refused) \|$", text, re.M))


def test_every_row_is_a_case():
    assert list(table()) == [*CASES, *test_distributed.ROWS]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", CASES)
def test_row(row, tmp_path):
    make, options, arguments = CASES[row]
    options = dict(options)
    if "needs" in options:
        pytest.importorskip(options.pop("needs"))
    seed_everything(0, verbose=False)
    net = make()
    path = tmp_path / "net.hemp"
    arguments = {"num_levels": 5, "lambda_entropy": 0.1, "path": path} | arguments
    if arguments["num_levels"] > 256:
        with pytest.raises(ValueError, match="at most 256 with `rate_model`"):
            HEMPCallback(**arguments)
        return
    hemp = HEMPCallback(**arguments)
    before = options.pop("before", list)()
    callbacks = options.pop("callbacks", [])
    callbacks = callbacks() if callable(callbacks) else callbacks
    if "plugins" in options:
        options["plugins"] = [options["plugins"]()]
    is_sharded = options.pop("sharded", False)
    trainer = Trainer(
        max_epochs=4,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*before, hemp, *callbacks],
        **options,
    )
    if is_sharded:  # the strategy itself needs GPUs; the callback goes by its name
        strategy = trainer.strategy
        strategy.__class__ = type("FSDPStrategy", (type(strategy),), {})
    data = DataLoader(TensorDataset(torch.randn(32, 1, 8, 8), torch.arange(32) % 4), batch_size=8)
    if table()[row] == "refused":
        with pytest.raises(
            (ValueError, TypeError, RuntimeError), match=r"HEMPCallback|finite|`transform`"
        ):
            trainer.fit(net, data)
        assert not path.exists()
        return
    trainer.fit(net, data)
    net = getattr(net, "_orig_mod", net)
    state = load(path)
    assert list(state) == list(net.state_dict())
    for name, book in hemp.codebooks.items():
        assert torch.isfinite(state[name]).all()
        apart = book.coefficients(state[name])[..., None] - book.levels.cpu()
        rounding = 1e-5 if state[name].dtype == torch.float32 else 1e-2
        assert apart.abs().amin(-1).max() < rounding, name
    load_into(Net() if row.startswith("a network built") else make(), path)
