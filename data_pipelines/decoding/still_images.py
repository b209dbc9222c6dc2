"""Reads images, and the animations that FFmpeg does not show rightly; `examine` and `decode` call it.

An image is a video of one frame. Pillow reads it, but OpenCV decodes the pixels of JPEGs, at three times the
speed, and of animated PNGs with less than 8 bits, which Pillow blends wrongly and FFmpeg misplaces. All other
animated PNGs, GIFs and sequences of HEIC are videos for FFmpeg (docs/adr/0022).
"""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import AvifImagePlugin, Image, ImageFile, TiffImagePlugin
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from data_pipelines.decoding.picture_pixels import hdr_transfer, orientation, rgb_pixels, upright
from data_pipelines.decoding.pixels import PQ, over_white
from data_pipelines.decoding.video import MAX_PIXELS, UNKNOWN_PTS, FrameIndex, Health, UnreadableVideo
from data_pipelines.decoding.work import WORK

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # pictures are decoded in parallel
TiffImagePlugin.READ_LIBTIFF = True  # its own reader of plain pixels is wrong about those in YCbCr

_STARTS = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"BM": "bmp",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",  # of more than 4 GiB
    b"MM\0+": "tiff",
}
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "jpeg": JpegImageFile,
    "png": PngImageFile,
    "apng": PngImageFile,
    "bmp": BmpImageFile,
    "tiff": TiffImageFile,
    "webp": WebPImageFile,
    "avif": AvifImagePlugin.AvifImageFile,
}
_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"
_PNG_DEPTH = 24
"""Place in a PNG of the number of bits."""
_BMP_HEADER = 14
"""Place in a BMP of its second header, right behind the place of its pixels."""
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"mif1", b"msf1"}
"""Brands of pictures, and of sequences of pictures, in any codec."""
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"avci", *_HEIF_BRANDS}
_HEIC_SEQUENCE_BRANDS = {b"hevc", b"hevx", b"hevm", b"hevs", b"avcs", b"msf1"}
_ANIMATED_KINDS = ("apng", "webp", "avif")
_PORTION_BYTES = 2**26
"""Size of the frames that OpenCV decodes at a time."""
_DEFAULT_DELAY = 100
"""Milliseconds for which a frame without delay is shown in an animation, as in GIFs and in browsers."""


def picture_kind(data: bytes) -> str | None:
    """Return `jpeg`, `png`, `apng`, `bmp`, `tiff`, `webp`, `avif` or `heic`; None if FFmpeg decodes it."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp":
        return _kind_of_brands(data)
    kind = next((kind for start, kind in _STARTS.items() if data.startswith(start)), None)
    if kind == "png" and b"acTL" in data[: data.find(b"IDAT")]:
        return "apng" if data[_PNG_DEPTH : _PNG_DEPTH + 1] < b"\x08" else None
    return kind


def _kind_of_brands(data: bytes) -> str | None:
    """Return the kind of a file in MP4's form, which names what it is and what else it may be read as."""
    main, end = data[8:12], min(int.from_bytes(data[:4], "big"), len(data))
    brands = {main, *(data[place : place + 4] for place in range(16, end, 4))}
    if main in _AVIF_BRANDS | _HEIF_BRANDS and brands & _AVIF_BRANDS:
        return "avif"
    if main in _HEIC_SEQUENCE_BRANDS and b"moov" in data:
        return None
    return "heic" if main in _HEIC_BRANDS | _HEIC_SEQUENCE_BRANDS else None


def examine_picture(data: bytes) -> tuple[FrameIndex, Health]:
    """Decode an image completely, and return its frame index and health.

    Raises:
      UnreadableVideo: the image does not decode.
    """
    kind = picture_kind(data) or ""
    with _opened(data, kind) as image:
        image.verify()  # the check sums of a PNG, at which a decoder does not look
    if kind == "jpeg" and _lacks_only_its_end(data):
        data += _JPEG_END
    with _opened(data, kind) as image:
        height, width = next(_frames(image, data, kind, [0])).shape[:2]
        times, duration = _load_all(image, kind)
        notes = _notes(image, data, kind)
    index = FrameIndex(
        frame_times=times,
        key_frames=np.zeros(1, np.int64),
        first_pts=UNKNOWN_PTS,
        width=width,
        height=height,
        rotation=0,
        is_reflected=False,
        duration=duration,
    )
    health = Health(
        verdict="ok",
        container=kind,
        codec=kind,
        num_frames=len(times),
        fps=len(times) / duration if duration else 0.0,
        is_variable_rate=len(times) > 2 and bool(np.ptp(np.diff(times)) > 2e-3),
        notes=notes,
    )
    return index, health


