"""A training split in FFCV's format: complete or absent, and checked to the last number when it is read."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import betons
import numpy as np
import pytest
from betons import PRINT, encoded, smooth_jpeg, split, write

from fastiseat.errors import UserError
from fastiseat.pipelines.protocol.progress import SILENT
from fastiseat.pipelines.stores import beton, writer
from fastiseat.pipelines.stores.beton import Beton
from fastiseat.pipelines.stores.encoded import EncodedSplit

REMEDY = r"; run: fastiseat data prepare mine --format ffcv --force$"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "prepared" / "mine.ffcv"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Never changed: tests that damage it copy it."""
    return write(tmp_path_factory.mktemp("betons") / "mine.ffcv", split())


@pytest.fixture
def copy(written, path):
    shutil.copytree(written.path, path)
    return Beton.at(path)


def entries(path):
    return {entry.name for entry in path.parent.iterdir()} - {f".{path.name}.lock"}


def check(found, kind="packed"):
    found.check(name="mine", fingerprint=PRINT, kind=kind)


def test_a_beton_is_complete_and_tells_what_it_is(path):
    found = write(path, split())
    assert entries(path) == {"mine.ffcv"}
    assert Beton.at(path) == found
    assert (found.info.samples, found.info.shape, found.info.kind) == (40, (8, 8, 3), "packed")
    check(found)


def test_jpeg_files_are_stored_byte_for_byte(path, monkeypatch):
    monkeypatch.setattr(beton, "page_size_for", lambda largest: 1 << 13)  # several pages
    files = [smooth_jpeg(seed, mode="L" if seed % 3 == 0 else "RGB") for seed in range(20)]
    whole = encoded([b"of another split", *files])
    train = EncodedSplit(data=whole.data, offsets=whole.offsets[1:], labels=whole.labels[1:], height=64, width=64)
    found = write(path, train)
    check(found, kind="jpeg")
    assert (found.info.samples, found.info.shape, found.info.kind) == (20, (64, 64, 3), "jpeg")
    assert found.info.num_pages > 2
    _, rows, table = beton.read_tables(found.file, found.info.layout)
    content = found.file.read_bytes()
    assert [content[place["ptr"] :][: place["size"]] for place in table] == files
    assert rows["f1"].tolist() == train.labels.tolist()


def test_a_page_holds_the_largest_sample():
    assert beton.page_size_for(1) == beton.page_size_for(1 << 23) == 1 << 23
    assert beton.page_size_for((1 << 23) + 1) == 1 << 24


@pytest.mark.parametrize(
    ("file", "told"),
    [
        (smooth_jpeg(0, side=32), "RGB JPEG of 32×32"),
        (smooth_jpeg(0, mode="CMYK"), "CMYK JPEG of 64×64"),
        (b"GIF or so", "no image"),
    ],
)
def test_a_file_that_ffcv_can_not_decode_is_refused(path, file, told):
    with pytest.raises(
        UserError, match=f"mine: training image 1 is {told}; FFCV reads RGB or grey JPEG files of 64"
    ):
        write(path, encoded([smooth_jpeg(0), file]))
    assert entries(path) == set()


def test_progress_is_told(path):
    told = []
    log = type("Log", (), {"count": lambda *said: told.append(said[1:]), "say": SILENT.say})()
    write(path, encoded([smooth_jpeg(seed) for seed in range(3)]), progress=log)
    assert told[2] == ("training images checked", 3, 3)
    assert told[-1] == ("training images written", 3, 3)


def test_no_beton_is_none(tmp_path):
    assert Beton.at(tmp_path / "none") is None


def test_writing_again_replaces(copy):
    found = write(copy.path, split(3))
    assert Beton.at(copy.path) == found and found.info.samples == 3
    assert entries(copy.path) == {"mine.ffcv"}


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            {"name": "mine too"},
            "its data set is mine, mine too is needed; run: .* prepare 'mine too' --format ffcv ",
        ),
        ({"fingerprint": "0"}, f"its fingerprint is {PRINT}, 0 is needed{REMEDY}"),
        ({"kind": "jpeg"}, "its kind is packed, jpeg is needed; run: .* prepare mine --format ffcv-jpeg --force$"),
    ],
)
def test_a_beton_of_something_else_is_refused(written, asked, told):
    with pytest.raises(UserError, match=f"^{written.path}: {told}"):
        written.check(**{"name": "mine", "fingerprint": PRINT, "kind": "packed"} | asked)


