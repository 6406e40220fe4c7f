"""Small file systems of our own, in images: to be filled, made read-only, or cut off in the middle of a write."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FS_IOC_SHUTDOWN = 0x8004587D
NOLOGFLUSH = 2  # not even the file system's own journal is written out first
MKFS = {"ext4": ("mkfs.ext4", "-q", "-F"), "xfs": ("mkfs.xfs", "-q", "-f")}


class Disk:
    """A mounted file system."""

    def __init__(self, image: Path, place: Path) -> None:
        self.image, self.place = image, place

    def mount(self, *options: str) -> None:
        """Mount it, or mount it anew with other options; recover it if need be."""
        _run("mount", "-o", ",".join(("loop", *options)), str(self.image), str(self.place))

    def turn_read_only(self) -> None:
        """What the kernel does when it finds the file system damaged; ext4 lets us say that it has."""
        _run("mount", "-o", "remount,errors=remount-ro", str(self.place))
        device = os.path.realpath(f"/sys/dev/block/{os.major(self._device)}:{os.minor(self._device)}")
        Path(f"/sys/fs/ext4/{os.path.basename(device)}/trigger_fs_error").write_text("a test\n")

    def shut_down(self) -> None:
        """Cut it off: everything from now on is EIO, and what the kernel has not yet sent to the image is lost."""
        folder = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, FS_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(folder)

    def unmount(self) -> None:
        """Take it away."""
        _run("umount", str(self.place))

    @property
    def _device(self) -> int:
        return os.stat(self.place).st_dev

    @property
    def room(self) -> int:
        """Bytes that are free."""
        status = os.statvfs(self.place)
        return status.f_bavail * status.f_frsize

    def fill(self, leave: int) -> Path:
        """Write a file until at most so many bytes are free; remove it to make room."""
        filler = self.place / "filler"
        with filler.open("ab", buffering=0) as file:
            while (room := self.room) > leave:
                try:
                    file.write(bytes(max(512, min(room - leave, 1 << 20) // 2)))
                except OSError:
                    break
                os.fsync(file.fileno())
        return filler


@contextmanager
def disk(folder: Path, kind: str, *options: str, megabytes: int = 512) -> Iterator[Disk]:
    """A new file system of this kind, made with these options; unmounted and detached afterwards, whatever happens."""
    if os.geteuid() != 0 or not os.path.exists("/dev/loop-control"):
        pytest.skip("a file system of our own needs root and loop devices")
    if shutil.which(MKFS[kind][0], path=_PATH) is None:
        pytest.skip(f"a file system of our own needs {MKFS[kind][0]}, which is not installed")
    image, place = folder / "disk.img", folder / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(megabytes << 20)  # sparse
    _run(*MKFS[kind], *options, str(image))
    it = Disk(image, place)
    try:
        it.mount()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"a loop mount of {kind} is refused here: {error.stderr.decode().splitlines()[0]}")
    try:
        yield it
    finally:
        if os.path.ismount(place):
            _run("umount", "--lazy", str(place))  # its loop device goes with it


_PATH = f"{os.environ.get('PATH')}:/sbin:/usr/sbin"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PATH": _PATH})
