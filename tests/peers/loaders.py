#!/usr/bin/env python3
"""The peers of `loading.py`, each as its users would have it: `loaders.py write PEER ...` makes its data set of plain files,
`loaders.py read PEER ...` turns rows of it into batches and prints a line of figures per epoch: first those of the first epoch, then those
of all epochs since.

A place is a folder, or `s3://BUCKET/PREFIX` of the server that the environment names, read through a folder on this machine: MosaicML
Streaming and litData copy shards there, as does WebDataset with `cache_dir`, which opens presigned URLs by its own means, a curl for each.
"""

import argparse
import importlib
import io
import json
import os
import pathlib
import time

# And what each is imported as.
PEERS = {"mosaicml": "streaming", "webdataset": "webdataset", "litdata": "litdata"}


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


def s3_client():
    import boto3

    return boto3.client("s3", endpoint_url=os.environ["S3_ENDPOINT_URL"])


def tar_urls(place):
    """The archives of a place: paths, or presigned URLs."""
    if not place.startswith("s3://"):
        return sorted(map(str, pathlib.Path(place).glob("*.tar")))
    client = s3_client()
    bucket, prefix = place.removeprefix("s3://").split("/", 1)
    found = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")["Contents"]
    signed = [client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": entry["Key"]}) for entry in found]
    return sorted(signed)


def read_mosaicml(place, cache, batch, **loading):
    import torch
    from streaming import StreamingDataset

    where = {"remote": place, "local": cache} if cache else {"local": place}
    dataset = StreamingDataset(**where, shuffle=True, batch_size=batch)
    return torch.utils.data.DataLoader(dataset, batch_size=batch, collate_fn=stack, drop_last=True, **loading)


def read_litdata(place, cache, batch, **loading):
    import litdata
    from litdata.streaming import downloader

    # For a server without TLS; it has no setting of its own for that.
    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = "true"
    remote = {"cache_dir": cache, "storage_options": {"endpoint_url": os.environ["S3_ENDPOINT_URL"]}} if cache else {}
    dataset = litdata.StreamingDataset(place, shuffle=True, drop_last=True, **remote)
    return litdata.StreamingDataLoader(dataset, batch_size=batch, collate_fn=stack, drop_last=True, **loading)


def read_webdataset(place, cache, batch, **loading):
    import torch
    import webdataset

    urls = tar_urls(place)
    if cache:
        pathlib.Path(cache).mkdir(exist_ok=True)
    split = {"nodesplitter": webdataset.split_by_node, "workersplitter": webdataset.split_by_worker}
    dataset = webdataset.WebDataset(urls, shardshuffle=len(urls), empty_check=False, cache_dir=cache, **split)
    dataset = dataset.shuffle(1000).map(lambda row: {"moments": row["moments"]} | ({"image": row["jpg"]} if "jpg" in row else {}))
    return torch.utils.data.DataLoader(dataset.batched(batch, collation_fn=stack, partial=False), batch_size=None, **loading)


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


def read(options):
    import torch

    torch.set_num_threads(1)
    importlib.import_module(PEERS[options.peer])
    begun, first = time.perf_counter(), None
    reader = globals()[f"read_{options.peer}"]
    loading = {"num_workers": options.workers, "persistent_workers": options.workers > 0}
    loader = reader(options.place, options.cache, options.batch, **loading)
    for epoch in range(options.epochs):
        if epoch < 2:
            since, cpu, rows = time.perf_counter(), cpu_seconds(), 0
        for batch in loader:
            rows += len(batch[0])
            first = first or time.perf_counter() - begun
        seconds, computed = time.perf_counter() - since, cpu_seconds() - cpu
        rates = {"per_second": rows / seconds, "per_core": rows / max(computed, 0.01)}
        print(json.dumps({"epoch": epoch, "rows": rows, **rates, "first_batch": first}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    write = commands.add_parser("write")
    write.add_argument("peer", choices=PEERS)
    write.add_argument("plain", type=pathlib.Path, help="folder of NUMBER.moments and NUMBER.jpg")
    write.add_argument("folder", type=pathlib.Path)
    write.add_argument("--images", action="store_true")
    reading = commands.add_parser("read")
    reading.add_argument("peer", choices=PEERS)
    reading.add_argument("place")
    reading.add_argument("--cache", help="folder for what comes over the network")
    reading.add_argument("--batch", type=int, required=True)
    reading.add_argument("--epochs", type=int, required=True)
    reading.add_argument("--workers", type=int, required=True)
    options = parser.parse_args()
    if options.command == "write":
        return globals()[f"write_{options.peer}"](options.plain, options.folder, options.images)
    return read(options)


if __name__ == "__main__":
    main()
