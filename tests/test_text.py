"""Sentences instead of images: tokens, masking, the transformer, its tasks and its pre-training."""

import importlib
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bitlib import UserError
from bitlib.course import text
from bitlib.course.text import LONGEST, MASK, PAD, START, UNKNOWN, Shape, Transformer, Vocabulary

WORDS = Vocabulary(["the", "file", "is", "open", "closed", "."])
SMALL = Shape(width=16, layers=2, heads=4, hidden=32)


def test_a_sentence_becomes_numbers_and_words_again():
    ids = WORDS.encode(["The file is open.", "Frobnicate it"])
    assert ids.tolist() == [[START, 4, 5, 6, 7, 9], [START, UNKNOWN, UNKNOWN, PAD, PAD, PAD]]
    assert WORDS.decode(ids[0]) == ["the", "file", "is", "open", "."]
    assert WORDS.encode(["the " * 90]).shape == (1, LONGEST)


def test_masking_hides_15_percent_as_bert_does():
    ids = torch.randint(4, 1000, (400, 30), generator=torch.Generator().manual_seed(0))
    ids[:, 0], ids[:, 25:] = START, PAD
    seen, chosen = text.hide(ids, 1000, torch.Generator().manual_seed(1))
    assert not chosen[:, 0].any() and not chosen[:, 25:].any() and torch.equal(seen[~chosen], ids[~chosen])
    share = chosen[:, 1:25].double().mean().item()
    masked, kept = ((seen == wanted)[chosen].double().mean().item() for wanted in (MASK, ids))
    assert (
        share == pytest.approx(0.15, abs=0.01)
        and masked == pytest.approx(0.8, abs=0.03)
        and kept == pytest.approx(0.1, abs=0.03)
    )


def test_every_batch_has_other_holes_and_depends_on_its_step_alone():
    ids = torch.randint(4, 60, (64, 12), generator=torch.Generator().manual_seed(0))
    batch = text.masked_batches(ids, 60, 4, seed=3)
    again = text.masked_batches(ids, 60, 4, seed=3)
    first = [batch(step) for step in range(16)]
    assert all(torch.equal(a, b) for step in (9, 2) for a, b in zip(again(step), first[step]))
    drawn = {tuple(row) for _, rows, _ in first for row in rows.tolist()}
    assert drawn == {tuple(row) for row in ids.tolist()}  # an epoch is every sentence once
    assert not any(first[i][2].shape == batch(16)[2].shape and torch.equal(first[i][2], batch(16)[2]) for i in range(16))


def reference(model: Transformer, ids: torch.Tensor) -> torch.Tensor:
    """The same network from PyTorch's own layers."""
    shape, x = model.shape, model.first(model.embed(ids))
    for own in model.layers:
        layer = nn.TransformerEncoderLayer(
            shape.width, shape.heads, shape.hidden, 0.0, "gelu", batch_first=True, norm_first=True
        ).train()
        names = {"self_attn.in_proj_": own.qkv, "self_attn.out_proj.": own.out, "linear1.": own.mlp[0], "linear2.": own.mlp[2]}
        names |= {"norm1.": own.norm1, "norm2.": own.norm2}
        layer.load_state_dict({f"{name}{part}": getattr(m, part) for name, m in names.items() for part in ("weight", "bias")})
        x = layer(x, src_mask=model.added(ids).flatten(0, 1))
    return model.norm(x)


def test_the_transformer_is_the_one_of_pytorch():
    model = Transformer(WORDS, SMALL, seed=1)
    nn.init.normal_(model.near)
    ids = WORDS.encode(["the file is open .", "closed", "is the file closed"])
    with torch.no_grad():
        there = ids != PAD
        torch.testing.assert_close(model(ids)[there], reference(model, ids)[there], rtol=1e-4, atol=1e-5)
        # Neither [PAD] nor the other sentences matter.
        alone = torch.cat([model.pooled(text.trimmed(row[None])) for row in ids])
        torch.testing.assert_close(model.pooled(F.pad(ids, (0, 4), value=PAD)), alone, rtol=1e-4, atol=1e-5)


def test_the_loss_counts_hidden_words_alone():
    model = Transformer(WORDS, SMALL)
    ids = WORDS.encode(["the file is open .", "frobnicate is closed"])
    chosen = torch.zeros_like(ids, dtype=torch.bool)
    chosen[0, 2] = chosen[1, 1] = True  # the second is unknown, so there is nothing to guess
    seen = torch.where(chosen, MASK, ids)
    wanted = F.cross_entropy(model.scores(model(seen))[0, 2][None], ids[0, 2][None])
    assert text.masked_loss(model, seen, ids, chosen).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_the_tasks_are_balanced_disjoint_and_closed():
    for name in text.TASKS:
        task = text.load_text_task(name)
        parts = {part: getattr(task, part) for part in ("train", "val", "test")}
        for split in parts.values():
            assert len(set(torch.bincount(split.labels).tolist())) == 1
        bags = [{tuple(sorted(text.words_of(s))) for s in split.texts} for split in parts.values()]
        assert sum(map(len, bags)) >= 0.99 * sum(map(len, parts.values())) and not bags[0] & bags[2] and not bags[1] & bags[2]
        few = task.few_shot(5, seed=1)
        assert len(few.train) == 5 * task.num_classes and few.fingerprint != task.fingerprint
        with pytest.raises(UserError):
            len(task.closed().test.texts)


