"""`python -m bitlib`, the form that torchrun can start."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
