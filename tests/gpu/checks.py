"""What has to hold on a GPU. Each check returns a line on what it has seen, or raises why it failed or was skipped."""

import gzip
import json
import math
import os
import signal
import struct
import time

from lab import ROOT, Failure, Skipped

QUICKSTART = ROOT / "configs/quickstart.toml"
# Each step's loss is that of its own images, timesteps and noise: curves are compared by means over this share of the steps.
WINDOWS = 6


def status(lab):
    """libtorch sees the device."""
    if lab.device == "cpu":
        raise Skipped("the device is the CPU")
    return lab.example("device", "status").strip()


def gradients(lab):
    """Those of a training step are the CPU's."""
    lines = lab.example("device", "gradients", QUICKSTART, lab.device).splitlines()[1:]
    worst = {}
    for line in lines:
        kind, found = line.split("  ")[0], float(line.split("by ")[1].split()[0])
        worst[kind] = max(worst.get(kind, 0.0), found)
    return ", ".join(f"{kind} {found:.0e}" for kind, found in worst.items())


def adamw(lab):
    """The fused optimizer is the CPU's."""
    if lab.device == "cpu":
        raise Skipped("the device is the CPU, whose updates are what others are compared with")
    return lab.example("device", "adamw", lab.device).splitlines()[-1]


def graph(lab):
    """Steps that are launched as CUDA graphs are the same steps."""
    if lab.device == "cpu":
        raise Skipped("the CPU has no CUDA graphs")
    return lab.example("device", "graph", QUICKSTART, lab.device).splitlines()[-1]


def data(lab):
    """The jobs that make the quickstart's data set."""
    for job in ("scenes", "autoencoder", "encode"):
        lab.launch("data", job=job).expect_success()
    return "scenes, autoencoder and encode are done"


