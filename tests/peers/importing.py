#!/usr/bin/env python3
"""Importing MOVi beside the official script, per core: `tests/peers/importing.py`.

Needs the binaries of `make build`, numpy and Pillow. Makes TFRecord files as TensorFlow Datasets has them (videos of 24 frames, with flow,
depth and normals), without TensorFlow. Then, in turn, our import job (one worker with one thread) turns them into shards, and a process of
Python does what the official `movi_kubric_dump_with_labels.py` does: decode every frame and mask, write them as PNG again, and the labels
as JSON. That side is spared TensorFlow, checksums, and everything in a record but what it writes. Compared is CPU time, all processes and
their start included. The images and masks that come out have to be equal, and those scaled to half the size within 1 of Pillow's.
"""

import argparse
import io
import json
import os
import pathlib
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/orchestrator"
FRAMES, SIDE = 24, 256
# The wire type of everything with a length.
BYTES = 2


# Making the data.


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def field(tag: int, content: bytes) -> bytes:
    return varint(tag << 3 | BYTES) + varint(len(content)) + content


def feature(name: str, kind: str, values) -> bytes:
    if kind == "bytes":
        inner = field(1, b"".join(field(1, value) for value in values))
    elif kind == "floats":
        inner = field(2, field(1, np.asarray(values, "<f4").tobytes()))
    elif kind == "packed":
        inner = field(3, field(1, values))
    else:
        inner = field(3, field(1, b"".join(varint(int(value)) for value in values)))
    return field(1, field(1, name.encode()) + field(2, inner))


def crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = crc_table()


def masked_crc(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def frame(generator: np.random.Generator, objects: int, t: int) -> tuple[np.ndarray, np.ndarray]:
    """A textured picture and its mask of discs."""
    coarse = generator.integers(0, 255, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.BICUBIC)).astype(np.int16)
    picture = picture + generator.normal(0, 4, picture.shape).astype(np.int16)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for k in range(objects):
        y, x, radius = (37 * k + 3 * t) % SIDE, (91 * k + 2 * t) % SIDE, 10 + 3 * (k % 7)
        disc = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        mask[disc] = k + 1
        picture[disc] += 20 * (k % 5) - 40
    return picture.clip(0, 255).astype(np.uint8), mask


def record(generator: np.random.Generator) -> bytes:
    objects = int(generator.integers(11, 24))
    frames = [frame(generator, objects, t) for t in range(FRAMES)]
    visible = [[int((mask == k + 1).sum()) for _, mask in frames] for k in range(objects)]
    # Two u16 per pixel: three bytes each as varints.
    flow = generator.integers(128, 256, (FRAMES * SIDE * SIDE * 2, 3), dtype=np.uint8)
    flow[:, 2] &= 3
    noise = [generator.bytes(200_000) for _ in range(FRAMES)]
    per_frame = {"positions": 3, "quaternions": 4, "velocities": 3, "angular_velocities": 3, "bboxes_3d": 24, "image_positions": 2}
    features = [
        feature("video", "bytes", [png(picture) for picture, _ in frames]),
        feature("segmentations", "bytes", [png(mask) for _, mask in frames]),
        *(feature(name, "packed", flow.tobytes()) for name in ("forward_flow", "backward_flow")),
        *(feature(name, "bytes", noise) for name in ("depth", "normal", "object_coordinates")),
        feature("metadata/num_frames", "integers", [FRAMES]),
        feature("metadata/num_instances", "integers", [objects]),
        feature("instances/category", "integers", generator.integers(0, 17, objects)),
        feature("instances/is_dynamic", "integers", generator.integers(0, 2, objects)),
        feature("instances/visibility", "integers", np.ravel(visible)),
        *(feature(f"instances/{name}", "floats", generator.normal(size=objects)) for name in ("scale", "mass", "friction")),
        *(
            feature(f"instances/{name}", "floats", generator.normal(size=objects * FRAMES * width))
            for name, width in per_frame.items()
        ),
    ]
    return field(1, b"".join(features))


def make(folder: pathlib.Path, videos: int, seed: int) -> None:
    """Training videos in two files, and one video for validation; a video is repeated in each file, for the checksums take time here."""
    generator = np.random.default_rng(seed)
    for split, counts in (("train", (videos // 2, videos - videos // 2)), ("validation", (1,))):
        for i, count in enumerate(counts):
            data = record(generator)
            length = struct.pack("<Q", len(data))
            framed = length + masked_crc(length) + data + masked_crc(data)
            with open(folder / f"movi_e-{split}.tfrecord-{i:05}-of-{len(counts):05}", "wb") as file:
                for _ in range(count):
                    file.write(framed)


# What the official script does.


def fields(data: memoryview):
    """Tag and content of each length-delimited field."""
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = number()
        assert tag & 7 == BYTES
        length = number()
        yield tag >> 3, data[at : at + length]
        at += length


def integers(data: memoryview) -> np.ndarray:
    values, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            values.append(value)
            value = shift = 0
    return np.array(values)


def parse(data: bytes) -> dict:
    """The features that the official script writes."""
    found = {}
    (_, features), = fields(memoryview(data))
    for _, entry in fields(features):
        (_, name), (_, value) = fields(entry)
        name = bytes(name).decode()
        if name not in ("video", "segmentations") and not name.startswith("instances/"):
            continue
        (kind, values), = fields(value)
        if kind == 1:
            found[name] = [bytes(value) for _, value in fields(values)]
        else:
            (_, packed), = fields(values)
            found[name] = np.frombuffer(packed, "<f4") if kind == 2 else integers(packed)
    return found


class JsonEncoder(json.JSONEncoder):
    def default(self, value):
        return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else json.JSONEncoder.default(self, value)


def dump(source: str, target: str) -> None:
    """Every frame as PNG, its mask as PNG, its labels as JSON."""
    video = 0
    for path in sorted(pathlib.Path(source).glob("*-train.tfrecord-*")):
        with open(path, "rb") as file:
            while header := file.read(12):
                data = file.read(struct.unpack("<Q", header[:8])[0])
                file.read(4)
                dump_video(parse(data), pathlib.Path(target), video)
                video += 1


def dump_video(features: dict, target: pathlib.Path, video: int) -> None:
    objects = len(features["instances/category"])
    instances = {}
    for name, value in features.items():
        if name.startswith("instances/"):
            value = value if len(value) == objects else value.reshape(objects, FRAMES, -1)
            instances[name.removeprefix("instances/")] = value
    images, labels = target / "images" / f"{video:08}", target / "labels" / f"{video:08}"
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
    pictures = np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in features["video"]])
    masks = np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in features["segmentations"]])
    for t in range(FRAMES):
        Image.fromarray(pictures[t]).save(images / f"{t:08}_image.png", optimize=False)
        Image.fromarray(masks[t]).save(labels / f"{t:08}_segment.png", optimize=False)
        of_frame = {name: value[:, t] if value.ndim > 1 else value for name, value in instances.items()}
        with open(labels / f"{t:08}_instances.json", "w") as file:
            json.dump(of_frame, file, cls=JsonEncoder)


