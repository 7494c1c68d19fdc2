"""Hidden words: what a network guesses for them from both sides, and from the left alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
import traitlets as t

from .. import text
from ..show import Html, table
from .base import Explorable

NONE = -1  # for `first` and `second`: no word
BEST = 5  # guesses for each hidden word
SENTENCES = (  # ours, so none of them is in the corpus; and the word that is hidden at first
    ("raise an error if the argument is not a number .", "an"),
    ("wait until the server has closed the connection .", "until"),
    ("return a list of all the files in the directory .", "files"),
    ("you can not use this method after the file is closed .", "file"),
)


@torch.no_grad()
def guesses(model: text.Transformer, ids: torch.Tensor, hidden: Sequence[int], left: bool = False) -> list[list]:
    """[[word, probability], ...], the BEST guesses of a model for each hidden place of one sentence, int [T].

    left: for each, everything to its right is hidden as well. The signs in square brackets are never a guess.
    """
    found = []
    for place in hidden:
        seen = ids.clone()
        seen[list(hidden)] = text.MASK
        if left:
            seen[place:] = text.MASK
        p = model.scores(model(seen[None])[0, place]).softmax(0)
        best = p[len(text.SPECIAL) :].topk(BEST)
        found.append(
            [[model.vocabulary.tokens[i + len(text.SPECIAL)], round(v, 4)] for v, i in zip(*map(torch.Tensor.tolist, best))]
        )
    return found


def described(model: text.Transformer, sentence: str, start: str) -> dict:
    """A sentence for the figure: {"words", "start": the place hidden at first, "both", "left": {"3" or "3,5": guesses}}."""
    words = text.words_of(sentence)
    ids = model.vocabulary.encode([sentence])[0]
    places = [i for i, word in enumerate(words) if word.isalpha()]
    chosen = [(i,) for i in places] + list(combinations(places, 2))
    tables = {
        side: {",".join(map(str, some)): guesses(model, ids, [i + 1 for i in some], side == "left") for some in chosen}
        for side in ("both", "left")
    }
    return {"words": words, "start": words.index(start), **tables}


class Mask(Explorable):
    """A sentence of which one or two words are hidden, and the network's best guesses for them.

    sentences: as `described` makes them. sentence: the one shown; first, second: the places of the hidden words, counted
    from 0, or NONE. Guesses are computed beforehand for every word and every pair, so no network runs in the page.
    """

    module = "mask"
    alt = "A sentence with a hidden word, and the network's five best guesses for it: from both sides, and from the left alone."
    sentences = t.List().tag(sync=True)
    sentence = t.Int(0).tag(sync=True)
    first = t.Int(0).tag(sync=True)
    second = t.Int(NONE).tag(sync=True)

    @classmethod
    def example(cls, **traits) -> Mask:
        """The course's sentences, and the network that ships with it."""
        model = text.load_transformer().eval()
        sentences = [described(model, sentence, start) for sentence, start in SENTENCES]
        longest = max(len(s["words"]) for s in sentences)
        limits = {"sentence": {"of": list(range(len(sentences)))}}
        limits |= {name: [NONE, longest - 1, 1] for name in ("first", "second")}
        return cls(sentences=sentences, limits=limits, **{"first": sentences[0]["start"]} | traits)

    def picture(self) -> Html:
        rows = []
        for each in self.sentences:
            words, at = list(each["words"]), each["start"]
            told = [", ".join(f"{w} {100 * p:.0f} %" for w, p in each[side][str(at)][0][:3]) for side in ("both", "left")]
            rows.append([" ".join([*words[:at], "[MASK]", *words[at + 1 :]]), words[at], *told])
        return table(["the network sees", "hidden", "guesses from both sides", "from the left alone"], rows)
