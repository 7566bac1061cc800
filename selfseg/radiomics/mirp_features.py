"""Further families of texture: runs, zones, tones and dependence of levels, computed by mirp.

mirp (Zwanenburg et al., 2024, doi:10.21105/joss.06413) is of the extra `radiomics`. It is given
levels on their grid, so that it neither resamples nor sorts intensities: both are those of our own
families.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata

import numpy as np
from scipy import ndimage

from selfseg.errors import SelfSegError
from selfseg.radiomics.region import Levels
from selfseg.records.features import FurtherFamily

REMEDY = "Install selfseg with its extra 'radiomics'; in a checkout: pip install '.[radiomics]'."


@dataclass(frozen=True)
class _Columns:
    """What mirp calls a family and its features, and what we call them.

    Attributes:
        family: For mirp's settings.
        prefix, suffix: Of mirp's columns.
        short: Between these, in the order of `names`.
        names: Without the name of the family.
    """

    family: str
    prefix: str
    suffix: str
    short: tuple[str, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse lists that do not belong together: a mistake of ours."""
        if len(self.short) != len(self.names):
            raise ValueError(f"{self.family}: {len(self.short)} columns, {len(self.names)} names")


def _names(little: str, much: str, extent: str, *last: str) -> tuple[str, ...]:
    """Return the features of a matrix that counts levels by an extent (a length, a size)."""
    return (
        *(f"{part}_emphasis" for part in (little, much, "low_level", "high_level")),
        *(f"{part}_{level}_level_emphasis" for part in (little, much) for level in ("low", "high")),
        "level_nonuniformity",
        "level_nonuniformity_normalized",
        f"{extent}_nonuniformity",
        f"{extent}_nonuniformity_normalized",
        "level_variance",
        f"{extent}_variance",
        "entropy",
        *last,
    )


FAMILIES: dict[FurtherFamily, _Columns] = {
    "runs": _Columns(
        "rlm", "rlm", "3d_v_mrg",
        ("sre", "lre", "lgre", "hgre", "srlge", "srhge", "lrlge", "lrhge", "glnu", "glnu_norm",
         "rlnu", "rlnu_norm", "gl_var", "rl_var", "rl_entr", "r_perc"),
        _names("short", "long", "length", "percentage"),
    ),
    "zones": _Columns(
        "szm", "szm", "3d",
        ("sze", "lze", "lgze", "hgze", "szlge", "szhge", "lzlge", "lzhge", "glnu", "glnu_norm",
         "zsnu", "zsnu_norm", "gl_var", "zs_var", "zs_entr", "z_perc"),
        _names("small", "large", "size", "percentage"),
    ),
    "distance_zones": _Columns(
        "dzm", "dzm", "3d",
        ("sde", "lde", "lgze", "hgze", "sdlge", "sdhge", "ldlge", "ldhge", "glnu", "glnu_norm",
         "zdnu", "zdnu_norm", "gl_var", "zd_var", "zd_entr", "z_perc"),
        _names("near", "far", "distance", "percentage"),
    ),
    "tones": _Columns(
        "ngtdm", "ngt", "3d",
        ("coarseness", "contrast", "busyness", "complexity", "strength"),
        ("coarseness", "contrast", "busyness", "complexity", "strength"),
    ),
    # Without the share of voxels that have a count: here it is always 1.
    "dependence": _Columns(
        "ngldm", "ngl", "d1_a0.0_3d",
        ("lde", "hde", "lgce", "hgce", "ldlge", "ldhge", "hdlge", "hdhge", "glnu", "glnu_norm",
         "dcnu", "dcnu_norm", "gl_var", "dc_var", "dc_entr", "dc_energy"),
        _names("few", "many", "count", "energy"),
    ),
}  # fmt: skip
# Merged over directions, from neighbors at one voxel; dependent are those of the same level.
SETTINGS = {
    "base_discretisation_method": "none",
    "by_slice": False,
    "glrlm_spatial_method": "3d_volume_merge",
    "glszm_spatial_method": "3d",
    "gldzm_spatial_method": "3d",
    "ngtdm_spatial_method": "3d",
    "ngldm_spatial_method": "3d",
    "ngldm_distance": 1.0,
    "ngldm_difference_level": 0.0,
}
# Of a region without neighbors tones are not defined: it counts as one whose neighbors are all
# equal, as for co-occurrence. Its coarseness would be infinite; the IBSI's largest is 10^6.
ALONE = {"coarseness": 1e6, "contrast": 0.0, "busyness": 0.0, "complexity": 0.0, "strength": 0.0}


