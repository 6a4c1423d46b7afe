"""Work shared among threads: the order of results, how many are under way, and errors."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from hemp_lightning import HempFileError, load, save
from hemp_reader.parallel import count_threads, in_order
from hemp_reader.reading import inspect, verify


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order_and_few_at_a_time(threads):
    under_way, most = [], []
    lock = threading.Lock()

    def work(number):
        with lock:
            under_way.append(number)
            most.append(len(under_way))
        time.sleep(0.002 * (number % 3))
        with lock:
            under_way.remove(number)
        return number

    drawn = []
    items = (drawn.append(number) or number for number in range(20))
    for place, result in enumerate(in_order(work, items, threads)):
        assert result == place and len(drawn) <= place + threads
    assert place == 19 and max(most) <= threads


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_error_is_raised_and_the_rest_dropped(threads):
    done = []

    def work(number):
        if number in (4, 5):
            raise ValueError(str(number))
        done.append(number)
        return number

    with pytest.raises(ValueError, match="4"):
        list(in_order(work, range(1000), threads))
    assert len(done) <= 4 + threads


@pytest.mark.parametrize(
    ("threads", "error", "message"),
    [
        (0, ValueError, "`threads` must be at least 1; found 0"),
        (True, TypeError, "`threads` must be an integer; found True"),
        (1.5, TypeError, "`threads` must be an integer; found 1.5"),
    ],
)
def test_arguments(tmp_path, threads, error, message):
    with pytest.raises(error, match=message):
        count_threads(threads)
    with pytest.raises(error, match=message):
        save({}, tmp_path / "x.hemp", threads=threads)


def test_files_do_not_depend_on_threads(tmp_path):
    generator = torch.Generator().manual_seed(0)
    state = {f"w{i}": torch.randn(300, 400, generator=generator) for i in range(12)}
    state |= {f"big{i}": torch.randn(1100, 1000, generator=generator) for i in range(2)}
    state |= {"tied": state["w3"], "b": torch.randn(7, generator=generator)}
    paths = [tmp_path / f"{threads}.hemp" for threads in (1, 2, 5)]
    summaries = [
        save(state, path, num_levels=5, coder="fast", threads=threads)
        for path, threads in zip(paths, (1, 2, 5), strict=True)
    ]
    assert len({path.read_bytes() for path in paths}) == 1
    assert summaries[0].tensors == summaries[1].tensors == summaries[2].tensors
    one, many = load(paths[0], threads=1), load(paths[0], threads=4)
    assert list(one) == list(many) == list(state)
    assert all(torch.equal(one[name], many[name]) for name in one)
    assert inspect(paths[0], threads=4) == inspect(paths[0])
    data = bytearray(paths[0].read_bytes())
    data[len(data) // 2] ^= 8
    paths[0].write_bytes(data)
    for read in (load, inspect, verify):
        for threads in (1, 4):
            with pytest.raises(HempFileError, match=r"1\.hemp: byte \d+: expected the checksum"):
                read(paths[0], threads=threads)
