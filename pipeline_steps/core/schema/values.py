"""The value types that the sections of the configuration share."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping with fixed keys: its fields are the keys, their types say what is allowed.

    A class that checks several keys together raises ValueError in `__post_init__`. `core/checking.py` reads one.
    """


DISTINCT = Meta(extra={"distinct": True})  # of a list: nothing stands in it twice

Number = float  # finite; YAML 1.1 reads `1e-4` as text, which is taken for the number that was meant
Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
OpenFraction = Annotated[float, Meta(gt=0, lt=1)]
Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Seed = Annotated[int, Meta(ge=0, lt=2**32)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Experiment = Annotated[
    str,
    Meta(
        pattern=r"^(?!(features|prepare_dataset|mlartifacts|mlflow\.db)$)[A-Za-z0-9][A-Za-z0-9_.-]*$",
        description="a name of letters, digits, _ . and -, and none that the results folder has: features, "
        "prepare_dataset, mlartifacts, mlflow.db",
    ),
]
PathText = Annotated[
    str,
    Meta(
        pattern=r"^[^\x00-\x1f\x7f{}\\?*]+$",
        description="a path without braces, backslash, ? and *, which mean something else on its way",
    ),
]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
