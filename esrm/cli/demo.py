"""``esrm demo``: a small VM boots, fills up, is refused, crashes and comes back; then its log is asked what happened.

Everything is real: the file, the refusals, and the crash, for which a process of its own kills itself half-way through
a device's arrival. Next: ``demo_devices.py``, the devices; ``esrm/manager.py``, what is called here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from textwrap import fill
from typing import Any

import anyio
import click
from click.core import ParameterSource

from esrm import cli
from esrm.cli import demo_devices as devices
from esrm.cli.files import replacing_only
from esrm.cli.options import Asked, common
from esrm.cli.output import line, paint
from esrm.cli.page import is_page
from esrm.cli.wording import device as told
from esrm.devices import Device
from esrm.errors import EsrmError, Refused
from esrm.manager import ResourceManager, acting
from esrm.opening import open_reader, open_store

VM = "demo"
ACTOR = "esrm-demo"
"""Who writes the records; also how a demo's file is known."""
PAUSE_S = 0.7

Act = Callable[[ResourceManager], Coroutine[Any, Any, None]]


@click.command("demo")
@click.option("--store", type=click.Path(dir_okay=False), default="esrm-demo.db", show_default=True, metavar="PATH",
              help="The SQLite file to write; one of an earlier demo is replaced.")  # fmt: skip
@click.option("--page", type=click.Path(dir_okay=False), default="esrm-demo.html", show_default=True, metavar="PATH",
              callback=replacing_only("an esrm page", is_page),
              help="The HTML page to write; one that exists is replaced.")  # fmt: skip
@click.option("--fast", is_flag=True, help="Do not pause between the steps.")
@common(vm=False, formats=False, store=False)
@click.pass_context
def command(ctx: click.Context, asked: Asked, store: str, page: str, fast: bool) -> None:
    """Boot, fill, crash and explain a small VM.

    A microVM boots with memory, serial port, clock, keyboard controller, network and disk. Devices are plugged in until
    one does not fit; the guest is asked to give one up, and refuses; the process is killed in the middle of a step, and
    comes back. Then the log is asked what happened, and a page of the address map over time is written.
    """
    # Not what the environment says: that is where the work is.
    if "store" not in asked.typed or ctx.get_parameter_source("store") is ParameterSource.COMMANDLINE:
        asked.store = store
    scheme, _, path = asked.url.partition(":")
    if scheme != "sqlite":
        raise click.UsageError(f"{asked.url!r:.80} is no file, and the demo's log outlives its process: name one")
    _make_room(Path(path))
    Demo(path, page, pause_s=PAUSE_S if sys.stdout and sys.stdout.isatty() and not fast else 0).play()


