import numpy as np
import pytest
from PIL import Image

from ddpm_jax.reporting import figures


def numbered(num, height=40, width=40, channels=1):
    """Images that are k all over, k = 0, 1, ..."""
    shape = (num, height, width, channels)
    return np.broadcast_to(np.arange(num)[:, None, None, None], shape).astype(np.uint8)


@pytest.mark.parametrize(
    ("num", "columns", "layout"),
    [(6, 3, (2, 3)), (7, 3, (3, 3)), (9, None, (3, 3)), (10, None, (3, 4)), (2, 10, (1, 2))],
)
def test_a_grid_goes_row_by_row(num, columns, layout):
    rows, across = layout
    picture = figures.grid(numbered(num), columns, padding=2)
    assert picture.shape == (rows * 42 + 2, across * 42 + 2, 1)
    for k in range(rows * across):
        top, left = (k // across) * 42 + 2, (k % across) * 42 + 2
        tile = picture[top : top + 40, left : left + 40]
        assert (tile == (k if k < num else 255)).all()
    # What is not an image is white.
    assert (picture[:2] == 255).all()
    assert (picture[:, :2] == 255).all()
    assert (picture[42:44] == 255).all() or rows == 1


def test_images_that_are_not_square_keep_their_shape_and_colours():
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3)).astype(np.uint8)
    picture = figures.grid(images, 2, padding=1)
    assert picture.shape == (2 * 33 + 1, 2 * 49 + 1, 3)
    np.testing.assert_array_equal(picture[34:66, 1:49], images[2])


@pytest.mark.parametrize(("size", "scale"), [(8, 4), (16, 2), (20, 2), (31, 2), (32, 1), (64, 1)])
def test_small_images_are_enlarged_by_whole_pixels(size, scale):
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 1)).astype(np.uint8)
    picture = figures.grid(image, padding=0)
    assert picture.shape == (size * scale, size * scale, 1)
    for shift in range(scale):
        np.testing.assert_array_equal(picture[shift::scale, shift::scale], image[0])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_holds_the_pixels(tmp_path, channels):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels)).astype(np.uint8)
    path = tmp_path / "new" / "a.png"
    figures.save_png(path, image)
    with Image.open(path) as opened:
        assert opened.mode == ("L" if channels == 1 else "RGB")
        np.testing.assert_array_equal(np.asarray(opened).reshape(image.shape), image)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    figures.save_png(path, np.zeros((4, 4, 1), np.uint8))
    before = path.read_bytes()

    def torn(self, target, **options):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", torn)
    with pytest.raises(OSError, match="disk full"):
        figures.save_png(path, np.ones((4, 4, 1), np.uint8))
    assert path.read_bytes() == before
