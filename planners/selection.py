"""Which configuration or ensemble is taken, and which post-processing: rules on measured scores."""

from __future__ import annotations

from collections.abc import Sequence

from selfseg.records.estimate import Estimate
from selfseg.records.plan import Decision
from selfseg.records.selection import CandidateScore, SelectionRules

# A difference that no user would notice: half a Dice point.
MARGIN = 0.005
# With few cases chance looks like a gain.
FEW_CASES, FEWEST_CASES, FEWEST_BETTER = 15, 10, 0.8
# Gains and losses below this are rounding.
ROUNDING = 1e-9


def selection_rules() -> SelectionRules:
    """Return what is tried, and how sure the intervals are.

    nnU-Net tries single configurations and pairs; a third member is worth a look where three are
    trained, and more would only cost time. Component volumes are tried from those of most small
    components to nearly all.
    """
    return SelectionRules(
        sizes=(1, 2, 3),
        confidence=0.95,
        replicates=2000,
        seed=0,
        fewest_share=0.5,
        fewest_folds=2,
        volume_quantiles=(0.25, 0.5, 0.75, 0.95),
    )


def choose_candidate(candidates: Sequence[CandidateScore]) -> Decision:
    """Return the candidate to take; its name is the decision's value.

    The highest score, unless something simpler ties with it: its score is less than half a point
    below, and the interval of the paired difference reaches zero. Of those that tie, the one with
    the fewest members is taken, and of these the fastest.
    """
    best = max(candidates, key=lambda c: c.score.value)
    ties = [c for c in candidates if c is best or _ties(c.difference)]
    chosen = min(ties, key=lambda c: (len(c.members), c.cost))
    if chosen is best:
        because = f"the highest score, {_text(best.score)}"
        because += "; nothing simpler or faster comes near it" if len(candidates) > 1 else ""
    else:
        because = (
            f"{_text(chosen.score)}; the highest score is that of {best.name}, "
            f"{_text(best.score)}, but the paired difference {_text(chosen.difference)} is below "
            f"{MARGIN:g} and may be chance, and {chosen.name} is "
            + ("simpler" if len(chosen.members) < len(best.members) else "faster")
        )
    others = sorted(candidates, key=lambda c: -c.score.value)
    return Decision(
        rule="selection.choose_candidate",
        subject="members",
        value=chosen.name,
        because=because,
        alternatives=tuple(f"{c.name}: {_text(c.score)}" for c in others if c is not chosen)[:8],
    )


def accept_step(
    gain: Estimate, worst_change: float, *, cases: int, cases_better: int, cases_worse: int
) -> Decision:
    """Decide on a post-processing step from what it did on cases that it was not tuned on.

    Accepted when the interval of the mean gain lies above zero and no label loses on average; with
    few cases, where an interval means little, only if there are ten and four fifths get better.
    """
    text = (
        f"gain {gain.value:+.4f} ({gain.lower:+.4f} to {gain.upper:+.4f}) on folds it was not "
        f"tuned on; better in {cases_better} of {cases} cases, worse in {cases_worse}"
    )
    accepted = gain.lower > ROUNDING and worst_change >= -ROUNDING
    if cases < FEW_CASES and (cases < FEWEST_CASES or cases_better < FEWEST_BETTER * cases):
        accepted = False
        text += f"; with fewer than {FEW_CASES} cases, {FEWEST_CASES} are needed and most must gain"
    if worst_change < -ROUNDING:
        text += f"; a label loses {-worst_change:.4f}"
    return Decision(
        rule="selection.accept_step",
        subject="postprocessing",
        value="accepted" if accepted else "rejected",
        because=text,
    )


def _ties(difference: Estimate) -> bool:
    return difference.value > -MARGIN and difference.upper >= -ROUNDING


def _text(estimate: Estimate) -> str:
    return f"{estimate.value:.4f} ({estimate.lower:.4f} to {estimate.upper:.4f})"
