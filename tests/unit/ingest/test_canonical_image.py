"""Pixels: what each kind of image looks like after it was read."""

import io

import numpy as np
import pytest
from PIL import Image

from app.ingest.canonical_image import CanonicalImage, DeepGrey, ImageRefused, canonical_image
from app.ingest.colour import grey_bits
from app.ingest.image_format import HEAD_BYTES, sniff
from app.ingest.limits import Limits
from app.ingest.shard import decode_image, iter_images
from tests.fixtures import archives, image_files
from tests.fixtures.image_files import colour, encoded, grey


def canonical(data: bytes, **options) -> CanonicalImage:
    kind = sniff(data[:HEAD_BYTES], "")
    assert kind.family == "image"
    image = canonical_image(data, kind.name, Limits(), **options)
    assert isinstance(image, CanonicalImage)
    return image


def pixels(data: bytes, **options) -> np.ndarray:
    return np.asarray(decode_image(canonical(data, **options).data)).astype(int)


def test_the_orientation_is_applied():
    image = canonical(image_files.oriented_jpeg())
    upright = Image.open(io.BytesIO(image.data))
    assert (image.width, image.height) == upright.size == (20, 40)
    with Image.open(io.BytesIO(image_files.oriented_jpeg())) as stored:
        turned = stored.transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(np.asarray(upright), np.asarray(turned))
    assert image_files.ORIENTATION not in upright.getexif()


def test_deep_grey_is_scaled_and_not_clipped():
    data = image_files.twelve_bit_png()
    assert canonical_image(data, "PNG", Limits()) == DeepGrey(4095)
    expected = np.asarray(grey()).astype(int)
    seen = pixels(data, bits=grey_bits(4095))[..., 0]
    assert np.array_equal(seen.ravel()[1:], expected.ravel()[1:])


@pytest.mark.parametrize(
    ("peak", "bits"), [(0, 8), (255, 8), (256, 10), (1023, 10), (4095, 12), (4096, 14), (65535, 16)]
)
def test_bit_depth_from_the_largest_value(peak, bits):
    assert grey_bits(peak) == bits


