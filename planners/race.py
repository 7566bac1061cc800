"""How long a race is, what it judges ideas on, and which it accepts."""

from __future__ import annotations

from collections.abc import Sequence

from selfseg.records.ideas import Idea
from selfseg.records.optimization import Optimization
from selfseg.records.plan import Decision
from selfseg.records.race import Arm, RaceEvidence, RaceLength, RaceMetric, RaceRules, RaceTrial
from selfseg.records.run import FORWARD_SHARE

# Ideas for tubes are judged by what tubes are for: whether they hang together.
TUBE_TERMS = frozenset({"cb_dice", "cl_dice", "segment_weights", "segments", "skeleton_recall"})
# Without a time limit a race trains for this share of the plan's epochs.
EPOCHS_SHARE = 0.25
EPOCHS = 25  # of a race in limited time: so often there is a checkpoint and a line of history
FEWEST_STEPS = 500  # shorter trainings are raced, but the decision says so
# An idea that is accepted on its own is seldom met by a second one: time is kept for one pair.
FURTHER_ARMS = 1
# Of the time: what the measured steps do not show (batches, checkpoints, slow moments).
RESERVE = 0.12
START_S = 4.0  # of each training: processes, reading cases
SCORING_S = 0.5  # of each held-out case

# Losing half a Dice point is what no user would notice.
LARGEST_LOSS = 0.005
FEW_CASES, FEWEST_BETTER = 15, 0.8
# Gains below this are rounding.
ROUNDING = 1e-9


class DefaultRacer:
    """The rules of a race."""

    def race_rules(self) -> RaceRules:
        """Return what is raced, and how sure the intervals are.

        The confidence is that of the acceptance gate; below 0.05 an interval lies above zero by
        chance. Over patients alone that share grows to 0.15 and more with many cases: all cases of
        a fold share one pair of trainings and its luck. So folds are the observations where an F
        test at the level 0.25 (usual for pooling: Bancroft 1964) finds them to differ. Simulated:
        docs/race.md.
        """
        return RaceRules(most_ideas=4, fewest_folds=2, confidence=0.9, fold_level=0.25)

    def race_metrics(self, idea: Idea) -> tuple[RaceMetric, ...]:
        """Return whose mean an idea is judged on: overlap and surface, for tubes topology."""
        if any(term.kind in TUBE_TERMS for term in idea.terms):
            return ("cldice", "betti0")
        return ("dice", "nsd")

    def race_length(
        self,
        arms: Sequence[Arm],
        held_out: Sequence[int],
        case_s: float,
        optimization: Optimization,
        remaining_s: float | None,
    ) -> RaceLength:
        """Return how long every training is; no epoch where nothing fits.

        Args:
            arms: Plain, and one for each idea; `step_s` is known where there is a limit.
            held_out: Held-out cases of each fold.
            case_s: Time of predicting a case.
            optimization: The plan's length and recipes.
            remaining_s: Time that is left; None takes a share of the plan's epochs.
        """
        further = min(len(arms) - 2, FURTHER_ARMS)
        if remaining_s is None:
            epochs = max(round(EPOCHS_SHARE * optimization.epochs), 1)
            because = f"no time limit: {EPOCHS_SHARE:.0%} of the plan's epochs"
            return _length(epochs, optimization.steps_per_epoch, len(arms) - 2, because)
        speeds = [arm.step_s or 0.0 for arm in arms]
        slowest = max(speeds)
        fixed_s = START_S * len(held_out) + (case_s + SCORING_S) * sum(held_out)
        free_s = remaining_s * (1 - RESERVE) - fixed_s * (len(arms) + further)
        recipes = (optimization.recipe, optimization.short_recipe)
        # a validation patch of an epoch costs a forward pass
        epoch_ends = 1 + FORWARD_SHARE * max(recipe.validation_share for recipe in recipes)
        round_s = len(held_out) * (sum(speeds) + further * slowest) * epoch_ends
        planned = optimization.epochs * optimization.steps_per_epoch
        steps = min(max(int(free_s / round_s), 0), planned)
        per_epoch = max(steps // EPOCHS, 1)
        because = (
            f"{remaining_s / 60:.1f} minutes for {len(arms)} arms, and {further} that may follow, "
            f"on {len(held_out)} folds; a step takes {min(speeds):.3g} to {slowest:.3g} s"
        )
        return _length(steps // per_epoch, per_epoch, further, because)

    def accept_idea(self, evidence: RaceEvidence) -> Decision:
        """Accept an idea if the interval of its mean gain lies above zero and no label loses.

        With few cases, where an interval means little, four fifths of them must gain as well; on
        one fold the idea cannot be told from the luck of two trainings.
        """
        gain, rules = evidence.gain, self.race_rules()
        parts = [
            f"mean gain of {' and '.join(evidence.metrics)} {gain.value:+.4f} "
            f"({gain.lower:+.4f} to {gain.upper:+.4f})",
            f"better in {evidence.cases_better} of {evidence.cases} cases",
        ]
        accepted = gain.lower > ROUNDING
        if evidence.by_fold:
            parts.append("folds differ, so each counts once")
        if gain.upper < -ROUNDING:
            harm = "negative transfer" if evidence.is_transfer else "it does harm"
            parts.append(f"{harm}: the interval lies below zero")
        if evidence.worst_change < -LARGEST_LOSS:
            accepted = False
            parts.append(f"a label loses {-evidence.worst_change:.4f} (allowed: {LARGEST_LOSS:g})")
        if evidence.cases < FEW_CASES:
            accepted &= evidence.cases_better >= FEWEST_BETTER * evidence.cases
            parts.append(f"with fewer than {FEW_CASES} cases {FEWEST_BETTER:.0%} must gain")
        if evidence.folds < rules.fewest_folds:
            accepted = False
            parts.append("one fold cannot tell an idea from the luck of a training")
        return Decision(
            rule="race.accept_idea",
            subject="nominated",
            value="accepted" if accepted else "rejected",
            because="; ".join(parts),
        )

    def rank_ideas(self, won: Sequence[RaceTrial]) -> tuple[RaceTrial, ...]:
        """Order ideas by gain in widths of its interval, the surest first.

        Ideas are judged by different metrics: a point of `betti0` is not one of Dice. How far a
        gain stands out of its own spread has no unit.
        """
        return tuple(sorted(won, key=_sureness, reverse=True))


def _sureness(trial: RaceTrial) -> tuple[float, float]:
    """Return the judged gain in half widths of its interval, and where that is equal the gain."""
    gain = trial.trial.gains[0].gain
    return gain.value / max(gain.value - gain.lower, ROUNDING), gain.value


def _length(epochs: int, per_epoch: int, further: int, because: str) -> RaceLength:
    steps = epochs * per_epoch
    if 0 < steps < FEWEST_STEPS:
        because += (
            f"; fewer than {FEWEST_STEPS} steps: what helps so short a training may not help later"
        )
    return RaceLength(
        epochs=epochs,
        steps_per_epoch=per_epoch,
        further_arms=max(further, 0),
        decision=Decision(
            rule="race.length", subject="trainings", value=f"{steps} steps each", because=because
        ),
    )
