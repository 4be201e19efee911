"""Data sets of a dozen images in the layouts of the official releases, written without the package's own code."""

import io
import struct
import zipfile

import numpy as np
import scipy.io
from PIL import Image

WNIDS = ["n01443537", "n01629819", "n02124075"]
COLOURS = {"n01443537": (220, 30, 30), "n01629819": (30, 220, 30), "n02124075": (30, 30, 220)}
CIFAR_FILES = {
    "cifar10": [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"],
    "cifar100": ["train", "test", "meta"],
}


def python2_pickle(value):
    """Protocol 2 as Python 2 wrote it: byte strings, arrays rebuilt by reference to numpy's old modules."""
    return b"\x80\x02" + _opcodes(value) + b"."


def _opcodes(value):
    match value:
        case str():
            raw = value.encode("latin1")
            return b"U" + bytes([len(raw)]) + raw if len(raw) < 256 else b"T" + struct.pack("<i", len(raw)) + raw
        case int():
            return b"J" + struct.pack("<i", value)
        case list():
            return b"](" + b"".join(map(_opcodes, value)) + b"e"
        case dict():
            return b"}(" + b"".join(_opcodes(part) for item in value.items() for part in item) + b"u"
    dtype = value.dtype.str
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01("
        + b"".join(map(_opcodes, value.shape))
        + b"tcnumpy\ndtype\n"
        + _opcodes(dtype[1:])
        + b"K\x00K\x01\x87R(K\x03"
        + _opcodes(dtype[0])
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + _opcodes(value.tobytes().decode("latin1"))
        + b"tb"
    )


def pixels(n, side=32, channels=3, seed=0):
    """uint8 (n, side, side, channels), no two alike."""
    return np.random.default_rng(seed).integers(256, size=(n, side, side, channels), dtype=np.uint8)


def cifar_batch(images, labels, key="labels"):
    rows = np.stack([np.concatenate([image[:, :, plane].reshape(-1) for plane in range(3)]) for image in images])
    return {"batch_label": "a batch", "data": rows, key: [int(label) for label in labels], "filenames": ["x.png"]}


def write_cifar(folder, name="cifar10", per_batch=4, num_classes=2):
    """An unpacked CIFAR; what is in it: training images and labels, test images and labels."""
    folder.mkdir(parents=True)
    *train, test, meta = CIFAR_FILES[name]
    key = "labels" if name == "cifar10" else "fine_labels"
    parts = []
    for number, file in enumerate([*train, test]):
        images, labels = pixels(per_batch, seed=number), (np.arange(per_batch) + number) % num_classes
        (folder / file).write_bytes(python2_pickle(cifar_batch(images, labels, key)))
        parts.append((images, labels))
    names = "label_names" if name == "cifar10" else "fine_label_names"
    (folder / meta).write_bytes(python2_pickle({names: [f"class{label}" for label in range(num_classes)]}))
    train_images, train_labels = (np.concatenate(arrays) for arrays in zip(*parts[:-1], strict=True))
    return train_images, train_labels, *parts[-1]


def write_svhn(folder, train=20, test=10):
    """Both files, labels 1 … 10; what is in them, with the labels as the digits that they stand for."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for split, n in (("train", train), ("test", test)):
        images, labels = pixels(n, seed=n), np.arange(n) % 10 + 1
        content = {"X": images.transpose(1, 2, 3, 0), "y": labels.astype(np.uint8)[:, None]}
        scipy.io.savemat(folder / f"{split}_32x32.mat", content, do_compression=True)
        parts += [images, np.where(labels == 10, 0, labels)]
    return parts


def jpeg(colour=(128, 128, 128), size=(64, 64), mode="RGB", seed=None):
    """A JPEG of one colour, or with ``seed`` of noise around it."""
    image = Image.new("RGB", size, colour)
    if seed is not None:
        noise = np.random.default_rng(seed).integers(-20, 21, size=(size[1], size[0], 3))
        image = Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_tiny_imagenet(root, per_class=3, val=6, wnids=WNIDS):
    """An unpacked Tiny ImageNet whose images have the colours of their classes, one of them grey.

    The lines of ``val_annotations.txt`` come in another order than the files, and so do those of ``wnids.txt``.
    """
    for place, wnid in enumerate(wnids):
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        (folder.parent / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t62\t62\n")
        for number in range(per_class):
            content = jpeg(COLOURS[wnid], seed=100 * place + number)
            (folder / f"{wnid}_{number}.JPEG").write_bytes(content)
    (root / "train" / wnids[0] / "images" / f"{wnids[0]}_0.JPEG").write_bytes(jpeg(mode="L", seed=1))
    (root / "val" / "images").mkdir(parents=True)
    lines = []
    for number in range(val):
        wnid = wnids[number % len(wnids)]
        (root / "val" / "images" / f"val_{number}.JPEG").write_bytes(jpeg(COLOURS[wnid], seed=1000 + number))
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(reversed(lines)))
    (root / "test" / "images").mkdir(parents=True)
    (root / "test" / "images" / "test_0.JPEG").write_bytes(jpeg())
    (root / "wnids.txt").write_text("\n".join(reversed(wnids)) + "\n")
    (root / "words.txt").write_text("n00001740\tentity\nn01443537\tgoldfish, Carassius auratus\n")
    return root


def zip_tree(root, target):
    """The folder ``root``, with its name, in a zip archive that has entries for folders too."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*")):
            archive.write(path, path.relative_to(root.parent))
    return target


def write_image_folder(root, classes=("cat", "dog"), per_class=2, test="test", size=(8, 8)):
    """PNG files of noise by class."""
    for split in ("train", test):
        for place, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for number in range(per_class):
                noise = pixels(1, max(size), seed=10 * place + number)[0, : size[1], : size[0]]
                Image.fromarray(noise).save(root / split / name / f"{number}.png")
    return root


def arrays_of(source):
    """Training images and labels, test images and labels, as a reader gives them."""
    splits = (source.train, source.test)
    return [array for split in splits for array in (np.concatenate(list(split.blocks())), split.labels)]