def test_the_data_set_has_one_bit_depth(prepare_bytes):
    """A dark image among 12-bit ones stays dark: its own largest value would make it as bright as the others."""

    def dark(number: int) -> bytes:
        return encoded(Image.fromarray((np.asarray(grey(number)) // 4).astype(np.uint16) * 16), "PNG")

    files = archives.class_folders(("bag",)) | {
        "dark/0.png": dark(100),
        **{f"dark/{n}.png": image_files.twelve_bit_png(n) for n in range(1, 5)},
        "dark/9.png": dark(109),
    }
    prepared = prepare_bytes(archives.zip_of(files))
    assert prepared.report["images"]["modes"] == {"I;16": 6, "L": 6}
    images = list(iter_images(prepared.shard, [6, 11]))
    for image, number in zip(images, (100, 109), strict=True):
        assert np.array_equal(np.asarray(image)[..., 0], np.asarray(grey(number)) // 4)


def test_sixteen_bit_colour_keeps_its_high_bytes():
    image = canonical(image_files.sixteen_bit_rgb_png())
    assert image.notes == ("high_bit_depth",)
    assert np.array_equal(pixels(image_files.sixteen_bit_rgb_png()), np.asarray(colour(5)))


def test_floats_of_the_unit_interval():
    image = canonical(image_files.float_tiff())
    assert image.notes == ("float_rescaled",)
    assert np.array_equal(pixels(image_files.float_tiff())[..., 0], np.asarray(grey(2)))


def test_floats_of_any_range_and_not_finite_ones():
    values = np.linspace(-500, 1500, 32 * 32, dtype=np.float32).reshape(32, 32)
    values[0, 0], values[0, 1] = np.nan, np.inf
    seen = pixels(encoded(Image.fromarray(values), "TIFF"))[..., 0]
    assert (seen.min(), seen.max()) == (0, 255)
    assert seen[0, 0] == 0
    assert abs(int(np.median(seen)) - 128) <= 2
    with pytest.raises(ImageRefused, match="finite"):
        canonical(encoded(Image.fromarray(np.full((32, 32), np.nan, np.float32)), "TIFF"))


def test_transparent_pixels_become_white():
    seen = pixels(image_files.transparent_png())
    assert (seen[:, :20] == 255).all()
    assert (seen[:, 20:] == (255, 0, 0)).all()


def test_opaque_alpha_is_no_warning():
    assert canonical(image_files.mixed_modes()["opaque_rgba.png"]).notes == ()


@pytest.mark.parametrize("profile", [False, True])
def test_cmyk_looks_like_its_original(profile):
    seen = pixels(image_files.cmyk_jpeg(profile=profile))
    assert np.abs(seen - np.asarray(colour(3)).astype(int)).mean() < 6


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_counts(file_format):
    data = image_files.animated(file_format)
    image = canonical(data)
    assert "animated_first_frame" in image.notes
    assert image.data != data
    difference = np.abs(pixels(data) - np.asarray(colour(6)).astype(int)).mean()
    assert difference < 12


@pytest.mark.parametrize("name", ["plain.jpg", "grey.jpg", "plain.webp"])
def test_small_plain_files_are_stored_byte_for_byte(name):
    data = image_files.mixed_modes()[name]
    image = canonical(data)
    assert image.data == data
    assert image.notes == ()


def test_other_files_become_lossless_pngs():
    for name, data in image_files.mixed_modes().items():
        image = canonical(data, bits=12)
        if image.data != data:
            with Image.open(io.BytesIO(image.data)) as stored:
                assert (stored.format, stored.mode in ("L", "RGB"), stored.info.keys()) == ("PNG", True, {}.keys()), (
                    name
                )


def test_large_images_are_resized_to_a_shorter_side_of_512():
    data = encoded(colour(22, (1600, 800)), "JPEG")
    image = canonical(data)
    assert (image.width, image.height, image.resized) == (1600, 800, True)
    assert decode_image(image.data).size == (1024, 512)
    assert not canonical(encoded(colour(22, (900, 512)), "JPEG")).resized


def test_equal_pictures_have_equal_pixel_hashes():
    same = [encoded(grey(7), "PNG"), encoded(grey(7).convert("RGB"), "BMP"), encoded(grey(7), "WEBP", lossless=True)]
    assert len({canonical(data).pixels_sha256 for data in same}) == 1
    assert canonical(same[0]).pixels_sha256 != canonical(encoded(grey(8), "PNG")).pixels_sha256


def test_a_truncated_jpeg_is_corrupt():
    with pytest.raises(ImageRefused) as caught:
        canonical(image_files.truncated_jpeg())
    assert (caught.value.outcome, caught.value.reason) == ("corrupt", "corrupt_image")


@pytest.mark.parametrize(
    ("head", "path", "family", "name"),
    [
        (b"\xff\xd8\xff\xe0", "a.png", "image", "JPEG"),
        (b"BMW is a car maker, this is a text.", "a.bmp", "other", ""),
        (b"II*\0\x10\0\0\0CR\x02\0", "a.tif", "unsupported_image", "camera raw"),
        (b"MM\0*\0\0\0\x08", "a.NEF", "unsupported_image", "camera raw"),
        (b"\0\0\0\x20ftypmif1\0\0\0\0mif1avifmiaf", "a.heic", "image", "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a.jpg", "unsupported_image", "HEIC"),
        (b"\0\0\0\x20ftypisom\0\0\0\0isomavc1mp41", "a.mp4", "other", ""),
        (bytes(128) + b"DICM", "a", "unsupported_image", "DICOM"),
        (b"P5 28 28 255 ", "a.pgm", "unsupported_image", "netpbm"),
        (b"P5 is a name", "a.txt", "other", ""),
        (b"PK\x03\x04", "a.jpg", "archive", ""),
        (b"", "a.jpg", "other", ""),
    ],
)
def test_sniffing(head, path, family, name):
    kind = sniff(head, path)
    assert (kind.family, kind.name) == (family, name)
