#!/usr/bin/env python3
"""How fast rows become batches: ours beside MosaicML Streaming, WebDataset and litData, on the same rows: `tests/peers/loading.py`.

Needs `make peers-loading`, whose `.venv-loading/bin/python` runs it, and `cargo build --release --example loading`. A row is an image
(the very JPEG bytes that ours stores) and its moments in half precision; a batch is ready when it is two tensors in the host's memory,
shuffled as each library shuffles. All read a local folder or, with `--s3`, an S3 server on this machine (s3s-fs, of `make servers`), each
through a folder that is empty at first: there the first epoch comes over the network. What was fetched is what the server read from its
disk meanwhile. What the server computes counts for nobody, and it has the last core; with that among `--cores`, it shares it with the sides.

With moments only, the peers get a data set that holds nothing else, which spares them the images beside: in ours they lie in another
file. Each side is confined to as many cores as `--cores` says, and peers may have as many worker processes or none: each of their figures is
that of the better way. `per core` is rows per second of computation, which other processes on the machine do not change as they do the
wall time; the first batch is timed from when a side's libraries are loaded. All sides run in turns, each time as a new process with the
allocator settings that `orchestrator launch` gives its workers; figures are medians over `--rounds`. With `--ours KEY=VALUE` ours is also
measured with that changed. A side that fails is named with the reason, and makes the exit code 1.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from allocator import ALLOCATOR
from loaders import PEERS, s3_client

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/loading"
LOADERS = pathlib.Path(__file__).with_name("loaders.py")
SERVER = ROOT / ".venv/s3s/bin/s3s-fs"
BUCKET = "box"
# Figures of which more is better: rows per second, and per second of computation.
RATES = ["cold", "cold_core", "warm", "warm_core"]


class Server:
    """s3s-fs with an empty bucket, on the last core."""

    def __init__(self, folder):
        (folder / "root" / BUCKET).mkdir(parents=True)
        words = ["--access-key", "test", "--secret-key", "secret", "--host", "127.0.0.1", "--port", "0", folder / "root"]
        command = ["taskset", "-c", str(os.cpu_count() - 1), SERVER, *words]
        self.said = folder / "said"
        with open(self.said, "w") as said:
            environment = os.environ | {"RUST_LOG": "s3s_fs=info"}
            self.process = subprocess.Popen(command, stdout=said, stderr=said, stdin=subprocess.DEVNULL, env=environment)
        endpoint = self.address()
        os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "secret"}
        os.environ |= {"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}
        os.environ |= {"AWS_ENDPOINT": endpoint, "AWS_ALLOW_HTTP": "true", "S3_ENDPOINT_URL": endpoint}

    def address(self):
        """From the line in which it says where it is."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self.process.poll() is None:
            _, found, rest = self.said.read_text().partition("http://127.0.0.1:")
            port = rest[: len(rest) - len(rest.lstrip("0123456789"))]
            if found and len(rest) > len(port):
                return f"http://127.0.0.1:{port}"
            time.sleep(0.05)
        self.close()
        sys.exit(f"{SERVER} did not say where it listens: {self.said.read_text().strip()}")

    def take(self, folder):
        """Uploads a folder; its URL."""
        client = s3_client()
        for path in filter(pathlib.Path.is_file, folder.rglob("*")):
            client.upload_file(str(path), BUCKET, f"{folder.name}/{path.relative_to(folder)}")
        return f"s3://{BUCKET}/{folder.name}"

    def served(self):
        """MiB that it has read from its disk."""
        fields = dict(line.split(": ") for line in pathlib.Path(f"/proc/{self.process.pid}/io").read_text().splitlines())
        return int(fields["rchar"]) / (1 << 20)

    def expect_alive(self):
        if self.process.poll() is not None:
            sys.exit(f"{SERVER} ended with {self.process.returncode}: {' '.join(self.said.read_text().split())[-500:]}")

    def close(self):
        self.process.kill()
        self.process.wait()


def cause(words):
    """The last error of what a side said, in one line: Python's and ours begin alike."""
    return " ".join(re.split(r"^(?=[\w.]*Error\b)", words, flags=re.MULTILINE)[-1].split())[:300]


