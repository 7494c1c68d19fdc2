"""Tasks: the splits are disjoint and reproducible, few-shot subsets are balanced, augmentation is per picture."""

import numpy as np
import pytest
import torch
from conftest import toy_task
from hypothesis import given, settings
from hypothesis import strategies as st

from bitlib import UserError, load_task
from bitlib.data import list_tasks
from bitlib.data.augment import Augmentation, cut, draw_crops, resize, to_input
from bitlib.data.glyphs import HELD_OUT_SCRIPTS, _is_number, _script, draw_glyphs, draw_numbers
from bitlib.data.sampling import BatchOrder, generator_for
from bitlib.data.task import ArrayImages, split_indices


def test_digits():
    task = load_task("digits")
    assert (len(task.train), len(task.val), len(task.test)) == (898, 300, 599)
    assert task.num_classes == 10 and task.image_size == (8, 8) and not task.random_flip
    pictures = {s: {p.numpy().tobytes() for p in getattr(task, s).images} for s in ("train", "val", "test")}
    assert not pictures["train"] & pictures["test"] and not pictures["train"] & pictures["val"]
    for split in (task.train, task.val, task.test):
        counts = torch.bincount(split.labels, minlength=10)
        assert counts.min() >= 0.9 * counts.max()  # stratified
    from sklearn.datasets import load_digits

    assert int(sum(p.images[:, 0].long().sum() for p in (task.train, task.val, task.test))) == int(
        (torch.from_numpy(load_digits().images) * 255 / 16).round().sum()
    )  # nothing lost, nothing twice
    assert load_task("digits").fingerprint == task.fingerprint


@pytest.mark.parametrize("name", ["glyphs-s", "glyphs-armenian", "glyphs-georgian"])
def test_glyphs(name):
    task = load_task(name)
    assert len(task.train) > 5 * task.num_classes and set(task.train.labels.tolist()) == set(range(task.num_classes))
    assert not any(_is_number(c) for c in task.class_names)
    held_out = [_script(c) in HELD_OUT_SCRIPTS for c in task.class_names]
    assert not any(held_out) if name == "glyphs-s" else all(held_out)
    assert torch.equal(task.test.images, load_task(name).test.images)  # drawn once, always the same


def test_no_digit_upstream_and_scales_are_nested():
    small, medium, large = (set(load_task(f"glyphs-{s}").class_names) for s in "sml")
    assert small < medium < large and len(small) == 100 and len(medium) == 700 and len(large) > 4000
    assert not large & set("0123456789²½①Ⅷ٣")
    assert {"A", "ß", "Ж"} <= large
    assert len({"A", "Α", "А"} & large) == 1  # Latin, Greek, Cyrillic: one picture, one class


def test_glyph_pictures_are_drawn_per_picture_and_by_seed():
    masks = load_task("glyphs-s").train.masks[:1].expand(6, -1, -1)
    a, b, c = (draw_glyphs(masks, 32, draw_numbers(len(masks), 32, torch.Generator().manual_seed(s))) for s in (0, 0, 1))
    assert a.shape == (6, 3, 32, 32) and a.dtype == torch.uint8
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert len({p.numpy().tobytes() for p in a}) == 6
    assert (a.float().std((1, 2, 3)) > 3).all()  # something can be seen on each


@given(st.integers(0, 10**6), st.integers(1, 25))
@settings(max_examples=25, deadline=None)
def test_few_shot_is_balanced_distinct_and_seeded(seed, shots):
    task = toy_task(90)
    subset = task.few_shot(shots, seed)
    assert torch.bincount(subset.train.labels).tolist() == [shots] * 3
    assert len({p.numpy().tobytes() for p in subset.train.images}) == 3 * shots
    assert subset.test is task.test and subset.val is task.val
    again = task.few_shot(shots, seed)
    assert torch.equal(again.train.images, subset.train.images) and again.fingerprint == subset.fingerprint


def test_five_subsamples_differ():
    task = load_task("digits")
    marks = {task.few_shot(5, seed).fingerprint for seed in range(5)}
    assert len(marks) == 5


def test_few_shot_names_the_class_that_is_too_small():
    with pytest.raises(UserError, match="class 'a' has 8 .* ask for 8"):
        toy_task(24).few_shot(9)
    with pytest.raises(UserError, match="shots is 0"):
        toy_task(24).few_shot(0)


