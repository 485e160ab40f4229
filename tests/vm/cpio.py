"""Writes initramfs archives (cpio, newc): the kernel unpacks several of them one behind the other."""
import os
import stat

TRAILER = "TRAILER!!!"


class Archive:
    """An archive that is being written. Everybody in it is root's, every time is 0: equal content, equal bytes."""

    def __init__(self, path):
        self.file = open(path, "wb")
        self.inode = 0
        self.seen = set()

    def _entry(self, name, mode, data=b"", device=(0, 0)):
        self.inode += 1
        raw = name.encode() + b"\0"
        fields = (self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, device[0], device[1], len(raw), 0)
        head = b"070701" + "".join(f"{field:08X}" for field in fields).encode() + raw
        self.file.write(head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4))

    def folder(self, name, mode=0o755):
        """A folder and those above it."""
        if not name or name in self.seen:
            return
        self.folder(os.path.dirname(name))
        self.seen.add(name)
        self._entry(name, stat.S_IFDIR | mode)

    def data(self, name, content, mode=0o644):
        """A file with this content."""
        self.folder(os.path.dirname(name))
        self._entry(name, stat.S_IFREG | mode, content)

    def link(self, name, target):
        """A symbolic link."""
        self.folder(os.path.dirname(name))
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def copy(self, source, name):
        """A file or a link of this machine, or a folder with all that is in it."""
        if os.path.islink(source):
            self.link(name, os.readlink(source))
        elif os.path.isdir(source):
            self.folder(name)
            for child in sorted(os.listdir(source)):
                self.copy(os.path.join(source, child), os.path.join(name, child))
        else:
            with open(source, "rb") as file:
                self.data(name, file.read(), stat.S_IMODE(os.stat(source).st_mode))

    def console(self):
        """The node that the first process gets as its terminal."""
        self.folder("dev")
        self._entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))

    def close(self):
        """Ends the archive; the next one begins at a multiple of 512."""
        self.inode = 0
        self._entry(TRAILER, 0)
        self.file.write(b"\0" * (-self.file.tell() % 512))
        self.file.close()
