"""bitlib: transfer learning with Big Transfer (BiT, arXiv 1912.11370), small enough to read in an evening."""

import sys
from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

# Public names by module. Each is imported on first use, so that `bitlib --help` does not wait for PyTorch.
_NAMES = {
    "backbones": ("Backbone", "list_backbones"),
    "choose": ("choose",),
    "data": ("Task", "list_tasks", "load_task"),
    "distill": ("Distillation", "Ensemble", "distillation_loss", "soften"),
    "evaluate": ("Evaluation", "evaluate"),
    "features": ("cache_features",),
    "files": ("UserError",),
    "hyperrule": ("HyperRule",),
    "loop": ("Loop",),
    "mixup": ("mixup", "mixup_loss"),
    "resnet": ("ARCHS", "Arch", "ResNetV2", "count_parameters"),
    "transfer": ("Run", "distill", "few_shot_runs", "finetune", "freeze", "linear_probe"),
    "weights": ("create_model", "list_models", "load_npz", "load_weights", "model_info", "save_npz", "save_weights"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}
__all__ = [*_HOME]


class _Package(ModuleType):
    """A package in which importing a module does not hide the public function of the same name (there are four)."""

    def __getattr__(self, name: str):
        if name in _HOME:
            return getattr(import_module(f".{_HOME[name]}", "bitlib"), name)
        try:
            return import_module(f"bitlib.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"bitlib.{name}":
                raise
        raise AttributeError(f"module 'bitlib' has no attribute {name!r}")

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_HOME})


sys.modules[__name__].__class__ = _Package
