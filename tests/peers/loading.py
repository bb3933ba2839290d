#!/usr/bin/env python3
"""How fast rows become batches: ours beside MosaicML Streaming, WebDataset and litData, on the same rows: `tests/peers/loading.py`.

Needs `make peers-loading`, whose `.venv-loading/bin/python` runs it, and `cargo build --release --example loading`. A row is an image (the very JPEG bytes that ours stores) and its moments in
half precision; a batch is ready when it is two tensors in the host's memory, shuffled as each library shuffles. All read a local folder; the
figure is that of all epochs but the first. With `--url s3://BUCKET/PREFIX` ours reads from there instead, and from its cache on the host from the second epoch on.

With moments only, the peers get a data set that holds nothing else, which spares them the images beside: in ours they lie in another file.
Each side is confined to as many cores as `--cores` says, and may have as many worker processes or none, whichever is faster. `per core` is
rows per second of computation, which other processes on the machine do not change as they do the wall time.
"""

import argparse
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/loading"
PEERS = ["mosaicml", "webdataset", "litdata"]


def rows_of(plain, images):
    for moments in sorted(plain.glob("*.moments")):
        row = {"moments": moments.read_bytes()}
        if images:
            row["image"] = moments.with_suffix(".jpg").read_bytes()
        yield moments.stem, row


def lit_row(item):
    return item


def write_mosaicml(plain, folder, images):
    from streaming import MDSWriter

    columns = {"moments": "bytes"} | ({"image": "bytes"} if images else {})
    with MDSWriter(out=str(folder), columns=columns, size_limit=64 << 20) as writer:
        for _, row in rows_of(plain, images):
            writer.write(row)


def write_webdataset(plain, folder, images):
    import webdataset

    folder.mkdir(parents=True, exist_ok=True)
    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxsize=64 << 20, verbose=0) as writer:
        for key, row in rows_of(plain, images):
            writer.write({"__key__": key, "moments": row["moments"]} | ({"jpg": row["image"]} if images else {}))


def write_litdata(plain, folder, images):
    from litdata import optimize

    rows = [row for _, row in rows_of(plain, images)]
    optimize(fn=lit_row, inputs=rows, output_dir=str(folder), chunk_bytes="64MB", num_workers=1)


def tensors(row):
    """A row as tensors, by the fastest way that these libraries' users have: PIL over libjpeg-turbo."""
    import numpy
    import torch
    from PIL import Image

    found = [torch.from_numpy(numpy.frombuffer(row["moments"], dtype=numpy.float16).copy())]
    if "image" in row:
        found.append(torch.from_numpy(numpy.array(Image.open(io.BytesIO(row["image"])))))
    return found


def stack(rows):
    import torch

    return [torch.stack(column) for column in zip(*map(tensors, rows))]


def loader_of(name, folder, batch, workers):
    import torch

    if name == "mosaicml":
        from streaming import StreamingDataset

        dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=batch)
        return torch.utils.data.DataLoader(dataset, batch_size=batch, num_workers=workers, collate_fn=stack, drop_last=True)
    if name == "litdata":
        import litdata

        dataset = litdata.StreamingDataset(str(folder), shuffle=True, drop_last=True)
        return litdata.StreamingDataLoader(dataset, batch_size=batch, num_workers=workers, collate_fn=stack, drop_last=True)
    import webdataset

    urls = sorted(map(str, folder.glob("*.tar")))
    split = {"nodesplitter": webdataset.split_by_node, "workersplitter": webdataset.split_by_worker}
    dataset = webdataset.WebDataset(urls, shardshuffle=len(urls), empty_check=False, **split)
    dataset = dataset.shuffle(1000).map(lambda row: {"moments": row["moments"]} | ({"image": row["jpg"]} if "jpg" in row else {}))
    return torch.utils.data.DataLoader(dataset.batched(batch, collation_fn=stack, partial=False), batch_size=None, num_workers=workers)


