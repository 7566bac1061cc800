"""What prediction takes beside logits, and how much of it at once fits a limit of memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from selfseg.errors import SelfSegError
from selfseg.inference.logit_store import GIB
from selfseg.inference.model import Model
from selfseg.inference.window_memory import window_bytes
from selfseg.io.geometry import canonical_geometry, closest_orientation
from selfseg.io.headers import ImageSize, read_size
from selfseg.preprocessing.resample import target_shape
from selfseg.records.dataset import Case
from selfseg.records.network import DSN3D, ContextUNet
from selfseg.records.plan import Configuration
from selfseg.records.serial import Shape3

BYTES_FLOAT32, BYTES_FLOAT16, BYTES_INDEX = 4, 2, 1
# While a channel is normalized: itself, the result, and what statistics are taken of. While it is
# resampled: itself, what lies between two axes, and the result. Masks and their holes: seven bytes.
CHANNELS_AT_ONCE, MASK_BYTES = 3, 7
# Label indices of an image on their way to a file: as found, cleaned, as values, as the library
# that writes them wants them, compressed; post-processing takes ten bytes a voxel.
INDEX_COPIES = 12
# Reading, reading ahead, computing, writing and waiting to be written.
IMAGES_OVERLAPPING = 4
SHARE_OF_WORK = 0.5  # of the room; the rest is for logits
MOST_WINDOWS = 64
# What logits in a file, their tiles and the threads take at least.
LEAST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Work:
    """What images and windows take, and how prediction goes about it.

    Attributes:
        gib: Main memory of all images and windows in flight.
        overlaps: The next image is read and the last one written while one is computed.
        windows: Most windows in one call of a network.
    """

    gib: float
    overlaps: bool
    windows: int


@dataclass(frozen=True)
class Needs:
    """What prediction takes at least, in bytes; logits in a file, one image at a time.

    Attributes:
        window: The largest window of any member.
        image: The largest image of any case.
        case: Which one that is; empty without cases.
    """

    window: int
    image: int
    case: str

    @property
    def least_gib(self) -> float:
        """Room below which not even one image and one window fit."""
        return (self.window + self.image + LEAST_BYTES) / GIB

    def work(self, room_gib: float) -> Work:
        """Return how to work within some room: overlapping if that leaves enough of it."""
        room = room_gib * GIB
        for images in (IMAGES_OVERLAPPING, 1):
            share = room * SHARE_OF_WORK - images * self.image
            if share >= self.window:
                break
        else:  # as little as there can be; the check of the limit has let it pass
            images, share = 1, room - LEAST_BYTES - self.image
        windows = max(1, min(MOST_WINDOWS, int(share // max(self.window, 1))))
        held = images * self.image + windows * self.window
        return Work(held / GIB, overlaps=images > 1, windows=windows)


def find_needs(
    models: Sequence[Model], cases: Sequence[Case], *, probabilities: bool = False
) -> Needs:
    """Return what predicting some cases with some models takes at least.

    Cases whose header cannot be read are passed over: they fail when it is their turn.
    """
    images = {
        case.id: max(image_bytes(size, model, probabilities=probabilities) for model in models)
        for case in cases
        if (size := _size(case)) is not None
    }
    case = max(images, key=lambda name: images[name], default="")
    windows = [_window_bytes(model) for model in models if model.device.type == "cpu"]
    return Needs(max(windows, default=0), images.get(case, 0), case)


def image_bytes(size: ImageSize, model: Model, *, probabilities: bool = False) -> int:
    """Return the most main memory that an image takes at once, from its file to its label map."""
    voxels, working = prod(size.native.shape), prod(_working_shape(size, model.configuration))
    channels = max(size.channels, len(model.plan.channels))
    image = BYTES_FLOAT32 * channels * voxels
    larger = BYTES_FLOAT32 * max(voxels, working)
    staged = model.configuration.previous_stage is not None
    prepared = BYTES_FLOAT32 * (channels + staged) * working
    reading = size.file_bytes + max(size.largest_file_bytes, image)
    preparing = image + prepared + CHANNELS_AT_ONCE * larger + MASK_BYTES * voxels
    computing = prepared * (2 if staged else 1)
    writing = INDEX_COPIES * BYTES_INDEX * max(voxels, working)
    if probabilities:  # float32 on two grids of axes, float16 for the file
        outputs = model.outputs
        writing += outputs * voxels * (2 * BYTES_FLOAT32 + 2 * BYTES_FLOAT16)
    return max(reading, preparing, computing + writing)


def _size(case: Case) -> ImageSize | None:
    try:
        return read_size([Path(file.path) for file in case.images])
    except SelfSegError:
        return None


def _working_shape(size: ImageSize, configuration: Configuration) -> Shape3:
    """Return the grid of a whole image at the configuration's spacing; cropping only shrinks it."""
    found = canonical_geometry(size.native, closest_orientation(size.native))
    options = configuration.preprocessing
    before = [found.spacing_mm[axis] for axis in options.axes]
    shape = [found.shape[axis] for axis in options.axes]
    first, second, third = options.spacing_mm
    return target_shape(
        (shape[0], shape[1], shape[2]),
        (before[0], before[1], before[2]),
        (before[0] if first is None else first, second, third),
    )


def _window_bytes(model: Model) -> int:
    configuration = model.configuration
    channels = len(model.plan.channels) + (configuration.previous_stage is not None)
    shape = (channels, *configuration.patch)
    return window_bytes(model.network, shape, model.mirror_axes, _strides(configuration))


def _strides(configuration: Configuration) -> tuple[int, ...]:
    """Return the whole network's strides; 0 along slices, of which it takes a fixed number."""
    network, dims = configuration.network, len(configuration.patch)
    if isinstance(network, DSN3D):
        return (2 ** (len(network.features) - 1),) * dims
    totals = tuple(prod(stride[axis] for stride in network.strides) for axis in range(dims))
    return (0, *totals[1:]) if isinstance(network, ContextUNet) else totals
