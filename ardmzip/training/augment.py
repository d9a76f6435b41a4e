"""Augmentation that imitates how real lossless image files came to be (noise, resampling, chroma subsampling, ...).

Every operation takes and returns ``float32[3, H, W]`` planes (R, G, B in 0..255, not necessarily integers) and is a
pure function of its arguments and ``rng``. ``augment`` chains them and returns bytes again.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

Planes = np.ndarray  # float32[3, H, W]
Range = tuple[float, float]

MIN_SIDE = 64

BT601 = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])
"""(Y, Cb, Cr) to RGB, full range, as JPEG and most software use it."""
PHOTO_CD = np.array([[1.3584, 0, 1.8215], [1.3584, -0.4302, -0.9271], [1.3584, 2.2179, 0]])
"""(Y, C1, C2) to RGB of Kodak Photo CD: a luma step of 1.36 and chroma steps of about 2 once rounded to 8 bits."""
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class AugmentConfig:
    """Probabilities and ranges. ``p_*`` are independent, given that the crop is touched at all."""

    untouched: float = 0.2  # plain geometry; with the 11 % of chains that come out empty, about 30 % of all crops
    shuffle: float = 0.2  # chains are mostly in the order of a camera and an editor; sometimes in any order
    round_between: float = 0.5  # software stores 8 bits between two steps about as often as it works in float

    p_down: float = 0.12  # photographs on the web are down-scaled; the training set already is, hence not more
    down: Range = (1.3, 2.0)  # beyond 2 the result looks like any other clean image
    p_up: float = 0.10  # digital zoom, thumbnails blown up, drone and phone modes
    up: Range = (1.1, 1.6)  # smooth, strongly predictable images
    p_saturation: float = 0.15  # editing and camera styles; decides the correlation between channels
    saturation: Range = (0.5, 1.6)
    p_gain: float = 0.15  # white balance and exposure; on rounded values it leaves gaps that differ per channel
    gain: Range = (0.8, 1.25)
    p_blur: float = 0.08  # lens, defocus, noise reduction
    blur: Range = (0.4, 1.2)
    p_sensor: float = 0.12  # photon noise grows with the signal and is independent per channel
    sensor_gain: Range = (0.005, 0.15)  # variance per unit of signal: sigma 0.8 to 4.4 at mid gray
    sensor_floor: Range = (0.2, 1.5)  # read noise, sigma
    p_luma_grain: float = 0.26  # film grain and scanner noise: nearly the same in all channels (Kodak)
    luma_grain: Range = (0.5, 6.0)  # sigma; log-uniform, as weak noise is far more common
    p_chroma_noise: float = 0.15  # what cameras leave after demosaicing; independent of luma
    chroma_noise: Range = (0.3, 4.0)
    filtered_noise: float = 0.5  # half of all noise went through a filter (demosaicing, denoising, scaling)
    noise_filter: Range = (0.4, 1.3)  # sigma of that filter in pixels
    p_sharpen: float = 0.25  # nearly every camera, scanner and web export sharpens
    sharpen_amount: Range = (0.2, 1.5)
    sharpen_radius: Range = (0.7, 2.0)
    p_jpeg: float = 0.14  # many PNG files are decoded JPEGs
    jpeg_quality: tuple[int, int] = (85, 98)  # lower qualities are visibly damaged and seldom kept losslessly
    jpeg_420: float = 0.5
    jpeg_shifted: float = 0.3  # cropped after decoding, so the 8x8 grid does not start at the corner

    p_chroma: float = 0.30  # 24 % of all crops: clean photographs never show it, Kodak and video frames always do
    chroma_kinds: tuple[tuple[str, float], ...] = (
        ("linear", 0.66),  # co-sited, linear: Photo CD (Kodak), MPEG-2 horizontally, most simple converters
        ("cubic", 0.07),  # co-sited, Catmull-Rom: better converters
        ("triangle", 0.13),  # centred, 3/4 + 1/4: libjpeg's fancy upsampling
        ("nearest", 0.08),  # centred, repeated: fast decoders
        ("centred-cubic", 0.06),  # centred, bicubic: swscale and the like
    )
    chroma_both: float = 0.70  # 4:2:0; else one axis only (4:2:2, mostly horizontal; vertical after rotation)
    chroma_even: float = 0.6  # phase 0 in both axes, as files come; else any (cropped, flipped, rotated)
    chroma_round: float = 0.5  # rounded to 8 bits in YCbCr before going back to RGB
    chroma_prefilter: float = 0.5  # chroma low-passed before decimation, instead of plain dropping
    photo_cd: float = 0.35  # Photo CD's matrix instead of BT.601

    p_tone: float = 0.20  # curve or levels applied to 8-bit values: gaps and doubled values in the histogram
    gamma: Range = (0.6, 1.6)
    levels: float = 0.3  # of those: stretch the black and white point instead of a gamma
    p_gray: float = 0.033  # gray stored as RGB: 2.6 % of all crops, enough to learn that G decides R and B

    def check(self) -> None:
        """Raise ValueError for values that make no sense."""
        for name, default in vars(DEFAULT).items():
            value = getattr(self, name)
            if name == "chroma_kinds":
                known = [kind for kind, _ in DEFAULT.chroma_kinds]
                valid = all(len(pair) == 2 and pair[0] in known and _is_number(pair[1], 0) for pair in value)
                valid = valid and sum(weight for _, weight in value) > 0
            elif isinstance(default, tuple):
                valid = isinstance(value, tuple) and len(value) == 2 and all(_is_number(end, 0) for end in value)
                valid = valid and value[0] <= value[1]
            else:
                valid = _is_number(value, 0, 1)
            if not valid:
                raise ValueError(f"augment: {name} cannot be {value!r}")


def _is_number(value: object, least: float, most: float = math.inf) -> bool:
    return isinstance(value, int | float) and least <= value <= most


DEFAULT = AugmentConfig()


def random_crop(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A view of a random ``size`` x ``size`` square (less where the image is smaller)."""
    y = int(rng.integers(max(image.shape[0] - size, 0) + 1))
    x = int(rng.integers(max(image.shape[1] - size, 0) + 1))
    return image[y : y + size, x : x + size]


