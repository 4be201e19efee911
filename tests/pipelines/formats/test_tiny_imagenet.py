"""Tiny ImageNet: labels by sorted WordNet id, validation labels by its table, and every way to get them wrong."""

import io
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny_releases import COLOURS, WNIDS, arrays_of, jpeg, write_tiny_imagenet, zip_tree

from fastiseat.errors import UserError
from fastiseat.pipelines.data.formats import tiny_imagenet
from fastiseat.pipelines.protocol.releases import RELEASES, md5_of


@pytest.fixture
def tree(tmp_path):
    return write_tiny_imagenet(tmp_path / "tiny-imagenet-200")


def content(path):
    """Training images and labels, test images and labels, as the reader gives them."""
    with tiny_imagenet.read(path) as source:
        return arrays_of(source)


def refusal(path):
    with pytest.raises(UserError) as caught:
        content(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def zipped(tree):
    return zip_tree(tree, tree.with_name("tiny-imagenet-200.zip"))


def colours(images):
    return images.reshape(len(images), -1, 3).mean(1)


BOTH = pytest.mark.parametrize("form", [lambda tree: tree, zipped], ids=["tree", "zip"])


@BOTH
def test_pixels_are_those_of_the_files(tree, form):
    train, _, test, _ = content(form(tree))
    names = [f"train/{wnid}/images/{wnid}_{number}.JPEG" for wnid in WNIDS for number in range(3)]
    for images, files in ((train, names), (test, [f"val/images/val_{number}.JPEG" for number in range(6)])):
        expected = [
            np.asarray(Image.open(io.BytesIO((tree / file).read_bytes())).convert("RGB")) for file in files
        ]
        assert images.dtype == np.uint8 and np.array_equal(images, expected)


@BOTH
def test_every_label_is_that_of_the_colour(tree, form):
    """The images have the colours of their classes, whatever the order of files and of lines in the tables."""
    train, train_labels, test, test_labels = content(form(tree))
    assert train_labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] and test_labels.tolist() == [0, 1, 2, 0, 1, 2]
    grey, *coloured = zip(train, train_labels, strict=True)
    assert np.ptp(grey[0], axis=-1).max() == 0
    for image, label in [*coloured, *zip(test, test_labels, strict=True)]:
        assert np.abs(colours(image[None])[0] - COLOURS[sorted(COLOURS)[label]]).max() < 8


@BOTH
def test_the_order_of_lines_does_not_matter(tree, form):
    expected = content(form(tree))[3]
    table = tree / "val" / "val_annotations.txt"
    lines = table.read_text().splitlines(keepends=True)
    for seed in range(5):
        table.write_text("".join(np.random.default_rng(seed).permutation(lines)))
        assert np.array_equal(content(form(tree))[3], expected)


@BOTH
@pytest.mark.parametrize("layout", ["val/{wnid}/images", "val/{wnid}", "val/images/{wnid}"])
@pytest.mark.parametrize("table", [True, False])
def test_a_sorted_validation_folder_gives_the_same(tree, form, layout, table):
    expected = content(form(tree))
    lines = (tree / "val" / "val_annotations.txt").read_text().splitlines()
    for file, wnid, *_ in (line.split("\t") for line in lines):
        folder = tree / layout.format(wnid=wnid)
        folder.mkdir(parents=True, exist_ok=True)
        (tree / "val" / "images" / file).rename(folder / file)
    if not table:
        (tree / "val" / "val_annotations.txt").unlink()
    for read, before in zip(content(form(tree)), expected, strict=True):
        assert np.array_equal(read, before)


@BOTH
def test_training_folders_without_images_below(tree, form):
    expected = content(form(tree))
    for wnid in WNIDS:
        for file in (tree / "train" / wnid / "images").iterdir():
            file.rename(tree / "train" / wnid / file.name)
        (tree / "train" / wnid / "images").rmdir()
    assert np.array_equal(content(form(tree))[0], expected[0])


