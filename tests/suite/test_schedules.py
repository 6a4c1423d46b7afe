"""Schedules: values by hand, the restart where the method sets in."""

from __future__ import annotations

import math

import pytest
import torch

from hemp_lightning.suite import schedules


def rates(schedule: str, phases: list[int], **options: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = getattr(schedules, schedule)(optimizer, phases, **options)
    found = []
    for _ in range(sum(phases)):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_cosine_restarts_for_the_second_phase() -> None:
    expected = [0.25 * (1 + math.cos(math.pi * step / 10)) for step in range(10)]
    second = [0.1 * 0.25 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert rates("cosine", [10, 4], restart_factor=0.1) == pytest.approx(expected + second)


def test_an_empty_first_phase_is_no_phase() -> None:
    assert rates("cosine", [0, 8], restart_factor=0.1) == pytest.approx(rates("cosine", [8]))


def test_warmup_rises_to_the_full_rate() -> None:
    found = rates("cosine", [20], warmup=0.25)
    assert found[0] > 0
    assert found[:6] == sorted(found[:6])
    assert found[5] == pytest.approx(0.5)
    assert found[6:] == sorted(found[6:], reverse=True)


def test_final_share_is_approached() -> None:
    assert rates("cosine", [1000], final=0.2)[-1] == pytest.approx(0.1, abs=1e-4)


def test_steps_fall_in_each_phase() -> None:
    found = rates("step", [8, 4], milestones=(0.5, 0.75), factor=0.1)
    assert found == pytest.approx([0.5] * 4 + [0.05] * 2 + [0.005] * 2 + [0.5] * 2 + [0.05, 0.005])