@given(st.lists(st.integers(3, 40), min_size=2, max_size=6), st.integers(0, 99))
def test_split_keeps_every_class_everywhere(sizes, seed):
    labels = torch.cat([torch.full((n,), i) for i, n in enumerate(sizes)])
    parts = split_indices(labels, (0.15, 0.15), seed)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(labels)))
    for part in parts:
        assert set(labels[part].tolist()) == set(range(len(sizes)))


def gradient(n: int = 64, side: int = 12) -> torch.Tensor:
    """Every pixel tells its row (channel 0) and column (channel 1); the picture's number is in channel 2."""
    rows, cols = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    image = torch.stack([rows, cols, torch.zeros_like(rows)]).to(torch.uint8)
    images = image.repeat(n, 1, 1, 1)
    images[:, 2] = torch.arange(n, dtype=torch.uint8).view(n, 1, 1)
    return images


def augment(images, crop, generator, **switches):
    """Crops and flips as a batch gets them."""
    how = Augmentation(images.shape[-1], crop, **switches)
    return cut(images, draw_crops(len(images), how, generator), crop)


def test_crop_and_flip_are_drawn_for_each_picture():
    out = augment(gradient(), 8, torch.Generator().manual_seed(0))
    assert out.shape == (64, 3, 8, 8)
    assert torch.equal(out[:, 2, 0, 0], torch.arange(64, dtype=torch.uint8))  # order of the batch is kept
    tops, lefts = out[:, 0, 0, 0], out[:, 1].amin((1, 2))
    assert set(tops.tolist()) == set(lefts.tolist()) == {0, 1, 2, 3, 4}
    mirrored = out[:, 1, 0, 0] > out[:, 1, 0, -1]
    assert 16 < mirrored.sum() < 48  # the official TF pipeline mirrors 64 of 64
    steps = out[:, 1, :, 1:].int() - out[:, 1, :, :-1].int()
    assert torch.equal(steps.abs(), torch.ones_like(steps))  # neighbours stay neighbours
    assert ((out[:, 0, 1:] - out[:, 0, :-1]) == 1).all()  # never upside down


def test_switches_turn_one_thing_off_and_leave_the_other_as_it_was():
    both = augment(gradient(), 8, torch.Generator().manual_seed(0))
    no_flip = augment(gradient(), 8, torch.Generator().manual_seed(0), random_flip=False)
    no_crop = augment(gradient(), 8, torch.Generator().manual_seed(0), random_crop=False)
    assert torch.equal(no_flip[:, 0, 0, 0], both[:, 0, 0, 0]) and (no_flip[:, 1, 0, 0] < no_flip[:, 1, 0, -1]).all()
    assert (no_crop[:, 0, 0, 0] == 2).all() and (no_crop[:, 1].amin((1, 2)) == 2).all()
    with pytest.raises(ValueError, match="crop of 13"):
        augment(gradient(), 13, torch.Generator())


