"""What names mean, and in which folders data is looked for."""

from pathlib import Path

import pytest

from fastiseat.errors import UserError
from fastiseat.pipelines.data.locations import missing, places, roots, wanted


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("cifar", "unknown data set 'cifar'; did you mean cifar10"),
        ("TinyImageNet", "did you mean tinyimagenet?"),
        ("imagenet-folder", "did you mean"),
        ("xyz", "known: cifar10, cifar100, digits, imagefolder:DIR, npz:PATH, svhn, tinyimagenet"),
        ("imagefolder", "data set 'imagefolder': say where it is: imagefolder:DIR"),
        ("npz:", "data set 'npz:': say where it is: npz:PATH"),
        ("digits", "comes with scikit-learn and is used from there: it is never prepared"),
    ],
)
def test_names_that_mean_nothing(name, complaint):
    with pytest.raises(UserError) as caught:
        wanted(name)
    assert complaint in str(caught.value)


def test_own_data_is_known_by_its_absolute_path(tmp_path, monkeypatch, home):
    monkeypatch.chdir(tmp_path)
    spellings = ["imagefolder:my.images", f"imagefolder:{tmp_path}/my.images", "imagefolder:./x/../my.images"]
    assert {wanted(name).name for name in spellings} == {f"imagefolder:{tmp_path}/my.images"}
    (key,) = {wanted(name).key for name in spellings}
    assert key.startswith("imagefolder-my-") and "/" not in key
    assert wanted("npz:~/a.npz").path == home / "a.npz"
    assert wanted("npz:/a/x").key != wanted("npz:/b/x").key != wanted("imagefolder:/b/x").key
    assert "/" not in wanted("npz:/a/b c:ü").key


def test_roots(tmp_path, monkeypatch, home):
    cache = home / ".cache" / "fastiseat"
    assert roots(None) == [cache]
    monkeypatch.setenv("FASTISEAT_DATA", "~/data")
    assert roots(None) == [home / "data", cache]
    assert roots(tmp_path) == [tmp_path, home / "data", cache]
    monkeypatch.setenv("FASTISEAT_DATA", "")
    assert roots(None) == [cache]
    with pytest.raises(UserError, match="--data-dir /no/where: no such folder"):
        roots(Path("/no/where"))


def test_places_of_a_release(tmp_path, home):
    cache = home / ".cache" / "fastiseat" / "prepared"
    here, cached = places(wanted("cifar10"), data_dir=tmp_path, source=None)
    assert here.source is None and here.stores == (tmp_path / "prepared" / "cifar10",)
    assert cached.stores == (cache / "cifar10",)
    (tmp_path / "cifar-10-batches-py").mkdir()
    here, _ = places(wanted("cifar10"), data_dir=tmp_path, source=None)
    assert here.source == tmp_path / "cifar-10-batches-py"
    first, second = here.stores
    assert first == tmp_path / "prepared" / "cifar10" and second.parent == cache
    assert second.name.startswith("cifar10-")


def test_places_of_a_named_source(tmp_path):
    source, root = tmp_path / "elsewhere", tmp_path / "root"
    (source / "cifar-10-batches-py").mkdir(parents=True)
    root.mkdir()
    for given in (source, source / "cifar-10-batches-py"):
        if given != source:
            (given / "test_batch").touch()
        (place,) = places(wanted("cifar10"), data_dir=root, source=given)
        assert place.source == source / "cifar-10-batches-py"
        assert place.stores == (root / "prepared" / "cifar10",)
    with pytest.raises(UserError, match=r"--source .*root: cifar10 is not there; give cifar-10-python.tar.gz or"):
        places(wanted("cifar10"), data_dir=root, source=root)
    with pytest.raises(UserError, match=r"--source .*: no such file or folder"):
        places(wanted("cifar10"), data_dir=root, source=root / "x")


def test_places_of_own_data(tmp_path, home):
    (place,) = places(wanted("imagefolder:/a/b"), data_dir=tmp_path, source=None)
    key = wanted("imagefolder:/a/b").key
    assert place.source == Path("/a/b")
    assert place.stores == (tmp_path / "prepared" / key, home / ".cache" / "fastiseat" / "prepared" / key)


def test_a_data_folder_a_level_off_is_told(tmp_path, home):
    (tmp_path / "sets" / "cifar-10-batches-py").mkdir(parents=True)
    assert f"but in {tmp_path}/sets: give --data-dir {tmp_path}/sets" in str(
        missing(wanted("cifar10"), roots(tmp_path))
    )
    tree = tmp_path / "other" / "any-name"
    (tree / "train" / "n01443537").mkdir(parents=True)
    for given in (tree / "train", tmp_path / "other"):
        message = str(missing(wanted("tinyimagenet"), roots(given)))
        assert message == (
            f"tinyimagenet is not in {given} or {home}/.cache/fastiseat, but in {tree}: give --data-dir {tree}"
        )


def test_a_folder_that_was_unpacked_into_its_own_name(tmp_path):
    outer = tmp_path / "tiny-imagenet-200"
    inner = outer / "tiny-imagenet-200"
    (inner / "train" / "n01443537").mkdir(parents=True)
    (place, _) = places(wanted("tinyimagenet"), data_dir=tmp_path, source=None)
    assert place.source == inner
    (outer / "train" / "n01443537").mkdir(parents=True)
    (place, _) = places(wanted("tinyimagenet"), data_dir=tmp_path, source=None)
    assert place.source == outer
