"""Train small networks with three norms at several batch sizes; write results/batch_size.json and device_batch.json.

    python data_scripts/measure_batch_size.py                   on glyphs
    python data_scripts/measure_batch_size.py --task cifar10    on photographs: results/batch_size_cifar10.json alone
batch_size: one device, with fewer and fewer images per step, more steps in return, and a proportional learning rate.
device_batch: a fixed batch spread over more and more devices. You can interrupt it at any time; the same command resumes it.
"""

import argparse

from record import Cells, record
from tqdm import tqdm

import bitlib
from bitlib.device import pick_device
from bitlib.pretrain import Upstream, pretrain

TASK, PICTURES, LARGEST, LR = "glyphs-xs", 12_800, 64, 0.2
SIZES, SEEDS = (2, 4, 16, 64), range(3)
NORMS = {"bn": ("batch norm", "tiny-bn"), "gn": ("group norm", "tiny-gn"), "gn_ws": ("group norm, standardised", "tiny")}


def recipe(arch: str, batch_size: int, device_batch: int | None = None) -> Upstream:
    """A recipe that sees the same number of images for any batch size; a tenth of the steps are warm-up."""
    steps = PICTURES // batch_size
    return Upstream(arch, steps, batch_size, lr=LR * batch_size / LARGEST, warmup_steps=steps // 10, device_batch=device_batch)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default=TASK, choices=(TASK, "cifar10"))
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    device, task, glyphs = pick_device(args.device), bitlib.load_task(args.task), args.task == TASK
    loop = bitlib.Loop(device=str(device), precision="fp32", progress=False)
    name = "batch_size" if glyphs else f"batch_size_{task.name}"
    common = {
        "task": task.name,
        "fingerprint": task.fingerprint,
        "classes": task.num_classes,
        "n_test": len(task.test),
        "pictures": PICTURES,
        "largest_batch": LARGEST,
        "lr": LR,
        "seeds": list(SEEDS),
        "shots": SIZES,
    }
    cells = Cells(name, {k: v for k, v in common.items() if k not in ("seeds", "shots")})

    def accuracy(settings: Upstream, seed: int) -> float:
        return cells(f"{settings} {seed}", lambda: pretrain(task, settings, seed, loop).test_accuracy)

    with tqdm(total=(len(NORMS) + glyphs) * len(SIZES) * len(SEEDS), unit="run") as bar:

        def row(settings_of) -> dict[str, list[float]]:
            found = {}
            for size in reversed(SIZES):  # quick ones first
                found[str(size)] = [accuracy(settings_of(size), seed) for seed in SEEDS]
                bar.update(len(SEEDS))
            return {str(size): found[str(size)] for size in SIZES}

        devices = row(lambda size: recipe("tiny-bn", LARGEST, size)) if glyphs else None
        steps = {key: row(lambda size, arch=arch: recipe(arch, size)) for key, (_, arch) in NORMS.items()}
    if devices:
        record(
            "device_batch",
            {**common, "axis": "images per device", "column": "{}", "methods": {"bn": "batch norm"}, "bn": devices},
            device,
        )
    record(
        name,
        {
            **common,
            "axis": "images per step",
            "column": "{}",
            "methods": {key: label for key, (label, _) in NORMS.items()},
            **steps,
        },
        device,
    )
    cells.clear()


if __name__ == "__main__":
    main()
