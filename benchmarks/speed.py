"""Measure speed and memory beside batch norm and timm on this machine, and write results/bench_cpu.json or bench_cuda.json.

    python benchmarks/speed.py [--device cuda]        about seven minutes on two cores
Leave the machine alone meanwhile. All contestants of a case take turns in one process, so that the ratios hold even where
the machine is noisy. `bitlib bench` measures single cases.
"""

import argparse
import platform
import sys
from dataclasses import replace
from pathlib import Path

import torch

from bitlib.course.bench import Case, contestants, run_cases, table, time_parts
from bitlib.trainer import pick_device

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "data_scripts"))
from record import record  # noqa: E402 - the scripts are no package

# On a processor: the case of a learner's laptop. Compiled training is slower there and takes minutes, see the page.
CPU = [Case(mode, 128, 8, precision) for precision in ("fp32", "bf16") for mode in ("train", "infer")]
CPU += [Case("infer", 128, 8, "fp32", compiled=True), Case("train", 128, 8, "fp32", compiled=True)]
# On a GPU several batch sizes, because each network has one that suits it best; compiled cases are few, as they take minutes.
CUDA = [Case(mode, side, size, "bf16") for mode in ("train", "infer") for side in (128, 224) for size in (64, 128, 256, 512)]
CUDA += [Case(mode, 224, 128, "fp32") for mode in ("train", "infer")]
CUDA += [Case(mode, 224, 256, "bf16", compiled=True) for mode in ("train", "infer")]


def processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        names = [line.partition(":")[2].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    device = pick_device(args.device)
    # Compiling pays most in inference: there, our compiled network takes part beside the others as they are.
    plain, compiled = contestants(), contestants(compiled=True)
    other_layout = replace(plain[0], name=f"{plain[0].name}, channels last", layout=lambda *_: torch.channels_last)
    cases = []
    for case in CPU if device.type == "cpu" else CUDA:
        who = plain
        if device.type == "cpu" and not case.compiled:
            if case.mode == "infer":
                who = compiled
            elif case.precision == "bf16":  # why `trainer.memory_format` differs there
                who = [plain[0], other_layout, *plain[1:]]
        cases += run_cases([case], device, args.rounds, who=who)
    print(table(cases))
    record(
        f"bench_{device.type}",
        {"processor": processor(), "rounds": args.rounds, "cases": cases, "parts": time_parts(device)},
        device,
    )


if __name__ == "__main__":
    main()
