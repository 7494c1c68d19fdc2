"""Put a data set into the cache (BITLIB_HOME): downloaded from its official address and verified, or from a folder.

python data_scripts/prepare_data.py tiny-imagenet
python data_scripts/prepare_data.py cifar10 --folder PATH     (PATH/train/CLASS/*, PATH/test/CLASS/*)
"""

import argparse
import sys
from pathlib import Path

from bitlib.data import load_task
from bitlib.data.tiny_imagenet import prepare_tiny_imagenet
from bitlib.data.vision import prepare_cifar
from bitlib.files import UserError, cache_dir


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("tiny-imagenet", "cifar10", "cifar100"))
    parser.add_argument("--folder", type=Path, help="an existing copy (default: download it)")
    args = parser.parse_args()
    try:
        if args.name == "tiny-imagenet":
            prepare_tiny_imagenet(args.folder)
        else:
            prepare_cifar(args.name, args.folder)
        task = load_task(args.name)
    except UserError as error:
        print(f"prepare_data: {error}", file=sys.stderr)
        sys.exit(2)
    print(
        f"{task.name} is ready in {cache_dir() / 'data'}: {len(task.train)} images for training, {len(task.val)} for "
        f"validation, {len(task.test)} for testing, {task.num_classes} classes, fingerprint {task.fingerprint}"
    )


if __name__ == "__main__":
    main()
