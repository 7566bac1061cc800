"""Names that several records share."""

from __future__ import annotations

from typing import Literal

ConfigurationName = Literal["2d", "2.5d", "3d_fullres", "3d_lowres", "3d_cascade"]
