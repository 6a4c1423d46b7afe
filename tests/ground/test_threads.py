"""Each job is done once, on whichever threads there are."""

import os
import subprocess
import sys
import threading
import time

import pytest
import torch

from hemp_lightning.ground import threads as module
from hemp_lightning.ground.threads import PART, run_jobs


@pytest.fixture(autouse=True)
def _number_of_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["torch's threads", "a pool"])
def kind(request, monkeypatch):
    if request.param == "a pool":
        monkeypatch.setattr(module, "_openmp", lambda: None)
    elif module._openmp() is None:
        pytest.skip("torch has no GNU OpenMP here")
    return request.param


def groups_of(count, size=PART):
    """Groups of one and two jobs in turn, the name of a job its first entry."""
    jobs = [(name, 0, size, None) for name in range(count)]
    return [jobs[at : at + 1 + at % 3] for at in range(count) if at % 3 != 2]


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_every_job_once_and_groups_in_their_order(kind, threads):
    torch.set_num_threads(threads)
    groups, done = groups_of(10), []
    run_jobs(lambda job: done.append((job[0], threading.get_ident())), groups)
    names = [name for name, _ in done]
    assert sorted(names) == sorted(job[0] for group in groups for job in group)
    for group in groups:
        places = [names.index(job[0]) for job in group]
        assert places == sorted(places)
        assert len({done[place][1] for place in places}) == 1


def test_more_than_one_thread_works(kind):
    torch.set_num_threads(2)
    found = set()
    together = threading.Barrier(2, timeout=30)

    def meet(_):
        together.wait()  # breaks unless both are here at the same time
        found.add(threading.get_ident())

    run_jobs(meet, [[(0, 0, PART, None)], [(1, 0, PART, None)]])
    assert len(found) == 2


def test_little_work_stays_on_this_thread(kind):
    torch.set_num_threads(4)
    found = set()
    run_jobs(lambda job: found.add(threading.get_ident()), groups_of(4, PART // 4))
    assert found == {threading.get_ident()}


@pytest.mark.parametrize("bad", range(4))
def test_an_error_comes_back_from_any_thread(kind, bad):
    torch.set_num_threads(2)
    done = []

    def work(job):
        if job[0] == bad:
            raise LookupError(f"job {bad}")
        time.sleep(0.01)
        done.append(job[0])

    with pytest.raises(LookupError, match=f"job {bad}"):
        run_jobs(work, groups_of(4))
    ended = list(done)
    time.sleep(0.05)
    assert done == ended  # nothing goes on behind the caller's back


@pytest.mark.skipif(module._openmp() is None, reason="torch has no GNU OpenMP here")
def test_a_team_may_be_smaller_than_asked_for():
    """Within a parallel region OpenMP gives one thread only."""
    torch.set_num_threads(2)
    done = []

    def outer(job):
        if job[0] == 0:
            run_jobs(lambda inner: done.append(inner[0]), groups_of(7))

    run_jobs(outer, groups_of(2))
    assert sorted(done) == list(range(7))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_in_a_forked_process(tmp_path):
    """Threads of the parent are not there; a process of its own, as pytest has threads."""
    script = tmp_path / "forks.py"
    script.write_text(
        "import os, signal, torch\n"
        "from hemp_lightning.ground.threads import PART, run_jobs\n"
        "torch.set_num_threads(2)\n"
        "jobs = [[(n, 0, PART, None)] for n in range(4)]\n"
        "def count():\n"
        "    done = []\n"
        "    run_jobs(lambda job: done.append(job[0]), jobs)\n"
        "    return len(done)\n"
        "assert count() == 4\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.alarm(60)\n"  # a child that waits for threads of its parent waits forever
        "    os._exit(count())\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4\n"
    )
    subprocess.run([sys.executable, str(script)], check=True, timeout=120)