def augment(crop: np.ndarray, rng: np.random.Generator, config: AugmentConfig = DEFAULT) -> np.ndarray:
    """``uint8[H, W, 3]`` to contiguous ``uint8[H', W', 3]``, no side below 64 unless it was so before."""
    crop = random_geometry(crop, rng)
    if rng.random() < config.untouched:
        return np.ascontiguousarray(crop)
    chain = [op for name, op in OPS.items() if rng.random() < getattr(config, f"p_{name}")]
    if rng.random() < config.shuffle:
        chain = [chain[i] for i in rng.permutation(len(chain))]
    if not chain:
        return np.ascontiguousarray(crop)
    planes = to_float(crop)
    for op in chain:
        planes = op(planes, rng, config)
        if rng.random() < config.round_between:
            planes = rounded(planes)
    return to_image(planes)


# --- conversions and helpers ---------------------------------------------------------------------------------------


def to_float(image: np.ndarray) -> Planes:
    """``uint8[H, W, 3]`` to ``float32[3, H, W]``."""
    return np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)


def rounded(planes: Planes) -> Planes:
    """Planes rounded to 0..255."""
    planes = np.rint(planes)
    return np.clip(planes, 0, 255, out=planes)


def to_image(planes: Planes) -> np.ndarray:
    """``float32[3, H, W]`` to contiguous ``uint8[H, W, 3]``."""
    return np.ascontiguousarray(rounded(planes).astype(np.uint8).transpose(1, 2, 0))


