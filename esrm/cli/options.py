"""What every command is asked with: which store, which VM, at which moment, and in what form it shall answer.

It decides where an option's value comes from (the command's own, else the group's, else ``ESRM_*``, else the default)
and opens the store when a command first looks into it. Separate from the commands because they all share it.
Next: ``output.py``, and then any command, such as ``log.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import wraps
from shlex import quote
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from esrm import names
from esrm.cli import output
from esrm.errors import Corrupt

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from esrm.core.events import Event
    from esrm.history import Past
    from esrm.stores.base import Reader
    from esrm.stores.records import StreamHead

DEFAULT_STORE = "sqlite:esrm.db"
COMPLETION_REVISIONS_MAX = 100_000
"""Names are completed from logs up to this long; beyond, the key would seem dead for a second."""


class Asked:
    """What the options said, and what they lead to. Made once a command line; the store is opened on first use."""

    def __init__(self) -> None:
        self.store = DEFAULT_STORE
        self.vm_option: str | None = None
        self.form: str | None = None  # "json" or "jsonl"; None is for people
        self.typed: set[str] = set()  # which of these the command line itself said
        self._reader: Reader[Event] | None = None

    @property
    def url(self) -> str:
        """The store's URL; a bare path is an SQLite file."""
        known = self.store.startswith(("sqlite:", "memory:")) or "://" in self.store
        return self.store if known else f"sqlite:{self.store}"

    @property
    def reader(self) -> Reader[Event]:
        """The store's synchronous face."""
        if self._reader is None:
            from esrm.opening import open_reader

            self._reader = open_reader(self.url)
        return self._reader

    def close(self) -> None:
        """Let go of the store, if it was ever looked into."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    @property
    def streams(self) -> list[StreamHead]:
        """Where the VMs' streams end. That there are none is believed only if none was ever acknowledged."""
        from esrm.stores.chain import cut

        found = self.reader.streams()
        if not found and (fault := cut(self.reader)):
            raise Corrupt(str(fault))
        return found

    @property
    def vm(self) -> str:
        """The VM that was named, else the store's only one."""
        if self.vm_option is None:
            vms = [stream.vm for stream in self.streams]
            if len(vms) != 1:
                names = ", ".join(vms[:20]) + (", ..." if len(vms) > 20 else "")
                raise click.UsageError(
                    f"{self.url} has {len(vms)} VMs; choose one with --vm: {names}"
                    if vms
                    else f"{self.url} has no VM yet"
                )
            self.vm_option = vms[0]
        return self.vm_option

    @property
    def past(self) -> Past:
        """The history of the VM."""
        from esrm.history import Past

        return Past(self.reader, self.vm)

    def answer(
        self, items: Iterable[dict[str, Any]], text: Callable[[], None], document: Callable[[], Any] | None = None
    ) -> None:
        """Answer in the form that was asked for.

        Args:
            items: one JSON object each; what ``--jsonl`` prints, and ``--json`` as an array unless there is a
                ``document``. Nothing is taken from it otherwise.
            text: prints for people.
            document: what ``--json`` prints instead of the array.
        """
        if self.form == "jsonl":
            output.json_lines(items)
        elif self.form is None:
            text()
        elif document is None:
            output.json_array(items)
        else:
            output.json_document(document())

    def answer_one(self, document: dict[str, Any], text: Callable[[], None]) -> None:
        """The same for an answer that is one object in either form."""
        self.answer([document], text, lambda: document)


def common(*, vm: bool = True, formats: bool = True, store: bool = True) -> Callable[[Callable[..., Any]], Any]:
    """The options that many commands share; the decorated function gets an ``asked`` argument."""

    def decorate(function: Callable[..., Any]) -> Any:
        @wraps(function)
        def wrapped(*args: Any, **options: Any) -> Any:
            ctx = click.get_current_context()
            with closing(ctx.ensure_object(Asked)) as asked:
                if not vm and "vm_option" in asked.typed:
                    raise click.UsageError(f"{ctx.command_path} is not about one VM: leave out --vm")
                return function(*args, asked=asked, **options)

        decorated: Any = wrapped
        if formats:
            decorated = _remembered("--jsonl", "form", is_flag=True, help="Answer with one JSON object a line.")(
                decorated
            )
            decorated = _remembered("--json", "form", is_flag=True, help="Answer with one JSON document.")(decorated)
        if vm:
            decorated = _remembered(
                "--vm", "vm_option", metavar="NAME", shell_complete=complete_vm,
                help="The VM; by default the store's only one.  [env var: ESRM_VM]",
            )(decorated)  # fmt: skip
        if store:
            decorated = _remembered(
                "--store", "store", metavar="URL",
                help="The store; a bare path is an SQLite file.  [env var: ESRM_STORE; default: sqlite:esrm.db]",
            )(decorated)  # fmt: skip
        return decorated

    return decorate


def _remembered(flag: str, attribute: str, **settings: Any) -> Callable[[Any], Any]:
    """An option of the group and of its commands alike; whichever was given last on the line counts."""

    def remember(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
        asked = ctx.ensure_object(Asked)
        typed = ctx.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
        if value in (None, False) or (attribute in asked.typed and not typed):  # the line is before the environment
            return
        if attribute == "vm_option":
            names.check(flag, value)
        setattr(asked, attribute, parameter.name if attribute == "form" else value)
        if typed:
            asked.typed.add(attribute)

    return click.option(flag, callback=remember, expose_value=False, **settings)


# -- shell completion ------------------------------------------------------------------------------------------------


def complete_vm(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The VMs in the store."""
    return _completed(ctx, incomplete, lambda asked: (stream.vm for stream in asked.reader.streams()))


def complete_device(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The devices that live in the VM now."""

    def devices(asked: Asked) -> Iterator[str]:
        past = asked.past
        yield from past.at().devices if past.head() <= COMPLETION_REVISIONS_MAX else ()

    return _completed(ctx, incomplete, devices)


def complete_space(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The spaces there are."""
    from esrm.core.resources import Space

    return _completed(ctx, incomplete, lambda _: (space.value for space in Space))


def _completed(ctx: click.Context, incomplete: str, names: Callable[[Asked], Iterable[str]]) -> list[CompletionItem]:
    """Names that begin so; none at all, rather than an error amid a command line, when the store has a problem.

    Only those that are one plain word to a shell: bash puts a name on the line as it is, and runs what is in it.
    """
    from click.shell_completion import CompletionItem

    from esrm.errors import EsrmError

    try:
        with closing(ctx.ensure_object(Asked)) as asked:
            return [
                CompletionItem(name) for name in names(asked) if name.startswith(incomplete) and quote(name) == name
            ]
    except (EsrmError, click.ClickException):
        return []