@pytest.mark.parametrize("key", ["format", "beton_version"])
def test_another_version_is_refused(copy, key):
    file = copy.path / "info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: 9}))
    with pytest.raises(UserError, match=r"written in format .*9.*, this version reads 1 and 2; run: .* --force$"):
        Beton.at(copy.path)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"\xff", b'{"format": 1, "beton_version": 2}', b"3", b"[" * 10**5]
)
def test_a_damaged_info_is_told(copy, content):
    (copy.path / "info.json").write_bytes(content)
    with pytest.raises(UserError, match=r"info.json: damaged \(\w+\); run: .* NAME --format ffcv --force$"):
        Beton.at(copy.path)


@pytest.mark.parametrize(
    "changed",
    [
        {"samples": 41},
        {"samples": 2**39},
        {"shape": [8, 8, 1]},
        {"shape": [2**39, 2**39, 2**39]},
        {"page_size": 3},
        {"page_size": 2**24},
        {"num_pages": 2},
        {"num_pages": 2**39},
        {"bytes": 5},
        {"kind": "jpeg"},
        {"tables": 0},
    ],
)
def test_an_info_that_disagrees_with_the_file_is_told(copy, changed):
    file = copy.path / "info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    found = Beton.at(copy.path)
    with pytest.raises(UserError, match=rf"{copy.file}: .*; run: fastiseat data prepare mine --format ffcv"):
        check(found, kind=found.info.kind)


@pytest.mark.parametrize("size", [0, 10, 2500, 8_388_608, -1])
def test_a_truncated_file_is_told(copy, size):
    content = copy.file.read_bytes()
    copy.file.write_bytes(content[:size])
    with pytest.raises(UserError, match=rf"\d+ bytes, {len(content)} were written: it is truncated .*{REMEDY}"):
        check(copy)
    copy.file.unlink()
    with pytest.raises(UserError, match=rf"unreadable \(No such file or directory\){REMEDY}"):
        check(copy)


@pytest.mark.parametrize("kind", ["packed", "jpeg"])
def test_every_changed_byte_of_the_tables_is_told(path, kind):
    found = write(path, split() if kind == "packed" else encoded([smooth_jpeg(seed) for seed in range(20)]))
    layout, content = found.info.layout, bytearray(found.file.read_bytes())
    tables = [
        *range(layout.rows_start + layout.samples * layout.row.itemsize),
        *range(layout.places_start, layout.size),
    ]
    random = np.random.default_rng(0)
    with found.file.open("r+b") as file:
        for place in {0, 4, 8, 16, *random.choice(tables, 300).tolist(), *tables[-24:]}:
            file.seek(place)
            file.write(bytes([content[place] ^ 1 << int(random.integers(8))]))
            file.flush()
            with pytest.raises(UserError, match=r"damaged: its \w+ .*; run: .* --force$"):
                check(found, kind=kind)
            file.seek(place)
            file.write(content[place : place + 1])
    check(found, kind=kind)


@pytest.mark.parametrize("field", ["sample_id", "ptr", "size"])
def test_places_outside_the_file_are_found_without_the_checksum(written, field):
    head, rows, table = beton.read_tables(written.file, written.info.layout)
    assert beton.tables_agree(written.info.layout, head, rows, table)
    for wrong in (0, 2**33, 2**64 - 1):
        changed = table.copy()
        changed[field][5] = wrong
        for agreeing in (rows, written.info.layout.rows(changed["ptr"], rows["f1"])):
            assert not beton.tables_agree(written.info.layout, head, agreeing, changed)


CHILD = """
import resource, sys
from pathlib import Path
sys.path.append(sys.argv[2])
from betons import split, write
from fastiseat.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, 10_000_000))
try:
    write(Path(sys.argv[1]), split())
except UserError as error:
    print(error)
"""


def test_a_full_disk(path):
    """A limit on a file's size stands for the disk: the write stops half-way."""
    command = [sys.executable, "-c", CHILD, path, Path(betons.__file__).parent]
    done = subprocess.run(command, capture_output=True, text=True, cwd=path.parents[1])
    assert not done.stderr
    assert done.stdout == f"cannot write {path}: File too large; free space or choose another --data-dir\n"
    assert entries(path) == set()


def test_too_little_space_is_told_before_anything_is_written(path, monkeypatch):
    usage = writer.shutil.disk_usage("/")
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"16.8 MB are needed and 1.0 kB are free; free space or choose another"):
        write(path, split())
    assert entries(path) == set()


def test_a_place_that_can_not_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/mine.ffcv: File exists; choose another"):
        write(tmp_path / "file" / "mine.ffcv", split())


def test_images_larger_than_the_file_has_bits_for_are_told(path):
    found = write(path, encoded([smooth_jpeg(seed) for seed in range(3)]))
    file = found.path / "info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"shape": [2**20, 64, 3]}))
    with pytest.raises(UserError, match="damaged: its header doesn't agree"):
        check(Beton.at(found.path), kind="jpeg")
