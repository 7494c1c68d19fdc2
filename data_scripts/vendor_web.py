"""Fetch the third-party scripts that the website serves itself, at fixed versions, and write a manifest of them.

python data_scripts/vendor_web.py            fetch them again (needs npm)
python data_scripts/vendor_web.py --check    compare the files with the manifest (needs nothing)
"""

import gzip
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VENDOR = Path(__file__).resolve().parent.parent / "book" / "static" / "vendor"
MANIFEST = VENDOR / "manifest.json"
PACKAGES = {  # folder: (npm package and version, licence, files: path in the package -> path in the folder)
    "mathjax": (
        "mathjax@3.2.2",
        "Apache-2.0",
        {
            "package/es5/tex-mml-chtml.js": "tex-mml-chtml.js",
            "package/LICENSE": "LICENSE",
            "package/es5/output/chtml/fonts/woff-v2/": "output/chtml/fonts/woff-v2/",
        },
    ),
    # The only build that runs without cross-origin isolation. Stored gzipped, at a quarter of the size; pages unpack it.
    "ort": (
        "onnxruntime-web@1.30.0",
        "MIT",
        {
            "package/dist/ort.wasm.bundle.min.mjs": "ort.wasm.bundle.min.mjs",
            "package/package.json": "package.json",
            "package/dist/ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm.gz",
        },
    ),
}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch() -> None:
    manifest = {}
    for folder, (package, licence, wanted) in PACKAGES.items():
        target = VENDOR / folder
        shutil.rmtree(target, ignore_errors=True)
        with tempfile.TemporaryDirectory() as temporary:
            name = (
                subprocess.run(["npm", "pack", "--silent", package], cwd=temporary, check=True, text=True, capture_output=True)
                .stdout.strip()
                .splitlines()[-1]
            )
            with tarfile.open(Path(temporary) / name) as archive:
                for member in archive.getmembers():
                    for source, place in wanted.items():
                        if member.isfile() and (member.name == source or source[-1] == "/" and member.name.startswith(source)):
                            path = target / (place + member.name.removeprefix(source))
                            path.parent.mkdir(parents=True, exist_ok=True)
                            content = archive.extractfile(member).read()
                            # Without a timestamp, so that the same content gives the same bytes.
                            path.write_bytes(gzip.compress(content, 9, mtime=0) if path.suffix == ".gz" else content)
        files = {str(p.relative_to(target)): digest(p) for p in sorted(target.rglob("*")) if p.is_file()}
        manifest[folder] = {"package": package, "licence": licence, "sha256": files}
    MANIFEST.write_text(json.dumps(manifest, indent=1) + "\n")


def check() -> list[str]:
    """Differences from the manifest, one line each; empty if there are none."""
    problems = []
    for folder, entry in json.loads(MANIFEST.read_text()).items():
        present = {str(p.relative_to(VENDOR / folder)) for p in (VENDOR / folder).rglob("*") if p.is_file()}
        for name, sha256 in entry["sha256"].items():
            path = VENDOR / folder / name
            if not path.is_file():
                problems.append(f"{path.relative_to(VENDOR.parent)} is missing")
            elif digest(path) != sha256:
                problems.append(f"{path.relative_to(VENDOR.parent)} is not the file of {entry['package']}")
        problems += [f"{folder}/{name} is not in the manifest" for name in sorted(present - entry["sha256"].keys())]
    return problems


if __name__ == "__main__":
    if "--check" not in sys.argv:
        fetch()
    if problems := check():
        sys.exit("\n".join(problems))
