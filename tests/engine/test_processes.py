"""Two data-parallel processes end with the weights of one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel

from expunge.engine.loop import Loop
from expunge.engine.training import Training
from expunge.errors import InputError
from tiny_models import Ascent, distance, same, streams, tiny

METHODS = ("likelihood", "hidden", "one-sided")

PROGRAM = Path(__file__).with_name("two_processes.py")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def launch(folder: Path, world: int) -> None:
    """What `accelerate launch` and `torchrun` do on a CPU: one program per rank with these variables."""
    folder.mkdir()
    port, running = str(free_port()), []
    for rank in range(world):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        environment = {**os.environ, **where, **(ranks if world > 1 else {})}
        command = [sys.executable, str(PROGRAM), str(folder)]
        running.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        for process in running:
            errors = process.communicate(timeout=120)[1]
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in running:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    launch(folder / "one", 1)
    launch(folder / "two", 2)
    return folder


@pytest.mark.parametrize("smoothing", ["none", "sam"])
@pytest.mark.parametrize("method", list(METHODS))
def test_two_processes_equal_one(runs: Path, method: str, smoothing: str) -> None:
    """Also where a loss reaches only some blocks, is missing on some steps, or only on one process."""
    one, first, second = (
        load_file(runs / f"{name}-{rank}.safetensors")
        for name, rank in (
            (f"one/{method}-{smoothing}", 0),
            (f"two/{method}-{smoothing}", 0),
            (f"two/{method}-{smoothing}", 1),
        )
    )
    assert same(first, second)
    assert distance(one, first) < 1e-5
    terms = [load_file(runs / f"{name}/{method}-{smoothing}-0.log")["terms"] for name in ("one", "two")]
    assert float((terms[0] - terms[1]).abs().max()) < 1e-4


def test_one_process_writes_the_checkpoints(runs: Path) -> None:
    for name in METHODS:
        assert sorted(os.listdir(runs / "two" / f"{name}-none")) == ["best", "latest"]


def test_a_batch_that_does_not_divide_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Two:
        num_processes, process_index = 2, 0
        distributed_type = "NO"

    monkeypatch.setattr("expunge.engine.loop.Accelerator", lambda cpu: Two())
    with pytest.raises(InputError, match="batch_size=7 does not divide over 2 processes"):
        Loop(tiny(), Ascent(), streams(2, 7), Training(steps=2, batch_size=7), seed=0)


def test_hooks_work_inside_a_data_parallel_wrapper(runs: Path, tmp_path: Path) -> None:
    """The view finds the head and the blocks through `DistributedDataParallel`, wherever that is used."""
    import torch.distributed as dist

    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = tiny()
        data = streams(1)["forget"]
        direct = data.examples.view(model, data.order[0], (8, 1), None)
        inside = data.examples.view(DistributedDataParallel(model), data.order[0], (8, 1), None)
        assert inside.token_logprobs.equal(direct.token_logprobs)
        assert inside.hidden(0).equal(direct.hidden(0))
    finally:
        dist.destroy_process_group()
