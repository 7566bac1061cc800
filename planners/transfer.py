"""How weights of another model are trained on, and whether a model is worth starting from."""

from __future__ import annotations

from selfseg.records.channels import are_alike, channel_order
from selfseg.records.dataset import Dataset
from selfseg.records.ideas import Idea
from selfseg.records.plan import Decision
from selfseg.records.source import SourceFacts, StartVerdict, TransferFacts
from selfseg.records.transfer import FineTune, HeadFirst, Start, Transfer

MANY_CASES = 200  # from which on a data set teaches all that a model could bring
# Zero-shot Dice. Measured with 5 hippocampus cases: from 0.71 a start helped (100 steps), from 0.66
# it changed nothing (800 steps); see docs/few-cases.md.
GOOD_OVERLAP, POOR_OVERLAP = 0.7, 0.2
# Standard deviations that normalized intensities lie apart, where no label can be compared.
# Measured from 5 hippocampus MR images: to 8 others 0.03, to generated images like them 0.07, with
# contrast inverted 0.14, to MR of other organs or contrasts 0.30 to 0.40.
FAR_INTENSITIES = 0.25
PROBED_CASES = 8
FEW_CASES = 60  # up to which a start from a model is thought to pay
SHORT_REASON = (
    "short runs keep their rate: 100 steps on 5 hippocampus cases at 2 mm, from a model of 20 "
    "others, reached a mean Dice of 0.746 on 10 unseen cases at the full rate and 0.706 at a "
    "tenth, with new heads 0.686 and 0.559, from random weights 0.153"
)
OTHERS = ("frozen_encoder", "l2_sp", "low_rank")


def decide_transfer(name: str, cases: int) -> tuple[Transfer, Decision]:
    """Few cases: heads first, the encoder slower; many: everything at once, after a warm-up.

    Args:
        name: Configuration.
        cases: Training cases of the data set.
    """
    few = cases <= FEW_CASES
    value: Transfer = HeadFirst() if few else FineTune()
    values: tuple[Transfer, ...] = (HeadFirst(), FineTune())
    rate = (
        f"{value.rate:g} of the learning rate (short runs {value.short_rate:g}) after a warm-up of "
        f"{value.warmup:.0%}"
    )
    because = (
        "used where a training starts from a model; rate and warm-up of long runs are those of "
        f"nnU-Net's fine-tuning; {SHORT_REASON}; "
    )
    if isinstance(value, HeadFirst):
        because += (
            f"with {cases} cases (at most {FEW_CASES}) new heads would first undo what the model "
            f"knows: they learn alone for {value.head_share:.0%} of the training, then the encoder "
            f"at {value.encoder_rate:g} of the rate"
        )
    else:
        because += f"{cases} cases (more than {FEW_CASES}) can teach the whole network"
    decision = Decision(
        rule="transfer",
        subject=f"configurations.{name}.transfer",
        value=f"{value.kind}, {rate}",
        because=because,
        alternatives=(*(other.kind for other in values if other.kind != value.kind), *OTHERS),
    )
    return value, decision


def choose_probed(dataset: Dataset) -> tuple[str, ...]:
    """Return the cases that a model is tried on: a few, spread over all."""
    ids = [case.id for case in dataset.cases]
    count = min(PROBED_CASES, len(ids))
    return tuple(ids[number * len(ids) // count] for number in range(count))


def nominate_start(source: SourceFacts, facts: TransferFacts, start: Start) -> StartVerdict:
    """Decide whether a model is nominated, doubtful or refused; a trial on equal folds proves it.

    Zero-shot overlap tells most. A model that the user named and that does well is used at once, a
    doubtful one only after it has won a race, and so one whose labels cannot be compared.

    Args:
        source: The model.
        facts: What it does with the data as it is.
        start: How trainings would ask for it.
    """
    value, because = _verdict(source, facts)
    uses = {
        "nominated": "trainings start from it; 'selfseg race' compares them with random weights",
        "doubtful": "not used unless it wins a race ('selfseg race')",
        "refused": "not used, and not raced",
    }
    decision = Decision(
        rule="start",
        subject="init",
        value=f"{value}: {source.model.title}",
        because=f"{because}; {uses[value]}; thresholds are our own and only nominate",
        alternatives=tuple(v for v in uses if v != value),
    )
    if value == "refused":
        return StartVerdict(decision=decision)
    idea = Idea(
        name="transfer",
        configuration=source.configuration.name,
        start=start,
        because=f"{value}: {because}",
    )
    return StartVerdict(decision=decision, idea=idea, is_used=value == "nominated")


def _verdict(source: SourceFacts, facts: TransferFacts) -> tuple[str, str]:
    count = facts.training_cases
    reasons = [f"{count} cases", "voxels " + _factors(facts.spacing_ratios)]
    if facts.seen_cases:
        reasons.append(
            f"it was trained on {facts.seen_cases} of them or of their groups, which tell nothing"
        )
    alike = are_alike(source.channels, facts.channels)
    compared = channel_order(source.channels, facts.channels) is not None
    if not (alike and compared):
        how = "taken in order" if compared else "so it was not tried"
        reasons.append(
            f"channels are {', '.join(facts.channels)}, the model's {', '.join(source.channels)}: "
            f"{how}"
        )
    if facts.intensity_distance is not None:
        reasons.append(f"normalized intensities {facts.intensity_distance:.2f} apart")
    if facts.overlaps:
        mean = sum(item.dice for item in facts.overlaps) / len(facts.overlaps)
        each = ", ".join(f"{item.name} {item.dice:.2f}" for item in facts.overlaps)
        reasons.append(
            f"without training a Dice of {mean:.2f} ({each}; {len(facts.cases)} cases; limits "
            f"{POOR_OVERLAP:g} and {GOOD_OVERLAP:g})"
        )
        verdict = _by_overlap(mean)
    elif facts.seen_cases == count or not compared:
        verdict = "doubtful"
    else:
        reasons.append("no label to compare")
        if facts.intensity_distance is None:
            reasons.append("intensities were not compared")
        else:
            reasons.append(f"intensities may lie {FAR_INTENSITIES:g} apart to be raced")
        verdict = _by_intensities(facts.intensity_distance)
    if verdict == "refused" and not alike:
        verdict = "doubtful"
        reasons.append("that tells nothing if channels of other names show other things")
    if verdict == "nominated" and count >= MANY_CASES:
        verdict = "doubtful"
        reasons.append(f"from {MANY_CASES} cases on a model has little to add")
    return verdict, "; ".join(reasons)


def _by_overlap(mean: float) -> str:
    if mean < POOR_OVERLAP:
        return "refused"
    return "nominated" if mean >= GOOD_OVERLAP else "doubtful"


def _by_intensities(distance: float | None) -> str:
    """Refuse what looks otherwise; alike intensities alone are no proof of more."""
    return "refused" if distance is not None and distance > FAR_INTENSITIES else "doubtful"


def _factors(ratios: tuple[float, ...]) -> str:
    return "×".join(f"{ratio:.2g}" for ratio in ratios) + " times the model's"
