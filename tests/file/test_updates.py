"""Updates: small, complete with their base, and nothing without it.

`python tests/file/test_updates.py` writes the golden files that do not exist.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

import hemp_reader
from hemp_lightning import HempFileError, load, save
from hemp_lightning.file.updates import apply
from hemp_lightning.quantization import Codebook
from hemp_reader.format.directory import FOLDED, IN_ORDER, IN_PLACE, WHOLE
from hemp_reader.reading import inspect, open_file, verify
from tests.file.test_format import LEVELS, WIDE, numbers, reference_file, words_of

FOLDER = Path(__file__).parents[1] / "data" / "updates"
BASE, UPDATE = FOLDER / "version3_base.hemp", FOLDER / "version4_update.hemp"
OPTIONS = {
    "codebooks": {
        "conv.weight": Codebook(LEVELS.levels, transform="dct"),
        "fc.weight": LEVELS,
        "head.weight": WIDE,
        "same.weight": LEVELS,
    },
    "coder": "raw",
}
"""How the golden files are written: the differences are coded by the usual coders all the same."""


def network(seed: int = 0, moved: float = 0.0) -> dict[str, torch.Tensor]:
    """Tensors of which `moved` says how far they are from those of a base."""
    state = {
        "conv.weight": numbers(1, 6, 4, 3, 3),
        "conv.bias": numbers(2, 60),
        "fc.weight": numbers(3, 40, 30),
        "fc.bias": 8 + numbers(4, 300).to(torch.bfloat16),
        "head.weight": numbers(5, 5, 7),
        "same.weight": numbers(6, 5, 7),
        "steps": torch.tensor(1200),
        "mask": numbers(7, 9) > 0,
    }
    if moved:
        generator = random.Random(seed)
        for name in ("conv.weight", "fc.weight"):
            noise = [generator.gauss(0, moved) for _ in range(state[name].numel())]
            state[name] = state[name] + torch.tensor(noise).reshape(state[name].shape)
        state["conv.bias"] = state["conv.bias"] * (1 + 2.0**-9)
        state["fc.bias"] = state["fc.bias"] * (1 + 2.0**-7)
        state["head.weight"] = numbers(8, 5, 7)
        state["steps"] = torch.tensor(1300)
    state["tied.weight"] = state["fc.weight"]
    return state


def relations(path: Path, base: Path) -> dict[str, int]:
    with open_file(path, base=base) as file:
        names = [record.name for record in file.own_records]
        return dict(zip(names, file.update.relations, strict=True))


def equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return list(found) == list(wanted) and all(
        torch.equal(found[name].view(-1).view(torch.uint8), wanted[name].view(-1).view(torch.uint8))
        for name in wanted
    )


def test_the_golden_update_decodes_to_what_was_written(tmp_path: Path) -> None:
    save(network(moved=0.05), tmp_path / "whole.hemp", **OPTIONS)
    wanted = load(tmp_path / "whole.hemp")
    found = load(UPDATE, base=BASE)
    assert equal(found, wanted)
    assert found["tied.weight"] is found["fc.weight"]
    arrays = hemp_reader.load(UPDATE.read_bytes(), base=BASE.read_bytes())
    assert all(
        arrays[name].tobytes() == (t.float() if t.dtype == torch.bfloat16 else t).numpy().tobytes()
        for name, t in wanted.items()
    )
    assert set(relations(UPDATE, BASE).values()) >= {WHOLE, IN_PLACE, FOLDED}
    assert "same.weight" not in relations(UPDATE, BASE)
    assert UPDATE.read_bytes()[4] == 4


def test_the_golden_update_is_written_byte_for_byte(tmp_path: Path) -> None:
    save(network(), tmp_path / "base.hemp", **OPTIONS)
    assert (tmp_path / "base.hemp").read_bytes() == BASE.read_bytes()
    summary = save(network(moved=0.05), tmp_path / "update.hemp", base=BASE, **OPTIONS)
    assert (tmp_path / "update.hemp").read_bytes() == UPDATE.read_bytes()
    assert summary.file_bytes == UPDATE.stat().st_size
    sizes = {tensor.name: tensor.bytes for tensor in summary.tensors}
    assert sizes["same.weight"] == 0 < sizes["fc.weight"]


def test_a_second_reader_agrees() -> None:
    found = load(UPDATE, base=BASE)
    wanted = reference_file.read_file(UPDATE.read_bytes(), BASE.read_bytes())
    assert list(found) == list(wanted)
    for name, tensor in found.items():
        if isinstance(wanted[name], str):
            assert tensor is found[wanted[name]]
            continue
        dtype, shape, words = wanted[name]
        if dtype.endswith("as float16"):
            tensor = tensor.half()
        assert shape == tuple(tensor.shape) and words_of(tensor) == tuple(words), name


def test_differences_may_come_in_the_order_of_what_was_expected(tmp_path: Path) -> None:
    """Weights that change where the base has one level, and nowhere else."""
    before = numbers(9, 64, 64).sign() * 0.25
    before[:, ::2] = 0
    generator = random.Random(1)
    moved = torch.tensor([generator.random() < 0.3 for _ in range(4096)]).reshape(64, 64)
    after = torch.where(moved & (before > 0), torch.tensor(0.5), before)
    paths = [tmp_path / name for name in ("base.hemp", "update.hemp", "whole.hemp")]
    save({"w": before}, paths[0], codebooks={"w": LEVELS})
    save({"w": after}, paths[1], codebooks={"w": LEVELS}, base=paths[0])
    save({"w": after}, paths[2], codebooks={"w": LEVELS})
    assert relations(paths[1], paths[0]) == {"w": IN_ORDER}
    assert equal(load(paths[1], base=paths[0]), load(paths[2]))
    reference = reference_file.read_file(paths[1].read_bytes(), paths[0].read_bytes())["w"]
    assert reference[2] == words_of(load(paths[2])["w"])


def test_what_has_not_changed_takes_no_bytes(tmp_path: Path) -> None:
    for name, change in (("nothing", {}), ("head", {"head.weight": 3 * numbers(10, 5, 7)})):
        state = {**load(BASE), **change}
        whole = save(state, tmp_path / f"{name}_whole.hemp", num_levels=16)
        update = save(state, tmp_path / f"{name}.hemp", num_levels=16, base=BASE)
        layer = next(t.bytes for t in whole.tensors if t.name == "head.weight")
        assert update.file_bytes < (200 if not change else layer + 200)
        assert equal(load(update.path, base=BASE), {**load(BASE), **load(update.path, base=BASE)})
        for key, tensor in load(update.path, base=BASE).items():
            assert key in change or torch.equal(tensor, load(BASE)[key])


@pytest.mark.parametrize("other", ["names", "order", "ties", "everything"])
def test_no_update_is_larger_than_a_whole_file(tmp_path: Path, other: str) -> None:
    state = network(moved=0.05)
    if other == "names":
        state["more"] = state.pop("head.weight")
    elif other == "order":
        state = dict(reversed(state.items()))
    elif other == "ties":
        state["tied.weight"] = state["tied.weight"].clone()
    else:
        state = {name: numbers(20 + i, 31, 3) for i, name in enumerate(state)}
        state["tied.weight"] = state["fc.weight"]
    whole = save(state, tmp_path / "whole.hemp")
    update = save(state, tmp_path / "update.hemp", base=BASE)
    assert update.file_bytes <= whole.file_bytes + 100
    assert equal(load(tmp_path / "update.hemp", base=BASE), load(tmp_path / "whole.hemp"))


def test_apply_gives_a_whole_file_that_later_updates_stand_on(tmp_path: Path) -> None:
    whole = tmp_path / "whole.hemp"
    assert apply(BASE, UPDATE, whole) == whole.stat().st_size
    assert equal(load(whole), load(UPDATE, base=BASE))
    save(network(moved=0.05), tmp_path / "same.hemp", **OPTIONS)
    assert whole.read_bytes() != (tmp_path / "same.hemp").read_bytes()
    # an update for the one is an update for the other: they hold the same
    save(network(seed=2, moved=0.06), tmp_path / "next.hemp", base=whole, **OPTIONS)
    again = load(tmp_path / "next.hemp", base=tmp_path / "same.hemp")
    assert equal(again, load(tmp_path / "next.hemp", base=whole))


@pytest.mark.parametrize("read", [load, hemp_reader.load, inspect, verify])
def test_a_missing_base_and_a_wrong_one_are_refused_in_words(read, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(HempFileError, match=r"expected as `base` the file with .*found no base"):
        read(UPDATE)
    save(network(seed=3, moved=0.1), tmp_path / "other.hemp", **OPTIONS)
    with pytest.raises(HempFileError, match=r"as `base` the file with the content .*found one"):
        read(UPDATE, base=tmp_path / "other.hemp")
    with pytest.raises(HempFileError, match="expected as `base` a whole file, found an update"):
        read(UPDATE, base=UPDATE)
    with pytest.raises(HempFileError, match="at most `max_bytes`=9 bytes"):
        read(UPDATE, base=BASE, max_bytes=9)
    read(BASE, base=BASE)  # a whole file needs none


def test_every_flipped_bit_and_every_cut_is_noticed() -> None:
    data, base = UPDATE.read_bytes(), BASE.read_bytes()
    for position in range(0, 8 * len(data), 3):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(HempFileError):
            hemp_reader.load(bytes(flipped), base=base)
    for size in range(0, len(data), 7):
        with pytest.raises(HempFileError):
            hemp_reader.load(data[:size], base=base)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    if not BASE.exists():
        save(network(), BASE, **OPTIONS)
    if not UPDATE.exists():
        save(network(moved=0.05), UPDATE, base=BASE, **OPTIONS)
    print(BASE.stat().st_size, UPDATE.stat().st_size, relations(UPDATE, BASE))
