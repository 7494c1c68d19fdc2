"""Who is right, the model or the label? A blind vote on images about which they disagree, as in BiT's Figure 8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import traitlets as t
from torch import Tensor

from ..show import Html, png
from .base import Explorable, data_url

NONE, FIRST, SECOND, NEITHER = -1, 0, 1, 2  # votes
EXAMPLE_SHOTS, EXAMPLE_SIDE, REAL, PLANTED = 5, 32, 18, 6


class Judge(Explorable):
    """One image at a time with two answers, of which one is its label and the other the model's; the reader votes.

    items: for each image {"image": data URL, "answers": [two class names], "label": which of them is the label, 0 or 1,
    "planted": whether that label is a wrong one, planted here}. at: the image shown; votes: for each image 0 or 1 for an
    answer, 2 for neither, -1 for none yet; shown: whether the tally is.
    """

    module = "judge"
    alt = "Handwritten digits about which a network and their labels disagree, each with the two answers."
    items = t.List().tag(sync=True)
    at = t.Int(0).tag(sync=True)
    votes = t.List(t.Int()).tag(sync=True)
    shown = t.Bool(False).tag(sync=True)
    limits = t.Dict({"at": [0, 0, 1]}).tag(sync=True)

    @classmethod
    def example(cls) -> Judge:
        """Test digits on which a linear probe of glyphs-L, fitted to five images per class, is at odds with the label."""
        from ... import cache_features, create_model, load_task
        from ...data import resize
        from ...features import fit_head

        task = load_task("digits")
        few, model = task.few_shot(EXAMPLE_SHOTS, 1), create_model("glyphs-L", pretrained=True)
        x = {
            name: cache_features(model, split, EXAMPLE_SIDE).double()
            for name, split in (("few", few.train), ("test", task.test))
        }
        weight, bias = fit_head(x["few"], few.train.labels, task.num_classes, 0.1)
        predicted = (x["test"] @ weight.T + bias).argmax(1)
        return cls.of(resize(task.test.images, EXAMPLE_SIDE), task.test.labels, predicted, task.class_names)

    @classmethod
    def of(
        cls,
        images: Tensor,
        labels: Tensor,
        predictions: Tensor,
        names: Sequence[str],
        real: int = REAL,
        planted: int = PLANTED,
        seed: int = 0,
    ) -> Judge:
        """From uint8 [N, 3, S, S]: up to `real` images on which label and prediction differ, and `planted` on which they agree.

        The label of the latter is replaced by the class that the image is most like besides its own. `seed` chooses them, their
        order, and which answer comes first.
        """
        from ...data.shifts import likeness, mislabelled

        generator = torch.Generator().manual_seed(seed)

        def some(where: Tensor, count: int) -> Tensor:
            found = where.nonzero()[:, 0]
            return found[torch.randperm(len(found), generator=generator)[:count]]

        changed, _ = mislabelled(labels, len(labels), seed, likeness(images, labels))
        mistakes, fakes = some(labels != predictions, real), some(labels == predictions, planted)
        rows = [(i, int(labels[i]), False) for i in mistakes.tolist()] + [(i, int(changed[i]), True) for i in fakes.tolist()]
        items = []
        for k in torch.randperm(len(rows), generator=generator).tolist():
            (i, label, fake), own = rows[k], int(torch.randint(0, 2, (1,), generator=generator))
            answers = [names[label], names[int(predictions[i])]]
            answers = answers if own == 0 else answers[::-1]
            items.append({"image": data_url(png(images[i])), "answers": answers, "label": own, "planted": fake})
        return cls(items=items, votes=[NONE] * len(items), limits={"at": [0, max(0, len(items) - 1), 1]})

    def state(self) -> dict:
        """As the next reader finds it: without this one's votes."""
        return {**super().state(), "votes": [NONE] * len(self.items), "at": 0, "shown": False}

    def tally(self) -> dict[str, int]:
        """What the votes say: see `tally`."""
        return tally(self.items, self.votes)

    def picture(self) -> Html:
        rows = [f"<li>{'planted: ' * item['planted']}the label is {item['answers'][item['label']]}</li>" for item in self.items]
        cells = "".join(
            f'<div style="display:inline-block;width:64px;margin:0 8px 8px 0;text-align:center;vertical-align:top">'
            f'<img alt="image {i}" width="64" height="64" src="{item["image"]}">'
            f'<div style="font-size:12px">{i}: {" or ".join(item["answers"])}?</div></div>'
            for i, item in enumerate(self.items, 1)
        )
        body = f"<div>{cells}</div><details><summary>Show the labels</summary><ol>{''.join(rows)}</ol></details>"
        return Html(body, f"<{len(self.items)} images to judge>")


def tally(items: Sequence[Mapping], votes: Sequence[int]) -> dict[str, int]:
    """Of the model's mistakes, how many votes were for the model, for the label, for neither; of the planted, how many caught.

    A planted label is caught by a vote for the other answer. "voted" counts the mistakes and "planted" the planted labels that
    have a vote.
    """
    found = dict.fromkeys(("model", "label", "neither", "voted", "planted", "caught"), 0)
    for item, vote in zip(items, votes, strict=True):
        if vote == NONE:
            continue
        if item["planted"]:
            found["planted"] += 1
            found["caught"] += vote == 1 - item["label"]
            continue
        found["voted"] += 1
        found["neither" if vote == NEITHER else "label" if vote == item["label"] else "model"] += 1
    return found
