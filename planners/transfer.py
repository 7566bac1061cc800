"""How weights of another model are trained on."""

from __future__ import annotations

from selfseg.records.plan import Decision
from selfseg.records.transfer import FineTune, HeadFirst, Transfer

FEW_CASES = 60  # up to which a start from a model is thought to pay
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
    rate = f"{value.rate:g} of the learning rate after a warm-up of {value.warmup:.0%}"
    because = (
        "used by 'selfseg train --init' only; rate and warm-up are those of nnU-Net's fine-tuning; "
    )
    if isinstance(value, HeadFirst):
        because += (
            f"with {cases} cases (at most {FEW_CASES}) new heads would first undo what the model "
            f"knows: they learn alone for {value.head_share:.0%} of the training, then the encoder "
            f"at {value.encoder_rate:g} of the rate; not measured"
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