@BOTH
def test_hidden_files_are_passed_over(tree, form):
    expected = content(form(tree))
    for place in ("train", f"train/{WNIDS[0]}/images", "val/images", "__MACOSX/train/n00000000"):
        (tree / place).mkdir(parents=True, exist_ok=True)
        (tree / place / ".DS_Store").write_bytes(b"x")
        (tree / place / "._a.JPEG").write_bytes(b"x")
    (tree / ".git").mkdir()
    path = form(tree)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("__MACOSX/tiny-imagenet-200/train/n00000000/images/a.JPEG", b"x")
    for read, before in zip(content(path), expected, strict=True):
        assert np.array_equal(read, before)


def test_names_of_classes(tree):
    with tiny_imagenet.read(tree) as source:
        assert source.class_names == ("n01443537 goldfish", "n01629819", "n02124075")
    (tree / "words.txt").unlink()
    with tiny_imagenet.read(tree) as source:
        assert source.class_names == tuple(WNIDS)


def test_what_is_official(tree, monkeypatch):
    archive = zipped(tree)
    with tiny_imagenet.read(tree) as source:
        assert source.official is False
        assert source.remark.startswith("3 classes, 9 and 6 images of 64×64; the release has 200 classes, 100,000")
    with tiny_imagenet.read(archive) as source:
        assert source.official is False and "tiny-imagenet-200.zip has MD5" in source.remark
    release = RELEASES["tinyimagenet"]
    counts = replace(release, num_classes=3, num_images=(9, 6))
    file = replace(release.files[0], md5=md5_of(archive))
    monkeypatch.setitem(RELEASES, "tinyimagenet", replace(counts, files=(file,)))
    with tiny_imagenet.read(tree) as source:
        assert source.official is None
    with tiny_imagenet.read(archive) as source:
        assert source.official is True


@BOTH
def test_flat_images_without_a_table(tree, form):
    (tree / "val" / "val_annotations.txt").unlink()
    assert "val_annotations.txt: missing or empty" in refusal(form(tree))
    (tree / "val" / "val_annotations.txt").touch()
    assert "nothing tells their labels" in refusal(form(tree))


@BOTH
@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("val_0.JPEG\tn01443537\t0\t0\t1\t1\n", None),
        ("\n", None),
        ("val_9.JPEG\tn01443537\t0\t0\t1\t1\n", "names val_9.JPEG, which is not in val/images"),
        ("val_0.JPEG\tn01629819\t0\t0\t1\t1\n", "val_annotations.txt:7: val_0.JPEG has another label"),
        ("val_0.JPEG n01443537 0 0 1 1\n", "val_annotations.txt:7: 'val_0.JPEG n01443537 0 0 1 1'; a file, a tab"),
        ("val_0.JPEG\t7\n", "a file, a tab and its WordNet id are needed"),
        ("\xff\xfe\n", "a file, a tab and its WordNet id are needed"),
    ],
)
def test_lines_of_the_table(tree, form, line, complaint):
    table = tree / "val" / "val_annotations.txt"
    table.write_bytes(table.read_bytes() + line.encode("latin1"))
    if complaint is None:
        assert content(form(tree))[3].tolist() == [0, 1, 2, 0, 1, 2]
    else:
        assert complaint in refusal(form(tree))


def remove_lines(tree, word):
    table = tree / "val" / "val_annotations.txt"
    table.write_text("".join(line for line in table.read_text().splitlines(keepends=True) if word not in line))


@BOTH
def test_an_image_without_a_line(tree, form):
    remove_lines(tree, "val_3")
    assert "val_3.JPEG: has no line in val/val_annotations.txt" in refusal(form(tree))


@BOTH
def test_a_validation_class_that_is_not_trained(tree, form):
    shutil.rmtree(tree / "train" / WNIDS[1])
    assert "val_1.JPEG: its class n01629819 has no folder in train" in refusal(form(tree))