def mirp_version() -> str | None:
    """Return the version of mirp; None where it is not installed."""
    try:
        return metadata.version("mirp")
    except metadata.PackageNotFoundError:
        return None


def require_mirp(families: Sequence[FurtherFamily]) -> None:
    """Refuse families that cannot be computed here.

    Raises:
        SelfSegError: There are families, and mirp is not installed or cannot be imported.
    """
    if not families:
        return
    wanted = f"the radiomics {', '.join(families)} are computed with mirp"
    if mirp_version() is None:
        raise SelfSegError(f"{wanted}, which is not installed", remedy=REMEDY)
    try:
        with _quiet():
            import mirp  # noqa: F401
    except ImportError as error:  # it wants recent versions of other packages
        raise SelfSegError(
            f"{wanted}, which cannot be used here ({error})", remedy=REMEDY
        ) from error


def further_features(levels: Levels, families: Sequence[FurtherFamily]) -> dict[str, float]:
    """Return the features of some families; all are finite, names begin with their family.

    Distances count voxels, so that the size of a voxel does not matter.

    Args:
        levels: (z, y, x), 1 and up in the region and 0 outside.
        families: Which; none needs no mirp.

    Raises:
        SelfSegError: mirp is not installed, or is one that names features otherwise.
    """
    if not families:
        return {}
    require_mirp(families)
    row = _computed(levels, [FAMILIES[family].family for family in families])
    found = {}
    for family in families:
        known = FAMILIES[family]
        for short, name in zip(known.short, known.names, strict=True):
            value = row.get(f"{known.prefix}_{short}_{known.suffix}", math.nan)
            if family == "tones" and not math.isfinite(value) and _is_alone(levels):
                value = ALONE[name]
            found[f"{family}_{name}"] = value
    undefined = [name for name, value in found.items() if not math.isfinite(value)]
    if undefined:
        raise SelfSegError(
            f"mirp {mirp_version()} gives no {', '.join(undefined[:3])}",
            remedy="Install mirp 2.7, with which selfseg is tested.",
        )
    return found


def _computed(levels: Levels, families: list[str]) -> dict[str, float]:
    """Return mirp's features of levels by its columns; the grid is cut to the region.

    mirp leaves runs in some directions out where the last axes are one voxel wide. No feature
    depends on the order of axes, so the shortest comes first.
    """
    (box,) = ndimage.find_objects((levels > 0).view(np.uint8))
    cut = levels[box]
    cut = np.ascontiguousarray(cut.transpose(np.argsort(cut.shape, kind="stable")))
    with _quiet():
        from mirp import extract_features

        (table,) = extract_features(
            image=cut.astype(np.float64),
            mask=(cut > 0).astype(np.uint8),
            base_feature_families=families,
            num_cpus=None,  # in this process
            **SETTINGS,
        )
    prefixes = tuple(f"{known.prefix}_" for known in FAMILIES.values())
    return {name: float(table[name].iloc[0]) for name in table if name.startswith(prefixes)}


def _is_alone(levels: Levels) -> bool:
    """Tell whether no voxel of a region touches another one (26 neighbors)."""
    _, count = ndimage.label(levels > 0, structure=np.ones((3, 3, 3)))
    return bool(count == np.count_nonzero(levels))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep mirp from setting up logging, and from telling of every region: it uses the root."""

    def worth_telling(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING

    root, nothing = logging.getLogger(), logging.NullHandler()
    root.addHandler(nothing)  # with a handler there, logging.basicConfig does nothing
    root.addFilter(worth_telling)
    try:
        yield
    finally:
        root.removeFilter(worth_telling)
        root.removeHandler(nothing)
