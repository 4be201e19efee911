"""The facts about releases, where a folder holds one, and what counts as official."""

import string

import pytest
from tiny_releases import CIFAR_FILES

from fastiseat.pipelines.protocol.releases import RELEASES, judge, verdict

CIFAR = RELEASES["cifar10"]
COUNTS = {"num_classes": 10, "num_images": (50_000, 10_000), "side": 32}


def test_the_published_checksums():
    """As published by the makers (archives) and by torchvision (their content)."""
    md5s = {file.name: file.md5 for release in RELEASES.values() for file in release.files}
    assert md5s == {
        "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
        "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
        "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
        "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
        "tiny-imagenet-200.zip": "90528d7ca1a48142e341f4ef8d21d0de",
    }
    for release in RELEASES.values():
        for md5 in release.members.values():
            assert len(md5) == 32 and set(md5) <= set(string.hexdigits.lower())


def test_names_homes_and_members():
    for name, release in RELEASES.items():
        assert release.name == name
        for file in release.files:
            assert file.url.endswith(f"/{file.name}") and ".edu/" in file.url
    for name, files in CIFAR_FILES.items():
        assert set(RELEASES[name].members) == set(files)


@pytest.mark.parametrize(
    ("md5s", "counts", "official", "words"),
    [
        (dict(CIFAR.members), COUNTS, True, "by MD5"),
        ({"test_batch": "0" * 32}, COUNTS, False, f"test_batch has MD5 {'0' * 32}, the release's has 40351d58"),
        ({}, COUNTS, None, "the release's counts; MD5s are published of"),
        (
            {},
            COUNTS | {"num_classes": 9},
            False,
            "9 classes, 50,000 and 10,000 images of 32×32; the release has 10",
        ),
        ({}, COUNTS | {"num_images": (3, 4)}, False, "10 classes, 3 and 4 images"),
        ({}, COUNTS | {"side": 8}, False, "images of 8×8; the release"),
    ],
)
def test_judge(md5s, counts, official, words):
    found, remark = judge(CIFAR, md5s, **counts)
    assert found is official and words in remark


@pytest.mark.parametrize(("official", "word"), [(True, "yes"), (False, "no"), (None, "unknown")])
def test_verdict(official, word):
    assert verdict(official, "why") == f"official: {word} (why)"


@pytest.mark.parametrize(
    ("name", "made", "found"),
    [
        ("cifar10", [], None),
        ("cifar10", ["cifar-10-python.tar.gz"], "cifar-10-python.tar.gz"),
        ("cifar10", ["cifar-10-batches-py/"], "cifar-10-batches-py"),
        ("cifar10", ["cifar-10-batches-py/", "cifar-10-python.tar.gz"], "cifar-10-python.tar.gz"),
        ("cifar10", ["data_batch_2"], "."),
        ("cifar10", ["test_batch"], "."),
        ("cifar10", ["cifar-100-python/", "cifar-100-python.tar.gz", "meta", "train/"], None),
        ("cifar100", ["cifar-100-python.tar.gz"], "cifar-100-python.tar.gz"),
        ("cifar100", ["cifar-100-python/"], "cifar-100-python"),
        ("cifar100", ["meta"], "."),
        ("cifar100", ["cifar-10-batches-py/", "batches.meta"], None),
        ("svhn", ["train_32x32.mat"], "."),
        ("svhn", ["test_32x32.mat"], "."),
        ("svhn", ["extra_32x32.mat"], None),
        ("tinyimagenet", ["tiny-imagenet-200.zip"], "tiny-imagenet-200.zip"),
        ("tinyimagenet", ["tiny-imagenet-200/"], "tiny-imagenet-200"),
        ("tinyimagenet", ["train/n01443537/"], "."),
        ("tinyimagenet", ["train/cat/", "val/cat/"], None),
    ],
)
def test_locate(tmp_path, name, made, found):
    for path in made:
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.mkdir() if path.endswith("/") else target.touch()
    assert RELEASES[name].locate(tmp_path) == (None if found is None else tmp_path / found)


def test_locate_takes_an_archive_of_any_name(tmp_path):
    (tmp_path / "mine.tgz").touch()
    assert RELEASES["cifar10"].locate(tmp_path / "mine.tgz") == tmp_path / "mine.tgz"
    assert RELEASES["svhn"].locate(tmp_path / "mine.tgz") is None
