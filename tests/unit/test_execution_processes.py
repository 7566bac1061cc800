"""Work in processes: order, errors, dead workers, and what is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import psutil
import pytest
import workerjobs

from selfseg.errors import DeviceError, ImageError
from selfseg.execution.processes import ONE_THREAD, default_workers, map_parallel

PATHS = [Path(f"{name}.nii") for name in "abcde"]


@pytest.mark.parametrize("workers", [0, 1, 2, 9])
def test_results_are_in_order(workers: int, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = range(6)
    results = map_parallel(workerjobs.late_square, numbers, workers=workers, label="Squares")
    assert results == [0, 1, 4, 9, 16, 25]
    assert capsys.readouterr().err.startswith("Squares: 6/6, done")


def test_partial_functions_and_no_items() -> None:
    work = partial(workerjobs.add, more=10)
    assert map_parallel(work, [1, 2, 3], workers=2, label="x") == [11, 12, 13]
    assert map_parallel(work, [], workers=2, label="x") == []


def test_workers_use_one_thread_each_and_leave_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    for name in ONE_THREAD[1:]:
        monkeypatch.delenv(name, raising=False)
    before, main = dict(os.environ), sys.modules["__main__"]
    results = map_parallel(workerjobs.process_and_threads, range(4), workers=2, label="x")
    assert all(pid != os.getpid() and threads == "1" for pid, threads in results)
    assert len({pid for pid, _ in results}) <= 2
    assert dict(os.environ) == before
    assert sys.modules["__main__"] is main


@pytest.mark.parametrize(("workers", "items"), [(0, 4), (1, 4), (2, 2)])
def test_little_work_is_done_in_this_process(workers: int, items: int) -> None:
    results = map_parallel(workerjobs.process_and_threads, range(items), workers=workers, label="x")
    assert {pid for pid, _ in results} == {os.getpid()}


@pytest.mark.parametrize("workers", [1, 2])
def test_mistakes_of_users_come_through_unchanged(workers: int) -> None:
    with pytest.raises(ImageError, match=r"scan\.nii: damaged") as caught:
        map_parallel(workerjobs.user_mistake, range(6), workers=workers, label="x")
    assert caught.value.remedy == "Copy it again."
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize("workers", [1, 2])
def test_other_mistakes_say_at_which_item(workers: int) -> None:
    with pytest.raises(KeyError, match="x") as caught:
        map_parallel(workerjobs.own_mistake, range(6), workers=workers, label="x")
    assert caught.value.__notes__ == ["while working on item 5"]


@pytest.mark.parametrize("workers", [1, 2])
def test_memory_that_runs_out_is_explained(workers: int) -> None:
    with pytest.raises(DeviceError, match=r"b\.nii: memory ran out") as caught:
        map_parallel(workerjobs.no_memory, PATHS, workers=workers, label="x")
    assert "--workers 1" in caught.value.remedy


@pytest.mark.parametrize(
    ("work", "how"),
    [(workerjobs.dies, "ended with exit code 3"), (workerjobs.is_killed, "got SIGKILL")],
)
def test_a_dead_worker_is_named_with_its_items(work: Callable[[Path], str], how: str) -> None:
    with pytest.raises(DeviceError) as caught:
        map_parallel(work, PATHS, workers=2, label="Reading")
    assert f"Reading: a worker process {how} while working on " in caught.value.message
    assert "b.nii" in caught.value.message
    assert "e.nii" not in caught.value.message
    assert "--workers 1" in caught.value.remedy
    assert map_parallel(workerjobs.late_square, range(3), workers=2, label="x") == [0, 1, 4]


def test_an_answer_that_cannot_be_read_keeps_its_cause() -> None:
    with pytest.raises(BrokenProcessPool) as caught:
        map_parallel(workerjobs.unreadable, range(3), workers=2, label="x")
    assert "this answer cannot be read" in str(caught.value.__cause__)


def test_number_of_workers() -> None:
    assert default_workers(5) == 5
    assert default_workers(0) == 0
    assert 1 <= default_workers() <= (os.cpu_count() or 1)


EARLY = """
import workerjobs
from multiprocessing import forkserver
from selfseg.execution.processes import map_parallel, start_early
start_early(1, "colorsys")
assert forkserver._forkserver._forkserver_pid is None, "there is nothing to do for a server"
start_early(2, "colorsys", "workerjobs")
assert forkserver._forkserver._forkserver_pid is not None
print(map_parallel(workerjobs.imported_and_threads, ["colorsys"] * 4, workers=2, label="x"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="there is no such server")
def test_a_server_that_starts_early_has_what_workers_need() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(workerjobs.__file__).parent)}
    environment["OMP_NUM_THREADS"] = "7"
    done = subprocess.run(
        [sys.executable, "-c", EARLY], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([(True, "1")] * 4)


PROGRAM = """
import sys, pathlib, workerjobs
from selfseg.execution.processes import map_parallel
folder = pathlib.Path(sys.argv[1])
items = [folder / str(i) for i in range(3)]
map_parallel(workerjobs.leave_a_sign, items, workers=2, label="x")
"""


def test_workers_end_with_the_program_and_need_no_main_guard(tmp_path: Path) -> None:
    """The program stands in a file without `if __name__ == "__main__"`."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(Path(workerjobs.__file__).parent)}
    signs = [tmp_path / "0", tmp_path / "1"]
    with subprocess.Popen([sys.executable, script, tmp_path], env=environment) as program:
        try:
            wait_for(lambda: all(path.exists() and path.read_text() for path in signs))
        finally:
            program.kill()
    workers = [int(path.read_text()) for path in signs]
    wait_for(lambda: not any(is_alive(pid) for pid in workers))
    assert len(set(workers)) == 2


INTERRUPTED = PROGRAM.replace("items, workers", "items * 2, workers")


def test_an_interruption_stops_the_workers_at_once_and_silently(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(workerjobs.__file__).parent)}
    signs = [tmp_path / "0", tmp_path / "1"]
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, tmp_path],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as program:
        try:
            wait_for(lambda: all(path.exists() and path.read_text() for path in signs))
            os.killpg(program.pid, signal.SIGINT)  # as Ctrl-C does: everyone gets it
            _, error = program.communicate(timeout=20)  # an item takes 60 s
        finally:
            program.kill()
    assert error.count("Traceback") == 1
    assert error.rstrip().endswith("KeyboardInterrupt")
    assert not any(is_alive(int(path.read_text())) for path in signs)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
