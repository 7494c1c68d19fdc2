"""Words instead of pixels, for chapter 14: a vocabulary, a small bidirectional transformer, masking, two tasks, tuning.

The idea is BERT's (arXiv 1810.04805), the size is not: some words of every sentence are hidden, and the network learns to guess
them from both sides. The sentences come from the text that ships with Python; data_scripts/pretrain_text.py collects them and
trains the network. What does not know about pixels is the library's own: tasks, the loop, evaluation, the protocol.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.sampling import BatchOrder, generator_for
from ..data.task import Task, fingerprint
from ..evaluate import Evaluation
from ..features import fit_head
from ..loop import Loop
from ..trainer import AdamW, train

HERE = Path(__file__).parent
PAD, UNKNOWN, START, MASK = range(4)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[MASK]")
LONGEST = 40  # tokens of a sentence, with its [CLS]
TASKS = ("topic", "order")


def words_of(text: str) -> list[str]:
    """The tokens of a text: words, numbers and single signs, in lower case."""
    return re.findall(r"[a-z]+|[0-9]+|[^\sa-z0-9]", text.lower())


class Vocabulary:
    """Tokens and their numbers. words: the known ones, which follow SPECIAL; all others become [UNK]."""

    def __init__(self, words: Sequence[str]):
        self.tokens = (*SPECIAL, *words)
        self.number = {token: i for i, token in enumerate(self.tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, sentences: Sequence[str]) -> Tensor:
        """int64 [N, T]: [CLS], then the tokens, then [PAD] up to the longest of these sentences, or LONGEST."""
        rows = [[START, *(self.number.get(w, UNKNOWN) for w in words_of(s))][:LONGEST] for s in sentences]
        ids = torch.full((len(rows), max(map(len, rows), default=1)), PAD)
        for row, found in zip(ids, rows):
            row[: len(found)] = torch.tensor(found)
        return ids

    def decode(self, ids: Tensor) -> list[str]:
        """The tokens of one sentence, int [T], without [CLS] and [PAD]."""
        return [self.tokens[i] for i in ids.tolist() if i not in (PAD, START)]


@dataclass(frozen=True)
class Shape:
    """How large a transformer is. width: features of a token; heads divide it; hidden: width between a layer's linear maps."""

    width: int = 128
    layers: int = 3
    heads: int = 4
    hidden: int = 256


