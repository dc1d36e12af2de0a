"""One stored image made into an array of the model's shape."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from toolkit.core.errors import DtkError, first_line

GREY_MODES = {"1", "L", "LA"}
MODES = {1: "L", 3: "RGB"}


class UnreadableImageError(Exception):
    """A file that is no image, or a damaged one; the message is the reason, in words."""


@dataclass(frozen=True)
class Fit:
    """How an image comes to the model's size; ``resize`` names Pillow's filter, without ``crop`` it is stretched."""

    resize: str = "bicubic"
    crop: str = "centre"

    def __call__(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        """The image at ``size`` (width, height)."""
        resample = Image.Resampling[self.resize.upper()]
        return image.resize(size, resample) if self.crop == "none" else ImageOps.fit(image, size, resample)

    def words(self, height: int, width: int) -> str:
        """What was done, for the record of a figure."""
        how = f"{width}x{height} (Pillow {self.resize}, antialiased)"
        return f"stretched to {how}" if self.crop == "none" else f"resized to cover {how}, {self.crop} crop"


COVER = Fit()


@dataclass(frozen=True)
class Prepared:
    """Pixels uint8 (H, W, C), and what had to be done to them beyond shrinking and cropping."""

    pixels: np.ndarray
    recoloured: bool  # grey became RGB or colour became grey
    enlarged: bool


def check_shape(shape: tuple[int, int, int]) -> None:
    """Raise DtkError for a model whose channels no image file has."""
    if shape[0] not in MODES:
        raise DtkError(
            "Image files do not fit this model.",
            found=f"a model of {shape[0]} channels",
            expected="1 channel (grey) or 3 (RGB)",
            do="give an .npz with a uint8 array of that many channels",
        )


def decode(content: bytes, shape: tuple[int, int, int], fit: Fit = COVER) -> Prepared:
    """Decode an image file and bring it to ``shape`` (C, H, W); raises UnreadableImageError."""
    try:
        with Image.open(io.BytesIO(content)) as stored:
            ImageOps.exif_transpose(stored, in_place=True)  # a copy would not say what kind of file it came from
            return prepare(stored, shape, fit)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError("not an image") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        reason = first_line(error)
        raise UnreadableImageError(f"damaged: {reason}") from error


def prepare(image: Image.Image, shape: tuple[int, int, int], fit: Fit = COVER) -> Prepared:
    """Bring the image to the model's size and colour mode.

    Pillow's filters widen their kernels when they shrink (Parmar et al. 2022 on why that matters for distances between
    images).
    """
    channels, height, width = shape
    enlarged = image.width < width or image.height < height
    colour = to_eight_bits(image)
    recoloured = (colour.mode == "L") != (channels == 1) and not (channels == 1 and _is_grey(colour))
    pixels = np.asarray(fit(colour.convert(MODES[channels]), (width, height)))
    return Prepared(pixels.reshape(height, width, channels), recoloured, enlarged)


def to_eight_bits(image: Image.Image) -> Image.Image:
    """The image in mode L or RGB; 12- and 16-bit grey is scaled, transparency is laid on black.

    Raises UnreadableImageError for values whose range is not known.
    """
    if image.mode.startswith(("I", "F")):
        return _scaled(image)
    if image.mode == "La":  # Pillow converts it to this alone
        image = image.convert("LA")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        opaque = Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer).convert("RGB")
        return opaque.convert("L") if image.mode in GREY_MODES else opaque
    return image.convert("L" if image.mode in GREY_MODES else "RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """Grey of more than eight bits, brought to eight by the depth that its file says."""
    if image.mode == "F":  # one file's are within [0, 1], another's within [0, 255]
        raise UnreadableImageError("floating-point values, whose range is not known")
    if image.mode == "I" and image.format != "PPM":  # of that Pillow makes 16 bits, whatever it says is white
        raise UnreadableImageError("integers of 32 bits or with a sign, whose range is not known")
    tags = getattr(image, "tag_v2", {})
    (bits,) = tags.get(ExifTags.Base.BitsPerSample, (16,))
    values = (np.asarray(image).astype(np.int64) >> bits - 8).astype(np.uint8)
    return Image.fromarray(~values if tags.get(ExifTags.Base.PhotometricInterpretation) == 0 else values)


def _is_grey(image: Image.Image) -> bool:
    pixels = np.asarray(image)
    return bool((pixels == pixels[..., :1]).all())
