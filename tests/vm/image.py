"""What a guest boots: a kernel, and an initramfs of three layers.

- base: busybox, the modules of the machine, `guest/init`
- postgres: PostgreSQL 15 with its libraries (only for scenarios with the agent)
- program: the scenarios and the programs under test, made anew for every run

The first two are kept in .cache/vm/ARCH and made again when what they are made of changes.
"""
import hashlib
import os
import re
import shutil
import subprocess

import cpio
from debian import Debian

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGES = ["postgresql-15", "libc6", "busybox-static"]
# Of PostgreSQL's packages only this goes into the guest (below usr/, after /lib and /bin were moved there).
POSTGRES_PARTS = re.compile(r"^usr/(lib/postgresql/15/(bin/(postgres|initdb|pg_\w+|psql)$|lib/(?!bitcode|llvmjit))|share/postgresql/15/(?!man)|"
                            r"share/zoneinfo/(UTC|Etc|GMT)|lib/[^/]*-linux-gnu[^/]*/[^/]*\.so|lib64/|lib/ld-)")
PASSWD = "root:x:0:0::/root:/bin/sh\npostgres:x:100:100::/var/lib/postgresql:/bin/sh\n"
HOSTS = "127.0.0.1 localhost\n::1 localhost\n10.0.2.2 host\n"


def unpack(deb, directory, patterns=()):
    """Unpacks a package, or those of its files that match."""
    reading = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE)
    wanted = ["--wildcards", *patterns] if patterns else []
    code = subprocess.run(["tar", "x", "-C", directory, *wanted], stdin=reading.stdout, stderr=subprocess.DEVNULL).returncode
    reading.wait()
    if code and not patterns:
        raise SystemExit(f"cannot unpack {deb}")


def merge_usr(directory):
    """Moves /lib, /bin and so on below /usr, as an installed Debian 12 has them."""
    for name in ("lib", "lib64", "bin", "sbin"):
        source = os.path.join(directory, name)
        if os.path.isdir(source) and not os.path.islink(source):
            subprocess.run(["cp", "-a", f"{source}/.", os.path.join(directory, "usr", name)], check=True)
            shutil.rmtree(source)


def modules(root, wanted):
    """The modules and what they depend on, in the order of loading: paths below `root`."""
    found = {}
    for base, _, names in os.walk(root):
        found.update({name[:-3].replace("-", "_"): os.path.join(base, name) for name in names if name.endswith(".ko")})
    order = []

    def add(name):
        name = name.replace("-", "_")
        path = found.get(name)
        if path is None or path in order:
            return
        with open(path, "rb") as file:
            depends = re.search(rb"\0depends=([^\0]*)\0", b"\0" + file.read())
        for needed in (depends.group(1).decode().split(",") if depends else []):
            add(needed)
        order.append(path)

    for name in wanted:
        if name.replace("-", "_") not in found:
            continue  # part of the kernel itself
        add(name)
    return order


class Image:
    """Everything that one machine boots."""

    def __init__(self, cache, machine):
        self.machine = machine
        self.dir = os.path.join(cache, machine.debian)
        self.cache = cache
        self.kernel = os.path.join(self.dir, "vmlinuz")
        self.dtb = os.path.join(self.dir, "machine.dtb") if machine.dtb else None
        self.base = os.path.join(self.dir, "base.cpio")
        self.postgres = os.path.join(self.dir, "postgres.cpio")

    def prepare(self):
        """Fetches and builds what is missing."""
        kernel, debs = Debian(self.cache, self.machine.debian).fetch(self.machine.kernel_package, PACKAGES)
        key = self._key([kernel, *debs])
        stamp = os.path.join(self.dir, "built")
        if os.path.exists(stamp) and open(stamp).read() == key:
            return
        work = os.path.join(self.dir, "work")
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(os.path.join(work, "kernel"))
        os.makedirs(os.path.join(work, "files"))
        unpack(kernel, os.path.join(work, "kernel"), ["./boot/vmlinuz-*", "*.ko", f"*/{self.machine.dtb or 'none.dtb'}"])
        for deb in debs:
            unpack(deb, os.path.join(work, "files"))
        merge_usr(os.path.join(work, "files"))
        self._kernel(os.path.join(work, "kernel"))
        self._base(work)
        self._postgres(os.path.join(work, "files"))
        shutil.rmtree(work)
        with open(stamp, "w") as file:
            file.write(key)

    def _key(self, debs):
        """Changes whenever the layers would."""
        digest = hashlib.sha256("\n".join(map(os.path.basename, debs)).encode())
        for name in ("image.py", "cpio.py", "machines.py", "guest/init"):
            with open(os.path.join(HERE, name), "rb") as file:
                digest.update(file.read())
        return digest.hexdigest()

    def _kernel(self, work):
        boot = os.path.join(work, "boot")
        shutil.copy(os.path.join(boot, os.listdir(boot)[0]), self.kernel)
        if self.dtb:
            for base, _, names in os.walk(work):
                if self.machine.dtb in names:
                    shutil.copy(os.path.join(base, self.machine.dtb), self.dtb)

    def _base(self, work):
        archive = cpio.Archive(self.base)
        archive.console()
        for name in ("proc", "sys", "run", "root", "mnt", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64"):
            archive.folder(name)
        archive.folder("tmp", 0o1777)
        for name in ("lib", "lib64", "bin", "sbin"):
            archive.link(name, f"usr/{name}")
        archive.copy(os.path.join(work, "files/usr/bin/busybox"), "usr/bin/busybox")
        archive.link("usr/bin/sh", "busybox")
        archive.copy(os.path.join(HERE, "guest/init"), "init")
        archive.data("etc/passwd", PASSWD.encode())
        archive.data("etc/group", b"root:x:0:\npostgres:x:100:\n")
        archive.data("etc/hosts", HOSTS.encode())
        names = []
        for path in modules(os.path.join(work, "kernel"), self.machine.modules):
            names.append(os.path.basename(path))
            archive.copy(path, f"modules/{names[-1]}")
        archive.data("modules/order", ("\n".join(names) + "\n").encode())
        archive.close()

    def _postgres(self, root):
        archive = cpio.Archive(self.postgres)
        for base, folders, names in os.walk(root):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(base, name)
                inside = os.path.relpath(path, root)
                if POSTGRES_PARTS.match(inside):
                    archive.copy(path, inside)
        archive.close()

    def initrd(self, path, files, postgres):
        """Writes the initramfs of one boot: {name inside: file of this machine}."""
        program = path + ".program"
        archive = cpio.Archive(program)
        for name, source in sorted(files.items()):
            archive.copy(source, name)
        archive.close()
        with open(path, "wb") as out:
            for layer in [self.base] + ([self.postgres] if postgres else []) + [program]:
                with open(layer, "rb") as file:
                    shutil.copyfileobj(file, out)
        os.unlink(program)
