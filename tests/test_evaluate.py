import csv

import numpy as np
import pytest
import torch
from conftest import TINY, TINY_BN, toy_task
from PIL import Image
from sklearn import metrics

from bitlib import UserError
from bitlib.data.augment import to_input
from bitlib.data.task import ArrayImages
from bitlib.evaluate import (
    EVAL_BATCH,
    Evaluation,
    accuracy_interval,
    evaluate,
    fit_temperature,
    predict_logits,
    save_mistakes,
)
from bitlib.resnet import ResNetV2


@pytest.fixture
def result() -> Evaluation:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (200,), generator=generator)
    return Evaluation(torch.randn(200, 4, generator=generator) + 1.5 * torch.nn.functional.one_hot(labels, 4), labels)


def test_against_scikit_learn(result):
    y, p = result.labels.numpy(), result.predictions.numpy()
    assert result.accuracy == pytest.approx(metrics.accuracy_score(y, p))
    assert result.loss == pytest.approx(metrics.log_loss(y, result.logits.double().softmax(1).numpy()), rel=1e-5)
    assert np.array_equal(result.confusion.numpy(), metrics.confusion_matrix(y, p))


def test_calibration_error_by_hand():
    # Two pictures at confidence 0.9 (one right), two at 0.6 (both right): |0.9 - 0.5| / 2 + |0.6 - 1| / 2 = 0.4.
    logits = torch.log(torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]]))
    assert Evaluation(logits, torch.tensor([0, 1, 0, 0])).calibration_error() == pytest.approx(0.4, abs=1e-6)


def test_sure_and_right_is_perfectly_calibrated():
    logits = torch.eye(3) * 50
    perfect = Evaluation(logits, torch.arange(3))
    assert perfect.calibration_error() < 1e-6 and perfect.reliability()[2].tolist() == [0] * 9 + [3]


def test_worst_mistakes_come_first(result):
    worst = result.worst_mistakes(5)
    p = result.logits.softmax(1)[torch.arange(200), result.labels]
    wrong = result.predictions != result.labels
    assert wrong[worst].all() and torch.equal(p[worst], p[wrong].sort().values[:5])
    assert len(result.worst_mistakes(1000)) == wrong.sum()


def test_the_whole_split_is_seen_in_order_whatever_its_size():
    labels = torch.arange(EVAL_BATCH + 3) % 7
    images = ArrayImages(labels[:, None, None, None].expand(-1, 3, 4, 4).to(torch.uint8), labels)

    class Echo(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.p = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return (x[:, 0, 0, 0] + 1) * 127.5

    assert torch.equal(predict_logits(Echo(), images, 4).round().long(), labels)


def test_evaluating_leaves_the_model_as_it_was():
    model = ResNetV2(TINY_BN, 3).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    evaluate(model, toy_task().test, 16)
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class Narrow(torch.nn.Module):
    """A device with room for three images at a time."""

    def __init__(self):
        super().__init__()
        self.seen, self.weight = [], torch.nn.Parameter(torch.eye(3))

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x.mean((2, 3)) @ self.weight


def test_out_of_memory_halves_the_batch():
    model, task = Narrow(), toy_task()
    result = evaluate(model, task.test, 12)
    assert model.seen == [12, 6, 3, 3, 3, 3]
    direct = to_input(task.test.images).mean((2, 3))
    torch.testing.assert_close(result.logits, direct)


def test_one_image_too_many_is_said(tmp_path):
    class None_(Narrow):
        def forward(self, x):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UserError, match="out of memory with one image of 12 px"):
        evaluate(None_(), toy_task().test, 12)


@pytest.mark.parametrize("precision, near", [("bf16", 0.4), ("fp16", 0.05)])
def test_sixteen_bits_stay_near(precision, near):
    model, images = ResNetV2(TINY, 3), toy_task().test
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    full, half = (evaluate(model, images, 12, p).logits for p in ("fp32", precision))
    assert half.dtype == torch.float32 and not torch.equal(full, half)
    assert (full - half).abs().max() < near * full.std()


@pytest.mark.parametrize("right, images, low, high", [(4, 4, 0.5101, 1.0), (0, 10, 0.0, 0.2775), (50, 100, 0.4038, 0.5962)])
def test_interval_against_published_values(right, images, low, high):
    """Wilson's score interval; the values are those of R's prop.test without continuity correction."""
    assert accuracy_interval(right / images, images) == pytest.approx((low, high), abs=2e-4)


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_temperature_is_where_an_independent_optimiser_finds_it(result, scale):
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    held = Evaluation(scale * result.logits, result.labels)
    logits, y = held.logits.double().numpy(), held.labels.numpy()
    loss = lambda log_t: -log_softmax(logits / np.exp(log_t), axis=1)[np.arange(len(y)), y].mean()  # noqa: E731
    wanted = np.exp(minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-9}).x)
    assert fit_temperature(held) == pytest.approx(wanted, rel=1e-4)
    assert held.at_temperature(2.0).predictions.equal(held.predictions)
    torch.testing.assert_close(held.at_temperature(2.0).logits, held.logits / 2)


def test_without_a_mistake_there_is_no_temperature_to_find():
    """The loss falls for ever as the logits grow; the search ends at its limit instead of never."""
    assert fit_temperature(Evaluation(torch.eye(3), torch.arange(3))) == pytest.approx(0.01)
    assert fit_temperature(Evaluation(-torch.eye(3), torch.arange(3))) == pytest.approx(100)


def test_mistakes_are_saved_as_a_table_and_a_sheet(tmp_path):
    task = toy_task()
    logits = torch.eye(3)[(task.test.labels + (torch.arange(12) % 4 == 0)) % 3] * torch.linspace(1, 3, 12)[:, None]
    found = Evaluation(logits, task.test.labels)
    assert save_mistakes(found, task.test, task.class_names, tmp_path / "out", 16) == tmp_path / "out"
    rows = list(csv.DictReader((tmp_path / "out" / "mistakes.csv").open()))
    assert [int(row["image"]) for row in rows] == found.worst_mistakes(12).tolist() == [8, 4, 0]
    p = logits.double().softmax(1)
    for row in rows:
        i = int(row["image"])
        assert row["label"] == "abc"[found.labels[i]] and row["predicted"] == "abc"[found.predictions[i]]
        assert float(row["p_label"]) == pytest.approx(p[i, found.labels[i]].item(), abs=1e-4)
        assert float(row["p_predicted"]) == pytest.approx(p[i].max().item(), abs=1e-4)
    sheet = np.asarray(Image.open(tmp_path / "out" / "mistakes.png"))
    assert sheet.shape == (32, 48, 3)
    wanted = task.test.prepare(16, "cpu").images[8].permute(1, 2, 0).numpy()
    assert np.array_equal(sheet[:16, :16], wanted)
    nothing = Evaluation(torch.eye(3)[task.test.labels], task.test.labels)
    save_mistakes(nothing, task.test, task.class_names, tmp_path / "none")
    assert len((tmp_path / "none" / "mistakes.csv").read_text().splitlines()) == 1
