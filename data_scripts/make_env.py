"""Make sure that .venv has what requirements.txt lists; instant if it does. Called by every `make` target.

An environment that is incomplete, damaged or made for other requirements is rebuilt. Uses only the standard library and
syntax that old Pythons can parse, since it must be able to report that a Python is too old.
"""

import hashlib
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, "ready")
OLDEST = (3, 11)
DISK_GB = 8  # the environment takes 6.5 GB, and the installer needs room to unpack
# One module per group must be importable; `origin` is None for a folder whose files were deleted.
PROOF = "import importlib.util as u, sys; sys.exit(not all(u.find_spec(m) and u.find_spec(m).origin for m in %r))"
MODULES = ["torch", "torchvision", "sklearn", "jupyterlab", "jupyter_book", "sphinx_design", "nbval", "timm", "bitlib"]


def wanted():
    """The content of `ready` in a finished environment."""
    digest = hashlib.sha256(("%d.%d" % sys.version_info[:2]).encode())
    for name in ("requirements.txt", "pyproject.toml"):
        with open(os.path.join(ROOT, name), "rb") as f:
            digest.update(f.read())
    return digest.hexdigest()


def is_ready():
    """Whether the stamp matches and the environment still works."""
    try:
        with open(STAMP) as f:
            if f.read() != wanted():
                return False
        return subprocess.call([PYTHON, "-c", PROOF % (MODULES,)], cwd=VENV) == 0
    except OSError:
        return False


def main():
    if sys.version_info[:2] < OLDEST:
        sys.exit(
            "make: Python %d.%d or newer is needed, this is %s; try: make PYTHON=python3.12 ..."
            % (OLDEST + (sys.version.split()[0],))
        )
    if is_ready():
        return
    if os.path.exists(STAMP):
        os.remove(STAMP)
    # If only packages are missing, keep the environment; if its Python is gone, start from scratch.
    working = (
        os.path.exists(PYTHON)
        and subprocess.call([PYTHON, "-m", "pip", "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    )
    free = shutil.disk_usage(ROOT).free / 1e9
    if not working and free < DISK_GB:
        sys.exit("make: only %.1f GB are free here, and setting up needs %d GB; free some space" % (free, DISK_GB))
    print("make: setting up .venv (once; takes several minutes and gigabytes)", flush=True)
    if not working:
        shutil.rmtree(VENV, ignore_errors=True)
        subprocess.check_call([sys.executable, "-m", "venv", VENV])
    pip = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    for arguments in (["-r", "requirements.txt"], ["--no-deps", "-e", "."]):
        if subprocess.call(pip + arguments, cwd=ROOT):
            sys.exit("make: the installation failed, see above; run the same command again to continue")
    if subprocess.call([PYTHON, "-c", PROOF % (MODULES,)], cwd=VENV):
        # pip trusts its records even if files were deleted. Rebuild from scratch, once.
        if working:
            print("make: .venv is damaged, rebuilding it", flush=True)
            shutil.rmtree(VENV)
            return main()
        sys.exit("make: .venv lacks one of %s after installing; report this" % ", ".join(MODULES))
    with open(STAMP, "w") as f:
        f.write(wanted())


if __name__ == "__main__":
    main()
