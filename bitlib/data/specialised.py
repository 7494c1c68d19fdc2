"""The suite's specialised tasks: images of instruments, not of cameras: relief maps, a scan of a head, sounds, fabric.

The relief is the elevation around Jacksboro, Tennessee, the scan a slice of a head by magnetic resonance; both ship with
matplotlib. Sounds and fabric are generated. All have the form that `drawing.each` describes.
"""

from __future__ import annotations

import functools
import gzip

import numpy as np

from .drawing import SIDE, blocks, dihedral, each, noisy

STEEPNESS = ("flat", "gentle", "steep", "very steep")
FINDINGS = ("none", "bright spot", "dark spot", "ring")
SOUNDS = ("tone", "rising tone", "falling tone", "two tones", "vibrato", "pulses", "clicks", "hiss")
FAULTS = ("none", "hole", "stain", "scratch", "slipped weave")


@functools.cache
def _elevation() -> np.ndarray:
    """Metres above the sea, float [344, 403], about 80 metres from one value to the next."""
    import matplotlib.cbook

    with np.load(matplotlib.cbook.get_sample_data("jacksboro_fault_dem.npz", asfileobj=False)) as file:
        return file["elevation"].astype(float)


@functools.cache
def _windows(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Top left corners, int [N, 2], of all windows in a split's part of the map, and the class of each."""
    metres, side = _elevation(), 48
    slope = np.hypot(*np.gradient(metres))
    inside = np.stack(np.meshgrid(*2 * [np.arange(side - SIDE + 1)], indexing="ij"), -1).reshape(-1, 2)

    def steepness(corners: np.ndarray) -> np.ndarray:
        return np.array([slope[y : y + SIDE, x : x + SIDE].mean() for y, x in corners])

    # The borders come from the middle window of every block, whatever its split.
    everywhere = np.concatenate([blocks(*metres.shape, side, name) for name in ("train", "val", "test")])
    borders = np.quantile(steepness(everywhere + (side - SIDE) // 2), np.arange(1, len(STEEPNESS)) / len(STEEPNESS))
    corners = (blocks(*metres.shape, side, split)[:, None] + inside[::3]).reshape(-1, 2)  # neighbours hardly differ
    return corners, np.digitize(steepness(corners), borders)


@each
def terrain(label: int, split: str, rng: np.random.Generator) -> np.ndarray:
    """A shaded relief, lit from the north-west. The class is how steep it is on average, in quarters of the whole map."""
    corners, classes = _windows(split)
    y, x = rng.choice(corners[classes == label])
    metres = dihedral(_elevation()[y : y + SIDE, x : x + SIDE], rng)
    down, right = np.gradient(metres / 80 * 2)  # twice as steep as it is
    shade = (1 + (right + down) / 2**0.5) / np.sqrt(2 * (1 + down**2 + right**2))
    return noisy(np.clip(shade, 0, 1)[:, :, None] * rng.uniform(0.75, 1.0, 3), rng, 0.03)


@functools.cache
def _slice() -> np.ndarray:
    """The scan, float [256, 256] from 0 to 1."""
    import matplotlib.cbook

    with gzip.open(matplotlib.cbook.get_sample_data("s1045.ima.gz", asfileobj=False)) as file:
        raw = np.frombuffer(file.read(), "<u2").reshape(256, 256)
    return raw / raw.max()


@functools.cache
def _tissue(split: str) -> np.ndarray:
    """The blocks of the scan, top left corners int [N, 2], that show mostly head and not air."""
    head = _slice()
    return np.array([(y, x) for y, x in blocks(*head.shape, 40, split) if (head[y : y + 40, x : x + 40] > 0.1).mean() > 0.8])


@each
def scan(label: int, split: str, rng: np.random.Generator) -> np.ndarray:
    """A window of the scan, with a finding drawn into it, or none."""
    y, x = rng.choice(_tissue(split)) + rng.integers(0, 40 - SIDE + 1, 2)
    window = dihedral(_slice()[y : y + SIDE, x : x + SIDE], rng)
    rows, columns = np.indices((SIDE, SIDE)) - rng.uniform(8, SIDE - 8, 2)[:, None, None]
    radius, strength = rng.uniform(2.5, 5), rng.uniform(0.3, 0.5)
    away = np.hypot(rows, columns * rng.uniform(0.75, 1.3))
    spot = 1 / (1 + np.exp((away - radius) / 0.6))
    ring = np.exp(-(((away - radius) / 1.2) ** 2))
    change = (0, spot, -spot, ring - 0.6 * spot)[label]
    gain = rng.uniform(0.8, 1.2)
    return noisy(np.clip(gain * (window + strength * change), 0, 1), rng)


@each
def sounds(label: int, split: str, rng: np.random.Generator) -> np.ndarray:
    """The spectrogram of half a second of sound: time runs to the right, pitch upwards, and louder is brighter."""
    rate, hop, frame = 4096, 64, 62
    time = np.arange(hop * SIDE) / rate
    low, high = rng.uniform(300, 800), rng.uniform(1000, 1700)
    pitch = rng.uniform(300, 1700) + np.zeros_like(time)
    loud = np.ones_like(time)
    beat = 2 * np.pi * (rng.uniform(5, 10) * time + rng.random())
    kind = SOUNDS[label]
    if kind in ("rising tone", "falling tone"):
        way = slice(None) if kind == "rising tone" else slice(None, None, -1)
        pitch = np.linspace(low, high, len(time))[way]
    elif kind == "vibrato":
        pitch = rng.uniform(500, 1500) + rng.uniform(100, 200) * np.sin(beat)
    elif kind == "pulses":
        loud = (np.sin(beat) > 0).astype(float)
    wave = loud * np.sin(2 * np.pi * np.cumsum(pitch) / rate + rng.uniform(0, 6))
    if kind == "two tones":
        wave = sum(np.sin(2 * np.pi * (pitch * time + rng.random())) for pitch in (low, high)) / 2
    elif kind == "clicks":
        wave = np.zeros_like(time)
        wave[rng.choice(len(time), rng.integers(3, 7), replace=False)] = 4
    elif kind == "hiss":
        edges = np.fft.rfftfreq(len(time), 1 / rate)
        middle, width = rng.uniform(500, 1500), rng.uniform(150, 350)
        wave = 2 * np.fft.irfft(np.fft.rfft(rng.normal(size=len(time))) * (np.abs(edges - middle) < width))
    wave = wave + rng.normal(size=len(time)) * rng.uniform(0.02, 0.3)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(wave, frame // 2), frame)[::hop][:SIDE]
    power = np.abs(np.fft.rfft(frames * np.hanning(frame)))[:, ::-1].T
    decibels = 20 * np.log10(power + 1e-3)
    return noisy(np.clip((decibels - decibels.max()) / rng.uniform(35, 50) + 1, 0, 1), rng, 0.03)


@each
def fabric(label: int, split: str, rng: np.random.Generator) -> np.ndarray:
    """Woven cloth with one kind of fault, or none."""
    angle, threads = rng.uniform(0, np.pi), rng.uniform(3.5, 6)
    y, x = np.indices((SIDE, SIDE)) / SIDE
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    spot = np.hypot(*(np.stack([y, x]) - rng.uniform(0.25, 0.75, 2)[:, None, None]))
    way, offset = rng.uniform(0, np.pi), rng.uniform(-0.2, 0.2)
    line = np.cos(way) * (x - 0.5) + np.sin(way) * (y - 0.5) - offset
    kind = FAULTS[label]
    slip = 0.5 / threads * (across > across.mean() + rng.uniform(-0.15, 0.15)) if kind == "slipped weave" else 0.0
    weave = np.sin(2 * np.pi * threads * (along + slip)) * np.sin(2 * np.pi * threads * across)
    cloth = rng.uniform(0.4, 0.6) + rng.uniform(0.15, 0.25) * weave
    if kind == "hole":
        cloth = np.where(spot < rng.uniform(0.09, 0.14), rng.choice([0.05, 0.95]), cloth)
    elif kind == "stain":
        cloth = cloth + rng.choice([-1, 1]) * rng.uniform(0.2, 0.3) * np.exp(-((spot / rng.uniform(0.14, 0.25)) ** 2))
    elif kind == "scratch":
        cloth = np.where(np.abs(line) < rng.uniform(0.018, 0.035), rng.choice([0.05, 0.95]), cloth)
    return noisy(cloth[:, :, None] * rng.uniform(0.7, 1.2, 3), rng)
