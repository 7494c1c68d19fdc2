import numpy as np
import pytest
import torch
from conftest import TINY_BN, toy_task
from sklearn import metrics

from bitlib.data.task import ArrayImages
from bitlib.evaluate import EVAL_BATCH, Evaluation, evaluate, predict_logits
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
