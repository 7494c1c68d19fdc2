"""Compare speed and memory with batch norm and timm on this machine's CPU, and write results/bench_cpu.json.

    python benchmarks/speed.py        about eight minutes on two cores
Leave the machine alone while it runs. All contestants of a case take turns in one process, so the ratios hold even on a
noisy machine. `bitlib bench` measures single cases; for a GPU there is `make gpu`.
"""

import argparse
import platform
import sys
from pathlib import Path

import torch

from bitlib import UserError
from bitlib.course.bench import Case, contestants, run_cases, table, time_parts

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "data_scripts"))
from record import commit, record  # noqa: E402 - the scripts are not a package


def processor() -> str:
    """The name of the CPU, as the system reports it."""
    try:
        names = [line.partition(":")[2].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def check_commit(allow_dirty: bool) -> None:
    """Raise UserError if the figures could not be traced back to a commit."""
    here = commit()
    if not allow_dirty and (not here or here.endswith("+")):
        state = f"bitlib/ differs from commit {here[:-1]}" if here else f"{ROOT} has no git commit"
        raise UserError(f"{state}, so the figures would belong to no commit; commit first, or pass --allow-dirty")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--allow-dirty", action="store_true", help="measure even if bitlib/ differs from its commit")
    args = parser.parse_args()
    try:
        check_commit(args.allow_dirty)
    except UserError as error:
        print(f"speed.py: {error}", file=sys.stderr)
        return 2
    from bitlib.device import fast_16_bits

    device = torch.device("cpu")
    # A learner's laptop. 16 bits only if they are fast: on some CPUs they are fifty times slower than 32.
    cases = [Case(mode, 128, 8, p) for p in ("fp32", fast_16_bits("cpu")) if p for mode in ("train", "infer")]
    # Compilation pays off most in inference, so there, compiled networks are added to the others.
    done = run_cases(cases, device, args.rounds, who=contestants(compiled=True))
    print(table(done))
    about = {"processor": processor(), "rounds": args.rounds, "allow_dirty": args.allow_dirty}
    record("bench_cpu", about | {"cases": done, "parts": time_parts(device)}, device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
