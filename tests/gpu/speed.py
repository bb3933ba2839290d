"""The speed of a step beside PyTorch's, peer by peer, from `tests/peers/step_speed.py`."""

import json

from lab import ROOT, Failure, Skipped

# Peer and what it is; c last, for it may spend all its time compiling.
PEERS = {
    "a": "the official recipe: fp16, autoencoder in every step",
    "e": "eager, fp32",
    "b": "bf16, channels last, fused AdamW",
    "c": "as b, torch.compile(max-autotune)",
}
# Images of the first try; half of it as long as memory does not suffice.
BATCH = 32


class Speed:
    """Collects the rows of the table."""

    def __init__(self):
        self.rows, self.rate, self.flops = [], None, None

    def of(self, peer, graph=False):
        """The check that measures beside this peer, with ours as CUDA graphs or kernel by kernel."""

        def check(lab):
            if graph and lab.device == "cpu":
                raise Skipped("the CPU has no CUDA graphs")
            batch = BATCH
            while True:
                row = self.measure(lab, peer, batch, graph)
                if "out of memory" not in row.get("error", "") or batch == 1:
                    break
                batch //= 2
            if "error" in row:
                raise Failure(row["error"])
            self.rows.append(row)
            return self.words(row)

        check.__doc__ = f"The step beside {PEERS[peer]}."
        return check

    def measure(self, lab, peer, batch, graph):
        if lab.device == "cuda":
            arguments = ["--config", ROOT / "configs/movi-e.toml", "--precision", "bf16", "--batch", batch, "--threads", 8]
            arguments += ["--steps", 40, "--block", 10]
        else:
            arguments = ["--batch", 4, "--threads", 1, "--steps", 3, "--warm-up", 1]
        arguments += ["--graph"] if graph else []
        command = lab.peer("step_speed.py", "--json", "--noise-ahead", "--device", lab.device, "--peers", peer, *arguments)
        program = lab.start(command)
        # A row with an error has exit code 1, and is there all the same.
        program.wait()
        lines = [json.loads(line) for line in program.out.read_text().splitlines()]
        if len(lines) < 2:
            raise Failure(program.last_words())
        self.rate, self.flops = lines[0]["matrix_rate"], lines[0]["flops_per_image"]
        return lines[1]

    @staticmethod
    def words(row):
        ours, theirs = row["ours"], row["theirs"]
        said = f"batch {row['batch']}: {1e3 * ours['wall']:.1f} ms, peer {1e3 * theirs['wall']:.1f} ms, {row['ratio']:.2f}x"
        if "mfu" in ours:
            said += f", MFU {100 * ours['mfu']:.0f} % and {100 * theirs['mfu']:.0f} %"
        return said + f", first step of the peer {theirs['first']:.0f} s longer"

    def table(self):
        """Lines of markdown."""
        if not self.rows:
            return ["No speed was measured."]
        lines = ["| beside | batch | ours, ms | peer, ms | ratio | MFU, ours | MFU, peer | MiB, ours | MiB, peer | first step, peer |"]
        lines += ["|---" * 10 + "|"]
        for row in self.rows:
            ours, theirs = row["ours"], row["theirs"]
            share = [f"{100 * side['mfu']:.1f} %" if "mfu" in side else "" for side in (ours, theirs)]
            ours_as = ", ours as graphs" if row["graph"] else ""
            cells = [f"{row['peer']}: {PEERS[row['peer']]}{ours_as}", row["batch"], f"{1e3 * ours['wall']:.1f}", f"{1e3 * theirs['wall']:.1f}"]
            cells += [f"{row['ratio']:.2f}x", *share, f"{ours['memory'] / 2**20:.0f}", f"{theirs['memory'] / 2**20:.0f}"]
            lines.append("| " + " | ".join(map(str, [*cells, f"{theirs['first']:.0f} s"])) + " |")
        if self.rate:
            lines += ["", f"An 8192^3 bf16 product runs at {self.rate / 1e12:.0f} TFLOP/s; a step has {self.flops / 1e9:.1f} GFLOP per image."]
        return lines
