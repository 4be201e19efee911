"""``.ci/gpu``: what it runs, in which order, and the exit code that it makes of theirs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / ".ci" / "gpu"
CASES = [
    "prn18 cifar10 128 bf16 eager compile-naive eager-bf16 compile-careful",
    "wrn-34-10 cifar10 64 bf16 eager compile-naive",
]
# An interpreter that keeps a record of what it is asked to run, and ends as it is told.
STUB = f"""#!/bin/sh
case "$*" in
  -c*) exit 0 ;;
  -) cat >/dev/null; printf '%s\\n' {" ".join(map(repr, CASES))}; exit 0 ;;
esac
echo "$*" >>"$RECORD"
case "$*" in
  *pytest*) exit "${{PYTEST_CODE:-0}}" ;;
  *compile-naive*) exit "${{COMPILED_CODE:-0}}" ;;
esac
"""


def run(tmp_path: Path, **environment: str) -> tuple[int, list[str], str]:
    """Exit code, what was run, and what was printed."""
    stub, record = tmp_path / "python", tmp_path / "record"
    stub.write_text(STUB)
    stub.chmod(0o755)
    told = {"PYTHON": str(stub), "RECORD": str(record), "PATH": os.environ["PATH"], "COMPUTE_SANITIZER": ""}
    told |= environment
    result = subprocess.run([SCRIPT], env=told, capture_output=True, text=True, timeout=60)
    return result.returncode, record.read_text().splitlines(), result.stdout


FIRST, SECOND = (
    "--arch prn18 --dataset cifar10 --batch-size 128",
    "--arch wrn-34-10 --dataset cifar10 --batch-size 64",
)
COMMON = "--preset auto --device cuda --results bench/results"
ENGINES = "--engine graph eager"
MODES = (
    "--engine graph --baseline none --method at iseat --clean-graph keep recompute --checkpoint-blocks --overlap "
    "--wasteful --awp-gradient exact last-attack-step half-batch previous-step --precision bf16"
)
REST = [
    f"-m fastiseat bench step {FIRST} {MODES} {COMMON}",
    *(f"-m fastiseat bench {part} {FIRST} {COMMON}" for part in ("kernels", "epoch", "loaders")),
    f"-m fastiseat bench attack --weights digits-iseat --subset 100 --engine graph eager --baseline none {COMMON}",
    f"-m fastiseat bench step {SECOND} --engine graph --baseline eager {COMMON}",
    "-m fastiseat.bench.results",
]
ALL = (
    f"-m fastiseat bench step {FIRST} {ENGINES} --baseline eager compile-naive eager-bf16 compile-careful {COMMON}"
)
QUICK = f"-m fastiseat bench step {FIRST} {ENGINES} --baseline eager eager-bf16 {COMMON}"


def test_the_order(tmp_path: Path) -> None:
    code, ran, _ = run(tmp_path)
    assert code == 0
    assert ran == ["-m pytest -m gpu --continue-on-collection-errors", ALL, *REST]


@pytest.mark.parametrize(
    ("codes", "worst"),
    [
        ({"PYTEST_CODE": "1"}, 1),
        ({"PYTEST_CODE": "5"}, 5),
        ({"COMPILED_CODE": "2"}, 2),
        ({"PYTEST_CODE": "1", "COMPILED_CODE": "2"}, 2),
    ],
)
def test_everything_runs_whatever_failed_and_the_worst_counts(
    tmp_path: Path, codes: dict[str, str], worst: int
) -> None:
    code, ran, _ = run(tmp_path, **codes)
    assert (code, ran[1:]) == (worst, [ALL, *REST])


def test_where_compiling_takes_too_long_the_quick_baselines_are_measured(tmp_path: Path) -> None:
    code, ran, printed = run(tmp_path, COMPILED_CODE="124")
    assert (code, ran[1:]) == (0, [ALL, QUICK, *REST])
    assert "out of time: fastiseat bench step --arch prn18" in printed


def test_without_time_the_tests_and_the_readme_are_left(tmp_path: Path) -> None:
    code, ran, printed = run(tmp_path, TOTAL_LIMIT="30")
    assert (code, len(ran), ran[-1]) == (0, 2, REST[-1])
    assert printed.count("no time left for: fastiseat bench") == 8


WATCHED = "-m pytest tests/kernels -m gpu -k native"
# Runs what it is given under its eyes, and keeps a record of how it was asked to.
SANITIZER = """#!/bin/sh
echo "$PYTORCH_NO_CUDA_MEMORY_CACHING $1 $2 $3 $4" >>"$RECORD"
shift 4
"$@" || exit $?
exit "${SANITIZER_CODE:-0}"
"""


@pytest.fixture
def sanitizer(tmp_path: Path) -> Path:
    path = tmp_path / "compute-sanitizer"
    path.write_text(SANITIZER)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("codes", "worst"),
    [({}, 0), ({"SANITIZER_CODE": "86"}, 86), ({"PYTEST_CODE": "5"}, 5), ({"SANITIZER_CODE": "124"}, 0)],
)
def test_native_kernels_are_watched_where_the_sanitizer_is(
    tmp_path: Path, sanitizer: Path, codes: dict[str, str], worst: int
) -> None:
    code, ran, printed = run(tmp_path, COMPUTE_SANITIZER=str(sanitizer), **codes)
    assert (code, ran[1:]) == (worst, ["1 --tool memcheck --error-exitcode 86", WATCHED, ALL, *REST])
    assert ("out of time: compute-sanitizer" in printed) == ("124" in codes.values())
    assert ("failed with 86: compute-sanitizer" in printed) == ("86" in codes.values())


def test_the_sanitizer_is_found_on_the_path_and_leaves_time_for_measurements(
    tmp_path: Path, sanitizer: Path
) -> None:
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    told = {"PATH": path, "TOTAL_LIMIT": "215"}
    stub_only = run(tmp_path, **told)
    assert not any("memcheck" in line for line in stub_only[1])
    (tmp_path / "record").unlink()
    script = subprocess.run(
        [SCRIPT],
        env={"PYTHON": str(tmp_path / "python"), "RECORD": str(tmp_path / "record")} | told,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert script.returncode == 0
    assert "no time left for: compute-sanitizer" in script.stdout
    assert ALL in (tmp_path / "record").read_text()


def test_a_machine_without_a_gpu_is_told() -> None:
    hidden = os.environ | {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run([SCRIPT], env=hidden, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (
        2,
        "make test-gpu needs a CUDA device; this machine shows none\n",
    )


def test_an_interpreter_that_lacks_the_package_is_told(tmp_path: Path) -> None:
    stub = tmp_path / "python"
    stub.write_text("#!/bin/sh\nexit 1\n")
    stub.chmod(0o755)
    result = subprocess.run([SCRIPT], env=os.environ | {"PYTHON": str(stub)}, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stdout.endswith("CONTRIBUTING.md says how to install it\n")
