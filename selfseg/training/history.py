"""history.jsonl: one line an epoch."""

from __future__ import annotations

from pathlib import Path

from selfseg.errors import RecordError
from selfseg.records import serial
from selfseg.records.model import EpochRecord


def append(record: EpochRecord, path: Path) -> None:
    """Add the line of a finished epoch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(record.model_dump_json() + "\n")


def read(path: Path) -> list[EpochRecord]:
    """Return the epochs; a last line that a kill cut short is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines):
        try:
            records.append(serial.decode(EpochRecord, line, source=f"{path}:{number + 1}"))
        except RecordError:
            if number < len(lines) - 1:
                raise
    return records


def forget_after(epoch: int, path: Path) -> None:
    """Drop the lines of epochs that a resumed training will make again."""
    kept = [record for record in read(path) if record.epoch <= epoch]
    if path.is_file():
        serial.write_text("".join(record.model_dump_json() + "\n" for record in kept), path)