def launch(lab):
    """One worker trains the quickstart."""
    settings = {"checkpoint.every_steps": lab.steps // 3} | deterministic(lab)
    lab.launch("fp32", settings).expect_success()
    device = lab.status("fp32")["workers"][0]["device"]
    if not device.startswith(lab.device):
        raise Failure(f"the worker computed on {device}")
    curve = means(lab.series("fp32", "loss"))
    if not curve[-1] < 0.9 * curve[0]:
        raise Failure(f"nothing was learned: {curve}")
    rates = sorted(lab.series("fp32", "images_per_second"))
    return f"on {device}, loss {curve[0]:.3f} to {curve[-1]:.3f}, median {rates[len(rates) // 2]:.0f} images/s"


def bf16(lab):
    """In bf16 the loss takes the same way."""
    lab.launch("bf16", {"train.precision": "bf16"}).expect_success()
    full, rounded = means(lab.series("fp32", "loss")), means(lab.series("bf16", "loss"))
    if full == rounded:
        raise Failure("nothing was rounded")
    return within("the mean loss of a part of the steps differs", differences(full, rounded), 0.02)


GRAPH = {"train.cuda_graph": "auto"}


def graph_run(lab):
    """A run of CUDA graphs has the losses of one without, checkpoints on the way included."""
    lab.launch("graph", GRAPH | {"checkpoint.every_steps": lab.steps // 3} | deterministic(lab)).expect_success()
    captured_with(lab, "graph", "sums=false")
    found = within("the loss of a step differs", differences(lab.series("fp32", "loss"), lab.series("graph", "loss")), 1e-3)
    rates = [sorted(lab.series(name, "images_per_second")) for name in ("graph", "fp32")]
    with_graphs, without = (rate[len(rate) // 2] for rate in rates)
    return f"{found}; median {with_graphs:.0f} images/s, {without:.0f} without"


def graph_ranks(lab):
    """Two workers whose sums are part of their graphs train as one does."""
    train_together(lab, "graph-together", GRAPH).expect_success()
    said = within("the loss of a step differs", differences(lab.series("fp32", "loss"), lab.series("graph-together", "loss")), 1e-3)
    try:
        captured_with(lab, "graph-together", "sums=true")
    except Failure as failure:
        return f"{said}, but the sums follow the graphs: {failure}"
    return f"{said}, with the sums in the graphs"


def captured_with(lab, name, words):
    """Makes sure that rank 0's log tells of graphs, and how."""
    (log,) = sorted((lab.folder / "runs" / name / "logs").glob("gen-*/rank-00000.log"))[-1:] or [None]
    lines = [line for line in (log.read_text() if log else "").splitlines() if "CUDA graph" in line]
    if not any("steps are launched as CUDA graphs" in line and words in line for line in lines):
        raise Failure(lines[-1].strip() if lines else "no log tells of CUDA graphs")


def resume(lab):
    """A run that was killed ends with the very weights of one that was not."""
    every = lab.steps // 3
    settings = {"checkpoint.every_steps": every} | deterministic(lab)
    program = lab.launch("resumed", settings)
    lab.wait_for("checkpoint", lambda: (lab.status("resumed").get("checkpoint") or 0) >= every, program)
    program.kill()
    lab.run([lab.binaries / "orchestrator", "launch", "--resume", "runs/resumed"])
    whole, resumed = lab.weights("fp32"), lab.weights("resumed")
    if whole == resumed and whole:
        return f"{sum(map(len, whole.values())):,} bytes of weights are equal"
    found = weight_difference(whole, resumed)
    if lab.device == "cuda" and not deterministic(lab):
        raise Skipped(f"{DETERMINISTIC} is not known, and without it the weights differ by {found:.1e} of their norm")
    raise Failure(f"the weights differ by {found:.1e} of their norm")


def two_ranks(lab):
    """Two workers train as one does."""
    train_together(lab, "together").expect_success()
    return within("the loss of a step differs", differences(lab.series("fp32", "loss"), lab.series("together", "loss")), 1e-3)


def lost_rank(lab):
    """When one of two workers is killed, the other ends, and the run goes on to the same end."""
    every = lab.steps // 3
    program = train_together(lab, "lost", {"checkpoint.every_steps": every})
    lab.wait_for("checkpoint", lambda: (lab.status("lost").get("checkpoint") or 0) >= every, program)
    workers = {worker["rank"]: worker["pid"] for worker in lab.status("lost")["workers"]}
    killed = time.time()
    os.kill(workers[1], signal.SIGKILL)
    lab.wait_for("end of the other worker", lambda: not alive(workers[0]), program)
    ended = time.time() - killed
    program.expect_success()
    again = [record["time"] for record in lab.records("lost") if record["generation"] == 2]
    if not again:
        raise Failure("there was no second generation: was the run over before?")
    losses = differences(lab.series("fp32", "loss"), lab.series("lost", "loss"))
    said = within("the loss of a step differs", losses, 1e-3)
    return f"the other ended after {ended:.1f} s, the next step was done after {again[0] - killed:.1f} s; {said}"


def profile(lab):
    """`launch --profile` leaves a trace of what the device did."""
    if "--profile" not in lab.run([lab.binaries / "orchestrator", "launch", "--help"]):
        raise Skipped("this orchestrator has no launch --profile")
    table = lab.launch("profile", {"train.steps": 8}, options=["--profile", "3"]).expect_success()
    traces = sorted((lab.folder / "runs/profile/profile").glob("*.json"))
    if not traces:
        raise Failure(f"no trace: {table[-300:]}")
    events = json.loads(traces[0].read_text())["traceEvents"]
    kernels = sum(event.get("cat") == "kernel" for event in events)
    if lab.device == "cuda" and not kernels:
        raise Failure(f"a trace of {len(events)} events, and none is a kernel of the device")
    if lab.options.to:
        with gzip.open(lab.options.to / "trace.json.gz", "wb") as file:
            file.write(traces[0].read_bytes())
    return f"{len(events)} events, {kernels} kernels of the device"


DETERMINISTIC = "train.deterministic=true"


def deterministic(lab):
    """The settings under which libtorch computes the same bits each time; the CPU does so anyway."""
    if lab.device == "cpu" or not lab.knows(DETERMINISTIC):
        return {}
    return dict([DETERMINISTIC.split("=")])


def train_together(lab, name, settings=()):
    """A launch of two workers, on one GPU over NCCL, on the CPU over MPI."""
    collective = "nccl" if lab.device == "cuda" else "mpi"
    if collective == "mpi" and b"libmpi.so" not in (lab.binaries / "worker").read_bytes():
        raise Skipped("the packed worker is built without MPI")
    worker = lab.folder / "worker-beside-another"
    # NCCL refuses two ranks on one GPU of one host, so each says that it is a host of its own.
    worker.write_text(f"""#!/bin/sh
rank=${{OMPI_COMM_WORLD_RANK:-${{RANK:-0}}}}
export NCCL_HOSTID=rank$rank NCCL_NET=Socket NCCL_SOCKET_IFNAME=lo NCCL_IB_DISABLE=1 CUDA_VISIBLE_DEVICES=0 LOCAL_RANK=0
exec {lab.binaries}/worker "$@"
""")
    worker.chmod(0o755)
    settings = {"cluster.workers_per_node": 2, "cluster.collective": collective} | dict(settings)
    return lab.launch(name, settings, worker=worker)


def alive(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def means(series):
    size = max(len(series) // WINDOWS, 1)
    parts = [series[start : start + size] for start in range(0, len(series), size)]
    return [sum(part) / len(part) for part in parts if len(part) == size]


def differences(expected, found):
    if len(expected) != len(found) or not expected:
        raise Failure(f"{len(found)} figures instead of {len(expected)}")
    return [abs(one - other) / abs(one) for one, other in zip(expected, found)]


def within(what, found, limit):
    said = f"{what} by at most {max(found):.1e} (limit {limit:.0e})"
    if not max(found) <= limit:
        raise Failure(said)
    return said


def weight_difference(expected, found):
    """Norm of the difference of two sets of safetensors files of f32, as a share of the norm."""
    difference = norm = 0.0
    for name, file in expected.items():
        for one, other in zip(numbers(file), numbers(found[name]), strict=True):
            difference, norm = difference + (one - other) ** 2, norm + one**2
    return math.sqrt(difference / norm)


def numbers(file):
    (header,) = struct.unpack("<Q", file[:8])
    return (value for (value,) in struct.iter_unpack("<f", file[8 + header :]))
