"""The picture of a run, from whatever its metrics hold."""

import json
import warnings

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from fastiseat.errors import UserError
from fastiseat.report.curves import LOSSES, VULNERABILITY, _figure, draw_curves
from fastiseat.report.reader import read_metrics

pytestmark = pytest.mark.usefixtures("drawn_pictures")

ROW = {
    "lr": 0.1,
    "train_loss_adversarial": 2.0,
    "train_accuracy_adversarial": 0.3,
    "test_clean": 0.8,
    "test_pgd10": 0.4,
    "av_step_mean": 0.5,
}


def run_of(rows, folder):
    folder.mkdir(parents=True)
    lines = [json.dumps({"epoch": epoch} | row) + "\n" for epoch, row in enumerate(rows)]
    (folder / "metrics.jsonl").write_text("".join(lines))
    return folder


def pixels(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.size == (1320, 840)
        return np.asarray(picture.convert("L"))


def test_curves_are_drawn(tmp_path):
    late = {"train_loss_stability": 0.1, "lr": 0.01}
    path = draw_curves(run_of([ROW, ROW | late, ROW | late], tmp_path / "run"))
    assert path == tmp_path / "run" / "figures" / "curves.png"
    assert (pixels(path) < 255).mean() > 0.01
    other = draw_curves(run_of([ROW] * 3, tmp_path / "other" / "run"))
    assert not np.array_equal(pixels(path), pixels(other)), "the curves are in the picture"


def test_the_best_epoch_is_marked_in_each_panel_counted_from_1():
    rows = [{"epoch": epoch, "best": epoch in (0, 2)} | ROW for epoch in range(5)]
    figure = _figure(rows, title="run")
    for axis in figure.axes:
        (line,) = [line for line in axis.lines if line.get_label() == "best weights: epoch 3"]
        assert line.get_xdata() == [3, 3]
        assert "best weights: epoch 3" in [text.get_text() for text in axis.get_legend().get_texts()]
    assert [line.get_xdata()[0] for line in figure.axes[3].lines if line.get_label() == "lr"] == [1]


def test_legends_cover_no_curve_and_no_name_of_an_axis():
    rows = [
        {"epoch": epoch, "best": True} | ROW | dict.fromkeys(VULNERABILITY | LOSSES, 0.5) for epoch in range(9)
    ]
    figure = _figure(rows, title="run")
    figure.draw_without_rendering()
    for axis in figure.axes:
        legend = axis.get_legend().get_window_extent()
        others = [other.get_window_extent() for other in figure.axes]
        others += [other.xaxis.label.get_window_extent() for other in figure.axes if other.get_xlabel()]
        assert not any(legend.overlaps(box) for box in others)
        assert figure.bbox.fully_containsx(legend.x0) and figure.bbox.fully_containsx(legend.x1)
        assert figure.bbox.fully_containsy(legend.y0)


@pytest.mark.parametrize("name", ["a$b$c", r"lr$\foo$", "[bold]", "50%", "x" * 100])
def test_a_folders_name_is_no_formula(tmp_path, name):
    pixels(draw_curves(run_of([ROW], tmp_path / name)))


NULLS = {"av_step_mean": None, "train_loss_clean": None, "train_accuracy_clean": None}


@pytest.mark.parametrize(
    "rows", [[ROW | {"lr": 0.0}], [ROW] * 40, [{"lr": 1.0}], [ROW | NULLS] * 2, [ROW | NULLS, ROW]]
)
def test_runs_that_lack_something(tmp_path, rows):
    pixels(draw_curves(run_of(rows, tmp_path / "run")))


def test_no_global_state_of_matplotlib_is_touched(tmp_path):
    before, backend = dict(mpl.rcParams), mpl.get_backend(auto_select=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_curves(run_of([ROW], tmp_path / "run"))
    assert dict(mpl.rcParams) == before
    assert mpl.get_backend(auto_select=False) == backend


def test_metrics_are_read_in_order(tmp_path):
    rows = read_metrics(run_of([ROW, ROW], tmp_path / "run"))
    assert [row["epoch"] for row in rows] == [0, 1]


@pytest.mark.parametrize("content", [None, "{", '{"epoch": 0}\nnonsense\n', b"\xff\xfe\x00"])
def test_metrics_that_can_not_be_read_are_named(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"metrics.jsonl can't be read: "):
        draw_curves(tmp_path)


@pytest.mark.parametrize("content", [b"5\n", b"[]\n", b"null\n", b"[" * 10**5, b"{\n", b"\xff"])
def test_damaged_metrics_are_told(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"metrics.jsonl can't be read"):
        read_metrics(tmp_path)
