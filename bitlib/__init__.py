"""bitlib: transfer learning with Big Transfer (BiT, arXiv 1912.11370), small enough to read in an evening."""

__version__ = "0.1.0"

from .data import Task, list_tasks, load_task
from .distill import Ensemble, distillation_loss, soften
from .evaluate import Evaluation, evaluate
from .files import UserError
from .hyperrule import HyperRule
from .mixup import mixup, mixup_loss
from .resnet import ARCHS, Arch, ResNetV2, count_parameters
from .transfer import Run, cache_features, distill, few_shot_runs, finetune, freeze, linear_probe
from .weights import create_model, list_models, load_npz, load_weights, model_info, save_npz, save_weights
