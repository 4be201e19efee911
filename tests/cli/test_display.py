"""What a run shows: a bar in a terminal, plain lines elsewhere, both with the run's own numbers."""

import io
import re
import types

import pytest
import tiny
import torch
from rich.console import Console

from fastiseat.cli.console import display
from fastiseat.cli.console.display import Display, epoch_line

ROW = {
    "epoch": 4,
    "lr": 0.01,
    "train_loss": 1.2345,
    "test_clean": 0.8,
    "test_pgd10": 0.456,
    "images_per_second": 1234.4,
    "best": True,
}


def shown(config, out, *, terminal, quiet=False, resume=False):
    """The output of a run in a terminal, or in a file."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120)
    show = Display(quiet=quiet, console=console)
    trainer = tiny.trainer(config, out, observer=show, resume=resume)
    with show.showing(trainer):
        trainer.run()
    return stream.getvalue()


def plain(text):
    """``text`` without escape codes."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def test_a_terminal_gets_a_bar(tmp_path):
    text = shown(tiny.config(epochs=2), tmp_path / "run", terminal=True)
    assert "\x1b[" in text
    assert "━━━" in text
    assert "4/4" in plain(text)
    assert "epoch 2/2" in plain(text)


def test_a_file_gets_lines(tmp_path):
    text = shown(tiny.config(epochs=2), tmp_path / "run", terminal=False)
    lines = text.splitlines()
    assert len(lines) == 5, "a heading of three lines, and a line an epoch: the steps take less than the interval"
    assert "\x1b" not in text
    assert "━" not in text
    assert lines[0] == f"iseat on digits, small, cpu, 2 epochs of 2 steps -> {tmp_path / 'run'}"
    assert lines[1].startswith("loader: resident, ")
    assert lines[2] == "engine: eager"
    assert [line.split("  ")[0] for line in lines[3:]] == ["epoch 1/2", "epoch 2/2"]


def test_slow_steps_are_shown_in_between(tmp_path, monkeypatch):
    monkeypatch.setattr(display, "PLAIN_INTERVAL", 0.0)
    lines = shown(tiny.config(epochs=2), tmp_path / "run", terminal=False).splitlines()
    steps = [line for line in lines if "  step " in line]
    pattern = r"epoch 1/2  step 1/2  loss \d+\.\d{3}  \d+ images/s  0:00:\d\d left"
    assert len(steps) == 4
    assert re.fullmatch(pattern, steps[0])
    assert steps[3].endswith("0:00:00 left")


def on_a_clock(monkeypatch, *, terminal):
    """A display of a run of two epochs of two steps, each look at its clock 20 seconds after the last."""
    stream, clock = io.StringIO(), iter(range(0, 10_000, 20))
    monkeypatch.setattr(display.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(display, "_heading", lambda trainer: ["heading"])
    config = types.SimpleNamespace(schedule=types.SimpleNamespace(epochs=2))
    step = types.SimpleNamespace(steps_taken=0)
    trainer = types.SimpleNamespace(config=config, loader=[0, 1], step=step, total_steps=4)
    return Display(console=Console(file=stream, force_terminal=terminal, width=120)), trainer, stream


def test_the_time_left_of_a_validation(monkeypatch):
    show, trainer, stream = on_a_clock(monkeypatch, terminal=False)
    with show.showing(trainer):
        show.step(epoch=0, step=0, images=10, metrics={"loss": torch.ones(())})
        for what in ("clean", "pgd-10"):
            for done in (10, 20, 30):
                show.evaluating(what, done, 30)
        show.epoch(ROW)
        show.evaluating("pgd-50", 10, 40)
    lines = stream.getvalue().splitlines()
    assert lines[2:8] == [
        *(f"epoch 1/2  clean {done}/30  0:00:{left:02} left" for done, left in ((10, 40), (20, 20), (30, 0))),
        *(f"epoch 1/2  pgd-10 {done}/30  0:00:{left:02} left" for done, left in ((10, 40), (20, 20), (30, 0))),
    ]
    assert lines[-1] == "test set  pgd-50 10/40  0:01:00 left"


def test_the_time_left_of_a_validation_in_a_terminal(monkeypatch):
    show, trainer, stream = on_a_clock(monkeypatch, terminal=True)
    with show.showing(trainer):
        show.step(epoch=0, step=0, images=10, metrics={"loss": torch.ones(())})
        show.evaluating("pgd-10", 10, 30)
        show._progress.refresh()
        assert "pgd-10 10/30  0:00:40 left" in plain(stream.getvalue())
        show.evaluating("pgd-10", 20, 30)
    assert "epoch 1/2" in plain(stream.getvalue())
    assert "pgd-10 20/30  0:00:20 left" in plain(stream.getvalue())


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_shows_nothing(tmp_path, terminal):
    assert plain(shown(tiny.config(epochs=1), tmp_path / "run", terminal=terminal, quiet=True)).strip() == ""


def test_a_resumed_run_goes_on_counting(tmp_path):
    def stop(row):
        raise KeyboardInterrupt

    config = tiny.config("none", epochs=3)
    with pytest.raises(KeyboardInterrupt):
        tiny.trainer(config, tmp_path / "run", observer=tiny.Watcher(on_epoch=stop)).run()
    text = plain(shown(config, tmp_path / "run", terminal=True, resume=True))
    counts = [int(count) for count in re.findall(r"\b(\d)/6\b", text)]
    assert min(counts) == 2
    assert max(counts) == 6


def test_an_interrupt_gives_the_cursor_back(tmp_path):
    stream = io.StringIO()
    show = Display(console=Console(file=stream, force_terminal=True, width=120))
    trainer = tiny.trainer(tiny.config("none", epochs=1), tmp_path / "run", observer=show)

    def stopped():
        with show.showing(trainer):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert stream.getvalue().rfind("\x1b[?25h") > stream.getvalue().rfind("\x1b[?25l") >= 0


def test_the_line_of_an_epoch():
    line = "epoch 5/20  lr 0.01  loss 1.234  test clean 80.0%  test pgd10 45.6%  1234 images/s  best"
    assert epoch_line(ROW, 20) == line
    held_out = {name.replace("test", "val"): value for name, value in ROW.items()} | {"best": False}
    assert epoch_line(held_out, 20) == line.replace("test", "val").removesuffix("  best")
