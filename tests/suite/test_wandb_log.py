"""What wandb gets, read from the records of an offline run, as `wandb sync` reads them."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hemp_lightning.suite.wandb_log import log_file, tensor_rows
from tests.suite.test_run import results, run

pytest.importorskip("wandb")


def records(file: Path) -> Iterator[Any]:
    """Records of wandb's own log: LevelDB's, blocks of 32 KiB, records in one piece or several."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = file.read_bytes()
    assert data[:4] == b":W&B"
    place, message = 7, b""
    while place + 7 <= len(data):
        left = 2**15 - place % 2**15
        if left < 7:  # no room for a header: the block is filled up
            place += left
            continue
        _, size, piece = struct.unpack_from("<IHB", data, place)
        message += data[place + 7 : place + 7 + size]
        place += 7 + size
        if piece in (1, 4):  # whole, or the last piece
            yield Record.FromString(message)
            message = b""


def test_an_offline_run_holds_config_curves_and_the_file(tmp_path: Path) -> None:
    run(tmp_path / "a", "trainer=debug", "callbacks=none", "logger=csv_wandb", "model=lenet300")
    folder = tmp_path / "a" / "wandb"
    (stored,) = folder.glob("offline-run-*/run-*.wandb")
    config: dict[str, str] = {}
    curves: dict[str, list[Any]] = {}
    artifacts = []
    for record in records(stored):
        kind = record.WhichOneof("record_type")
        config |= {item.key: item.value_json for item in record.config.update}
        for item in record.history.item if kind == "history" else ():
            name = item.key or "/".join(item.nested_key)
            curves.setdefault(name, []).append(json.loads(item.value_json))
        artifacts += [record.artifact] if kind == "artifact" else []
    found = results(tmp_path / "a")
    assert json.loads(config["seed"]) == 0 and json.loads(config["hemp"])["order"] == 2
    assert len(curves["train/loss"]) == 2  # an epoch in float, an epoch with the method
    assert {"hemp/rate", "hemp/distortion", "hemp/ratio", "val/accuracy"} <= set(curves)
    histograms = [k for k in curves if k.startswith("hemp/levels/") and k.endswith("/values")]
    assert len(histograms) == 3 and all(len(curves[k]) == 1 for k in histograms)
    assert sum(sum(curves[k][0]) for k in histograms) == 266_200  # each weight once
    (table,) = folder.glob("offline-run-*/files/media/table/hemp/*.json")
    rows = json.loads(table.read_text())["data"]
    assert [row[0] for row in rows] == [entry["name"] for entry in found["tensors"]]
    files = [e for a in artifacts if a.type == "model" for e in a.manifest.contents]
    assert [(e.path, e.size) for e in files] == [("model.hemp", found["file_bytes"])]
    assert Path(files[0].local_path).read_bytes() == (tmp_path / "a/model.hemp").read_bytes()
    assert (tmp_path / "a" / "csv" / "metrics.csv").is_file()  # both at the same time


def test_other_loggers_and_other_files_are_left_alone(tmp_path: Path) -> None:
    assert tensor_rows(object()) == []
    log_file([], {}, {}, tmp_path / "none")
