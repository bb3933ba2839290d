#!/bin/bash
# A real Slurm cluster of four hosts on this one machine, for the tests of what only a cluster can show. Needs root.
#
#   cluster.sh up FOLDER                  bring it up, wait until all four hosts are idle
#   cluster.sh hold FOLDER                wait for its turn, `up`, say `up`; `down` when standard input ends
#   cluster.sh down FOLDER                end it and everything that runs on it; does nothing if it is not up
#   cluster.sh kill-host FOLDER NODE      SIGKILL to every process of a host at once
#   cluster.sh start-host FOLDER NODE     start a killed host, wait until Slurm may use it again
#   cluster.sh cut FOLDER NODE            pull a host's network cable
#   cluster.sh heal FOLDER NODE           plug it in again, wait until Slurm may use the host again
#   cluster.sh settle FOLDER              start what is killed, heal what is cut, wait until all hosts may be used
#   cluster.sh shell FOLDER NODE COMMAND...   run a command on a host
#
# A host (node1 to node4) is a set of namespaces: it has its own network (10.77.0.1 to 10.77.0.4, eth0), host name, processes,
# /tmp and /dev/shm, a slurmd, an sshd on port 22, and two pretend GPUs. All hosts and this machine (10.77.0.254, where slurmctld
# runs) share the file system otherwise. FOLDER holds all files of the cluster: slurm.conf (for SLURM_CONF), ssh_config (for
# `ssh -F`), logs, state. It must not hold anything else: `up` empties it of what an earlier cluster left.
#
# Addresses and names are the machine's, so one cluster can be up at a time: $RUN/lock is held as long as it is.
set -euo pipefail

RUN=/run/lsd-cluster
BRIDGE=lsd-cluster
NODES="node1 node2 node3 node4"
HEAD=10.77.0.254
MARK="of the test cluster"
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CHECKOUT=$(cd "$HERE/../.." && pwd)
# Longer than anything here takes on a busy machine.
PATIENCE=60
SYSTEM_PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH="$PATH:$SYSTEM_PATH"

say() {
    echo "cluster: $*" >&2
}

die() { # die MESSAGE [LOG]: the last lines of the log tell why
    say "$1"
    if [ -s "${2:-}" ]; then
        echo "--- end of $2:" >&2
        tail -n 20 "$2" >&2
    fi
    exit 1
}

await() { # await LOG WHAT COMMAND...: until the command succeeds
    local log=$1 what=$2 deadline=$((SECONDS + PATIENCE))
    shift 2
    until "$@"; do
        [ $SECONDS -lt $deadline ] || die "$what: not within $PATIENCE s" "$log"
        sleep 0.05
    done
}

# ---- Processes that are remembered by a file with their id