def run(command, cores):
    """The figures of a side that reads once: of its first epoch and of all others."""
    command = ["taskset", "-c", f"0-{cores - 1}", *map(str, command)]
    environment = os.environ | ALLOCATOR | {"RUST_BACKTRACE": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    if done.returncode:
        raise RuntimeError(done.stderr or f"exit code {done.returncode}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    cold, warm = lines[0], lines[-1]
    rates = [cold["per_second"], cold["per_core"], warm["per_second"], warm["per_core"]]
    return dict(zip(RATES, rates)) | {"first_batch": warm["first_batch"]}


def best(ways):
    """Medians over the rounds of each way to read, and of those the better ones."""
    medians = [{key: statistics.median(figures[key] for figures in rounds) for key in rounds[0]} for rounds in ways]
    return {key: (max if key in RATES else min)(way[key] for way in medians) for key in medians[0]}


def our_command(side, place, settings):
    settings = [f"data.resolution={side}", "data.image_format=jpeg", f"data.latents={place}", *settings]
    return [BINARY, "--config", ROOT / "configs/quickstart.toml", *(word for setting in settings for word in ("--set", setting))]


class Comparison:
    """All sides over the rows of one size of image."""

    def __init__(self, options, side, folder, server):
        self.options, self.side, self.folder, self.server = options, side, folder, server
        self.cache, self.plain = folder / "cache", folder / "plain"
        ours = folder / f"ours-{side}"
        write = [*our_command(side, ours, []), "write", "--rows", options.rows, "--plain", self.plain]
        subprocess.run(list(map(str, write)), check=True)
        self.ours = self.place(ours)

    def place(self, folder):
        return self.server.take(folder) if self.server else folder

    def our_commands(self, reading, images):
        cache = f"data.cache_folder={self.cache}"
        moments_only = [] if images else ["--moments-only"]
        for settings in [[], *self.options.ours]:
            command = our_command(self.side, self.ours, [cache, *settings])
            yield ", ".join(["ours", *settings]), [[*command, "read", *reading, *moments_only]]

    def peer_commands(self, peer, reading, images):
        """Writes its data set; how it is read, without worker processes and with them."""
        folder = self.folder / f"{peer}-{self.side}-{'images' if images else 'moments'}"
        write = [sys.executable, LOADERS, "write", peer, self.plain, folder, *(["--images"] if images else [])]
        subprocess.run(list(map(str, write)), check=True, capture_output=True, timeout=600)
        command = [sys.executable, LOADERS, "read", peer, self.place(folder), *reading]
        cache = ["--cache", self.cache] if self.server else []
        return [[*command, *cache, "--workers", workers] for workers in sorted({0, self.options.cores})]

    def read_once(self, command):
        shutil.rmtree(self.cache, ignore_errors=True)
        before = self.server.served() if self.server else 0
        figures = run(command, self.options.cores)
        return figures | {"fetched": self.server.served() - before if self.server else 0}

    def reason(self, error):
        """Why a side failed, unless it is that the server has gone: then nothing else would tell anything."""
        if self.server:
            self.server.expect_alive()
        words = error.stderr.decode() if isinstance(error, subprocess.CalledProcessError) else str(error)
        return cause(words)

    def measure(self, images):
        """Prints a table; whether all sides have figures."""
        # Those of moments alone are short.
        epochs = self.options.epochs * (1 if images else 5)
        reading = ["--batch", self.options.batch, "--epochs", epochs]
        commands, failures = dict(self.our_commands(reading, images)), {}
        for peer in self.options.peers:
            try:
                commands[peer] = self.peer_commands(peer, reading, images)
            except Exception as error:
                failures[peer] = self.reason(error)
        found = {name: [[] for _ in ways] for name, ways in commands.items()}
        for _ in range(self.options.rounds):
            for name in [name for name in commands if name not in failures]:
                try:
                    for figures, command in zip(found[name], commands[name]):
                        figures.append(self.read_once(command))
                except Exception as error:
                    failures[name] = self.reason(error)
        results = {name: best(found[name]) for name in commands if name not in failures}
        self.print(results, failures, images)
        return not failures

    def print(self, results, failures, images):
        options, source = self.options, "s3s-fs" if self.server else "a local folder"
        what = "images and moments" if images else "moments only"
        print(f"\n{self.side} x {self.side}, {what}, from {source}; {options.rows} rows, batch {options.batch},", end=" ")
        print(f"{options.cores} core(s), {options.rounds} round(s), load {os.getloadavg()[0]:.1f}; rows per second (ours to theirs)")
        width = max(map(len, [*results, *failures]))
        heads = ["first epoch", "per core", "later epochs", "per core"]
        print(f"  {'':<{width}}{''.join(f'{head:>18}' for head in heads)}   first batch{'   fetched' if self.server else ''}")
        ours = results.get("ours")
        for name, result in results.items():
            cells = [f"{result[key]:.0f} {f'({ours[key] / result[key]:.1f}x)' if ours else '':>8}" for key in RATES]
            fetched = f"{result['fetched']:>6.0f} MiB" if self.server else ""
            print(f"  {name:<{width}}{''.join(f'{cell:>18}' for cell in cells)}{result['first_batch']:>12.2f} s{fetched}", flush=True)
        for name, reason in failures.items():
            print(f"  {name:<{width}}  failed: {reason}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="*", default=[128, 256], help="of the square images, in pixels")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--s3", action="store_true", help="read from an S3 server instead of a local folder")
    parser.add_argument("--ours", nargs="+", action="append", default=[], metavar="KEY=VALUE", help="a row of ours with this changed")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS)
    options = parser.parse_args()
    # The server goes, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    if options.epochs < 2:
        parser.error("--epochs: two at least, as the first is told apart")
    good = True
    for side in options.sides:
        with tempfile.TemporaryDirectory(prefix="loading-") as folder:
            folder, server = pathlib.Path(folder), None
            try:
                server = Server(folder) if options.s3 else None
                comparison = Comparison(options, side, folder, server)
                for images in [True, False]:
                    good &= comparison.measure(images)
            finally:
                if server:
                    server.close()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
