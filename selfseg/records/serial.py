"""Records to JSON files and back: strict on reading, atomic on writing."""

from __future__ import annotations

import hashlib
import logging
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from selfseg.errors import RecordError
from selfseg.files import arriving

log = logging.getLogger(__name__)

Triple = tuple[float, float, float]
Shape3 = tuple[int, int, int]


class Record(BaseModel):
    """A frozen, typed value that can be written to a file and read back strictly."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class GrownRecord(Record):
    """A record that has got fields since models were first trained with it.

    While such a field has its default, digests are those from before it was there: models,
    checkpoints and arrays that were made then stay valid.
    """

    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _serialize(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        if info.context is FOR_DIGEST:
            for name in self.later:
                if getattr(self, name) == type(self).model_fields[name].default:
                    del content[name]
        return content


FOR_DIGEST = {"purpose": "digest"}
RecordT = TypeVar("RecordT", bound=Record)


def save(record: Record, path: Path) -> None:
    """Write a record as JSON through a temporary name and a rename."""
    write_text(text(record), path)


def text(record: Record) -> str:
    """Return a record as it stands in a file."""
    return record.model_dump_json(indent=1) + "\n"


def save_keeping_former(record: Record, path: Path) -> Path | None:
    """Write a record; a different file that stands there is kept: it may hold edits by hand.

    Returns:
        Where the former file is now; None if there was none, or none that differs.
    """
    content, kept = text(record), None
    if path.is_file() and (former := path.read_text(encoding="utf-8")) != content:
        names = (path.with_name(f"{path.stem}.former-{n}{path.suffix}") for n in count(1))
        kept = next(name for name in names if not name.exists())
        write_text(former, kept)
        log.warning("%s differs from the one that stood there, which is now %s", path, kept)
    write_text(content, path)
    return kept


def load(kind: type[RecordT], path: Path) -> RecordT:
    """Read a record of the given kind.

    Raises:
        RecordError: The file is missing, no JSON, or holds unknown keys, wrong types or wrong
            values; the message names the place (`$.configurations[0].network.kind`).
    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(
            f"{path}: cannot be read ({error.__class__.__name__}: {error})",
            remedy="Check the path; 'selfseg plan' writes the files of a workspace.",
        ) from error
    return decode(kind, content, source=str(path))


def decode(kind: type[RecordT], content: str, *, source: str) -> RecordT:
    """Read a record from JSON text; `source` names it in messages."""
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        findings = "; ".join(
            f"{_place(tuple(item['loc']))}: {item['msg']}" for item in error.errors()[:8]
        )
        raise RecordError(
            f"{source}: not a valid {kind.__name__}: {findings}",
            remedy="Mend the named place, or delete the file and make it again.",
        ) from error


def digest(record: Record) -> str:
    """Return a short stable digest of a record's content."""
    return hashlib.sha256(record.model_dump_json(context=FOR_DIGEST).encode()).hexdigest()[:16]


def write_text(content: str, path: Path) -> None:
    """Write text so that the file is either the old one or the whole new one."""
    with arriving(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def _place(location: tuple[int | str, ...]) -> str:
    """Return a JSON path such as `$.configurations[0].network` for pydantic's location."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return "$" + "".join(steps)
