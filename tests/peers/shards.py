#!/usr/bin/env python3
"""What `orchestrator shards export` wrote, read by others: `tests/peers/shards.py DATA [--webdataset DIR] [--lightningdit DIR]`.

Tar files are read as WebDataset reads them (tarfile, NumPy, Pillow; by the package itself where it is installed), LightningDiT's by
safetensors. All of it is compared with the shards, which stock safetensors opens as they lie. Fails if a value differs.
"""

import argparse
import io
import json
import pathlib
import sys
import tarfile

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

IMAGES = {"png", "jpg", "webp"}


def rows_of(folder):
    """Row after row, what each column holds: an array, or the bytes of an encoded image."""
    manifest = json.loads((folder / "dataset.json").read_text())["content"]
    for shard in manifest["shards"]:
        tensors = {}
        for file in shard["files"]:
            tensors.update(load_file(folder / file["name"]))
        for row in range(shard["rows"]):
            found = {}
            for column in manifest["schema"]["columns"]:
                name = column["name"]
                if column.get("encoding"):
                    begin, end = tensors[f"{name}.offsets"][row : row + 2]
                    found[name] = tensors[f"{name}.bytes"][begin:end].tobytes()
                else:
                    found[name] = tensors[name][row]
            yield found


def by_tarfile(path):
    """Samples of a tar file: file names that share what comes before their first dot."""
    key, sample = None, {}
    with tarfile.open(path) as archive:
        for member in archive:
            own, dot, ending = member.name.partition(".")
            if not dot:
                # What the data set says about itself.
                continue
            if own != key and sample:
                yield sample
                sample = {}
            key = own
            sample[ending] = archive.extractfile(member).read()
    if sample:
        yield sample


def by_webdataset(path):
    import webdataset

    for sample in webdataset.WebDataset(str(path), shardshuffle=False):
        yield {ending: value for ending, value in sample.items() if not ending.startswith("__")}


def same(stored, files, name):
    ending, content = next((ending, content) for ending, content in files.items() if ending.rsplit(".", 1)[0] == name)
    if ending.rsplit(".", 1)[1] in IMAGES:
        Image.open(io.BytesIO(content)).load()
        return content == stored
    array = np.load(io.BytesIO(content))
    return array.dtype == stored.dtype and array.tobytes() == stored.tobytes()


def check_webdataset(data, exported):
    readers = [by_tarfile]
    try:
        import webdataset  # noqa: F401

        readers.append(by_webdataset)
    except ImportError:
        print("webdataset is not installed: tarfile alone")
    for reader in readers:
        for split in ("train", "validation"):
            samples = (sample for path in sorted((exported / split).glob("*.tar")) for sample in reader(path))
            count = 0
            for row, files in zip(rows_of(data / split), samples, strict=True):
                wrong = [name for name in row if not same(row[name], files, name)]
                if wrong or len(files) != len(row):
                    sys.exit(f"sample {count} of {split} by {reader.__name__}: {wrong or sorted(files)}")
                count += 1
            print(f"{count} samples of {split} are the same by {reader.__name__}")


def check_lightningdit(data, exported):
    for split in ("train", "validation"):
        if not (exported / split).is_dir():
            continue
        files = [load_file(path) for path in sorted((exported / split).glob("*.safetensors"))]
        joined = {name: np.concatenate([file[name] for file in files]) for name in ("latents", "latents_flip", "labels")}
        rows = list(rows_of(data / split))
        for key, name in (("latents", "moments"), ("latents_flip", "moments_flipped")):
            moments = np.stack([row[name] for row in rows]).astype(np.float32)
            if not np.array_equal(joined[key], moments[:, : moments.shape[1] // 2]):
                sys.exit(f"{key} of {split} are not the means of {name}")
        if joined["labels"].shape != (len(rows),):
            sys.exit(f"labels of {split}: {joined['labels'].shape}")
        print(f"{len(rows)} latents of {split} are the means of the moments")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path, help="the data set that was exported, with its splits")
    parser.add_argument("--webdataset", type=pathlib.Path, help="its export")
    parser.add_argument("--lightningdit", type=pathlib.Path, help="its export")
    options = parser.parse_args()
    if options.webdataset:
        check_webdataset(options.data, options.webdataset)
    if options.lightningdit:
        check_lightningdit(options.data, options.lightningdit)


if __name__ == "__main__":
    main()
