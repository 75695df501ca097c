"""The protocol of a number: what must be known before it may stand beside another one.

The protocol is data: it is stored with each run and printed with each table; rows of different
protocols do not share a column (`reporting.protocols`).
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from wsssbench.errors import UserError, unknown

THRESHOLD_RULES = ("fixed", "holdout", "oracle", "argmax")
BACKGROUND_RULES = ("threshold", "power A")

# What a method is made of stands in its own row: an ablation compares exactly these.
PART_OF_THE_METHOD = ("refinement", "ema")


@dataclass(frozen=True)
class Protocol:
    """How masks were made and scored.

    Attributes:
        threshold_rule: fixed: given in advance. holdout: best mIoU on a small labelled split kept
            for this. oracle: best mIoU on the scored training masks themselves, as most papers do.
        threshold: background score in use: a pixel whose best map lies above it is foreground;
            0 where the rule is argmax.
        holdout: split on which the threshold was chosen.
        background: "threshold", a constant score; or "power A", the score (1 - best map) ** A,
            which gives the same masks as the constant `threshold` where both cross.
        scales, flip: views whose score maps are averaged.
        map_stride: stride in pixels at which maps are stored.
        labels_used: per split whether image labels decided which classes may appear.
        conf_threshold: classifier probability from which a class may appear without labels.
        conf_rule: "fixed", or how that probability was chosen.
        stage: seed, what was read out of the method's own network; else a kind of
            `wsssbench.multistage`, of a later stage.
        crf: dense CRF on the maps.
        refinement: names of the steps between network and mask.
        ema: averaged weights in use.
        checkpoint: which one, "last" or "best".
        initial_weights: of the backbone.
        ignored_pixels: how pixels without a true class are treated.
    """

    threshold_rule: str
    threshold: float
    holdout: str | None = None
    background: str = "threshold"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    map_stride: int = 1
    labels_used: Mapping[str, bool] = field(default_factory=lambda: {"train": True, "val": False})
    conf_threshold: float | None = None
    conf_rule: str = "fixed"
    stage: str = "seed"
    crf: bool = False
    refinement: tuple[str, ...] = ()
    ema: bool = False
    checkpoint: str = "last"
    initial_weights: str = "none"
    ignored_pixels: str = "255 left out"

    def __post_init__(self) -> None:
        if self.threshold_rule not in THRESHOLD_RULES:
            raise unknown("threshold rule", self.threshold_rule, THRESHOLD_RULES)
        if self.background != "threshold" and not self.background.startswith("power "):
            raise unknown("background rule", self.background, BACKGROUND_RULES)
        if (self.threshold_rule == "holdout") != (self.holdout is not None):
            raise UserError(
                f"Threshold rule {self.threshold_rule!r} with holdout split {self.holdout!r}: name "
                "the split with the rule 'holdout', and only with it."
            )
        # Lists come from JSON and YAML; tuples compare and hash.
        object.__setattr__(self, "scales", tuple(float(scale) for scale in self.scales))
        object.__setattr__(self, "refinement", tuple(self.refinement))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Protocol of a stored record.

        Raises:
            UserError: unknown or missing key, unknown rule.
        """
        names = [item.name for item in dataclasses.fields(cls)]
        for name in values:
            if name not in names:
                raise unknown("protocol key", name, names)
        missing = ", ".join(name for name in ("threshold_rule", "threshold") if name not in values)
        if missing:
            raise UserError(f"The protocol lacks {missing}. Run the stage that wrote it again.")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {
            **values,
            "scales": list(self.scales),
            "refinement": list(self.refinement),
            "labels_used": dict(self.labels_used),
        }
