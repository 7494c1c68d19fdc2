"""Measure a network of the course on the suite, fine-tuned and from scratch; write results/suite.json.

    python data_scripts/measure_suite.py
It is `bitlib suite` with the commit in the record. You can interrupt it at any time; the same command resumes it.
"""

import argparse

import torch
from record import Cells, record

import bitlib
from bitlib.course.protocol import edges
from bitlib.data.suite import SUITE
from bitlib.device import pick_device
from bitlib.suite import Plan, measure, table

MODELS, TASKS, SEEDS = ("glyphs-L",), tuple(SUITE), range(3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    args = parser.parse_args()
    device, plan = pick_device(args.device), Plan(args.models, TASKS, args.seeds)
    cells = Cells("suite", {"torch": torch.__version__, "device": str(device), "threads": torch.get_num_threads()})
    found = measure(plan, cells, bitlib.Loop(device=str(device), precision="fp32"))
    print(table(found))
    edge = {arm: edges(setting, plan.settings) for arm, setting in found["chosen"].items()}
    record("suite", found | {"edge": edge}, device)
    cells.clear()


if __name__ == "__main__":
    main()
