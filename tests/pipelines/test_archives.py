"""Archives: nothing unsafe in them is read, damage is told with the name of what is damaged."""

import gzip
import io
import os
import stat
import tarfile
import tracemalloc
import zipfile

import pytest

from fastiseat.errors import UserError
from fastiseat.pipelines.data import archives
from fastiseat.pipelines.data.archives import Tree, open_files, read_tar

UNSAFE = ["../evil", "a/../../evil", "/etc/evil", "a\\..\\evil", "..", "top/.."]


def refusal(action, *arguments):
    with pytest.raises(UserError) as caught:
        action(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def read_zip(path, name=None):
    with open_files(path) as files:
        return files.below("") if name is None else files.read(name)


def make_zip(path, entries, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def make_tar(path, members):
    """``members``: name, or a ready TarInfo, to content."""
    with tarfile.open(path, "w:gz") as archive:
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def kind(name, type_):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = type_, "/etc/passwd"
    return info


@pytest.mark.parametrize("name", UNSAFE)
def test_names_that_lead_out_are_refused(tmp_path, name):
    path = make_zip(tmp_path / "a.zip", {"top/a": b"1", name: b"2"})
    assert f"unsafe name {name!r}, so nothing was read" in refusal(read_zip, path)
    path = make_tar(tmp_path / "a.tar.gz", [("top/a", b"1"), (name, b"2")])
    assert f"unsafe name {name!r}, so nothing was read" in refusal(read_tar, path, ["a"])


@pytest.mark.parametrize("type_", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, type_):
    path = make_tar(tmp_path / "a.tar.gz", [("top/a", b"1"), (kind("top/b", type_), b"")])
    assert "link or device 'top/b', so nothing was read" in refusal(read_tar, path, ["a"])


def test_links_in_a_zip_are_refused(tmp_path):
    link = zipfile.ZipInfo("top/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "link or device 'top/link'" in refusal(read_zip, tmp_path / "a.zip")


def test_a_tar_gives_the_wanted_files_alone(tmp_path):
    path = make_tar(tmp_path / "a.tar.gz", [("./", b""), ("top/a", b"1"), ("top/b", b"2"), ("top/._a", b"3")])
    assert read_tar(path, ["a", "c"]) == {"a": b"1"}


def test_two_of_a_name_are_refused(tmp_path):
    path = make_tar(tmp_path / "a.tar.gz", [("top/a", b"1"), ("other/a", b"2")])
    assert "holds 'a' twice" in refusal(read_tar, path, ["a"])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("top/a", b"1")
        archive.writestr("top//a", b"2")
    assert "holds 'top//a' twice" in refusal(read_zip, tmp_path / "a.zip")


def test_a_tar_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST_TAR", 10**6)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(bytes(10**8)))
    tracemalloc.start()
    try:
        assert "unpacks to over 1,000,000 bytes" in refusal(read_tar, path, ["a"])
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


def test_a_zip_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST_FILE", 10**6)
    path = make_zip(tmp_path / "a.zip", {"top/a": bytes(10**7), "top/b": b"2"})
    assert "top/a: declares 10,000,000 bytes" in refusal(read_zip, path, "a")
    assert read_zip(path, "b") == b"2"


def test_a_zip_that_understates_a_size_is_refused(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"top/a": bytes(10**6), "top/b": b"2"})
    content = path.read_bytes()
    path.write_bytes(content.replace((10**6).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    assert "top/a: cannot be read (Bad CRC-32" in refusal(read_zip, path, "a")


@pytest.mark.parametrize("keep", [0, 10, 0.5, -1, -30])
def test_truncated_zips(tmp_path, keep):
    path = make_zip(tmp_path / "a.zip", {f"top/{number}": os.urandom(100) for number in range(10)})
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    assert refusal(read_zip, path).startswith(f"{path}: truncated, or no zip archive")


def test_a_damaged_file_in_a_zip_is_named(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"top/a": bytes(range(256)) * 10, "top/b": b"2"})
    content = bytearray(path.read_bytes())
    content[60] ^= 255
    path.write_bytes(content)
    assert refusal(read_zip, path, "a").startswith(f"{path}: top/a: cannot be read (")


def test_an_encrypted_zip_is_told(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"top/a": b"1", "top/b": b"2"}, zipfile.ZIP_STORED)
    content = path.read_bytes().replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")
    path.write_bytes(content.replace(b"PK\x03\x04\x14\x00\x00", b"PK\x03\x04\x14\x00\x01"))
    assert "encrypted" in refusal(read_zip, path, "a")


def test_a_tree_follows_links_but_not_in_circles(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_bytes(b"1")
    (tmp_path / "tree" / "train").mkdir(parents=True)
    (tmp_path / "tree" / "train" / "cat").symlink_to(tmp_path / "real")
    tree = Tree(tmp_path / "tree")
    assert tree.below("train") == ["train/cat/a"] and tree.folders("train") == ["cat"]
    (tmp_path / "tree" / "train" / "loop").symlink_to(tmp_path / "tree")
    assert "do links go in a circle?" in refusal(tree.below, "train")


def test_what_is_not_there(tmp_path):
    tree = Tree(tmp_path)
    assert tree.below("no") == [] and tree.folders("no") == [] and not tree.has("no")
    assert refusal(tree.read, "no") == f"{tmp_path}/no: No such file or directory; the data set needs this file"
    path = make_zip(tmp_path / "a.zip", {"top/a": b"1"})
    assert refusal(read_zip, path, "no") == f"{path}: top/no: not there; the data set needs this file"
    assert "No such file" in refusal(read_zip, tmp_path / "b.zip")
    assert "No such file" in refusal(read_tar, tmp_path / "b.tar.gz", ["a"])


def test_a_zip_without_a_common_folder(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"train/x/a": b"1", "val/y/b": b"2", "train/z/": b""})
    with open_files(path) as files:
        assert files.below("train") == ["train/x/a"] and files.folders("train") == ["x", "z"]
        assert files.where("val/y/b") == f"{path}: val/y/b" and files.has("val/y/b")


def test_a_tar_that_claims_a_negative_size(tmp_path):
    header = bytearray(tarfile.TarInfo("a").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfc\x00"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(header + bytes(2048)))
    assert "truncated, or no tar.gz archive" in refusal(read_tar, tmp_path / "a.tar.gz", ["a"])


def test_a_tar_of_names_that_announce_names(tmp_path):
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 1
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress((member.tobuf(tarfile.GNU_FORMAT) + bytes(512)) * 3000))
    assert "truncated, or no tar.gz archive" in refusal(read_tar, tmp_path / "a.tar.gz", ["a"])


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_in_any_compression_is_told(tmp_path, compression):
    path = make_zip(tmp_path / "a.zip", {"top/a": bytes(1000), "top/b": b"2"}, compression)
    content = bytearray(path.read_bytes())
    content[35 : path.read_bytes().index(b"top/b") - 30] = b"\xff" * (path.read_bytes().index(b"top/b") - 65)
    path.write_bytes(content)
    assert "top/a: cannot be read (" in refusal(read_zip, path, "a")
