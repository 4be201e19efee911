"""Own images in class folders."""

import shutil

import numpy as np
import pytest
from PIL import Image
from tiny_releases import arrays_of, pixels, write_image_folder

from fastiseat.errors import UserError
from fastiseat.pipelines.data.formats import image_folder


def content(path, **options):
    with image_folder.read(path, **options) as source:
        return arrays_of(source)


def refusal(path, **options):
    with pytest.raises(UserError) as caught:
        content(path, **options)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


@pytest.fixture(params=["test", "val"])
def folder(request, tmp_path):
    return write_image_folder(tmp_path / "own", classes=("dog", "cat", "Ant"), test=request.param)


def test_pixels_and_labels(folder):
    with image_folder.read(folder) as source:
        assert source.class_names == ("Ant", "cat", "dog")
        assert source.official is None
    train, train_labels, test, test_labels = content(folder)
    assert train_labels.tolist() == test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    for images in (train, test):
        for number, image in enumerate(images):
            place, which = divmod(number, 2)
            assert np.array_equal(image, pixels(1, 8, seed=10 * (2 - place) + which)[0])


def test_deeper_folders_and_other_files(folder):
    expected = content(folder)
    (folder / "train" / "dog" / "more").mkdir()
    (folder / "train" / "dog" / "1.png").rename(folder / "train" / "dog" / "more" / "1.png")
    (folder / "train" / "dog" / "notes.txt").write_text("x")
    (folder / "train" / "readme.txt").write_text("x")
    (folder / "train" / ".cache").mkdir()
    (folder / "prepared" / "x").mkdir(parents=True)
    for read, before in zip(content(folder), expected, strict=True):
        assert np.array_equal(read, before)


def test_the_test_split_is_test_where_it_is_labelled(tmp_path):
    folder = write_image_folder(tmp_path / "own", test="val")
    (folder / "test").mkdir()
    Image.fromarray(pixels(1, 8)[0]).save(folder / "test" / "unlabelled.png")
    assert len(content(folder)[2]) == 4
    for name in ("cat", "dog"):
        (folder / "test" / name).mkdir()
        Image.fromarray(pixels(1, 8)[0]).save(folder / "test" / name / "1.png")
    stray = folder / "test" / "unlabelled.png"
    assert f"{stray}: an image beside class folders; move it into one of them, or away" in refusal(folder)
    stray.unlink()
    assert len(content(folder)[2]) == 2


@pytest.mark.parametrize("test", ["test", "val"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_level_too_many(tmp_path, split, test):
    folder = write_image_folder(tmp_path / "own", classes=("cat", "dog"), test=test)
    place = folder / (test if split == "test" else "train")
    (folder / "images").mkdir()
    for name in ("cat", "dog"):
        (place / name).rename(folder / "images" / name)
    (place / "images").parent.mkdir(exist_ok=True)
    (folder / "images").rename(place / "images")
    assert refusal(folder) == (
        f"{place}: holds one folder, 'images', and that holds cat, dog: a level too many; if these are the classes, "
        f"move them up into {place}"
    )


def test_a_folder_above_or_below_the_right_one(tmp_path):
    folder = write_image_folder(tmp_path / "sets" / "own")
    for given in (folder / "train", folder.parent):
        assert refusal(given).endswith(f"; imagefolder:{folder} has it")
    other = tmp_path / "other"
    for name in ("cat", "dog"):
        (other / name).mkdir(parents=True)
    assert refusal(other).endswith("; it holds the folders cat, dog")


def test_a_single_class(tmp_path):
    folder = write_image_folder(tmp_path / "own", classes=("cat",))
    assert f"{folder}: holds one class, 'cat', of which any network is right that always says so" in refusal(
        folder
    )
    (folder / "train/cat/more").mkdir()
    (folder / "train/cat/0.png").rename(folder / "train/cat/more/0.png")
    assert "holds one class, 'cat'" in refusal(folder)


def test_what_each_split_holds_is_told(tmp_path):
    folder = write_image_folder(tmp_path / "own", classes=("cat", "dog", *map(str, range(5))))
    (folder / "train" / "dog").rename(folder / "train" / "Dog")
    assert refusal(folder).endswith("train holds 0, 1, 2, 3, 4, … (7), test holds 0, 1, 2, 3, 4, … (7)")


def test_resizing(tmp_path):
    folder = write_image_folder(tmp_path / "own", size=(12, 8))
    Image.fromarray(pixels(1, 30)[0]).save(folder / "test" / "cat" / "0.png")
    assert "0.png: 30×30 pixels, but" in refusal(folder) or "must be alike" in refusal(folder)
    train, _, test, _ = content(folder, side=6)
    assert train.shape == test.shape == (4, 6, 6, 3)
    assert np.array_equal(train[0], np.asarray(Image.open(folder / "train/cat/0.png").resize((9, 6), 2))[:, 1:7])


def test_grey_images_become_rgb(tmp_path):
    folder = write_image_folder(tmp_path / "own")
    grey = pixels(1, 8, channels=1)[0, ..., 0]
    Image.fromarray(grey).save(folder / "train" / "cat" / "0.png")
    assert np.array_equal(content(folder)[0][0], np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("split", ["train", "test"])
def test_empty_classes(tmp_path, split):
    folder = write_image_folder(tmp_path / "own")
    for file in (folder / split / "dog").iterdir():
        file.rename(file.with_suffix(".txt"))
    assert f"{folder / split / 'dog'}: holds no images" in refusal(folder)


@pytest.mark.parametrize(
    ("split", "words"), [("train", "in test, but not in train"), ("test", "in train, but not")]
)
def test_classes_of_one_split_alone(tmp_path, split, words):
    folder = write_image_folder(tmp_path / "own")
    shutil.rmtree(folder / split / "dog")
    assert f"class 'dog' is {words}" in refusal(folder)


def test_missing_splits(tmp_path):
    folder = write_image_folder(tmp_path / "own")
    shutil.rmtree(folder / "test")
    assert "holds no class folders in test or val; the layout is train/<class>/<images>" in refusal(folder)
    shutil.rmtree(folder / "train")
    assert "holds no class folders in train" in refusal(folder)
    assert "holds no class folders in train" in refusal(folder / "nowhere")


def test_a_corrupt_image_is_named(tmp_path):
    folder = write_image_folder(tmp_path / "own")
    (folder / "test" / "dog" / "1.png").write_bytes(b"x")
    assert f"{folder / 'test' / 'dog' / '1.png'}: cannot be decoded (no image)" in refusal(folder)
