"""Exit codes: 0 done, 1 gate failed, 2 wrong input, 3 run failed; messages on stderr, data on stdout."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from expunge.errors import InputError, RunError


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


def test_done(invoke: Any, stub: Any) -> None:
    result = invoke("demo", "--seed", 3, "--threads", 2, "--force")
    assert result.exit_code == 0
    assert result.stdout.strip() == "runs/demo/report.html"
    assert "suppressed" in result.stderr
    assert "It comes [back]." in result.stderr  # brackets are text, not markup
    (call,) = stub.calls
    assert (call["recipe"].seed, call["recipe"].threads, call["force"]) == (3, 2, True)


def test_quiet_leaves_only_the_data(invoke: Any, stub: Any) -> None:
    result = invoke("run", "demo", "out='a: b'", "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "a: b/report.html\n", "")


@pytest.mark.parametrize(("gate", "code"), [("accuracy>0.2", 1), ("accuracy>0.3", 0), ("accuracy:target>0.3", 1)])
def test_gate(invoke: Any, stub: Any, gate: str, code: int) -> None:
    result = invoke("run", "demo", "--fail-on", gate)
    assert result.exit_code == code
    assert ("gate" in result.stderr) == bool(code)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "demo", "sed=1"], "error: demo: sed: unknown key. Did you mean 'seed'?"),
        (["run", "demo", "--fail-on", "accuracy"], "error: --fail-on 'accuracy': must be"),
        (["run", "dmo"], "error: 'dmo' is neither"),
        (["show", "nppo"], "error: Unknown name 'nppo'. Did you mean 'npo'?"),
        (["compare", "nowhere"], "error: nowhere/scorecard.json: no scorecard there."),
        (["unlearn", "--model", "m", "--forget", "f", "--method", "nppo"], "Did you mean 'npo'?"),
        (["unlearn", "--model", "m", "--forget", "f", "--set", "beeta=1"], "Did you mean 'beta'?"),
        (["audit", "--model", "m", "--forget", "f", "--set", "atacks=x"], "Did you mean 'attacks'?"),
        (["audit", "--model", "m"], "error: --forget: the records"),
        (["audit", "--model", "m", "--recipe", "demo", "--forget", "f"], "--recipe brings the data"),
        (["audit", "--model", "m", "--recipe", "demo", "--control"], "made from the target, and 'target' is missing"),
        (["audit", "--model", "m", "--recipe", "demo", "--set", "benchmark.forgt=3"], "Did you mean 'forget'?"),
        (["list", "metods"], "Invalid value"),
        (["unlearn"], "Missing option"),
        (["run", "demo", "--sed", "1"], "No such option"),
        (["bogus"], "No such command 'bogus'"),
    ],
)
def test_wrong_input_before_any_work(invoke: Any, stub: Any, words: list[str], message: str) -> None:
    result = invoke(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert stub.calls == []


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (InputError("No such file."), 2, "error: No such file."),
        (RunError("The loss is not finite."), 3, "error: The loss is not finite."),
        (
            OutOfMemoryError("CUDA out of memory. Tried..."),
            3,
            "error: out of memory; lower train.micro_batch",
        ),
        (MemoryError(), 3, "error: out of memory"),
        (OSError(errno.ENOSPC, "No space left on device"), 3, "error: the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "runs"), 3, "error: runs: Permission denied."),
        (ValueError("odd\nthing"), 3, "error: unexpected ValueError: odd. Use --debug for the traceback."),
        (KeyboardInterrupt(), 130, "interrupted: the same command resumes."),
    ],
)
def test_failing_run(invoke: Any, stub: Any, error: BaseException, code: int, sentence: str) -> None:
    stub.error = error
    result = invoke("demo")
    assert result.exit_code == code
    assert result.stderr.startswith(sentence)
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_debug_adds_the_traceback(invoke: Any, stub: Any) -> None:
    stub.error = ValueError("odd")
    result = invoke("demo", "--debug")
    assert result.exit_code == 3
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.rstrip().endswith("error: unexpected ValueError: odd.")
