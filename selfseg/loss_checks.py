"""Whether the loss of a configuration can be computed: its terms, their labels and maps."""

from __future__ import annotations

from collections.abc import Iterator

from selfseg.records.dataset import Targets
from selfseg.records.loss import BinaryCrossEntropyTerm, CrossEntropyTerm, LabelTerm, Loss
from selfseg.records.loss_maps import needed_maps
from selfseg.records.plan import Configuration


def loss_complaints(item: Configuration, targets: Targets) -> Iterator[str]:
    """Yield what is wrong with a configuration's loss, each with its place below `loss`."""
    yield from _kind_complaints(item.loss, targets)
    yield from _label_complaints(item.loss, targets)
    try:
        needed_maps(item.loss)
    except ValueError as error:
        yield f"terms: {error}"


def _kind_complaints(loss: Loss, targets: Targets) -> Iterator[str]:
    wrong = CrossEntropyTerm if targets.regions else BinaryCrossEntropyTerm
    for index, term in enumerate(loss.terms):
        if isinstance(term, wrong):
            yield (
                f"terms.{index}: {term.kind} is for "
                f"{'labels that exclude each other' if targets.regions else 'regions'}"
            )


def _label_complaints(loss: Loss, targets: Targets) -> Iterator[str]:
    for index, term in enumerate(loss.terms):
        if not isinstance(term, LabelTerm) or term.labels is None:
            continue
        unknown = [name for name in term.labels if name not in targets.names]
        if unknown or len(set(term.labels)) < len(term.labels) or not term.labels:
            found = ", ".join(unknown or term.labels) or "none"
            yield f"terms.{index}.labels: {found}, must be some of {', '.join(targets.names)}"
