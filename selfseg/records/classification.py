"""How lesions are classified: the choices, and the fitted classifier as plain numbers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from selfseg.records.estimate import Estimate
from selfseg.records.features import RadiomicsOptions
from selfseg.records.plan import Decision
from selfseg.records.serial import Record

FeatureKind = Literal["radiomics", "deep", "both"]
Unit = Literal["case", "lesion"]
Positive = Annotated[int, Field(ge=1)]


class ClassificationFacts(Record):
    """What is known before anything is fitted: no label decides how features are computed.

    Attributes:
        channels: Names of the channels; empty names where none are known.
        regions, groups: Labeled regions, and patients they come from.
        rarer_groups: Patients with a region of the class that fewer patients have.
        finest_spacing_mm: Median over the regions of the smallest voxel edge.
        small_volume_mm3: Tenth percentile of the volumes.
        mirp: Its version, of the extra `radiomics`; None where it is not installed.
    """

    channels: tuple[str, ...]
    regions: Positive
    groups: Positive
    rarer_groups: Positive
    finest_spacing_mm: float
    small_volume_mm3: float
    mirp: str | None = None


class FeatureSelection(Record):
    """Which features a model may see; decided anew on the training part of every fold.

    Attributes:
        most_correlation: Of two features whose ranks correlate more, one is dropped.
        least_agreement: ICC(2,1) over perturbed contours that a feature must reach.
        jitters: Random contours, beside an eroded and a dilated one.
        shift_voxels, smoothness_voxels: Standard deviation of their shift, and over how far it is
            alike (a Gaussian's width). Defaults: of files from before they were stored.
        trees, least_in_leaf: Of the forest whose Gini importance ranks what is left.
        groups_per_feature: Patients of the training part for each feature that is kept.
        most_components: Principal components of deep features, at most.
        groups_per_component: Patients for each of them.
    """

    most_correlation: float = Field(gt=0, le=1)
    least_agreement: float = Field(le=1)
    jitters: int = Field(ge=0)
    shift_voxels: float = Field(default=0.75, ge=0)
    smoothness_voxels: float = Field(default=2.0, ge=0)
    trees: Positive
    least_in_leaf: Positive
    groups_per_feature: float = Field(gt=0)
    most_components: Positive
    groups_per_component: float = Field(gt=0)


class ForestCandidate(Record):
    """Random forest (Breiman, 2001)."""

    kind: Literal["forest"] = "forest"
    trees: Positive
    least_in_leaf: Positive


class LogisticCandidate(Record):
    """Logistic regression with a squared penalty of strength 1 / c."""

    kind: Literal["logistic"] = "logistic"
    c: float = Field(gt=0)


class SVMCandidate(Record):
    """Linear support vector machine with a squared penalty of strength 1 / c."""

    kind: Literal["svm"] = "svm"
    c: float = Field(gt=0)


Models = ForestCandidate | LogisticCandidate | SVMCandidate
Candidate = Annotated[Models, Field(discriminator="kind")]


class Uncertainty(Record):
    """How sure an AUC is: bootstrap of patients, permutations of labels.

    The defaults are the default planner's, and of probabilities beside which there is no plan.
    """

    replicates: Positive = 2000
    confidence: float = Field(default=0.95, gt=0, lt=1)
    permutations: Positive = 1000


class ClassificationPlan(Record):
    """All choices of a classifier.

    Attributes:
        radiomics: How these features are computed.
        selection: Which of all features a model sees.
        candidates: The inner cross-validation takes the one with the largest AUC.
        outer_folds, inner_folds: At most; patients are never split.
        uncertainty: Of the scores.
        decisions: Why.
    """

    radiomics: RadiomicsOptions
    selection: FeatureSelection
    candidates: tuple[Candidate, ...] = Field(min_length=1)
    outer_folds: int = Field(ge=2)
    inner_folds: int = Field(ge=2)
    uncertainty: Uncertainty = Uncertainty()
    decisions: tuple[Decision, ...] = ()


class Projection(Record):
    """Principal components of standardized features: `((x - mean) / scale) @ components.T`."""

    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    components: tuple[tuple[float, ...], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> Projection:
        columns = (self.mean, self.scale, *self.components)
        if any(len(column) != len(self.features) for column in columns) or 0.0 in self.scale:
            raise ValueError("mean, scale and components should fit the features")
        return self


class LinearModel(Record):
    """Score `x · coefficients + intercept`, of a logistic regression or a linear SVM."""

    kind: Literal["linear"] = "linear"
    coefficients: tuple[float, ...]
    intercept: float


class Tree(Record):
    """One tree, node by node; node 0 is the root, a leaf has -1 as `left` and `right`.

    A sample goes to `left` where its feature, in float32, is at most `threshold`. `share` is that
    of the positive class in a node.
    """

    feature: tuple[int, ...]
    threshold: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    share: tuple[float, ...]

    @model_validator(mode="after")
    def _leads_down(self) -> Tree:
        count = len(self.left)
        columns = (self.feature, self.threshold, self.right, self.share)
        if not count or any(len(column) != count for column in columns):
            raise ValueError("the lists of a tree should be equally long and not empty")
        for node, (left, right) in enumerate(zip(self.left, self.right, strict=True)):
            leaf = left == right == -1
            if not leaf and not (node < left < count and node < right < count):
                raise ValueError(f"node {node} leads to {left} and {right}, not further down")
        return self


class ForestModel(Record):
    """Score: the mean over trees of the share in the leaf."""

    kind: Literal["forest"] = "forest"
    trees: tuple[Tree, ...] = Field(min_length=1)


class Calibration(Record):
    """Probability `1 / (1 + exp(-(slope · score + intercept)))` (Platt, 1999)."""

    slope: float
    intercept: float

    @property
    def informed(self) -> bool:
        """Whether scores change the probability: with a slope of 0 it is the same for all."""
        return self.slope != 0


class FittedClassifier(Record):
    """From features to a probability: choose, standardize, score, calibrate.

    Attributes:
        projection: Made first, if there are deep features; its components are features
            `deep_component_1`, `deep_component_2`, …
        features: Those the model sees, in its order.
        mean, scale: The model sees `(x - mean) / scale`.
        candidate: What it was fitted as.
        model: Coefficients or trees.
        calibration: Of its scores.
        threshold: Probability from which on a region is called positive.
        importances: Share of each feature, of the sum of Gini importances or absolute coefficients.
    """

    projection: Projection | None
    features: tuple[str, ...] = Field(min_length=1)
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    candidate: Candidate
    model: LinearModel | ForestModel = Field(discriminator="kind")
    calibration: Calibration
    threshold: float
    importances: tuple[float, ...]

    @model_validator(mode="after")
    def _fits(self) -> FittedClassifier:
        count = len(self.features)
        columns = [self.mean, self.scale, self.importances]
        if isinstance(self.model, LinearModel):
            columns.append(self.model.coefficients)
        elif any(max(tree.feature) >= count for tree in self.model.trees):
            raise ValueError("a tree asks for a feature that is not there")
        if any(len(column) != count for column in columns) or 0.0 in self.scale:
            raise ValueError("mean, scale, importances and model should fit the features")
        return self


class ClassificationScores(Record):
    """How probabilities agree with labels.

    Attributes:
        regions, positives, groups: Counts.
        auc: Area under the receiver operating characteristic, bootstrap interval over patients.
        confidence: Of intervals, this one and those of the picture of the calibration.
        p_value: Share of permuted labels with at least this AUC.
        sensitivity, specificity, balanced_accuracy: Of what is called positive.
        brier: Mean squared difference of probability and label.
        missing: Labeled, but without a probability (no region in the mask); not counted.
    """

    regions: int
    positives: int
    groups: int
    auc: Estimate
    confidence: float = Field(default=0.95, gt=0, lt=1)  # of files from before it was stored
    p_value: float
    sensitivity: float
    specificity: float
    balanced_accuracy: float
    brier: float
    missing: tuple[str, ...] = ()


class DeepSource(Record):
    """The network that deep features come from; `weights` is a digest of its file."""

    configuration: str
    fold: str
    weights: str


class RegionOfInterest(Record):
    """Which part of a mask is classified; no values: all that is not 0."""

    name: str
    values: tuple[int, ...] = ()


class ClassifierModel(Record):
    """A file that `selfseg classify predict` needs, and all it needs beside deep features.

    Attributes:
        version: Of this format.
        positive, negative: Names of the classes.
        unit: What one label was for: a whole case, or one lesion of it.
        region: Part of the masks.
        features: Which features were offered.
        network: Where deep features came from; None without them.
        plan: The choices.
        fitted: On all labeled regions.
        scores: Out of fold, of the whole procedure.
        volume_auc: AUC of the volume alone, larger for positive, of the same regions: what the
            features have to beat.
    """

    version: Literal[1] = 1
    positive: str
    negative: str
    unit: Unit
    region: RegionOfInterest
    features: FeatureKind
    network: DeepSource | None = None
    plan: ClassificationPlan
    fitted: FittedClassifier
    scores: ClassificationScores
    volume_auc: Estimate
