"""Kernels, PostgreSQL and busybox of the guests' architectures, from Debian, without touching this machine's packages.

Everything lands under .cache/vm/ARCH: `lists` (apt's own), `debs`. What is there is not fetched again; apt checks the
hash of every package against the signed lists. PACKAGES names what a guest needs; llvm, perl and systemd are left out.
"""
import os
import re
import subprocess
import time

RELEASE = "bookworm"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
# Dependencies of postgresql-15 that a server in an initramfs does without.
LEFT_OUT = re.compile(
    r"^(libllvm|libz3|perl|libperl|.*-perl$|usrmerge|libc-l10n|systemd|libsystemd-shared|postgresql-common|postgresql-client-common|ssl-cert|adduser|passwd|"
    r"debconf|cdebconf|netbase|locales|tzdata-legacy|sysvinit|init|lsb|sensible|ucf|readline-common|openssl$|mount|login|"
    r"util-linux|dpkg|tar$|logsave|e2fsprogs|libdb5|libgdbm|logrotate|cron|coreutils|libpam-|libsem|libsepol)")


class Debian:
    """The packages of one architecture."""

    def __init__(self, cache, arch):
        self.arch = arch
        self.dir = os.path.join(cache, arch)
        self.debs = os.path.join(self.dir, "debs")
        for part in ("lists/partial", "debs", "etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d", "archives/partial"):
            os.makedirs(os.path.join(self.dir, part), exist_ok=True)
        open(os.path.join(self.dir, "empty"), "a").close()

    def _options(self):
        def option(name, value):
            return f"-o{name}={value}"
        return [
            option("APT::Architecture", self.arch), option("APT::Architectures", self.arch),
            option("APT::Install-Recommends", "false"), option("APT::Sandbox::User", "root"),
            option("Acquire::Languages", "none"), option("Acquire::Retries", "3"),
            option("Dir::State::Lists", f"{self.dir}/lists"), option("Dir::State::status", f"{self.dir}/empty"),
            option("Dir::Cache::archives", f"{self.dir}/archives/"), option("Dir::Cache::pkgcache", f"{self.dir}/pkgcache.bin"),
            option("Dir::Cache::srcpkgcache", f"{self.dir}/srcpkgcache.bin"),
        ] + self._sources()

    def _sources(self):
        """The release itself and nothing else: the other suites are often out of step with their mirror for a while."""
        path = f"{self.dir}/sources.list"
        with open(path, "w") as file:
            file.write(f"deb [signed-by={KEYRING}] {MIRROR} {RELEASE} main\n")
        return [f"-oDir::Etc::SourceList={path}", f"-oDir::Etc::SourceParts={self.dir}/etc/sources.list.d"]

    def _apt(self, *command, cwd=None):
        return subprocess.run(list(command[:1]) + self._options() + list(command[1:]), cwd=cwd, check=True, text=True,
                              capture_output=True).stdout

    def _update(self):
        """Foreign lists are now and then out of step with their mirror for a moment."""
        for attempt in range(4):
            try:
                self._apt("apt-get", "update", "-qq")
                return
            except subprocess.CalledProcessError as error:
                if attempt == 3:
                    raise SystemExit(f"apt-get update for {self.arch} failed: {error.stderr.strip()}") from None
                time.sleep(5 * (attempt + 1))

    def _resolve(self, packages):
        """Names of `packages` and what they depend on."""
        out = self._apt("apt-get", "-y", "--print-uris", "install", *packages)
        names = re.findall(r"^'[^']*' ([^_ ]+)_", out, re.M)
        return sorted(name for name in set(names) if not LEFT_OUT.match(name))

    def _kernel(self, package):
        """The package with the kernel that the package of the newest one depends on."""
        out = self._apt("apt-cache", "depends", package)
        return re.search(r"Depends: (linux-image-\S+)", out).group(1)

    def fetch(self, kernel, packages):
        """Downloads the kernel and the packages, unless a list of them is there already. Returns (kernel .deb, other .debs)."""
        wish = os.path.join(self.dir, "fetched")
        key = f"{kernel} {' '.join(packages)} {LEFT_OUT.pattern}"
        if os.path.exists(wish):
            with open(wish) as file:
                lines = file.read().splitlines()
            paths = [os.path.join(self.debs, name) for name in lines[1:]]
            if lines[0] == key and all(map(os.path.exists, paths)):
                return paths[0], paths[1:]
        self._update()
        names = [self._kernel(kernel)] + self._resolve(packages)
        for name in os.listdir(self.debs):
            os.unlink(os.path.join(self.debs, name))
        try:
            self._apt("apt-get", "download", "-qq", *names, cwd=self.debs)
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"apt-get download for {self.arch} failed: {error.stderr.strip()}") from None
        files = sorted(os.listdir(self.debs), key=lambda name: (not name.startswith(names[0] + "_"), name))
        with open(wish + ".new", "w") as file:
            file.write("\n".join([key] + files) + "\n")
        os.rename(wish + ".new", wish)
        paths = [os.path.join(self.debs, name) for name in files]
        return paths[0], paths[1:]
