"""What commands share: a command of a function of `mec` has the function's options as its first base."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from tyro.conf import Positional, arg

from mec.cli.parsing import HELP
from mec.runtime.flags import field_names
from mec.runtime.paths import check_data, check_run

Run = Annotated[
    Positional[str],
    arg(metavar="RUN", help="A run folder, RUN@untrained, a file of weights or a name, as for `mec evaluate`."),
]


class Command:
    """Its fields are its flags, its docstring that of the options; help shows `more`, of help.md, below it.

    `run` calls the function of `mec` that has the command's name: with its own fields, then the options as keywords."""

    more: ClassVar[str]

    def __init_subclass__(cls) -> None:
        cls.__doc__, cls.more = cls.__doc__ or cls.__bases__[0].__doc__, HELP.get(cls.__name__.lower(), ("", ""))[1]

    def run(self) -> Any:
        import mec
        from mec.runtime.machine import keep_freed

        keep_freed()
        kind = type(self)
        flags = {name: getattr(self, name) for name in field_names(kind.__bases__[0])}
        own = [getattr(self, name) for name in field_names(self) if name not in flags]
        alone = [each[0] if isinstance(each, tuple) and len(each) == 1 else each for each in own]
        return getattr(mec, kind.__name__.lower())(*alone, **flags)


@dataclass(frozen=True, kw_only=True)
class OnRun(Command):
    """What is asked about a run and images."""

    run_folder: Run
    images: Annotated[Positional[str], arg(metavar="IMAGES")]
    """A folder of images nested in any way, tars, a CSV or text of paths, or a file."""

    def run(self) -> Any:
        check_run(self.run_folder)
        check_data(self.images, names=False)
        return super().run()
