"""Image files to arrays: colours, sizes, order, and what cannot be decoded."""

import io

import numpy as np
import pytest
from PIL import Image
from tiny_releases import jpeg, pixels

from fastiseat.errors import UserError
from fastiseat.pipelines.data.archives import Tree, is_image
from fastiseat.pipelines.data.formats.images import decode, decoded


def png(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def refusal(content, **options):
    with pytest.raises(UserError) as caught:
        decode(content, "in/a.jpg", **options)
    message = str(caught.value)
    assert message.startswith("in/a.jpg: ") and "\n" not in message
    return message


def test_pixels_come_as_they_were_saved():
    image = pixels(1, 16)[0]
    read = decode(png(Image.fromarray(image)), "a")
    assert read.dtype == np.uint8 and np.array_equal(read, image)


def test_a_wide_image_is_height_by_width():
    assert decode(jpeg(size=(30, 20)), "a").shape == (20, 30, 3)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_every_kind_of_jpeg_becomes_rgb(mode):
    image = decode(jpeg((200, 40, 40), mode=mode), "a").astype(int)
    expected = 88 if mode == "L" else np.array([200, 40, 40])
    assert image.shape == (64, 64, 3)
    assert np.abs(image - expected).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_every_kind_of_png_becomes_rgb(mode):
    image = Image.fromarray(pixels(1, 8)[0]).convert(mode)
    assert np.array_equal(decode(png(image), "a"), np.asarray(image.convert("RGBA").convert("RGB")))


def test_a_palette_with_transparent_colours():
    image = Image.fromarray(pixels(1, 8)[0]).convert("P")
    content = png(image, transparency=bytes([0, 128] * 20))
    assert np.array_equal(decode(content, "a"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_8_bits_are_refused(mode):
    buffer = io.BytesIO()
    Image.new(mode, (4, 4)).save(buffer, "TIFF")
    assert f"pixels of mode {mode}; save the image with 8 bits a channel" in refusal(buffer.getvalue())


@pytest.mark.parametrize("keep", [0, 1, 20, 300, 0.5, -20])
def test_truncated(keep):
    content = jpeg(seed=0)
    assert "cannot be decoded" in refusal(content[: int(keep * len(content)) if isinstance(keep, float) else keep])


def test_what_is_no_image():
    assert "(no image)" in refusal(b"<html>not found</html>")


def test_no_other_program_is_asked():
    """Pillow would hand PostScript to an interpreter of its programs, whatever the file is called."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "EPS")
    assert "(no image)" in refusal(buffer.getvalue())


def test_bombs_are_refused_before_they_are_unpacked():
    assert "8193×8192 pixels; at most" in refusal(png(Image.new("1", (8193, 8192))))


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (20, 20), (13, 29), (5, 9)])
@pytest.mark.parametrize("side", [1, 7, 20])
def test_resizing_takes_the_centre(size, side):
    image = Image.fromarray(pixels(1, 64)[0, : size[1], : size[0]])
    read = decode(png(image), "a", side=side)
    scale = side / min(size)
    whole = image.resize((round(size[0] * scale), round(size[1] * scale)), Image.Resampling.BILINEAR)
    left, top = (whole.width - side) // 2, (whole.height - side) // 2
    assert np.array_equal(read, np.asarray(whole)[top : top + side, left : left + side])


def test_resizing_averages():
    """Without antialiasing a fine pattern would come out as one of its two colours."""
    pattern = np.zeros((64, 64, 3), np.uint8)
    pattern[::2, ::2] = pattern[1::2, 1::2] = 255
    assert np.abs(decode(png(Image.fromarray(pattern)), "a", side=8).astype(int) - 127).max() <= 20


def test_blocks_keep_the_order(tmp_path, monkeypatch):
    monkeypatch.setattr("fastiseat.pipelines.protocol.source.BLOCK_BYTES", 100 * 8 * 8 * 3)
    images = pixels(250, 8)
    for number, image in enumerate(images):
        (tmp_path / f"{number}.png").write_bytes(png(Image.fromarray(image)))
    order = np.random.default_rng(0).permutation(250)
    blocks = decoded(Tree(tmp_path), [f"{number}.png" for number in order])
    for _ in range(2):
        read = list(blocks())
        assert [len(block) for block in read] == [100, 100, 50]
        assert np.array_equal(np.concatenate(read), images[order])


def test_another_size_is_told_by_its_path(tmp_path):
    (tmp_path / "a.png").write_bytes(jpeg(size=(8, 6)))
    (tmp_path / "b.png").write_bytes(jpeg(size=(6, 8)))
    with pytest.raises(UserError, match=r"b.png: 6×8 pixels, but .*a.png has 8×6; all must have one size"):
        list(decoded(Tree(tmp_path), ["a.png", "b.png"])())
    assert next(decoded(Tree(tmp_path), ["a.png", "b.png"], side=4)()).shape == (2, 4, 4, 3)


@pytest.mark.parametrize(
    ("name", "whether"),
    [("a.JPEG", True), ("a.jpg", True), ("a.b.PNG", True), ("boxes.txt", False), ("jpeg", False)],
)
def test_is_image(name, whether):
    assert is_image(name) is whether
