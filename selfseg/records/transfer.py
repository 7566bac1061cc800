"""Starting from a trained model: how its weights are trained on, and what became of them."""

from __future__ import annotations

import shlex
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from selfseg.records.names import ConfigurationName
from selfseg.records.serial import GrownRecord, Record


class Strategy(Record):
    """What all strategies have.

    Attributes:
        rate: Factor on the learning rate of the plan's `recipe`.
        short_rate: Factor on that of its `short_recipe`.
        warmup: Share of the training in which the learning rate rises linearly from 0.
    """

    rate: float = Field(default=0.1, gt=0.0)
    short_rate: float = Field(default=1.0, gt=0.0)
    warmup: float = Field(default=0.05, ge=0.0, lt=1.0)


class FineTune(Strategy):
    """All weights learn from the first step (the recipe of nnU-Net's fine-tuning)."""

    kind: Literal["fine_tune"] = "fine_tune"


class HeadFirst(Strategy):
    """Heads and new weights learn alone at first, then all weights, those of the encoder slower.

    Attributes:
        head_share: Share of the training in which heads and new weights learn alone.
        encoder_rate: Further factor on the learning rate of the encoder's loaded weights.
    """

    kind: Literal["head_first"] = "head_first"
    head_share: float = Field(default=0.05, ge=0.0, lt=1.0)
    encoder_rate: float = Field(default=0.3, ge=0.0)


class FrozenEncoder(Strategy):
    """The encoder's loaded weights never change; adapted and new ones and the decoder learn."""

    kind: Literal["frozen_encoder"] = "frozen_encoder"


class L2SP(Strategy):
    """All weights learn; α/2·‖w − w_source‖² pulls loaded and adapted ones back (Li et al. 2018).

    The pull takes the place of the weight decay of these weights; heads are not pulled.
    """

    kind: Literal["l2_sp"] = "l2_sp"
    alpha: float = Field(default=1e-3, ge=0.0)


class LowRank(Strategy):
    """Kernels learn an update of low rank (Hu et al. 2021); heads and new weights learn fully.

    All else is frozen. The updates are added to the kernels when the training ends.
    """

    kind: Literal["low_rank"] = "low_rank"
    rate: float = Field(default=1.0, gt=0.0)
    rank: int = Field(default=8, ge=1)


Transfer = Annotated[
    FineTune | HeadFirst | FrozenEncoder | L2SP | LowRank, Field(discriminator="kind")
]


PRETRAINED = "pretrained"  # in place of a fold


class Start(GrownRecord):
    """Where the model lies that trainings of a configuration start from.

    Attributes:
        folder: Folder or file; a relative one lies in the workspace, so that this may be moved.
        configuration: Of the model; None: the one of the same name, or the only one.
        fold: Of the model; None: the one trained on all cases, else that of the same number as is
            trained, else the first.
        weights: Digests of the weights that may be taken, of all folds in question when the plan
            was made; empty: whatever is there.
    """

    later: ClassVar[frozenset[str]] = frozenset({"weights"})

    folder: str
    configuration: ConfigurationName | None = None
    fold: str | None = None
    weights: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Name of the model in messages."""
        parts = (self.folder, self.configuration, self.fold and f"fold {self.fold}")
        return " ".join(part for part in parts if part)


class StartModel(Record):
    """Which trained network a training started from.

    Attributes:
        folder: Where it was found, in words.
        dataset, configuration, fold: What it was trained on, and as what; `fold` is `pretrained`
            without labels.
        digest: Of its weights.
    """

    folder: str
    dataset: str
    configuration: ConfigurationName
    fold: str
    digest: str

    @property
    def title(self) -> str:
        """Name of the model in messages."""
        return f"{self.dataset} {self.configuration} fold {self.fold} ({self.folder})"

    @property
    def options(self) -> str:
        """Options of `train` that start from it."""
        chosen = f"--init {shlex.quote(self.folder)}"
        if self.fold == PRETRAINED:
            return chosen
        return f"{chosen} --init-config {self.configuration} --init-fold {self.fold}"


class TensorNote(Record):
    """A tensor of the network, and how it was adapted, or why it is new."""

    name: str
    note: str


class TransferReport(Record):
    """transfer.json: what of a model's weights a training started with.

    Attributes:
        source: The model.
        strategy: How its weights are trained on.
        loaded: Tensors taken as they are.
        adapted: Tensors that were changed to fit.
        fresh: Tensors that start at random.
        skipped: Tensors of the model that have no place in the network.
        loaded_share, adapted_share: Of the network's numbers.
        notes: In what else the model's training differed.
    """

    schema_version: Literal[1] = 1
    source: StartModel
    strategy: Transfer
    loaded: tuple[str, ...]
    adapted: tuple[TensorNote, ...]
    fresh: tuple[TensorNote, ...]
    skipped: tuple[str, ...]
    loaded_share: float
    adapted_share: float
    notes: tuple[str, ...] = ()
