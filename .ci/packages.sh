#!/bin/sh
# Installs the system packages that the build needs, where they are missing: a compiler for torch-sys, Open MPI for the worker,
# libclang for the MPI bindings, venv for libtorch. `packages.sh test` adds what the tests' cluster is made of (tests/cluster), for
# root, who alone can bring it up, sshfs for a folder behind a network protocol, npm for a server that speaks Azure's protocol, and a
# browser for the report of a run. Apart from the Makefile because it is the one part that differs between systems.
set -eu

missing=""
wanted=""
need() { # need PACKAGE COMMAND...: the package, unless the command succeeds
    package=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}

# The C library, which bindings are generated with; libclang-cpp.so beside it is another one.
libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] || { ldconfig -p; ls /usr/lib/llvm-*/lib/; } | grep -q 'libclang\(-[0-9.]*\)\?\.so'
}

PATH="$PATH:/usr/sbin:/sbin"
need build-essential c++ --version
need pkg-config pkg-config --version
need python3-venv python3 -c 'import ensurepip, venv'
need openmpi-bin mpirun --version
need libopenmpi-dev mpicc --version
need libclang-dev libclang
if [ "${1:-}" = test ] && [ "$(id -u)" = 0 ]; then
    need slurm-wlm slurmctld -V
    need munge munged --version
    need openssh-server test -x /usr/sbin/sshd
    need iproute2 ip -Version
fi
if [ "${1:-}" = test ]; then
    need nodejs node --version
    need npm npm --version
    need sshfs sshfs --version
    # Ubuntu has no package of it: the tests that need it are skipped there, by name.
    chromium --version >/dev/null 2>&1 || wanted="chromium"
fi
[ -n "$missing$wanted" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=""
elif command -v sudo >/dev/null; then
    as_root="sudo"
else
    as_root="missing"
fi
if [ "$as_root" = missing ] || ! command -v apt-get >/dev/null; then
    [ -n "$missing" ] || exit 0
    echo "Missing system packages, please have them installed:$missing" >&2
    exit 2
fi

# Daemons that come with the packages are the tests' to start: they neither start now nor when the machine does.
unwanted=""
for service in slurmctld slurmd munge ssh; do
    [ -e "/etc/init.d/$service" ] || unwanted="$unwanted $service"
done
policy=/usr/sbin/policy-rc.d
if [ -z "$as_root" ] && [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
    trap 'rm -f $policy' EXIT
fi

echo "Installing system packages:$missing $wanted"
$as_root apt-get update -qq
install() {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}
# shellcheck disable=SC2086 # one word per package
[ -z "$missing" ] || install $missing
[ -z "$wanted" ] || install "$wanted" || echo "going on without $wanted" >&2
for service in $unwanted; do
    [ ! -e "/etc/init.d/$service" ] || $as_root update-rc.d "$service" disable
done
