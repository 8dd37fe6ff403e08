"""The photographs inside scikit-image and scikit-learn, cut in regions so that splits share none.

A data set that is made of them needs no download. Every photograph is cut along its longer side.
"""

from pathlib import Path

import numpy as np

from igam_d2.errors import InputError

__all__ = ["background", "load_photos", "photo_region", "save_jpeg"]

_SKIMAGE_PHOTOS = (
    "astronaut", "brick", "camera", "cell", "chelsea", "clock", "coffee", "coins", "grass",
    "gravel", "hubble_deep_field", "immunohistochemistry", "moon", "page", "retina", "rocket",
    "stereo_motorcycle", "text",
)  # fmt: skip


def load_photos(wanted_by: str, *, extra: str) -> dict[str, np.ndarray]:
    """Photographs by name, (H, W, 3) uint8 RGB.

    Args:
        wanted_by: the data set that a message names.
        extra: of this package, that installs what it needs.

    Raises:
        InputError: a package is missing.
    """
    try:
        import cv2  # noqa: F401
        import skimage.data
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise InputError(
            f"{wanted_by} needs {error.name}, which `pip install igam_d2[{extra}]` installs."
        ) from error
    samples = load_sample_images()
    photos = {
        Path(name).stem: image
        for name, image in zip(samples.filenames, samples.images, strict=True)
    }
    for name in _SKIMAGE_PHOTOS:
        photo = getattr(skimage.data, name)()
        photo = photo[0] if isinstance(photo, tuple) else photo  # the left eye of a stereo pair
        photos[name] = photo if photo.ndim == 3 else np.repeat(photo[..., None], 3, axis=2)
    return photos


def photo_region(photo: np.ndarray, start: float, stop: float) -> tuple[np.ndarray, int, int]:
    """A part of a photo along its longer side, and the (x, y) of its corner in the photo.

    Args:
        start, stop: shares of that side, 0 to 1; the stop of a region is the start of the next.
    """
    height, width = photo.shape[:2]
    axis = 0 if height > width else 1
    first, last = (round(share * photo.shape[axis]) for share in (start, stop))
    return (photo[first:last], 0, first) if axis == 0 else (photo[:, first:last], first, 0)


def background(
    rng: np.random.Generator,
    region: np.ndarray,
    x0: int,
    y0: int,
    *,
    image_size: int,
    crop_size: tuple[int, int],
) -> tuple[np.ndarray, list[int]]:
    """A square crop of a photo's region, resized and jittered, and its XYWH in the photo.

    Args:
        region, x0, y0: of :func:`photo_region`.
        image_size: side of what is returned.
        crop_size: least and largest side of the crop, pixels of the photo; less where the region
            is smaller.

    Returns:
        float32 RGB (image_size, image_size, 3) in 0-255, [x, y, w, h].
    """
    import cv2  # of the extras "demo" and "bench", as the photos are

    height, width = region.shape[:2]
    largest = min(height, width, crop_size[1])
    size = int(rng.integers(min(crop_size[0], largest), largest + 1))
    x, y = int(rng.integers(width - size + 1)), int(rng.integers(height - size + 1))
    crop = region[y : y + size, x : x + size]
    # INTER_AREA averages what it shrinks; it is plain interpolation where it enlarges
    image = cv2.resize(crop, (image_size, image_size), interpolation=cv2.INTER_AREA)
    image = np.rot90(image, int(rng.integers(4)))
    image = image[:, ::-1] if rng.random() < 0.5 else image
    image = image.astype(np.float32)
    image = (image - image.mean()) * rng.uniform(0.4, 1.0) + image.mean() * rng.uniform(0.7, 1.2)
    image *= rng.uniform(0.8, 1.2, 3)  # a colour cast
    return np.clip(image, 0, 255).astype(np.float32), [x0 + x, y0 + y, size, size]


def save_jpeg(path: Path, image: np.ndarray) -> None:
    """Write an RGB image (H, W, 3) uint8.

    Raises:
        OSError: it cannot be written; OpenCV's imwrite would not say why, nor raise.
    """
    import cv2  # as above

    _, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    path.write_bytes(encoded)