class Demo:
    """The story, act by act; ``moments`` are the revisions it looks back at."""

    def __init__(self, path: str, page: str, *, pause_s: float) -> None:
        self.path, self.page = path, page
        self._pause_s = pause_s
        self._moments: list[int] = []
        self._acts = 0
        self._attached: list[Device] = []
        self._address = 0

    def play(self) -> None:
        """All of it."""
        self._with_manager(self._boot, self._hotplug, self._unplug)
        self._crash()
        self._with_manager(self._resume)
        self._look_back()
        self._farewell()

    def _with_manager(self, *acts: Act) -> None:
        async def run() -> None:
            async with (
                open_store(f"sqlite:{self.path}") as store,
                ResourceManager(store, vm=VM, platform=devices.platform(), actor=ACTOR) as vm,
            ):
                for act in acts:
                    await act(vm)
                    self._moments.append(vm.state.revision)

        anyio.run(run)

    # -- the acts -----------------------------------------------------------------------------------------------------

    async def _boot(self, vm: ResourceManager) -> None:
        self._act("Boot")
        say(
            "A microVM starts. Each device says what it needs: the old ones exact ports and lines, the virtio "
            "ones any page of address space and any line. Each step of each device is an event in the log."
        )
        with acting(correlation="boot"):
            for device in devices.boot_devices():
                await self._attach(vm, device)
        serial: Any = vm.live["serial0"]
        for byte in b"hello":
            await vm.pio_write(0x3F8, bytes([byte]))
        line()
        say(f"The guest writes to port 0x3f8, and the bus finds who answers there: serial0 has got {serial.said!r}.")

    async def _hotplug(self, vm: ResourceManager) -> None:
        self._act("Hot-plug, until one does not fit")
        say("A PCI bridge is plugged in; what is behind it lies inside its window of 64 KiB.")
        with acting(correlation="hot-plug"):
            for device in devices.hotplug_devices():
                await self._attach(vm, device)
        line()
        say(
            "The refusal says what was asked, what there is, and what would help. It is recorded like any other fact, "
            "and nothing was taken: a device gets all that it asked for, or nothing."
        )

    async def _unplug(self, vm: ResourceManager) -> None:
        self._act("Unplug: the guest has a say")
        with acting(correlation="make-room"):
            await vm.request_unplug("nvme0")
            await vm.refuse_unplug("nvme0", reason="a file system on it is mounted")
            line(
                "  nvme0  the guest was asked to let go, and refused: ",
                paint("a file system on it is mounted", fg="red"),
            )
            await vm.request_unplug("usb0")
            await vm.detach("usb0")
            line("  usb0   the guest let go: unregistered, released, removed")
            line()
            say("Now there is room for the one that was refused:")
            await self._attach(vm, devices.hotplug_devices()[-1])
        self._attached = list(vm.live.values())
        self._address = vm.state.device("nvme1").resources.mmio_address_ranges()[0][0]

    def _crash(self) -> None:
        self._act("Crash between two steps")
        say("Another process opens the same log, is half-way through plugging in rng0, and kills itself with SIGKILL.")
        script = "import sys; from esrm.cli.demo import die_half_way; die_half_way(sys.argv[1])"
        result = subprocess.run([sys.executable, "-c", script, self.path], check=False)
        if result.returncode != -signal.SIGKILL:
            raise click.ClickException(f"the process that was to be killed ended with {result.returncode}")
        line("  the process is gone: ", paint(f"killed by signal {signal.SIGKILL.value}", fg="red"))

    async def _resume(self, vm: ResourceManager) -> None:
        self._act("Open the log again")
        found = vm.state.device("rng0")
        line("  the log says  ", paint(told(found), bold=True))
        line()
        say(
            "It had been given resources, but was never told. The VMM starts as it always does and attaches all its "
            "devices: each gets what the log says that it holds, and only the steps that are missing are made."
        )
        before = vm.state.revision
        with acting(correlation="restart"):
            for device in [*self._attached, devices.late_device()]:
                await vm.attach(device)
        after = vm.state.device("rng0")
        line("  and now       ", paint(told(after), bold=True))
        line(f"  {len(vm.live)} devices attached, {vm.state.revision - before} new records")
        assert after.allocated == found.allocated, "what was allocated before the crash is what it holds after it"

    def _look_back(self) -> None:
        self._act("What happened?")
        say("From here on, only the file is asked, with the commands that you have, too.")
        boot, full, _, now = self._moments
        self._show("the last steps, newest first", "log", "-n", "12")
        self._show("the layout when the machine had booted ...", "map", "--space", "mmio", "--at", str(boot))
        self._show("... when nothing more fitted ...", "map", "--space", "mmio", "--at", str(full))
        self._show("... and now, with the other spaces", "map")
        self._show("what changed between the second and the third", "diff", str(full), str(now))
        self._show("who has this address, and since when?", "blame", "mmio", hex(self._address + 0x10))
        self._show("when was the first refusal, and why?", "bisect", "--refused")
        self._show("the life of the device that saw the crash", "timeline", "rng0")
        self._show("has anybody edited the file?", "verify")
        self._show("the address map over time, for a browser", "page", "--output", self.page)

    def _farewell(self) -> None:
        self._act("Now you")
        say("The log is yours to ask. Try:")
        for text in (
            f"export ESRM_STORE={self.path}",
            "esrm tree",
            f"esrm show {self._moments[1]}",
            "esrm map --free --space mmio",
            "esrm log --type AllocationRefused --json",
            "esrm log --correlation restart --reverse",
            "esrm stats",
            f"xdg-open {self.page}",
        ):
            line("  ", paint(text, fg="cyan"))

    # -- the telling --------------------------------------------------------------------------------------------------

    async def _attach(self, vm: ResourceManager, device: devices.DemoDevice) -> None:
        name = f"  {device.name:<8} {device.kind:<11} "
        try:
            resources = await vm.attach(device)
        except Refused as no:
            line(name, paint(f"refused: {str(no).removeprefix(f'{device.name}: ')}", fg="red"))
        else:
            line(name, str(resources))

    def _act(self, title: str) -> None:
        if self._acts:
            time.sleep(self._pause_s)
            line()
        self._acts += 1
        line(paint(f"== {self._acts}. {title} ==", bold=True))
        line()

    def _show(self, why: str, *arguments: str) -> None:
        """Run one of our own commands, as it would be typed."""
        time.sleep(self._pause_s)
        line()
        line(paint(f"# {why}", fg="bright_black"))
        line(paint(f"$ esrm {' '.join(arguments)}", fg="cyan"))
        code = cli.run(["--store", f"sqlite:{self.path}", "--vm", VM, *arguments])
        if code == cli.INTERRUPTED:
            raise click.Abort
        if code > 1:  # 1 is an answer: diff's, that there is a difference
            raise click.ClickException(f"the demo ends here, since `esrm {arguments[0]}` failed")


def say(text: str) -> None:
    """Tell it, in lines of a width that reads well, and leave a line free."""
    click.echo(fill(text, 96) + "\n")


def die_half_way(path: str) -> None:
    """What the process does that is killed: give rng0 its resources, and never tell it."""

    async def run() -> None:
        device = devices.late_device()
        async with open_store(f"sqlite:{path}") as store, ResourceManager(store, vm=VM, actor=ACTOR) as vm:
            with acting(correlation="hot-plug"):
                await vm.create(device.name, kind=device.kind)
                await vm.declare(device.name, device.constraints())
                await vm.allocate(device.name)
            os.kill(os.getpid(), signal.SIGKILL)

    anyio.run(run)


def _make_room(path: Path) -> None:
    """Remove what an earlier demo left; nothing else is ever removed."""
    if not path.exists():
        return
    if not _is_demo(path):
        raise click.UsageError(f"{path} exists, and is no demo's log: choose another file with --store")
    for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm"), Path(f"{path}-head")):
        name.unlink(missing_ok=True)


def _is_demo(path: Path) -> bool:
    """Whether every VM in the file was begun by a demo."""
    try:
        with open_reader(f"sqlite:{path}") as reader:
            first = [reader.read(head.vm, limit=1)[0] for head in reader.streams()]
    except EsrmError:
        return False
    return bool(first) and all(record.actor == ACTOR for record in first)