# Both sides.


def cpu_seconds(command: list, **options) -> tuple[float, float]:
    """CPU and wall time of a command with everything that it starts and waits for."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.perf_counter() - began


def ours(folder: pathlib.Path, name: str, *more: str) -> tuple[float, float]:
    settings = [
        f"run.root={folder / 'runs'}",
        f"run.name={name}",
        f"data.images={folder / name}",
        f"import.source={folder / 'movi'}",
        "cluster.workers_per_node=1",
        "cluster.threads_per_worker=1",
        "cluster.device=cpu",
        *more,
    ]
    command = [BINARY, "launch", "--config", "configs/movi-e.toml", "--job", "import"]
    return cpu_seconds(command + [word for setting in settings for word in ("--set", setting)], cwd=ROOT)


def rows(folder: pathlib.Path, column: str) -> np.ndarray:
    """A column of all shards of a split."""
    parts = []
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
            begin, end = header[column]["data_offsets"]
            file.seek(begin, os.SEEK_CUR)
            parts.append(np.frombuffer(file.read(end - begin), np.uint8).reshape(header[column]["shape"]))
    return np.concatenate(parts)


def compare(folder: pathlib.Path, videos: int) -> None:
    """Whether what came out is the same."""
    pictures, masks = rows(folder / "ours-0/train", "image"), rows(folder / "ours-0/train", "mask")
    smaller = rows(folder / "half/train", "image")
    worst = 0
    for row in range(0, videos * FRAMES, 7):
        begin = f"{row // FRAMES:08}/{row % FRAMES:08}"
        picture = Image.open(folder / f"peer-0/images/{begin}_image.png")
        assert np.array_equal(pictures[row], np.asarray(picture)), f"image {begin}"
        assert np.array_equal(masks[row], np.asarray(Image.open(folder / f"peer-0/labels/{begin}_segment.png"))), f"mask {begin}"
        scaled = np.asarray(picture.resize((SIDE // 2, SIDE // 2), Image.BILINEAR)).astype(int)
        worst = max(worst, int(np.abs(scaled - smaller[row]).max()))
    assert worst <= 1, f"scaled images differ from Pillow's by up to {worst}"
    print(f"images and masks are equal; scaled images differ from Pillow's by {worst} at most")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=40, help="videos of 24 frames to import")
    parser.add_argument("--rounds", type=int, default=3, help="imports per side")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", type=float, default=2.0, help="least ratio of CPU times")
    options = parser.parse_args()
    frames = options.videos * FRAMES
    print(f"seed {options.seed}, {options.videos} videos, {frames} frames of {SIDE} x {SIDE} pixels", flush=True)
    with tempfile.TemporaryDirectory(prefix="importing-") as name:
        folder = pathlib.Path(name)
        (folder / "movi").mkdir()
        make(folder / "movi", options.videos, options.seed)
        times: dict[str, list[float]] = {"ours": [], "peer": []}
        for turn in range(options.rounds):
            peer = f"import sys; sys.path.insert(0, {str(ROOT / 'tests/peers')!r}); import importing; "
            peer += f"importing.dump({str(folder / 'movi')!r}, {str(folder / f'peer-{turn}')!r})"
            for side, (cpu, wall) in (
                ("ours", ours(folder, f"ours-{turn}")),
                ("peer", cpu_seconds([sys.executable, "-c", peer])),
            ):
                times[side].append(cpu)
                print(f"round {turn + 1}  {side}  {cpu:6.2f} s of CPU, {wall:6.2f} s  {frames / cpu:7.1f} frames per CPU second", flush=True)
        ours(folder, "half", "data.resolution=128")
        compare(folder, options.videos)
    medians = {side: statistics.median(measured) for side, measured in times.items()}
    ratio = medians["peer"] / medians["ours"]
    print(f"median: ours {frames / medians['ours']:.1f}, the official steps {frames / medians['peer']:.1f} frames per CPU second: {ratio:.1f}x")
    return 0 if ratio >= options.target else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"failed: {error.stderr.decode()}")