def cpu_seconds():
    """Seconds of computation of this process and its children, living and gone; those of the children in hundredths."""
    def of(pid):
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
            children = [child for task in tasks for child in (task / "children").read_text().split()]
        except OSError:
            return 0.0
        own = time.process_time() if pid == os.getpid() else sum(map(int, fields[11:13])) / 100
        return own + sum(map(int, fields[13:15])) / 100 + sum(map(of, children))

    return of(os.getpid())


def read_peer(options):
    import torch

    torch.set_num_threads(1)
    begun, first = time.perf_counter(), None
    loader = loader_of(options.peer, pathlib.Path(options.folder), options.batch, options.workers)
    for epoch in range(options.epochs):
        if epoch < 2:
            since, cpu, rows = time.perf_counter(), cpu_seconds(), 0
        for batch in loader:
            rows += len(batch[0])
            first = first or time.perf_counter() - begun
        seconds, computed = time.perf_counter() - since, cpu_seconds() - cpu
        rates = {"per_second": rows / seconds, "per_core": rows / max(computed, 0.01)}
        print(json.dumps({"epoch": epoch, "rows": rows, **rates, "first_batch": first}), flush=True)


def last_line(command, cores, environment=None):
    command = ["taskset", "-c", f"0-{cores - 1}", *map(str, command)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | (environment or {}), timeout=600)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(lines[-1])


def measure(options, side, folder):
    ours = folder / "ours"
    latents = options.url and f"{options.url}/{side}" or str(ours)
    settings = {"data.resolution": side, "data.image_format": "jpeg", "data.latents": latents}
    if options.url:
        settings |= {"data.cache_folder": str(folder / "cache")}
    command = [BINARY, "--config", ROOT / "configs/quickstart.toml"]
    command += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    plain = folder / "plain"
    subprocess.run([*command, "write", "--rows", str(options.rows), "--plain", plain], check=True)
    for images in [True, False]:
        what = "images and moments" if images else "moments only"
        epochs = options.epochs if images else options.epochs * 5
        read = ["read", "--batch", options.batch, "--epochs", epochs, *([] if images else ["--moments-only"])]
        results = {"ours": last_line([*command, *read], options.cores)}
        for peer in options.peers:
            place = folder / f"{peer}-{'images' if images else 'moments'}"
            try:
                write = [sys.executable, __file__, "--peer", peer, "--folder", place, "--plain", plain, *(["--images"] if images else [])]
                subprocess.run(list(map(str, write)), check=True, capture_output=True)
                runs = []
                for workers in sorted({0, options.cores}):
                    arguments = ["--peer", peer, "--folder", place, *read[1:5], "--workers", workers]
                    runs.append(last_line([sys.executable, __file__, *arguments], options.cores))
                best = max(runs, key=lambda run: run["per_second"])
                results[peer] = best | {"per_core": max(run["per_core"] for run in runs)}
            except Exception as error:
                print(f"{peer}: skipped, {error}", file=sys.stderr)
        print(f"\n{side} x {side}, {what}, {options.rows} rows, batch {options.batch}, {options.cores} core(s)")
        for name, result in results.items():
            ratio = results["ours"]["per_core"] / result["per_core"]
            figures = f"{result['per_second']:>10.0f} rows/s{result['per_core']:>10.0f} per core{ratio:>8.1f}x"
            print(f"  {name:<12}{figures}   first batch {result['first_batch']:.2f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="*", default=[128, 256])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--url", help="where ours lies, instead of a local folder")
    parser.add_argument("--peers", nargs="*", default=PEERS)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--plain", help=argparse.SUPPRESS)
    parser.add_argument("--images", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        return globals()[f"write_{options.peer}"](pathlib.Path(options.plain), pathlib.Path(options.folder), options.images)
    if options.peer:
        return read_peer(options)
    for side in options.sides:
        folder = pathlib.Path(tempfile.mkdtemp(prefix="loading-"))
        try:
            measure(options, side, folder)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