@BOTH
def test_a_validation_folder_that_is_no_class(tree, form):
    (tree / "val" / "images").rename(tree / "val" / "cat")
    assert "lies in the folder of cat, but val/val_annotations.txt says n01443537" in refusal(form(tree))
    (tree / "val" / "val_annotations.txt").unlink()
    assert "its class cat has no folder in train" in refusal(form(tree))


@BOTH
def test_a_half_sorted_validation_folder(tree, form):
    (tree / "val" / WNIDS[0]).mkdir()
    (tree / "val" / "images" / "val_0.JPEG").rename(tree / "val" / WNIDS[0] / "val_0.JPEG")
    assert "val_1.JPEG: lies in no class folder, as other validation images do" in refusal(form(tree))


def test_a_wrongly_sorted_validation_folder(tree):
    for number in range(6):
        (tree / "val" / WNIDS[0]).mkdir(exist_ok=True)
        (tree / "val" / "images" / f"val_{number}.JPEG").rename(tree / "val" / WNIDS[0] / f"val_{number}.JPEG")
    assert "val_1.JPEG: lies in the folder of n01443537, but val/val_annotations.txt says n01629819" in refusal(
        tree
    )


@BOTH
def test_no_validation_images(tree, form):
    shutil.rmtree(tree / "val" / "images")
    assert "val: holds no images; the validation images are the test split" in refusal(form(tree))
    shutil.rmtree(tree / "val")
    assert "holds no images" in refusal(form(tree))


@BOTH
def test_no_training_images(tree, form):
    shutil.rmtree(tree / "train")
    assert "holds no train/<WordNet id>/images" in refusal(form(tree))


@BOTH
def test_an_empty_class(tree, form):
    for file in (tree / "train" / WNIDS[1] / "images").iterdir():
        file.unlink()
    assert "class 1 (n01629819) has no training image" in refusal(form(tree))


@BOTH
def test_class_folders_that_are_no_wordnet_ids(tree, form):
    (tree / "train" / WNIDS[1]).rename(tree / "train" / "cat")
    assert "'cat' is no WordNet id like n01443537; own images are read as imagefolder:DIR" in refusal(form(tree))


@BOTH
def test_a_level_too_many(tree, form):
    inner = tree / "train" / "images"
    inner.mkdir()
    for wnid in WNIDS:
        (tree / "train" / wnid).rename(inner / wnid)
    assert f"train/images: holds {', '.join(WNIDS)}: a level too many; the class folders lie in train" in refusal(
        form(tree)
    )


@BOTH
def test_a_stray_training_image(tree, form):
    (tree / "train" / "a.JPEG").write_bytes(jpeg())
    assert "'a.JPEG' is no WordNet id" in refusal(form(tree))


@BOTH
@pytest.mark.parametrize("name", [f"train/{WNIDS[1]}/images/{WNIDS[1]}_1.JPEG", "val/images/val_4.JPEG"])
def test_a_corrupt_image_is_named(tree, form, name):
    file = tree / name
    file.write_bytes(file.read_bytes()[:700])
    path = form(tree)
    where = f"{path}: tiny-imagenet-200/{name}" if path.suffix == ".zip" else f"{file}"
    assert f"{where}: cannot be decoded" in refusal(path)


@BOTH
def test_images_of_another_size_are_named(tree, form):
    (tree / "val" / "images" / "val_4.JPEG").write_bytes(jpeg(size=(32, 32)))
    assert "val_4.JPEG: 32×32 pixels, but" in refusal(form(tree))
    for number in range(6):
        (tree / "val" / "images" / f"val_{number}.JPEG").write_bytes(jpeg(size=(32, 32)))
    assert "training images are 64×64×3, test images 32×32×3; they must be alike" in refusal(form(tree))


def test_a_file_that_cannot_be_read(tree, monkeypatch):
    target = tree / "val" / "images" / "val_4.JPEG"
    target.unlink()
    target.symlink_to(tree / "nowhere")
    assert f"{target}: No such file" in refusal(tree)
