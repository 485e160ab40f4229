# Sourced by the commands: installs what a fresh Debian 12 lacks, and says so.

# need_packages PROGRAM:PACKAGE... - a package is installed when its program is missing.
need_packages() {
    local missing=() pair
    for pair in "$@"; do
        if [[ ${pair%%:*} == /* ]]; then
            [[ -e ${pair%%:*} ]] || missing+=("${pair##*:}")
        else
            command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair##*:}")
        fi
    done
    [[ ${#missing[@]} -eq 0 ]] && return 0
    echo "installing Debian packages: ${missing[*]}" >&2
    if [[ $(id -u) -ne 0 ]]; then
        echo "not root: run  apt-get install ${missing[*]}  and try again" >&2
        return 1
    fi
    # PostgreSQL's own cluster and etcd's own service are not wanted, only the programs.
    mkdir -p /etc/postgresql-common
    [[ -e /etc/postgresql-common/createcluster.conf ]] || echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
    local policy=/usr/sbin/policy-rc.d made=
    [[ -e $policy ]] || { printf '#!/bin/sh\nexit 101\n' >$policy; chmod 755 $policy; made=1; }
    local code=0
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >&2 || code=$?
    [[ -n $made ]] && rm -f $policy
    return $code
}

# What compiling the agent needs.
need_build() {
    need_packages cc:gcc protoc:protobuf-compiler /usr/include/google/protobuf/empty.proto:libprotobuf-dev
    if ! command -v cargo >/dev/null 2>&1 && [[ -x $HOME/.cargo/bin/cargo ]]; then
        PATH=$HOME/.cargo/bin:$PATH
    fi
    command -v cargo >/dev/null 2>&1 || { echo "no cargo: install a Rust toolchain first (https://rustup.rs)" >&2; return 1; }
}

# What running boxes in namespaces needs.
need_lab() {
    need_packages /usr/lib/postgresql/15/bin/postgres:postgresql-15 etcd:etcd-server etcdctl:etcd-client ip:iproute2 \
        /usr/bin/python3:python3 nsenter:util-linux setpriv:util-linux
}

# need_patroni ROOT - the peer and its patronictl, in a virtual environment under .cache.
need_patroni() {
    local venv=$1/.cache/venv
    [[ -x $venv/bin/patroni ]] && "$venv/bin/patroni" --version 2>/dev/null | grep -q 4.1.5 && return 0
    need_packages /usr/bin/python3:python3
    /usr/bin/python3 -c 'import ensurepip' 2>/dev/null || need_packages /nonexistent:python3-venv
    echo "installing Patroni 4.1.5 from PyPI into .cache/venv" >&2
    rm -rf "$venv"
    /usr/bin/python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check 'patroni[etcd3]==4.1.5' 'psycopg[binary]' >&2
}
