"""Measure fine-tuning on digits by amount of pre-training data, trained part and shots; write results/transfer_map.json.

    python data_scripts/measure_transfer_map.py
Each cell uses five random subsets of the training images; each run is tested once, at its end.
You can interrupt it at any time; the same command resumes it.
"""

import argparse
import json

from measure_digits import SEEDS, SHOTS
from record import RESULTS, Cells, record, weights_of
from tqdm import tqdm

import bitlib
from bitlib.device import pick_device
from bitlib.transfer import default_rule

SCALES = {"glyphs-S": "S", "glyphs-M": "M", "glyphs-L": "L"}
DEPTHS = {"head": "head", "stage4": "stage 4 and head", "stage3": "stages 3, 4, head", None: "everything"}


def accuracy(task, name, start, shots, seed, loop):
    """Test accuracy of one run."""
    subset, model = task.few_shot(shots, seed), bitlib.create_model(name, task.num_classes, pretrained=True)
    bitlib.freeze(model, start)
    return bitlib.finetune(model, subset, default_rule(model, subset), seed, loop).test_accuracy


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    device = pick_device(parser.parse_args().device)
    loop, task = bitlib.Loop(device=str(device), precision="fp32", progress=False), bitlib.load_task("digits")
    cells = Cells("transfer_map", {"task": task.fingerprint, "models": weights_of(SCALES)})
    bar = tqdm(total=len(SCALES) * len(DEPTHS) * len(SHOTS) * len(SEEDS), unit="run")

    def measured(name, start, shots, seed):
        value = cells(f"{name} {start} {shots} {seed}", lambda: accuracy(task, name, start, shots, seed, loop))
        bar.update()
        return value

    table = [
        [[[measured(name, start, shots, seed) for seed in SEEDS] for shots in SHOTS] for start in DEPTHS] for name in SCALES
    ]
    bar.close()
    scratch = json.loads((RESULTS / "digits.json").read_text())["scratch"]
    record(
        "transfer_map",
        {
            "task": task.name,
            "fingerprint": task.fingerprint,
            "n_test": len(task.test),
            "seeds": list(SEEDS),
            "n_seeds": len(SEEDS),
            "models": list(SCALES),
            "scales": list(SCALES.values()),
            "depths": list(DEPTHS.values()),
            "shots": SHOTS,
            "accuracy": table,
            "scratch": [scratch[str(k)] for k in SHOTS],
        },
        device,
    )
    cells.clear()


if __name__ == "__main__":
    main()