def _has_end(jpeg: bytes) -> bool:
    return jpeg.rfind(_JPEG_END) > jpeg.rfind(_JPEG_SCAN)


def _lacks_only_its_end(data: bytes) -> bool:
    """Tell whether a JPEG has all pixels and no mark of its end, at which viewers do not look.

    If it has, its pixels are the same whatever follows.
    """
    if _has_end(data):
        return False
    pixels, others = (
        cv2.imdecode(np.frombuffer(data + rest + _JPEG_END, np.uint8), cv2.IMREAD_COLOR)
        for rest in (b"", b"\x55\xaa\x35\x6b" * 64)
    )
    return pixels is not None and others is not None and np.array_equal(pixels, others)


def read_picture(data: bytes, frame_indices: Int[np.ndarray, " m"]) -> UInt8[np.ndarray, "m h w 3"]:
    """Return the wanted frames.

    Raises:
      UnreadableVideo: the image does not decode, or it lacks a wanted frame.
    """
    kind = picture_kind(data) or ""
    positions = np.asarray(frame_indices).tolist()
    wanted = sorted(set(positions))
    with _opened(data, kind) as image:
        missing = [position for position in wanted if position >= _num_frames(image, kind)]
        if missing:
            raise UnreadableVideo("(bytes)", f"frames {missing} of its index cannot be decoded")
        frames = dict(zip(wanted, _frames(image, data, kind, wanted), strict=True))
    if len(positions) == 1:
        return frames[positions[0]][None]  # without a copy
    return np.stack([frames[position] for position in positions])


@contextlib.contextmanager
def _opened(data: bytes, kind: str) -> Iterator[ImageFile.ImageFile]:
    """Open an image, whose header alone is read; errors inside of the context are about the file.

    Raises:
      UnreadableVideo: it cannot be decoded, or it could fill the memory.
    """
    try:
        file = io.BytesIO(_with_whole_header(data) if kind == "bmp" else data)
        with warnings.catch_warnings(), _reader(kind)(file) as image:
            warnings.filterwarnings("ignore", module="PIL")  # of harmless oddities, and of large pictures
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UnreadableVideo("(bytes)", f"its {width}x{height} pixels are more than {MAX_PIXELS:,}")
            yield image
    except (MemoryError, UnreadableVideo):
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableVideo("(bytes)", f"its pixels are more than {MAX_PIXELS:,}") from error
    except Exception as error:  # Pillow's readers raise many kinds for damaged files
        reason = str(error) if " " in str(error) else "damaged or truncated"
        raise UnreadableVideo("(bytes)", f"its {kind.upper()} picture cannot be decoded: {reason}") from error


def _reader(kind: str) -> type[ImageFile.ImageFile]:
    if kind in _READERS:
        return _READERS[kind]
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UnreadableVideo(
            "(bytes)", "it is a HEIC picture; to read it, run `pip install 'clipbert_jax[heic]'`"
        ) from error
    pillow_heif.options.DECODE_THREADS = 1
    return pillow_heif.HeifImageFile


def _with_whole_header(data: bytes) -> bytes:
    """Return a BMP of OS/2 whose header may end early with all fields, which are 0; Pillow knows no other."""
    size = int.from_bytes(data[_BMP_HEADER : _BMP_HEADER + 4], "little")
    if not 16 <= size < 40:
        return data
    lacking = 64 - size
    begin = int.from_bytes(data[10:_BMP_HEADER], "little") + lacking
    fields = data[_BMP_HEADER + 4 : _BMP_HEADER + size] + bytes(lacking)
    return data[:10] + struct.pack("<II", begin, 64) + fields + data[_BMP_HEADER + size :]


