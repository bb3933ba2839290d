"""Passes the output of `cargo test` through and ends it with the counts and the tests that were skipped, each with its reason.

A test is skipped by `#[ignore = "reason"]`, or while it runs by a line `skipped NAME: reason` on standard error. Whether the tests
passed is for cargo's exit code to say.
"""

import re
import sys

RESULT = re.compile(r"test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored")
TARGET = re.compile(r"^\s+(?:Running (?:unittests )?(\S+)|Doc-tests (\S+))")
IGNORED = re.compile(r"^test (\S+) \.\.\. ignored(?:, (.*))?$")
SKIPPED = re.compile(r"\bskipped (\S+): (.*)$")
FAILED = re.compile(r"^test (\S+) \.\.\. FAILED$")


def main() -> None:
    counts: list[tuple[str, int, int, int]] = []
    skipped: dict[str, str] = {}
    failed: list[str] = []
    target = "?"
    for line in sys.stdin:
        sys.stdout.write(line)
        sys.stdout.flush()
        line = line.rstrip("\n")
        if match := TARGET.search(line):
            target = match[1] or f"{match[2]} (documentation)"
            if found := re.search(r"/deps/(\w+)-[0-9a-f]+\)", line):
                target = f"{found[1]} {target}"
        elif match := RESULT.search(line):
            counts.append((target, int(match[1]), int(match[2]), int(match[3])))
        elif match := IGNORED.search(line):
            skipped[match[1]] = match[2] or "no reason given"
        elif match := FAILED.search(line):
            failed.append(match[1])
        elif match := SKIPPED.search(line):
            skipped[match[1]] = match[2]

    print("\nTests:")
    for target, passed, failures, ignored in counts:
        if passed + failures + ignored:
            print(f"  {passed:5} passed  {failures:3} failed  {target}")
    for name in failed:
        print(f"  FAILED   {name}")
    for name, reason in sorted(skipped.items()):
        print(f"  skipped  {name}: {reason}")
    passed = sum(count[1] for count in counts)
    failures = sum(count[2] for count in counts)
    # A test that skipped itself counts as passed with cargo.
    itself = len(skipped) - sum(count[3] for count in counts)
    print(f"{passed - itself} passed, {failures} failed, {len(skipped)} skipped")


if __name__ == "__main__":
    main()
