"""Softened probabilities, the distillation loss, and a student that imitates a teacher."""

import pytest
import torch
import torch.nn.functional as F
from conftest import QUIET, quiet, toy_task
from hypothesis import given
from hypothesis import strategies as st
from test_transfer import rule, tiny

from bitlib import Distillation, Ensemble, UserError, distill, distillation_loss, finetune, soften
from bitlib.evaluate import predict_logits


def logits(seed: int, n: int = 6, c: int = 5) -> torch.Tensor:
    return torch.randn(n, c, generator=torch.Generator().manual_seed(seed)) * 3


@given(st.floats(0.05, 50), st.integers(0, 99))
def test_soften_is_a_softmax(temperature, seed):
    soft = soften(logits(seed), temperature)
    assert torch.allclose(soft, (logits(seed) / temperature).softmax(1), atol=1e-6)
    assert torch.allclose(soft.sum(1), torch.ones(6), atol=1e-5)


def test_soften_extremes():
    huge = torch.tensor([[1e4, 0.0, -1e4]])
    assert torch.equal(soften(huge, 1.0), torch.tensor([[1.0, 0.0, 0.0]]))
    assert torch.allclose(soften(huge, 1e9), torch.full((1, 3), 1 / 3), atol=1e-4)
    with pytest.raises(ValueError, match="temperature is 0"):
        soften(huge, 0)


def test_a_temperature_keeps_the_order_of_classes():
    z = logits(1)
    for t in (0.5, 2.0, 8.0):
        assert torch.equal(soften(z, t).argsort(1), z.argsort(1))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_loss_is_hintons_less_the_entropy_of_the_teacher(temperature):
    student, teacher = logits(1).requires_grad_(), logits(2)
    target = soften(teacher, temperature)
    cross_entropy = -(target * (student / temperature).log_softmax(1)).sum(1).mean() * temperature**2
    entropy = -(target * target.log()).sum(1).mean() * temperature**2
    ours = distillation_loss(student, teacher, temperature=temperature)
    assert ours.item() == pytest.approx((cross_entropy - entropy).item(), rel=1e-4)
    (ours_grad,) = torch.autograd.grad(ours, student, retain_graph=True)
    (hinton_grad,) = torch.autograd.grad(cross_entropy, student)
    assert torch.allclose(ours_grad, hinton_grad, atol=1e-6)


def test_a_perfect_student_has_no_loss():
    z = logits(3)
    assert distillation_loss(z, z + 7, temperature=3.0).abs() < 1e-6  # a constant changes no probability


def test_why_t_squared():
    """Hinton, section 2.1: for a high temperature the gradient is (student - teacher) / C, whatever the temperature."""
    student, teacher = (z - z.mean(1, keepdim=True) for z in (logits(4).double(), logits(5).double()))
    student.requires_grad_()
    expected = (student - teacher).detach() / 5 / len(student)
    for temperature in (100.0, 1000.0):
        (grad,) = torch.autograd.grad(distillation_loss(student, teacher, temperature=temperature), student)
        assert torch.allclose(grad, expected, rtol=0.05, atol=1e-3)


def test_alpha_mixes_teacher_and_labels():
    student, teacher, labels = logits(1), logits(2), torch.tensor([0, 1, 2, 3, 4, 0])
    both = distillation_loss(student, teacher, labels, temperature=2.0, alpha=0.3)
    soft = distillation_loss(student, teacher, temperature=2.0)
    assert both.item() == pytest.approx((0.3 * soft + 0.7 * F.cross_entropy(student, labels)).item(), rel=1e-5)
    assert distillation_loss(student, teacher, labels, alpha=0.0).item() == pytest.approx(
        F.cross_entropy(student, labels).item(), rel=1e-6
    )


@pytest.mark.parametrize(
    "kwargs, message",
    [({"alpha": 1.5}, "alpha is 1.5"), ({"temperature": -1}, "temperature is -1"), ({"alpha": 0.5}, "labels are needed")],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        distillation_loss(logits(1), logits(2), **kwargs)


def test_no_gradient_reaches_the_teacher():
    teacher = logits(2).requires_grad_()
    distillation_loss(logits(1).requires_grad_(), teacher).backward()
    assert teacher.grad is None


@pytest.fixture(scope="module")
def taught():
    """A teacher of the toy task, and the task."""
    task = toy_task()
    return finetune(tiny(), task, rule(task, steps=60), loop=QUIET).model, task


@pytest.mark.parametrize("consistent", [True, False])
def test_a_student_comes_to_agree_with_its_teacher_without_labels(taught, consistent):
    teacher, task = taught
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    run = distill(tiny(seed=1), teacher, task, rule(task, steps=60), loop=QUIET, how=Distillation(2.0, consistent=consistent))
    agree = predict_logits(run.model, task.test, 12).argmax(1) == predict_logits(teacher, task.test, 12).argmax(1)
    assert agree.float().mean() > 0.8 and run.config["method"] == "distill" and run.config["temperature"] == 2.0
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())


def test_labels_alone_is_fine_tuning(taught):
    teacher, task = taught
    alone = distill(tiny(seed=1), teacher, task, rule(task, steps=5), loop=QUIET, how=Distillation(alpha=0.0))
    plain = finetune(tiny(seed=1), task, rule(task, steps=5), loop=QUIET)
    assert [r["loss"] for r in alone.history.rows] == pytest.approx([r["loss"] for r in plain.history.rows], rel=1e-5)


def test_consistent_teaching_with_mixup_in_exact_micro_batches(taught):
    teacher, task = taught
    mixed = rule(task, steps=4, alpha=0.5)
    runs = [distill(tiny(seed=1), teacher, task, mixed, loop=quiet(micro_batches=m)) for m in (1, 3)]
    losses = [[r["loss"] for r in run.history.rows] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_what_cannot_be_taught_says_so(taught):
    teacher, task = taught
    with pytest.raises(UserError, match="the teacher has 3 classes, toy has 2"):
        distill(tiny(), teacher, toy_task(classes=2), rule(task), loop=QUIET)
    with pytest.raises(UserError, match="MixUp"):
        distill(tiny(), teacher, task, rule(task, alpha=0.1), loop=QUIET, how=Distillation(consistent=False))


def test_an_ensemble_is_the_geometric_mean_and_can_teach():
    models = [tiny(seed=s) for s in (1, 2)]
    for model in models:
        torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(3))
    ensemble, x = Ensemble(models).eval(), torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    product = (models[0](x).softmax(1) * models[1](x).softmax(1)).sqrt()
    torch.testing.assert_close(ensemble(x).softmax(1), product / product.sum(1, keepdim=True))
    task = toy_task()
    assert ensemble.num_classes == task.num_classes
    run = distill(tiny(), ensemble, task, rule(task, 2), loop=QUIET)
    assert run.config["teacher"].startswith("ensemble of ")
    with pytest.raises(ValueError, match="the same number of classes"):
        Ensemble([])
