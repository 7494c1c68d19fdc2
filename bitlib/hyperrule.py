"""The BiT-HyperRule: every fine-tuning setting, from the number of examples and the size of the images.

Pure functions of numbers, in plain Python. There are two variants, because the paper (section 3.3) and the code released
with it (`bit_hyperrule.py`) disagree on decay steps, warm-up and resolution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite
from typing import NamedTuple

SMALL_TASK, MEDIUM_TASK = 20_000, 500_000  # exclusive: 20,000 examples already make a medium task
SMALL_IMAGE_AREA = 96 * 96


class Schedule(NamedTuple):
    """All in steps: end of the warm-up, the three decays (each divides the learning rate by ten), end of training."""

    warmup: int
    decays: tuple[int, int, int]
    end: int


SCHEDULES = {
    ("code", "small"): Schedule(100, (200, 300, 400), 500),
    ("code", "medium"): Schedule(500, (3000, 6000, 9000), 10_000),
    ("code", "large"): Schedule(500, (6000, 12_000, 18_000), 20_000),
    ("paper", "small"): Schedule(0, (150, 300, 450), 500),
    ("paper", "medium"): Schedule(0, (3000, 6000, 9000), 10_000),
    ("paper", "large"): Schedule(0, (6000, 12_000, 18_000), 20_000),
}


@dataclass(frozen=True)
class HyperRule:
    """Settings for one fine-tuning run.

    num_examples: labelled training examples, 1 or more. image_size: (height, width) of the original images in
    pixels. variant: "code" (as released) or "paper". model: its name matters only for R152x4, which the paper
    fine-tunes at a higher resolution (footnote 1).

    Set the other fields only to depart from the rule. steps: stretches or shrinks the whole schedule, including warm-up and
    decays; resolution: (resize, crop) in pixels; alpha: MixUp's parameter. `is_adapted` tells whether any value departs.

    Raises ValueError for values out of range.
    """

    num_examples: int
    image_size: tuple[int, int]
    variant: str = "code"
    model: str = ""
    base_lr: float = 0.003
    batch_size: int = 512
    momentum: float = 0.9
    weight_decay: float = 0.0
    steps: int | None = None
    resolution: tuple[int, int] | None = None
    alpha: float | None = None

    def __post_init__(self):
        if self.variant not in ("code", "paper"):
            raise ValueError(f"unknown HyperRule variant {self.variant!r}; choose 'code' or 'paper'")
        for name in ("num_examples", "batch_size", "steps"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ValueError(f"image_size is {self.image_size}; give (height, width) in pixels")
        if not (self.base_lr > 0 and isfinite(self.base_lr)):
            raise ValueError(f"base_lr is {self.base_lr}; it must be a number above 0")
        for name in ("momentum", "weight_decay", "alpha"):
            if (value := getattr(self, name)) is not None and not value >= 0:
                raise ValueError(f"{name} is {value}; it must be 0 or more")
        if self.resolution is not None and not 1 <= self.resolution[1] <= self.resolution[0]:
            raise ValueError(f"resolution is {self.resolution}; give (resize, crop) with crop <= resize")

    def adapted(self, **changes) -> HyperRule:
        """A copy of the rule with some settings replaced, for example `adapted(steps=100, base_lr=0.01)`."""
        return replace(self, **changes)

    @property
    def is_adapted(self) -> bool:
        """Whether any value departs from the published rule."""
        return self._values != HyperRule(self.num_examples, self.image_size, self.variant, self.model)._values

    @property
    def _values(self) -> tuple:
        optimizer = self.base_lr, self.batch_size, self.momentum, self.weight_decay
        return self.schedule, self._resolution, self.mixup_alpha, optimizer

    @property
    def task_size(self) -> str:
        """ "small" (under 20,000 examples), "medium" (under 500,000) or "large"."""
        n = self.num_examples
        return "small" if n < SMALL_TASK else "medium" if n < MEDIUM_TASK else "large"

    @property
    def schedule(self) -> Schedule:
        """Warm-up, decays and end, scaled to `steps` if that is set. No decay comes before step 1."""
        full = SCHEDULES[self.variant, self.task_size]
        if self.steps is None:
            return full
        warmup, *decays = (round(step * self.steps / full.end) for step in (full.warmup, *full.decays))
        return Schedule(warmup, tuple(max(1, step) for step in decays), self.steps)

    @property
    def total_steps(self) -> int:
        return self.schedule.end

    @property
    def warmup_steps(self) -> int:
        return self.schedule.warmup

    @property
    def boundaries(self) -> tuple[int, int, int]:
        """The three steps at which the learning rate is divided by ten (in the code variant one step later, see `lr`)."""
        return self.schedule.decays

    @property
    def _resolution(self) -> tuple[int, int]:
        if self.resolution is not None:
            return self.resolution
        if self.image_size[0] * self.image_size[1] < SMALL_IMAGE_AREA:
            return 160, 128
        if self.variant == "code" or "R152x4" in self.model:
            return 512, 480
        return 448, 384

    @property
    def resize(self) -> int:
        """Side in pixels of the square to which training images are resized before the random crop."""
        return self._resolution[0]

    @property
    def crop(self) -> int:
        """Side in pixels of the random training crop, and of the resized (not cropped) test image."""
        return self._resolution[1]

    @property
    def mixup_alpha(self) -> float:
        """MixUp's Beta parameter: 0.1 for medium and large tasks, 0 (off) for small ones."""
        if self.alpha is not None:
            return self.alpha
        return 0.0 if self.task_size == "small" else 0.1

    @property
    def epochs(self) -> float:
        """How many times each example is seen, on average."""
        return self.total_steps * self.batch_size / self.num_examples

    def lr(self, step: int) -> float | None:
        """Learning rate at `step`, counted from 0; None from `total_steps` on. Raises ValueError for a negative step.

        Code variant: a linear warm-up that starts at exactly 0, and decays that take effect one step after their boundary
        (the published loop compares `boundary < step`). Paper variant: no warm-up, and decays at the boundary.
        """
        if step < 0:
            raise ValueError(f"step is {step}; steps count from 0")
        if step < self.warmup_steps:
            return self.base_lr * step / self.warmup_steps
        if step >= self.total_steps:
            return None
        lr = self.base_lr
        for boundary in self.boundaries:
            if boundary < step or (boundary == step and self.variant == "paper"):
                lr /= 10
        return lr