def _num_frames(image: ImageFile.ImageFile, kind: str) -> int:
    """Return the number of frames; further pages, sizes and views of a still image are none."""
    return getattr(image, "n_frames", 1) - _first_frame(image) if kind in _ANIMATED_KINDS else 1


def _first_frame(image: ImageFile.ImageFile) -> int:
    """Return 1 for an animated PNG that has another picture for programs that cannot show animations."""
    return int(getattr(image, "default_image", False))


def _frames(
    image: ImageFile.ImageFile, data: bytes, kind: str, wanted: list[int]
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Yield the frames at wanted positions, which rise."""
    if kind == "apng" and getattr(image, "is_animated", False):
        yield from _animated_png(image, data, wanted)
        return
    for position in wanted:
        if kind in _ANIMATED_KINDS:
            image.seek(position)
        yield _jpeg(image, data) if kind == "jpeg" else rgb_pixels(image, data)


def _jpeg(image: ImageFile.ImageFile, data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    if image.mode == "CMYK":
        return rgb_pixels(image, data)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        whole = data if _has_end(data) else data + _JPEG_END
        pixels = cv2.imdecode(np.frombuffer(whole, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:  # which says nothing about the file
            raise MemoryError(error.err) from error
        raise
    if pixels is None:
        raise ValueError("damaged or truncated")
    return upright(pixels, orientation(image))


def _animated_png(
    image: ImageFile.ImageFile, data: bytes, wanted: list[int]
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    if "transparency" in image.info and image.mode != "P":
        raise ValueError("one of its few grey levels is clear; save it with 8 bits")  # OpenCV ignores that
    turn = orientation(image)
    portion = max(1, _PORTION_BYTES // (4 * image.width * image.height))
    for start in range(wanted[0], wanted[-1] + 1, portion):
        count = min(portion, wanted[-1] + 1 - start)
        is_read, animation = cv2.imdecodeanimation(np.frombuffer(data, np.uint8), start, count)
        if not is_read or animation is None or len(animation.frames) < count:
            raise ValueError("damaged or truncated")
        for position in range(start, start + count):
            if position in wanted:
                yield upright(_rgb_of_bgr(np.asarray(animation.frames[position - start])), turn)


def _rgb_of_bgr(pixels: UInt8[np.ndarray, ...]) -> UInt8[np.ndarray, "h w 3"]:
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    if pixels.shape[2] == 4:
        return over_white(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA))
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _load_all(image: ImageFile.ImageFile, kind: str) -> tuple[Float[np.ndarray, " f"], float]:
    """Decode every frame; return when each begins and when the last one ends, in seconds."""
    num_frames, first = _num_frames(image, kind), _first_frame(image)
    begins, delays = [], []
    for position in range(first, first + num_frames):
        if kind in _ANIMATED_KINDS:
            image.seek(position)
        image.load()
        WORK.advance(image.width * image.height)
        begins.append(image.info.get("timestamp", 0))
        delays.append(image.info.get("duration", 0))
    if num_frames == 1:  # Pillow gives a still AVIF a second
        return np.zeros(1), 0.0 if kind == "avif" else float(delays[0]) / 1000
    if kind == "avif":  # whose delays are rounded
        delays = np.diff(begins, append=begins[-1] + delays[-1]).tolist()
    ends = np.cumsum([delay if delay > 0 else _DEFAULT_DELAY for delay in delays]) / 1000
    return np.concatenate([[0.0], ends[:-1]]), float(ends[-1])


def _notes(image: ImageFile.ImageFile, data: bytes, kind: str) -> tuple[str, ...]:
    """Return notes on how a loaded image is shown."""
    transfer = hdr_transfer(image, data)
    notes = [
        f"HDR ({'PQ' if transfer == PQ else 'HLG'}), tone-mapped" if transfer else "",
        "alpha, over white" if image.has_transparency_data else "",
        "the first of several pages" if kind == "tiff" and getattr(image, "is_animated", False) else "",
    ]
    return tuple(note for note in notes if note)