def test_input_range_and_resize():
    x = to_input(torch.tensor([0, 255, 127, 128], dtype=torch.uint8))
    torch.testing.assert_close(x, torch.tensor([-1, 1, -0.5 / 127.5, 0.5 / 127.5]))
    image = torch.randint(0, 256, (1, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert resize(image, 8) is image
    from PIL import Image

    pillow = Image.fromarray(image[0].permute(1, 2, 0).numpy()).resize((5, 5), Image.Resampling.BILINEAR)
    difference = resize(image, 5)[0].permute(1, 2, 0).int() - torch.from_numpy(np.array(pillow)).int()
    assert difference.abs().max() <= 1  # a second implementation of antialiased bilinear


@given(st.integers(1, 40), st.integers(1, 100), st.integers(0, 5))
def test_batch_order_shows_everything_equally_often(size, batch_size, seed):
    order, steps = BatchOrder(size, batch_size, seed), 7
    seen = torch.cat([order(step) for step in range(steps)])
    assert len(seen) == steps * batch_size
    counts = torch.bincount(seen, minlength=size)
    assert counts.max() - counts.min() <= 1
    assert torch.equal(BatchOrder(size, batch_size, seed)(steps - 1), order(steps - 1))  # no state needed


def test_generators_depend_on_the_whole_key():
    draws = {
        torch.rand(1, generator=generator_for(*key)).item()
        for key in [(0, "batch", 1), (0, "batch", 2), (1, "batch", 1), (0, "order", 1), (2**32, "batch", 1)]
    }
    assert len(draws) == 5


def test_unknown_task_gets_a_suggestion():
    with pytest.raises(UserError, match="did you mean 'digits'"):
        load_task("digts")
    assert {"digits", "glyphs", "cifar10", "cats-vs-dogs"} <= set(list_tasks())


def test_prepare_resizes_once():
    images = ArrayImages(gradient(5), torch.arange(5))
    ready = images.prepare(6, "cpu")
    assert ready.batch(torch.tensor([3, 1])).shape == (2, 3, 6, 6)
    assert images.images.shape[-1] == 12


def test_tiles_do_not_overlap_and_classes_are_quarters():
    task = load_task("tiles")
    everything = torch.cat([s.images for s in (task.train, task.val, task.test)]).flatten(1)
    assert task.num_classes == 12 and len(task.class_names) == 12 and everything.shape[1] == 3 * 24 * 24
    # 427x640 holds 16x26 squares of 24 pixels in even numbers, 600x512 holds 24x20.
    assert len(everything) == 2 * 16 * 26 + 24 * 20
    counts = sum(torch.bincount(s.labels, minlength=12) for s in (task.train, task.val, task.test))
    assert counts.tolist() == [104] * 8 + [120] * 4
    assert load_task("tiles").fingerprint == task.fingerprint


def test_tiles_of_one_quarter_are_its_pixels():
    from sklearn.datasets import load_sample_image

    task = load_task("tiles")
    corner = torch.from_numpy(load_sample_image("china.jpg")[:24, :24].copy()).permute(2, 0, 1)
    found = [
        (s.labels[i].item())
        for s in (task.train, task.val, task.test)
        for i in range(len(s))
        if torch.equal(s.images[i], corner)
    ]
    assert found == [0]  # temple, top left


def test_smallest_glyph_task_is_tested_on_several_drawings_of_each_glyph():
    small, next_size = load_task("glyphs-xs"), load_task("glyphs-s")
    assert small.num_classes == 20 and set(small.class_names) < set(next_size.class_names)
    assert len(small.test) == 20 * len(set(small.test.labels.tolist()))
    same = [i for i in range(len(small.test)) if small.test.labels[i] == small.test.labels[0]]
    assert not torch.equal(small.test.images[same[0]], small.test.images[same[1]])


def test_some_classes_are_nested_and_renumbered():
    task = toy_task(36, classes=6)
    few, more = task.some_classes(2, seed=3), task.some_classes(4, seed=3)
    assert set(few.class_names) < set(more.class_names) < set(task.class_names)
    for part in (few, more):
        for split in ("train", "val", "test"):
            kept, whole = getattr(part, split), getattr(task, split)
            wanted = [i for i in range(len(whole)) if task.class_names[whole.labels[i]] in part.class_names]
            assert torch.equal(kept.images, whole.images[wanted])  # of these classes all images, and no others
            assert [part.class_names[y] for y in kept.labels] == [task.class_names[whole.labels[i]] for i in wanted]
    assert few.fingerprint not in (more.fingerprint, task.fingerprint, task.some_classes(2, seed=4).fingerprint)
    assert len(task.closed().some_classes(2, 3).test) == len(task.test)  # and stays closed
    for count in (0, 7):
        with pytest.raises(UserError, match=f"{count} cannot be chosen"):
            task.some_classes(count)


def test_easy_glyphs_are_the_same_glyphs_with_half_of_the_changes():
    hard, easy = load_task("glyphs-l"), load_task("glyphs-easy")
    assert easy.class_names == hard.class_names and easy.fingerprint != hard.fingerprint
    rows = torch.arange(0, len(easy.train), 400)
    drawn = {
        name: task.train.batch(rows, task.train.draw(len(rows), torch.Generator().manual_seed(0)))
        for name, task in (("hard", hard), ("easy", easy))
    }
    assert (drawn["easy"][:, 0] == drawn["easy"][:, 1]).all()  # grey, always
    assert not (drawn["hard"][:, 0] == drawn["hard"][:, 1]).all()
    edges = torch.cat([drawn["easy"][..., 0], drawn["easy"][..., -1]], -1).float().mean((1, 2))
    assert (edges < drawn["easy"].float().amax((1, 2, 3)) / 2).all()  # bright on dark, always
    # No changes at all: the glyph as its font has it.
    mask = easy.train.masks[:8]
    calm = draw_glyphs(mask, 48, draw_numbers(8, 48, torch.Generator().manual_seed(0), strength=0.0))
    assert ((calm[:, 0] > 127) == (mask > 127)).float().mean() > 0.95
    images = easy.train.subset(torch.arange(4)).prepare(16, "cpu")
    assert images.strength == 0.5 and images.side == 16
