"""`compress` on small networks: where files land, what they keep, what is refused."""

import copy
import warnings

import pytest
import torch
from torch import nn

from hemp_lightning import compress, load, load_into
from hemp_lightning.calibration import STAGES, distillation


class Attention(nn.Module):
    """Tokens to tokens, with a packed projection and an embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 50, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.encoder(self.embedding(tokens)))


class Recurrent(nn.Module):
    """A sequence to numbers and the last state, in a dict."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(12, 32, batch_first=True)
        self.head = nn.Linear(32, 3)

    def forward(self, sequence):
        outputs, (state, _) = self.lstm(sequence)
        return {"numbers": self.head(outputs), "state": state.transpose(0, 1)}


def networks():
    torch.manual_seed(0)
    convolutional = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=16), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip
    perceptron = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 5))
    return {
        "perceptron": (perceptron, torch.randn(150, 20)),
        "convolutional": (convolutional, torch.randn(150, 3, 10, 10)),
        "transformer": (Attention(), torch.randint(50, (60, 7))),
        "recurrent": (Recurrent(), torch.randn(60, 5, 12)),
    }


NETWORKS = networks()


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def network(name):
    model, inputs = NETWORKS[name]
    return copy.deepcopy(model), inputs


@torch.no_grad()
def relative_error(model, path, inputs):
    wanted = model.eval()(inputs)
    found = load_into(copy.deepcopy(model), path).eval()(inputs)
    if isinstance(wanted, dict):
        wanted, found = wanted["numbers"], found["numbers"]
    return ((found - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("name", NETWORKS)
def test_without_inputs_or_target_the_outputs_stay(tmp_path, name):
    model, inputs = network(name)
    before = copy.deepcopy(model.state_dict())
    summary = compress(model, tmp_path / "a.hemp")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert summary.drop is None and summary.stage == "grid"
    assert summary.file_bytes == (tmp_path / "a.hemp").stat().st_size
    assert summary.file_bytes < summary.float_bytes / 3
    assert relative_error(model, tmp_path / "a.hemp", inputs) < 0.15
    found = load(tmp_path / "a.hemp")
    for key, error in summary.errors.items():  # against a plain sum over the entries
        difference = (found[key] - before[key]).square().sum() / before[key].square().sum()
        assert error == pytest.approx(difference.sqrt().item(), rel=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("share", [0.15, 0.09])
def test_lands_at_or_below_the_bytes_and_within_two_percent(tmp_path, name, share):
    model, inputs = network(name)
    target = round(share * 4 * sum(p.numel() for p in model.parameters()))
    for stages, data in (((), None), (("round",), inputs)):
        summary = compress(model, tmp_path / "a.hemp", data, target_bytes=target, stages=stages)
        assert 0.98 * target <= summary.file_bytes <= target


@pytest.mark.parametrize("name", NETWORKS)
def test_finds_a_file_below_the_drop_and_not_a_much_larger_one(tmp_path, name):
    model, inputs = network(name)
    sizes = []
    for max_drop in (0.03, 0.2):
        summary = compress(model, tmp_path / "a.hemp", inputs, max_drop=max_drop, stages=("round",))
        assert summary.drop <= max_drop
        sizes.append(summary.file_bytes)
    assert sizes[1] < 0.95 * sizes[0]


def test_distillation_keeps_more_than_rounding_at_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(distillation, "PASSES", 15_000)
    torch.manual_seed(0)
    model, _ = network("perceptron")
    inputs, others = torch.randn(500, 20), torch.randn(500, 20)
    kept = {}
    for stages in ((), STAGES):
        path = tmp_path / "a.hemp"
        summary = compress(model, path, inputs, target_bytes=1500, stages=stages, time_limit=1e6)
        assert summary.file_bytes <= 1500
        kept[stages] = relative_error(model, path, others)
    assert summary.stage == "distil"
    assert kept[STAGES] < 0.8 * kept[()]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_networks_keep_their_dtype(tmp_path, dtype):
    model, inputs = network("perceptron")
    summary = compress(model.to(dtype), tmp_path / "a.hemp", inputs, max_drop=0.1, stages=())
    assert {tensor.dtype for tensor in load(tmp_path / "a.hemp").values()} == {dtype}
    assert summary.drop <= 0.1


def test_takes_loaders_tuples_and_dicts_and_looks_at_no_label(tmp_path):
    model, inputs = network("perceptron")
    labels = torch.full((150,), float("nan"))
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(inputs, labels), batch_size=32
    )
    dicts = [{"input": part, "labels": labels} for part in inputs.split(32)]
    sizes = {
        compress(model, tmp_path / "a.hemp", data, max_drop=0.05, stages=()).file_bytes
        for data in (
            inputs,
            inputs.numpy(),
            loader,
            dicts,
            list(zip(inputs.split(32), labels, strict=False)),
        )
    }
    assert len(sizes) == 1


def test_takes_a_distance_of_ones_own(tmp_path):
    model, inputs = network("perceptron")
    summary = compress(
        model, tmp_path / "a.hemp", inputs, max_drop=0.02, stages=(),
        distance=lambda found, wanted: (found - wanted).abs().mean(),
    )  # fmt: skip
    found = load_into(copy.deepcopy(model), tmp_path / "a.hemp")
    with torch.no_grad():
        error = (found(inputs) - model(inputs)).abs().mean().item()
    assert summary.drop <= 0.02
    assert error == pytest.approx(summary.drop, rel=0.2)  # over all inputs, not the held-back ones


@pytest.mark.parametrize("target", [200, 10**7])
def test_an_unreachable_size_says_so_and_gives_the_nearest_file(tmp_path, target):
    model, _ = network("perceptron")
    with pytest.warns(UserWarning, match=f"`target_bytes` must be .*found {target:,}"):
        summary = compress(model, tmp_path / "a.hemp", target_bytes=target)
    if target == 200:
        assert 200 < summary.file_bytes < 1500
    else:
        assert summary.file_bytes > 0.4 * summary.float_bytes
    load_into(model, tmp_path / "a.hemp")


class Noisy(nn.Linear):
    def forward(self, inputs):
        return super().forward(inputs) + torch.randn(len(inputs), 1)


def with_nan(value):
    inputs = torch.randn(40, 20)
    inputs[7, 3] = value
    return inputs


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (nn.Linear(20, 9), torch.randn(40, 21), "`inputs` must be what Linear takes; .*(40|64), 2"),
        (nn.Linear(20, 9), with_nan(float("nan")), "`inputs` must be finite"),
        (nn.Linear(20, 9), torch.full((40, 20), 3e38), "outputs of Linear must be finite"),
        (Noisy(20, 9), torch.randn(40, 20), "Noisy must give the same outputs"),
        (nn.Linear(20, 9), torch.randn(0, 20), "`inputs` must have at least one"),
        (nn.Linear(20, 9), [], "`inputs` must have at least one"),
        (nn.Linear(20, 9), "folder", "`inputs` must be a tensor"),
        (nn.ReLU(), torch.randn(40, 20), "`model` must have parameters"),
    ],
)
def test_refuses_in_one_line_and_keeps_the_old_file(tmp_path, model, inputs, message):
    path = tmp_path / "a.hemp"
    path.write_bytes(b"old")
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        compress(model, path, inputs)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.hemp"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_bytes": 0}, "`target_bytes` must be above 0"),
        ({"max_drop": 0.1}, "`max_drop` needs `inputs`"),
        ({"max_drop": 0.1, "target_bytes": 9}, "at most one of the two"),
        ({"time_limit": -1}, "`time_limit` must be above 0"),
        ({"stages": ["train"]}, "`stages` must be among"),
    ],
)
def test_refuses_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        compress(nn.Linear(20, 9), tmp_path / "a.hemp", **arguments)


def test_an_interruption_keeps_the_best_file_so_far(tmp_path):
    model, inputs = network("perceptron")
    calls = 0

    def distance(found, wanted):
        nonlocal calls
        calls += torch.is_grad_enabled()
        if calls > 4:  # in the training, which is the only part with gradients
            raise KeyboardInterrupt
        return (found - wanted).square().mean()

    with pytest.warns(UserWarning, match="interrupted: the best file so far"):
        summary = compress(
            model, tmp_path / "a.hemp", inputs, target_bytes=1800, distance=distance,
            stages=("distil",), time_limit=60,
        )  # fmt: skip
    assert summary.stage == "grid" and summary.file_bytes <= 1800
    load_into(model, tmp_path / "a.hemp")