class Layer(nn.Module):
    """Self-attention, then two linear maps; each looks at its normalised input and adds to the stream."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.heads = shape.heads
        self.norm1, self.norm2 = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.qkv, self.out = nn.Linear(shape.width, 3 * shape.width), nn.Linear(shape.width, shape.width)
        self.mlp = nn.Sequential(nn.Linear(shape.width, shape.hidden), nn.GELU(), nn.Linear(shape.hidden, shape.width))

    def forward(self, x: Tensor, added: Tensor) -> Tensor:
        """x: [B, T, width]; added: [B, heads, T, T], to the scores of attention."""
        q, k, v = (
            self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # each [B, heads, T, width / heads]
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=added).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """A bidirectional encoder: every token looks at every other, near and far. No dropout: a batch decides all of a step."""

    def __init__(self, vocabulary: Vocabulary, shape: Shape = Shape(), seed: int = 0):
        super().__init__()
        self.vocabulary, self.shape = vocabulary, shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed = nn.Embedding(len(vocabulary), shape.width)
            nn.init.normal_(self.embed.weight, std=0.02)
            self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.first, self.norm = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.near = nn.Parameter(torch.zeros(shape.heads, 2 * LONGEST - 1))  # where BERT has a table of positions
        self.bias = nn.Parameter(torch.zeros(len(vocabulary)))

    def forward(self, ids: Tensor) -> Tensor:
        """ids: int [B, T] -> features of every token, float [B, T, width]. Nothing looks at [PAD]."""
        x, added = self.first(self.embed(ids)), self.added(ids)
        for layer in self.layers:
            x = layer(x, added)
        return self.norm(x)

    def added(self, ids: Tensor) -> Tensor:
        """What is added to the scores of attention, [B, heads, T, T]: by distance, and minus infinity where a key is [PAD]."""
        places = torch.arange(ids.shape[1], device=ids.device)
        near = self.near[:, places - places[:, None] + LONGEST - 1]
        return near.masked_fill((ids == PAD)[:, None, None], -torch.inf)

    def scores(self, features: Tensor) -> Tensor:
        """Logits over the vocabulary, [..., V], from features [..., width]: the table of embeddings, used a second time."""
        return F.linear(features, self.embed.weight, self.bias)

    def pooled(self, ids: Tensor) -> Tensor:
        """One vector per sentence, [B, width]: the mean over its tokens, leaving out [PAD]."""
        there = (ids != PAD).unsqueeze(2)
        return (self(ids) * there).sum(1) / there.sum(1)


class Classifier(nn.Module):
    """A transformer with a linear head on the pooled features. The head begins at zero, as in chapter 5."""

    def __init__(self, body: Transformer, num_classes: int):
        super().__init__()
        self.body, self.head = body, nn.Linear(body.shape.width, num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.body.pooled(ids))


def hide(ids: Tensor, size: int, generator: torch.Generator, share: float = 0.15) -> tuple[Tensor, Tensor]:
    """BERT's masking: (what the network sees, which tokens it has to guess), int and bool [B, T].

    Every token but [CLS] and [PAD] is chosen with probability `share`. Of the chosen, 80 % become [MASK], 10 % a random word of
    the `size` in the vocabulary, and 10 % stay as they are.
    """
    chosen = (torch.rand(ids.shape, generator=generator) < share) & (ids != PAD) & (ids != START)
    how = torch.rand(ids.shape, generator=generator)
    random = torch.randint(len(SPECIAL), size, ids.shape, generator=generator)
    seen = torch.where(chosen & (how < 0.8), MASK, ids)
    return torch.where(chosen & (how >= 0.9), random, seen), chosen


def masked_loss(model: Transformer, seen: Tensor, ids: Tensor, chosen: Tensor) -> Tensor:
    """Mean cross-entropy of the guesses at the chosen places, and nowhere else."""
    at = chosen & (ids != UNKNOWN)
    return F.cross_entropy(model.scores(model(seen)[at]), ids[at])


def masked_batches(ids: Tensor, size: int, batch_size: int, seed: int, at_once: int = 8) -> Callable[[int], tuple[Tensor, ...]]:
    """Batches for `trainer.train`: (seen, ids, chosen) as a pure function of the step, so every epoch hides other words.

    The sentences of `at_once` steps are drawn together and shared out by length, so that little of a batch is [PAD].
    """
    order = BatchOrder(len(ids), batch_size * at_once, seed)

    def batch(step: int) -> tuple[Tensor, ...]:
        rows = order(step // at_once)
        rows = rows[(ids[rows] != PAD).sum(1).argsort(stable=True)].view(at_once, batch_size)
        turn = torch.randperm(at_once, generator=generator_for(seed, "turn", step // at_once))[step % at_once]
        found = trimmed(ids[rows[turn]])
        seen, chosen = hide(found, size, generator_for(seed, "mask", step))
        return seen, found, chosen

    return batch


def trimmed(ids: Tensor) -> Tensor:
    """Without the columns in which every row is [PAD]."""
    return ids[:, : int((ids != PAD).sum(1).max())]


def cosine(peak: float, steps: int, warmup: int) -> Callable[[int], float]:
    """Learning rate by step: a linear warm-up to `peak`, then half a cosine down to zero."""

    def lr(step: int) -> float:
        if step < warmup:
            return peak * (step + 1) / warmup
        return peak * 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * (step - warmup) / max(1, steps - warmup)))))

    return lr


# --- the shipped network and its tasks ---------------------------------------------------------------------------------


@cache
def _stored() -> tuple[dict[str, Tensor], dict]:
    """Tensors and description of the network that ships with the course."""
    from safetensors import safe_open

    with safe_open(HERE / "text.safetensors", "pt") as file:
        return {key: file.get_tensor(key).float() for key in file.keys()}, json.loads(file.metadata()["bitlib"])


def vocabulary() -> Vocabulary:
    """The vocabulary of the shipped network."""
    return Vocabulary(_stored()[1]["words"])


def load_transformer(pretrained: bool = True, seed: int = 0) -> Transformer:
    """The shipped network, or one of the same shape with random weights drawn by `seed`."""
    tensors, meta = _stored()
    model = Transformer(vocabulary(), Shape(**meta["shape"]), seed)
    if pretrained:
        model.load_state_dict(tensors)
    return model


class Sentences:
    """A split of labelled sentences. texts: N strings; labels: int [N]."""

    def __init__(self, texts: Sequence[str], labels: Tensor):
        self.texts, self.labels = tuple(texts), labels.long()

    def __len__(self) -> int:
        return len(self.texts)

    def subset(self, indices: Tensor) -> Sentences:
        return Sentences([self.texts[i] for i in indices.tolist()], self.labels[indices])


def load_text_task(name: str) -> Task:
    """One of TASKS: "topic", the part of the library that a sentence comes from; "order", whether its words were shuffled."""
    content = json.loads((HERE / "sentences.json").read_text("utf8"))["tasks"][name]
    splits = {
        part: Sentences([text for text, _ in content[part]], torch.tensor([label for _, label in content[part]]))
        for part in ("train", "val", "test")
    }
    return Task(name, **splits, class_names=tuple(content["classes"]), image_size=(0, 0), fingerprint=fingerprint(content))


@dataclass
class TextRun:
    """A trained classifier of sentences, in the shape that the protocol asks for. logits(texts) -> [N, C]."""

    logits: Callable[[Sequence[str]], Tensor]
    task: Task
    val_accuracy: float = field(default=0.0)

    def __post_init__(self):
        self.val_accuracy = self.evaluate("val").accuracy

    def evaluate(self, split: str = "test") -> Evaluation:
        part = getattr(self.task, split)
        return Evaluation(self.logits(part.texts), part.labels)


@torch.no_grad()
def over(function: Callable[[Tensor], Tensor], words: Vocabulary, texts: Sequence[str], at_once: int = 128) -> Tensor:
    """`function` of the encoded sentences, a batch at a time."""
    return torch.cat([function(words.encode(texts[i : i + at_once])) for i in range(0, len(texts), at_once)])


def probe_text(body: Transformer, task: Task, c: float) -> TextRun:
    """Logistic regression on the pooled features of a frozen transformer."""
    body.eval()
    features = partial(over, body.pooled, body.vocabulary)
    weight, bias = fit_head(features(task.train.texts), task.train.labels, task.num_classes, c)
    return TextRun(lambda texts: features(texts).double() @ weight.T + bias, task)


def tune_text(body: Transformer, task: Task, lr: float, steps: int, seed: int, batch_size: int = 16) -> TextRun:
    """Train transformer and head together by the course's loop. From random weights, this is training from scratch."""
    model, order = Classifier(body, task.num_classes), BatchOrder(len(task.train), batch_size, seed)
    ids = body.vocabulary.encode(task.train.texts)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        rows = order(step)
        return trimmed(ids[rows]), task.train.labels[rows]

    def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net(x), y)

    loop = Loop(device="cpu", precision="fp32", progress=False)
    train(model, batch, loss, AdamW(steps, cosine(lr, steps, steps // 10)), loop)
    return TextRun(partial(over, model.eval(), body.vocabulary), task)


def bag_of_words(task: Task, c: float, grams: str = "words") -> TextRun:
    """Logistic regression on tf-idf. grams: "words", which do not know their order, or "n-grams" of words and of characters."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    found = TfidfVectorizer(tokenizer=words_of, token_pattern=None, sublinear_tf=True)
    if grams == "n-grams":
        pairs = TfidfVectorizer(tokenizer=words_of, token_pattern=None, sublinear_tf=True, ngram_range=(1, 2))
        found = make_union(pairs, TfidfVectorizer(analyzer="char", ngram_range=(2, 5), sublinear_tf=True))
    fitted = make_pipeline(found, LogisticRegression(C=c, max_iter=2000)).fit(task.train.texts, task.train.labels.numpy())

    def logits(texts: Sequence[str]) -> Tensor:
        scores = torch.from_numpy(fitted.decision_function(texts))
        return torch.stack([-scores, scores], 1) / 2 if scores.ndim == 1 else scores

    return TextRun(logits, task)
