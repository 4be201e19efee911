"""A short run as a process, which tests kill: ``python killed_run.py OUT`` trains into OUT, or goes on there."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

WORDS = (
    "--method", "iseat", "--epochs", "3", "--batch-size", "240", "--steps", "2", "--final-steps", "0",
    "--limit-test", "40", "--checkpoint-every", "1step", "--quiet",
)  # fmt: skip


def command(out, *more):
    return [sys.executable, "-m", "fastiseat", "train", *WORDS, "--out", str(out), *more]


def start(out, *more):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(out, *more), cwd=out.parent, env=environment, **streams)


def train(out, *more):
    """To the end."""
    with start(out, *more) as run:
        _, errors = run.communicate(timeout=120)
    assert run.returncode == 0, errors


def changes(out):
    """What a file system shows of a run: its files with sizes and times, unfinished ones too."""
    seen = {}
    # Unlike rglob, walk passes over a folder that is gone since it was listed.
    for path in (Path(folder, name) for folder, _, names in os.walk(out) for name in names):
        try:
            status = path.stat()
        except OSError:  # gone since it was listed
            continue
        seen[str(path)] = (status.st_size, status.st_mtime_ns)
    return seen


def kill_after(run, out, moments):
    """SIGKILL when the files have changed ``moments`` times; False where the run ended before."""
    seen, count = changes(out), 0
    while run.poll() is None:
        now = changes(out)
        count += now != seen
        seen = now
        if count >= moments:
            run.send_signal(signal.SIGKILL)
            run.wait()
            run.stderr.close()
            return True
        time.sleep(0.0005)
    run.stderr.close()
    return False


def result(out):
    """What must not depend on how often a run was killed."""
    names = ("weights/best.safetensors", "weights/last.safetensors", "results.json")
    return {name: (out / name).read_bytes() for name in names}


def kill_again_and_again(out, kills, draw):
    """Kill and resume until ``kills`` were survived, then train to the end; the kills that hit a run."""
    survived = 0
    for _ in range(3 * kills):
        if survived == kills:
            break
        run = start(out, *(["--resume"] if survived or out.exists() else []))
        if not kill_after(run, out, draw()):
            assert run.returncode == 0
            break
        survived += 1
    train(out, "--resume")
    return survived


if __name__ == "__main__":
    train(Path(sys.argv[1]).resolve())
