"""Batches: the same on any number of processes and in any number of parts, and no image is decoded for nobody."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from conftest import QUIET, TINY, memory, quiet, toy_task
from test_folder import make_folder

import bitlib
from bitlib import HyperRule, ResNetV2, UserError, load_task
from bitlib.data import folder as folder_module
from bitlib.data.augment import Augmentation, cut, draw_crops, to_input
from bitlib.data.batches import Batches, scan
from bitlib.data.sampling import BatchOrder, generator_for
from bitlib.data.task import ArrayImages
from bitlib.mixup import mixup

HERE, CPU = Path(__file__).resolve().parent, torch.device("cpu")
MIXED = Augmentation(14, 12, mixup_alpha=0.4)


def as_processes(monkeypatch, world: int, work) -> list:
    """What work() gives as each of `world` processes."""
    results = []
    for rank in range(world):
        for module in ("distributed", "data.batches"):
            monkeypatch.setattr(f"bitlib.{module}.ranks", lambda rank=rank: (rank, world))
        results.append(work())
    return results


def joined(batch, parts: int) -> tuple:
    made = list(batch.parts(parts))
    return tuple(torch.cat([getattr(part, name) for part in made]) for name in ("x", "y", "y_other", "indices")), made[0].lam


def test_a_batch_against_its_definition():
    """Written out with the public pieces, all at once: draw the order, crop and flip, mix."""
    task = toy_task()
    (x, y, y_other, indices), lam = joined(Batches(task.train, MIXED, 10, 3, CPU)(5), 3)
    wanted, generator = BatchOrder(len(task.train), 10, 3)(5), generator_for(3, "batch", 5)
    images = task.train.prepare(14, "cpu").images[wanted]
    pixels = cut(images, draw_crops(10, MIXED, generator), 12)
    expected = mixup(to_input(pixels), task.train.labels[wanted], 0.4, generator)
    assert torch.equal(indices, wanted) and 0 < lam < 1 and lam == expected[3]
    for ours, theirs in zip((x, y, y_other), expected):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("source", ["arrays", "files", "glyphs"])
def test_processes_and_parts_make_up_the_same_batch(tmp_path, monkeypatch, source):
    how = MIXED
    if source == "files":
        monkeypatch.setattr(folder_module, "MEMORY_BUDGET", 1)
        images = load_task(str(make_folder(tmp_path / "photos", 12))).train
    elif source == "glyphs":
        images, how = load_task("glyphs-armenian").train, Augmentation(16, 16, False, False, 0.4)
    else:
        images = toy_task().train
    (whole, lam) = joined(Batches(images, how, 11, 0, CPU)(2), 1)
    pieces = as_processes(monkeypatch, 3, lambda: joined(Batches(images, how, 11, 0, CPU)(2), 2))
    assert {piece[1] for piece in pieces} == {lam}
    for column, expected in enumerate(whole):
        torch.testing.assert_close(torch.cat([piece[0][column] for piece in pieces]), expected, rtol=0, atol=1e-6)


def test_each_process_decodes_what_it_needs(tmp_path, monkeypatch):
    """4 processes, 10 steps with MixUp: at most twice the batch in all. It used to be four times the batch."""
    monkeypatch.setattr(folder_module, "MEMORY_BUDGET", 1)
    images, decoded = load_task(str(make_folder(tmp_path / "photos", 60))).train, []
    real = folder_module.FileImages.batch

    def counting(self, indices, draws=None):
        decoded.append(len(indices))
        return real(self, indices, draws)

    monkeypatch.setattr(folder_module.FileImages, "batch", counting)

    def ten_steps():
        batches = Batches(images, MIXED, 32, 0, CPU)
        for step in range(10):
            for part in batches(step).parts(2):
                assert len(part.x) == 4
        return len(decoded)

    as_processes(monkeypatch, 4, ten_steps)
    assert len(decoded) == 40 and sum(decoded) <= 2 * 32 * 10


def test_few_images_are_decoded_once_for_a_large_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "MEMORY_BUDGET", 1)
    images = load_task(str(make_folder(tmp_path / "photos", 8)), shots=2).train
    batch = Batches(images, MIXED, 64, 0, CPU)(0)
    assert len(batch.pixels) == 4 and len(batch) == 64


def test_a_large_batch_in_many_parts_takes_little_memory():
    """512 images at 480 px in 64 parts, mixed: floats are made a part at a time (all at once they are 1.4 GB, mixed 4.2)."""

    class Many(ArrayImages):
        """As many different images as the batch asks for."""

        resident = False

        def __len__(self):
            return 10_000

        def prepare(self, side, device):
            return self

        def batch(self, indices, draws=None):
            return torch.full((len(indices), 3, 512, 512), 7, dtype=torch.uint8)

    how, before = Augmentation(512, 480, mixup_alpha=0.1), memory()[0]
    many = Batches(Many(torch.zeros(1), torch.zeros(10_000)), how, 512, 0, CPU)
    for _, part in zip(range(64), many(0).parts(64)):
        assert part.x.shape == (8, 3, 480, 480)
    assert memory()[1] - before < 1_000_000_000


def test_what_is_made_in_advance_has_a_limit():
    images = ArrayImages(torch.zeros(1, 3, 1, 1, dtype=torch.uint8), torch.zeros(1))
    images.resident, images.prepare = False, lambda side, device: images
    images.labels = torch.zeros(10_000, dtype=torch.long)
    small, large = (Batches(images, Augmentation(side, side), 512, 0, CPU).ahead for side in (32, 480))
    assert (small, large) == (4, 1)
    images.resident = True
    assert Batches(images, MIXED, 512, 0, CPU).ahead == 0


def test_folders_over_the_budget_train_as_others_do(tmp_path, monkeypatch):
    """Decoded at every step, in a thread, for images and devices of any kind; the same weights come out."""
    task = load_task(str(make_folder(tmp_path / "photos", 12)))
    rule = HyperRule(len(task.train), task.image_size, steps=6, batch_size=8, resolution=(14, 12), base_lr=0.05, alpha=0.3)
    held, on_demand = ResNetV2(TINY, 2), ResNetV2(TINY, 2)
    first = bitlib.finetune(held, task, rule, loop=QUIET)
    monkeypatch.setattr(folder_module, "MEMORY_BUDGET", 1)
    second = bitlib.finetune(on_demand, task, rule, loop=quiet(micro_batches=3))
    assert first.history.column("loss")[1] == pytest.approx(second.history.column("loss")[1], abs=1e-5)
    assert first.test_accuracy == second.test_accuracy


def test_over_the_budget_everything_lands_on_the_device(tmp_path, monkeypatch):
    """The meta device stands in for a GPU: it refuses tensors of the CPU. Images used to stay behind."""
    monkeypatch.setattr(folder_module, "MEMORY_BUDGET", 1)
    images, meta = load_task(str(make_folder(tmp_path / "photos"))).train, torch.device("meta")
    for part in Batches(images, MIXED, 8, 0, meta)(0).parts(2):
        assert {t.device for t in (part.x, part.y, part.y_other, part.indices)} == {meta}
    assert {x.device for _, x in scan(images, 12, meta, 4)} == {meta}


@pytest.mark.parametrize("budget", [1, folder_module.MEMORY_BUDGET])
def test_finetune_over_the_budget_on_another_device(tmp_path, monkeypatch, budget):
    """The same through `finetune`, as far as the network's first answer: meta tensors hold no numbers to go on with."""
    monkeypatch.setattr(folder_module, "MEMORY_BUDGET", budget)
    monkeypatch.setattr("bitlib.transfer.pick_device", torch.device)  # which would refuse a device that holds no numbers
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none for this device

    class Answered(Exception):
        pass

    def answered(network, images, logits):
        assert {images[0].device.type, logits.device.type} == {"meta"}
        raise Answered

    task, model = load_task(str(make_folder(tmp_path / "photos", 12))), ResNetV2(TINY, 2)
    model.register_forward_hook(answered)
    with pytest.raises(Answered):
        bitlib.finetune(model, task, loop=quiet(device="meta", micro_batches=2))


def test_every_process_scans_equally_often(monkeypatch):
    images = toy_task().test

    def numbers():
        return [number for number, _ in scan(images, 12, CPU, 4)]

    assert as_processes(monkeypatch, 2, numbers) == [[0, 2], [1, 2]]  # the last batch twice: sharded networks need company


def test_a_batch_larger_than_the_processes(monkeypatch):
    with pytest.raises(UserError, match="a batch of 2 cannot be shared among 3 processes"):
        as_processes(monkeypatch, 3, lambda: Batches(toy_task().train, MIXED, 2, 0, CPU))


def test_memory_is_counted():
    """Otherwise the tests above could not fail."""
    if not memory()[0]:
        pytest.skip("nobody counts it here")
    script = (
        "from conftest import memory; import torch; a = memory()[0]; x = torch.ones(1 << 28); del x; print(memory()[1] - a)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, timeout=1200)
    assert json.loads(done.stdout) > 1_000_000_000
