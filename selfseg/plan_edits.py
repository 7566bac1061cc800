"""`--set PATH=VALUE`: a user's decisions in a plan, each in place of those that it contradicts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from selfseg.errors import PlanError, RecordError
from selfseg.records import serial
from selfseg.records.plan import Decision, Plan


def edit_plan(plan: Plan, settings: Sequence[str]) -> Plan:
    """Apply `PATH=VALUE` settings in order; each is the user's decision, in place of former ones.

    A path goes by keys and, in lists, by `name` or index: `configurations.3d_fullres.batch=4`.
    VALUE is JSON, or else plain text.

    Raises:
        PlanError: No such place, or the value does not fit there.
    """
    for setting in settings:
        path, separator, text = setting.partition("=")
        if not separator or not path:
            raise PlanError(f"--set {setting}: no '='", remedy="Write --set PATH=VALUE.")
        plan = _set(plan, path.strip(), text.strip())
    return plan


def _set(plan: Plan, path: str, text: str) -> Plan:
    content: Any = plan.model_dump(mode="json")
    place, key, subject = _find(content, path)
    former, place[key] = place[key], _value(text)
    try:
        edited = serial.decode(Plan, json.dumps(content), source=f"--set {path}={text}")
    except RecordError as error:
        raise PlanError(
            error.message, remedy="Give a value of the kind that stands there."
        ) from error
    decision = Decision(
        rule="user",
        subject=subject,
        value=text,
        because="set by the user with --set",
        alternatives=(json.dumps(former),),
    )
    return edited.superseded_by(decision)


def _find(content: Any, path: str) -> tuple[Any, str | int, str]:
    """Return the container that a path ends in, the key or index in it, and the path by names."""
    place, passed, rest = content, "", path
    while True:
        step = _first_step(place, rest)
        key = _key(place, step, passed.rstrip(".") or "the plan")
        shown = place[key]["name"] if isinstance(key, int) and _has_name(place[key]) else step
        if rest == step:
            return place, key, f"{passed}{shown}"
        place, passed, rest = place[key], f"{passed}{shown}.", rest[len(step) + 1 :]


def _first_step(place: Any, path: str) -> str:
    """Return the name of an item that the path begins with (`2.5d`), else up to the first dot."""
    items = place if isinstance(place, list) else []
    names = [item["name"] for item in items if _has_name(item)]
    begun = [name for name in names if f"{path}.".startswith(f"{name}.")]
    return max(begun, key=len, default=path.partition(".")[0])


def _key(place: Any, step: str, where: str) -> str | int:
    """Return the key or index of a step, or say what stands there instead."""
    if isinstance(place, dict):
        if step in place:
            return step
        offered = list(place)
    elif isinstance(place, list):
        named: dict[str, int] = {
            item["name"]: index for index, item in enumerate(place) if _has_name(item)
        }
        if step in named:
            return named[step]
        if step.isdecimal() and int(step) < len(place):
            return int(step)
        offered = list(named) or [str(index) for index in range(len(place))]
    else:
        offered = []
    there = ", ".join(map(str, offered)) or "a single value"
    raise PlanError(f"--set: no {step!r} in {where}", remedy=f"There is: {there}.")


def _has_name(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("name"), str)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