def random_geometry(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One of the eight flips and quarter turns of ``[H, W, C]``, as a view."""
    flip_y, flip_x, transpose = rng.random(3) < 0.5
    image = image[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
    return image.transpose(1, 0, 2) if transpose else image


def _uniform(rng: np.random.Generator, bounds: Range) -> float:
    return float(rng.uniform(*bounds))


def _log_uniform(rng: np.random.Generator, bounds: Range) -> float:
    return math.exp(rng.uniform(math.log(bounds[0]), math.log(bounds[1])))


def _luma(planes: Planes) -> np.ndarray:
    """Luma as ``float32[1, H, W]``."""
    luma = planes[0] * LUMA[0]
    luma += planes[1] * LUMA[1]
    luma += planes[2] * LUMA[2]
    return luma[None]


def _mix(matrix: np.ndarray, planes: Planes) -> Planes:
    """``matrix`` (3x3) applied to every pixel."""
    return (matrix.astype(np.float32) @ planes.reshape(3, -1)).reshape(planes.shape)


def _pad(planes: np.ndarray, before: int, after: int, axis: int, mode: str = "edge") -> np.ndarray:
    widths = [(0, 0)] * planes.ndim
    widths[axis] = (before, after)
    return np.pad(planes, widths, mode=mode)  # type: ignore[call-overload]


def _part(planes: np.ndarray, axis: int, start: int | None, stop: int | None, step: int = 1) -> np.ndarray:
    """``planes[start:stop:step]`` along ``axis`` (-1 or -2), a view."""
    index = slice(start, stop, step)
    return planes[..., index] if axis == -1 else planes[..., index, :]


def gaussian_kernel(sigma: float) -> np.ndarray:
    """Normalised odd kernel, cut at 2.5 sigma."""
    radius = max(1, math.ceil(2.5 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return (kernel / kernel.sum()).astype(np.float32)


def convolve(planes: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Separable convolution with a symmetric odd ``kernel`` in both axes, edges replicated."""
    for axis in (-2, -1):
        planes = _convolve_axis(planes, kernel, axis)
    return planes


def _convolve_axis(planes: np.ndarray, kernel: np.ndarray, axis: int) -> np.ndarray:
    radius, length = len(kernel) // 2, planes.shape[axis]
    padded = _pad(planes, radius, radius, axis)
    result = planes * kernel[radius]
    pair = np.empty_like(result)
    for i in range(1, radius + 1):
        near, far = radius - i, radius + i
        np.add(_part(padded, axis, near, near + length), _part(padded, axis, far, far + length), out=pair)
        pair *= kernel[near]
        result += pair
    return result


def _noise(shape: tuple[int, ...], rng: np.random.Generator, config: AugmentConfig) -> np.ndarray:
    """Unit-variance Gaussian noise, white or (sometimes) low-passed."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    if rng.random() < config.filtered_noise:
        kernel = gaussian_kernel(_uniform(rng, config.noise_filter))
        noise = convolve(noise, kernel)
        noise /= np.sum(kernel**2)
    return noise


# --- chroma subsampling --------------------------------------------------------------------------------------------


def resample_axis(chroma: np.ndarray, axis: int, phase: int, kind: str, prefilter: bool = False) -> np.ndarray:
    """Subsample by 2 along ``axis`` (-1 or -2) from position ``phase`` on, and interpolate back to the same size.

    Co-sited kinds ("linear", "cubic") keep every second sample exactly (low-passed before if ``prefilter``); centred
    kinds ("triangle", "nearest", "centred-cubic") keep the means of pairs.
    """
    length, cosited = chroma.shape[axis], kind in ("linear", "cubic")
    if length < 2:
        return chroma
    if prefilter and cosited:
        chroma = _convolve_axis(chroma, np.array([0.25, 0.5, 0.25], dtype=np.float32), axis)
    # Whole pairs from index 0 on; the reflected sample makes the neighbour of the first kept one equal to it.
    padded = _pad(chroma, phase, 0, axis, "reflect" if cosited else "edge")
    padded = _pad(padded, 0, padded.shape[axis] % 2, axis)
    first, second = _part(padded, axis, 0, None, 2), _part(padded, axis, 1, None, 2)
    kept = first if cosited else (first + second) * np.float32(0.5)
    count = kept.shape[axis]
    wide = _pad(kept, 2, 2, axis)

    def combine(*taps: float) -> np.ndarray:
        """Sum of taps[j] * kept[i + j - 2], j = 0..4."""
        terms = [_part(wide, axis, j, j + count) * np.float32(tap) for j, tap in enumerate(taps) if tap]
        return sum(terms[1:], start=terms[0])

    result = np.empty_like(padded)
    if kind == "linear":
        pair = kept, combine(0, 0, 0.5, 0.5, 0)
    elif kind == "cubic":
        pair = kept, combine(0, -1 / 16, 9 / 16, 9 / 16, -1 / 16)
    elif kind == "triangle":
        pair = combine(0, 0.25, 0.75, 0, 0), combine(0, 0, 0.75, 0.25, 0)
    elif kind == "nearest":
        pair = kept, kept
    elif kind == "centred-cubic":
        taps = -3 / 128, 29 / 128, 111 / 128, -9 / 128
        pair = combine(*taps, 0), combine(0, *taps[::-1])
    else:
        raise ValueError(f"unknown kind of chroma interpolation: {kind}")
    _part(result, axis, 0, None, 2)[...], _part(result, axis, 1, None, 2)[...] = pair
    return _part(result, axis, phase, phase + length)


def subsample_chroma(
    planes: Planes,
    axes: tuple[int, ...] = (-2, -1),
    phase: tuple[int, int] = (0, 0),
    kind: str = "linear",
    rounding: float | None = None,
    prefilter: bool = False,
    matrix: np.ndarray = BT601,
) -> Planes:
    """Subsample chroma by 2 along ``axes`` and interpolate it; ``rounding`` r stores floor(v + r) in YCbCr."""
    ycc = _mix(np.linalg.inv(matrix), planes)
    chroma = ycc[1:]
    if rounding is not None:
        ycc = np.floor(ycc + np.float32(rounding))
        # What is stored is rounded first; with a prefilter the rounding of the stored values is left out (negligible).
        chroma = chroma if prefilter else ycc[1:]
    for axis in axes:
        chroma = resample_axis(chroma, axis, phase[axis], kind, prefilter)
    # Tiny offset: interpolated values that are exactly a half or an integer must not fall below it in float32.
    ycc[1:] = chroma if rounding is None else np.floor(chroma + np.float32(rounding + 1e-4))
    return _mix(matrix, ycc)


def chroma(planes: Planes, rng: np.random.Generator, config: AugmentConfig = DEFAULT) -> Planes:
    """``subsample_chroma`` with random settings."""
    names, weights = zip(*config.chroma_kinds, strict=True)
    kind = names[int(rng.choice(len(names), p=np.array(weights) / sum(weights)))]
    axes = (-2, -1) if rng.random() < config.chroma_both else ((-1,) if rng.random() < 0.75 else (-2,))
    even = rng.random() < config.chroma_even
    phase = (0, 0) if even else (int(rng.integers(2)), int(rng.integers(2)))
    rounding = (0.5 if rng.random() < 0.75 else 0.0) if rng.random() < config.chroma_round else None
    prefilter = bool(rng.random() < config.chroma_prefilter)
    matrix = PHOTO_CD if rng.random() < config.photo_cd else BT601
    return subsample_chroma(planes, axes, phase, kind, rounding, prefilter, matrix)


# --- noise ---------------------------------------------------------------------------------------------------------


def luma_grain(planes: Planes, rng: np.random.Generator, config: AugmentConfig = DEFAULT) -> Planes:
    """The same noise in all channels, sometimes weighted per channel."""
    sigma = _log_uniform(rng, config.luma_grain)
    weights = rng.uniform(0.7, 1.3, 3) if rng.random() < 0.5 else np.ones(3)
    noise = _noise(planes.shape[1:], rng, config)
    return planes + noise * (sigma * weights).astype(np.float32)[:, None, None]


def chroma_noise(planes: Planes, rng: np.random.Generator, config: AugmentConfig = DEFAULT) -> Planes:
    """Independent noise in Cb and Cr; luma stays."""
    cb, cr = _noise((2, *planes.shape[1:]), rng, config) * np.float32(_log_uniform(rng, config.chroma_noise))
    to_rgb = BT601.astype(np.float32)
    return planes + np.stack([to_rgb[0, 2] * cr, to_rgb[1, 1] * cb + to_rgb[1, 2] * cr, to_rgb[2, 1] * cb])


def sensor(planes: Planes, rng: np.random.Generator, config: AugmentConfig = DEFAULT) -> Planes:
    """Noise per channel whose variance is a floor plus a multiple of the signal."""
    gain, floor = _log_uniform(rng, config.sensor_gain), _uniform(rng, config.sensor_floor)
    sigma = np.sqrt(np.maximum(planes, 0) * np.float32(gain) + np.float32(floor**2))
    sigma *= _noise(planes.shape, rng, config)
    sigma += planes
    return sigma


# --- filters, colour and tone --------------------------------------------------------------------------------------


def blur(planes: Planes, rng: np.random.Generator, config: AugmentConfig = DEFAULT) -> Planes:
    """Slight Gaussian blur."""
    return convolve(planes, gaussian_kernel(_uniform(rng, config.blur)))


def sharpen(planes: Planes, rng: np.random.Generator, config: AugmentConfig = DEFAULT) -> Planes:
    """Unsharp mask, on luma or on every channel."""
    amount = np.float32(_uniform(rng, config.sharpen_amount))
    kernel = gaussian_kernel(_uniform(rng, config.sharpen_radius))
    base = _luma(planes) if rng.random() < 0.6 else planes
    detail = base - convolve(base, kernel)
    detail *= amount
    return planes + detail


def saturation(planes: Planes, rng: np.random.Generator, config: AugmentConfig = DEFAULT) -> Planes:
    """Scale the distance from luma."""
    factor = np.float32(_uniform(rng, config.saturation))
    return planes * factor + _luma(planes) * (1 - factor)


def gain(planes: Planes, rng: np.random.Generator, config: AugmentConfig = DEFAULT) -> Planes:
    """Gain per channel: white balance and exposure."""
    return planes * rng.uniform(*config.gain, 3).astype(np.float32)[:, None, None]


def tone(planes: Planes, rng: np.random.Generator, config: AugmentConfig = DEFAULT) -> Planes:
    """A curve on values rounded to 8 bits, so that some values vanish from the histogram."""
    values = np.arange(256)
    if rng.random() < config.levels:
        low, high = rng.uniform(0, 25), rng.uniform(230, 255)
        table = (values - low) * (255 / (high - low))
    else:
        table = 255 * (values / 255) ** _log_uniform(rng, config.gamma)
    return rounded(table.astype(np.float32))[rounded(planes).astype(np.uint8)]


def gray(planes: Planes, rng: np.random.Generator, config: AugmentConfig = DEFAULT) -> Planes:
    """Luma, rounded, in all three channels."""
    return np.repeat(rounded(_luma(planes)), 3, axis=0)


# --- operations of PIL, on 8-bit values ----------------------------------------------------------------------------


def jpeg(planes: Planes, rng: np.random.Generator, config: AugmentConfig = DEFAULT) -> Planes:
    """Encode as JPEG and decode again."""
    quality = int(rng.integers(config.jpeg_quality[0], config.jpeg_quality[1] + 1))
    subsampling = 2 if rng.random() < config.jpeg_420 else 0
    y, x = rng.integers(8, size=2) if rng.random() < config.jpeg_shifted else (0, 0)
    shifted = np.pad(planes, [(0, 0), (y, 0), (x, 0)], mode="edge")
    file = io.BytesIO()
    Image.fromarray(to_image(shifted)).save(file, "JPEG", quality=quality, subsampling=subsampling)
    with Image.open(file) as decoded:
        return to_float(np.asarray(decoded)[y:, x:])


def up(planes: Planes, rng: np.random.Generator, config: AugmentConfig = DEFAULT) -> Planes:
    """Enlarge a corner to the size of the whole, so that the cost of what follows does not grow."""
    factor = _uniform(rng, config.up)
    height, width = planes.shape[1:]
    box = 0, 0, width / factor, height / factor
    filters = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS
    return _resize(planes, (width, height), filters[int(rng.integers(3))], box)


def down(planes: Planes, rng: np.random.Generator, config: AugmentConfig = DEFAULT) -> Planes:
    """Shrink, but no side below ``MIN_SIDE``: then by less, or not at all."""
    height, width = planes.shape[1:]
    factor = min(_uniform(rng, config.down), min(height, width) / MIN_SIDE)
    resample = Image.Resampling.BOX if rng.random() < 0.3 else Image.Resampling.LANCZOS
    if factor < config.down[0]:
        return planes
    size = max(MIN_SIDE, round(width / factor)), max(MIN_SIDE, round(height / factor))
    return _resize(planes, size, resample, (0, 0, width, height))


def _resize(
    planes: Planes, size: tuple[int, int], resample: Image.Resampling, box: tuple[float, float, float, float]
) -> Planes:
    return to_float(np.asarray(Image.fromarray(to_image(planes)).resize(size, resample, box)))


Op = Callable[[Planes, np.random.Generator, AugmentConfig], Planes]
OPS: dict[str, Op] = {
    "down": down,
    "up": up,
    "saturation": saturation,
    "gain": gain,
    "blur": blur,
    "sensor": sensor,
    "luma_grain": luma_grain,
    "chroma_noise": chroma_noise,
    "sharpen": sharpen,
    "jpeg": jpeg,
    "chroma": chroma,
    "tone": tone,
    "gray": gray,
}
"""All operations in the usual order; the probability of ``NAME`` is ``AugmentConfig.p_NAME``."""