running() { # running PIDFILE WORD: whether that process lives and has WORD on its command line, so is not a later one with its id
    local pid
    { read -r pid <"$1"; } 2>/dev/null || return 1
    { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qF -- "$2"
}

gone() {
    ! running "$@"
}

finish() { # finish PIDFILE WORD: SIGKILL, and wait until it is gone
    if running "$1" "$2"; then
        kill -KILL "$(cat "$1")" 2>/dev/null || true
        await /dev/null "the end of $2" gone "$1" "$2"
    fi
    rm -f "$1"
}

# ---- Hosts

host_running() {
    running "$RUN/$1.pid" "cluster.sh init"
}

# Starts a host's first process, in namespaces of its own, and with it the host. It says its id when the network is there.
start_host() {
    local node=$1 pid="" log=$FOLDER/hosts/$1/init.log
    mkdir -p "$FOLDER/hosts/$node/spool" "$FOLDER/hosts/$node/mount"
    # Descriptor 5: this machine's network, where the other end of the host's cable belongs. 9, the lock, is not the host's to hold.
    read -r pid < <(setsid unshare --net --uts --ipc --mount --pid --fork \
        env -i PATH="$SYSTEM_PATH" HOME=/root SLURM_CONF="$SLURM_CONF" "$HERE/cluster.sh" init "$FOLDER" "$node" \
        5</proc/self/ns/net 9>&- </dev/null 2>"$log") || die "$node does not start" "$log"
    echo "$pid" >"$RUN/$node.pid"
}

init() { # what the first process of a host does
    local node=$1 pid
    # /proc is still the machine's, and so is the id in it.
    read -r pid _ </proc/self/stat
    hostname "$node"
    nsenter --net=/proc/self/fd/5 ip link add "lsd-$node" type veth peer name eth0 netns 1
    nsenter --net=/proc/self/fd/5 ip link set "lsd-$node" master "$BRIDGE" up
    exec 5<&-
    ip link set lo up
    # The same address in hardware after a restart too: the other hosts remember it for a while.
    ip link set eth0 address "02:77:00:00:00:0${node#node}"
    ip address add "10.77.0.${node#node}/24" dev eth0
    ip link set eth0 up
    mount -t proc proc /proc
    mount -t tmpfs tmpfs /dev/shm
    private_tmp "$FOLDER/hosts/$node/mount"

    slurmd -D -N "$node" -f "$SLURM_CONF" >/dev/null 2>&1 &
    mkdir -p /run/sshd
    /usr/sbin/sshd -D -f "$FOLDER/hosts/$node/sshd_config" -E "$FOLDER/hosts/$node/sshd.log" &
    echo "$pid"
    exec >&2
    # Every orphan of the host is this process's child; bash collects all children that end while it waits for one.
    while :; do
        sleep infinity &
        wait $! || true
    done
}

private_tmp() { # private_tmp STAGE: an own /tmp, with the checkout and FOLDER in it if they lie there
    local path
    mount -t tmpfs tmpfs "$1"
    chmod 1777 "$1"
    for path in "$CHECKOUT" "$FOLDER"; do
        case $path in
            /tmp/*)
                mkdir -p "$1/${path#/tmp/}"
                mount --bind "$path" "$1/${path#/tmp/}"
                ;;
        esac
    done
    mount --move "$1" /tmp
}

kill_host() { # the kernel ends all processes of a host with its first one
    finish "$RUN/$1.pid" "cluster.sh init"
    ip link delete "lsd-$1" 2>/dev/null || true
}

on_host() { # on_host NODE COMMAND...
    local node=$1
    shift
    host_running "$node" || die "$node is not running"
    nsenter --target "$(cat "$RUN/$node.pid")" --net --uts --ipc --mount --pid --wdns="$PWD" -- "$@"
}

node_state() {
    sinfo --noheader --nodes "$1" --partition batch --format %t 2>/dev/null
}

usable() { # usable NODE: whether Slurm may run jobs there
    case $(node_state "$1") in
        idle | mix | alloc) ;;
        drain* | drng*)
            # A process that did not die in time had Slurm close the host.
            scontrol update "NodeName=$1" State=RESUME 2>/dev/null || true
            return 1
            ;;
        *) return 1 ;;
    esac
}

await_usable() {
    await "$FOLDER/slurmctld.log" "$1 usable" usable "$1"
}

registered() { # registered NODE SINCE: whether slurmctld knows of a slurmd that started there at or after that second
    local at
    at=$(scontrol show node "$1" 2>/dev/null | sed -n 's/.*SlurmdStartTime=\([^ ]*\).*/\1/p')
    [ "$(date -d "$at" +%s 2>/dev/null || echo 0)" -ge "$2" ]
}

restart_host() {
    local since
    since=$(date +%s)
    kill_host "$1"
    start_host "$1"
    await "$FOLDER/hosts/$1/slurmd.log" "slurmd of $1" registered "$1" "$since"
    await_usable "$1"
}

heal() {
    ip link set "lsd-$1" up
    # slurmd registers anew on SIGHUP; slurmctld would ask for that within a minute.
    on_host "$1" sh -c "kill -HUP \$(cat '$FOLDER/hosts/$1/slurmd.pid')"
}

# ---- The cluster

take_lock() { # take_lock [PID]: waits for it if told to, and as long as that process lives
    mkdir -p "$RUN"
    exec 9>>"$RUN/lock"
    if ! flock --nonblock 9; then
        local owner
        owner=$(cat "$RUN/folder" 2>/dev/null || echo "another folder")
        [ $# -gt 0 ] || die "the cluster of $owner is up, and one can be at a time (cluster.sh down $owner)"
        say "waiting for the end of the cluster of $owner"
        until flock --timeout 1 9; do
            kill -0 "$1" 2>/dev/null || exit 1
        done
    fi
}

hosts_without_ours() {
    sed "/^# begin $MARK/,/^# end $MARK/d" /etc/hosts
}

write_hosts() { # from standard input; in place, since /etc/hosts may be a mount
    local text
    text=$(cat)
    echo "$text" >/etc/hosts
}

sweep() { # ends whatever is up, whoever left it
    local node
    for node in $NODES; do
        kill_host "$node"
    done
    finish "$RUN/slurmctld.pid" slurmctld
    finish "$RUN/munged.pid" munged
    ip link delete "$BRIDGE" 2>/dev/null || true
    if grep -q "^# begin $MARK" /etc/hosts; then
        hosts_without_ours | write_hosts
    fi
    rm -f "$RUN"/munge* "$RUN"/*.pid.lock "$RUN/slurmctld-own.pid" "$RUN/folder"
}

network() {
    ip link add "$BRIDGE" type bridge
    ip address add "$HEAD/24" dev "$BRIDGE"
    ip link set "$BRIDGE" up
    {
        hosts_without_ours
        echo "# begin $MARK"
        for node in $NODES; do
            echo "10.77.0.${node#node} $node"
        done
        echo "# end $MARK"
    } | write_hosts
}

configure_slurm() {
    mkdir -p "$FOLDER/state" "$FOLDER/gpu"
    sed "s|@FOLDER@|$FOLDER|; s|@RUN@|$RUN|; s|@HOST@|$(hostname -s)|" "$HERE/slurm.conf.in" >"$SLURM_CONF"
    # A device that nothing happens to.
    mknod "$FOLDER/gpu/0" c 1 3
    mknod "$FOLDER/gpu/1" c 1 3
    echo "NodeName=node[1-4] Name=gpu File=$FOLDER/gpu/[0-1]" >"$FOLDER/gres.conf"
}

configure_ssh() {
    local node
    ssh-keygen -q -t ed25519 -N "" -C "" -f "$FOLDER/client_key"
    for node in $NODES; do
        mkdir -p "$FOLDER/hosts/$node"
        ssh-keygen -q -t ed25519 -N "" -C "" -f "$FOLDER/hosts/$node/host_key"
        echo "$node,10.77.0.${node#node} $(cat "$FOLDER/hosts/$node/host_key.pub")" >>"$FOLDER/known_hosts"
        # FOLDER may belong to another user than root: no StrictModes.
        cat >"$FOLDER/hosts/$node/sshd_config" <<END
ListenAddress 10.77.0.${node#node}
HostKey $FOLDER/hosts/$node/host_key
AuthorizedKeysFile $FOLDER/client_key.pub
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PidFile none
SetEnv SLURM_CONF=$SLURM_CONF
END
    done
    cat >"$FOLDER/ssh_config" <<END
Host node* 10.77.0.*
    User root
    IdentityFile $FOLDER/client_key
    IdentitiesOnly yes
    UserKnownHostsFile $FOLDER/known_hosts
    StrictHostKeyChecking yes
    BatchMode yes
END
}

start_head() { # munged and slurmctld, on this machine
    head -c 1024 /dev/urandom >"$RUN/munge.key"
    chmod 600 "$RUN/munge.key"
    setsid munged --foreground --key-file="$RUN/munge.key" --socket="$RUN/munge.socket" --pid-file="$RUN/munge.pid" \
        --seed-file="$RUN/munge.seed" --log-file="$RUN/munge.log" 9>&- </dev/null >"$FOLDER/munged.log" 2>&1 &
    echo $! >"$RUN/munged.pid"
    disown
    await "$FOLDER/munged.log" "munged" test -S "$RUN/munge.socket"
    setsid slurmctld -D -f "$SLURM_CONF" 9>&- </dev/null >/dev/null 2>&1 &
    echo $! >"$RUN/slurmctld.pid"
    disown
}

reachable() {
    ssh -F "$FOLDER/ssh_config" -o ConnectTimeout=1 "$1" true 2>/dev/null
}

up() {
    local node
    trap 'sweep' EXIT
    sweep
    echo "$FOLDER" >"$RUN/folder"
    mkdir -p "$FOLDER"
    rm -rf "$FOLDER"/{labs,state,gpu,hosts,slurm.conf,gres.conf,ssh_config,known_hosts,client_key,client_key.pub,slurmctld.log,munged.log}
    network
    configure_slurm
    configure_ssh
    start_head
    for node in $NODES; do
        start_host "$node"
    done
    for node in $NODES; do
        await_usable "$node"
        await "$FOLDER/hosts/$node/sshd.log" "ssh to $node" reachable "$node"
    done
    trap - EXIT
}

down() {
    [ "$(cat "$RUN/folder" 2>/dev/null)" = "$FOLDER" ] || return 0
    sweep
    finish "$RUN/keeper.pid" "sleep infinity"
}

keep() { # holds the lock from now on
    setsid sleep infinity </dev/null >/dev/null 2>&1 &
    echo $! >"$RUN/keeper.pid"
    disown
}

hold() {
    # The end of the tests, not of their terminal, is what ends this.
    trap '' HUP INT TERM PIPE
    cat <&0 >/dev/null &
    local input=$!
    take_lock $input
    up
    echo up
    wait $input
    down >>"$FOLDER/down.log" 2>&1
}

settle() {
    local node
    for node in $NODES; do
        if host_running "$node"; then heal "$node"; else restart_host "$node"; fi
    done
    for node in $NODES; do
        await_usable "$node"
    done
}

main() {
    [ $# -ge 2 ] || { sed -n '2,/^set /s/^# \?//p' "$0" >&2; exit 2; }
    [ "$(id -u)" = 0 ] || die "needs root"
    local command=$1
    FOLDER=$(realpath -m "$2")
    SLURM_CONF=$FOLDER/slurm.conf
    export SLURM_CONF
    shift 2
    case $FOLDER in
        *[!A-Za-z0-9/._-]*) die "$FOLDER: Slurm does not take such a path" ;;
    esac
    case $command in
        up) take_lock; up; keep ;;
        down) down ;;
        hold) hold ;;
        kill-host) kill_host "$1" ;;
        start-host) restart_host "$1" ;;
        cut) ip link set "lsd-$1" down ;;
        heal) heal "$1"; await_usable "$1" ;;
        settle) settle ;;
        shell) on_host "$@" ;;
        init) init "$1" ;;
        *) die "unknown command $command" ;;
    esac
}

main "$@"
