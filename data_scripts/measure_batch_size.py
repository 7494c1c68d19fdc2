"""Train small networks with three norms at several batch sizes; write results/batch_size.json and device_batch.json.

    python data_scripts/measure_batch_size.py
batch_size: one device, with fewer and fewer images per step and more steps in return. device_batch: a fixed batch spread over
more and more devices. Every norm at every size has its own learning rate, by the protocol of bitlib/course/protocol.py: four
trials, with validation images and two seeds; five other seeds are tested once each. A seed stands for initial weights and the
order of the images. You can interrupt it at any time; the same command resumes it.
"""

import argparse
from functools import partial

from measure_digits import SEARCH, SEEDS, counted, runs_of
from record import Cells, record
from tqdm import tqdm

import bitlib
from bitlib.course.protocol import Arm, compare, trials
from bitlib.device import pick_device
from bitlib.pretrain import Upstream, pretrain

TASK, PICTURES, LARGEST = "glyphs-xs", 12_800, 64
RATES = (0.05, 0.1, 0.2, 0.4)  # for the largest batch; in proportion for smaller ones
SIZES = (2, 4, 16, 64)
NORMS = {"bn": ("batch norm", "tiny-bn"), "gn": ("group norm", "tiny-gn"), "gn_ws": ("group norm, standardised", "tiny")}


def run(arch: str, batch_size: int, device_batch: int | None, loop, task, setting, seed) -> bitlib.Run:
    """Training that sees the same number of images for any batch size; a tenth of the steps are warm-up. setting: lr."""
    steps = PICTURES // batch_size
    recipe = Upstream(arch, steps, batch_size, warmup_steps=steps // 10, device_batch=device_batch, **setting)
    found = pretrain(task, recipe, seed, loop)
    return bitlib.Run(found.model, task, {"crop": recipe.side}, val_accuracy=found.val_accuracy)


def arms(size: int, loop) -> list[Arm]:
    """The three norms with steps of `size` images, and batch norm in large steps over devices with `size` images each."""
    rates = trials(lr=[rate * size / LARGEST for rate in RATES])
    found = [Arm(key, rates, partial(run, arch, size, None, loop)) for key, (_, arch) in NORMS.items()]
    return [*found, Arm("devices", trials(lr=RATES), partial(run, NORMS["bn"][1], LARGEST, size, loop))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    device, task = pick_device(parser.parse_args().device), bitlib.load_task(TASK)
    loop = bitlib.Loop(device=str(device), precision="fp32", progress=False)
    about = {
        "task": task.name,
        "fingerprint": task.fingerprint,
        "classes": task.num_classes,
        "n_test": len(task.test),
        "pictures": PICTURES,
        "largest_batch": LARGEST,
    }
    cells, found = Cells("batch_size", about), {}
    grid = {size: arms(size, loop) for size in reversed(SIZES)}  # quick ones first
    with tqdm(total=sum(runs_of(row, SEARCH, SEEDS) for row in grid.values()), unit="run") as bar:
        for size, row in grid.items():
            measured = counted(cells, bar, f"{size} images, ")
            found[str(size)] = compare(row, lambda seed: task, search=SEARCH, final=SEEDS, cells=measured)

    def table(axis: str, methods: dict[str, str], arm_of: dict[str, str]) -> dict:
        def of(what: str) -> dict:
            return {key: {str(size): found[str(size)][arm][what] for size in SIZES} for key, arm in arm_of.items()}

        seeds = {"seeds": list(SEEDS), "search_seeds": list(SEARCH), "shots": SIZES, "axis": axis, "column": "{}"}
        return about | seeds | {"methods": methods, **{key: of(key) for key in ("search", "chosen", "edge")}, **of("accuracy")}

    record("device_batch", table("images per device", {"bn": "batch norm"}, {"bn": "devices"}), device)
    labels = {key: label for key, (label, _) in NORMS.items()}
    record("batch_size", table("images per step", labels, {key: key for key in NORMS}), device)
    cells.clear()


if __name__ == "__main__":
    main()