def test_all_three_ways_to_classify(monkeypatch):
    task = text.load_text_task("topic").few_shot(2)
    small = text.Sentences(task.val.texts[::20], task.val.labels[::20])
    task = text.Task("few", task.train, small, small, task.class_names, (0, 0))
    runs = [
        text.bag_of_words(task, 10),
        text.bag_of_words(task, 10, "n-grams"),
        text.probe_text(text.load_transformer(), task, 0.1),
    ]
    runs.append(text.tune_text(text.load_transformer(), task, 1e-3, 3, seed=0))
    for run in runs:
        assert run.evaluate("test").logits.shape == (len(small), 5) and run.val_accuracy == run.evaluate("val").accuracy
    two = text.load_text_task("order").few_shot(2)
    assert text.bag_of_words(two, 10).evaluate("val").logits.shape == (len(two.val), 2)


def test_the_shipped_network_knows_its_words():
    model = text.load_transformer().eval()
    ids = model.vocabulary.encode(["return true if the file is open , false otherwise ."])
    at = model.vocabulary.decode(ids[0]).index("otherwise") + 1
    ids[0, at] = MASK
    with torch.no_grad():
        assert model.vocabulary.tokens[model.scores(model(ids)[0, at]).argmax()] == "otherwise"
    assert not torch.equal(text.load_transformer(False).embed.weight, model.embed.weight)


def test_pretraining_writes_network_card_and_record(tmp_path, monkeypatch):
    """From a corpus of a few sentences, and interrupted by nothing."""
    from pathlib import Path

    monkeypatch.syspath_prepend(Path(__file__).resolve().parent.parent / "data_scripts")
    script, record = importlib.import_module("pretrain_text"), importlib.import_module("record")
    found = json.loads((text.HERE / "sentences.json").read_text("utf8"))["tasks"]["order"]
    intact = [sentence for split in ("train", "val", "test") for sentence, label in found[split] if not label]
    corpus, held = intact[:300], {name: intact[i::6] for i, name in enumerate(script.HELD_OUT)}
    small = {
        "PACKAGE": tmp_path,
        "STATE": tmp_path / "state",
        "STEPS": 4,
        "WARMUP": 1,
        "WORDS": 200,
        "BATCH": 4,
        "HELD_BACK": 20,
    }
    small |= {"TRAIN": 4, "VAL": 2, "TEST": 3, "PAIRS": {"train": 4, "val": 4, "test": 4}, "SHAPE": SMALL, "SHORT": 2}
    small |= {"SEARCH": (100,), "SEEDS": range(2), "collected": lambda: (corpus, held)}
    for name, value in small.items():
        monkeypatch.setattr(script, name, value)
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    for job, name in (("network", "text_network"), ("optimizers", "text_optimizers")):
        monkeypatch.setattr("sys.argv", ["pretrain_text", job, "--device", "cpu"])
        script.main()
        written = json.loads((tmp_path / "results" / f"{name}.json").read_text("utf8"))
        shipped = json.loads((Path(__file__).resolve().parent.parent / "results" / f"{name}.json").read_text("utf8"))
        assert set(written) == set(shipped)
    assert "4 steps of 4 sentences" in (tmp_path / "text.md").read_text("utf8")
    assert (tmp_path / "text.safetensors").stat().st_size < 100_000
    assert set(json.loads((tmp_path / "sentences.json").read_text("utf8"))["tasks"]) == set(text.TASKS)


def test_prose_is_what_people_read(monkeypatch):
    from pathlib import Path

    monkeypatch.syspath_prepend(Path(__file__).resolve().parent.parent / "data_scripts")
    script = importlib.import_module("pretrain_text")
    source = '"""Open a file. Then close it again, please."""\n# one comment in\n# two lines of it\nx = 1  # not this one\n'
    found = [" ".join(part.split()) for part in script.prose(source) if part]
    assert found == ["Open a file. Then close it again, please.", "one comment in two lines of it"]
    assert list(script.sentences("Open it.\n\n>>> f(x, y, z, 1, 2)\n\nThen close all the files again.")) == [
        "Then close all the files again."
    ]
