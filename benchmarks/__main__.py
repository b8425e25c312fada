"""The command: `python -m benchmarks`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from pathlib import Path
from time import perf_counter

try:
    from rich.console import Console
except ModuleNotFoundError:
    sys.exit("The benchmarks need rich and matplotlib: `make bench` installs them.")

from benchmarks import gate
from benchmarks.campaign import Options, measure
from benchmarks.plan import CLOCKS, FULL, PARTS, QUICK
from benchmarks.report import report, write
from benchmarks.roofline import draw
from benchmarks.sizes import CAMPAIGN, SIZES
from optdsl.options import OptionError, compile_options

QUICK_SIZES = ("20M", "150x1000")


def _names(text: str, known: Collection[str], what: str) -> tuple[str, ...]:
    """Names between commas, each once, in the order of `known`."""
    given = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in given if name not in known]
    if unknown or not given:
        wrong = f"there is no {what} {unknown[0]!r}" if unknown else f"name at least one {what}"
        raise argparse.ArgumentTypeError(f"{wrong}; there are {', '.join(known)}")
    return tuple(name for name in known if name in given)


def _sizes(text: str) -> tuple[str, ...]:
    return _names(text, SIZES, "size")


def _parts(text: str) -> tuple[str, ...]:
    return _names(text, PARTS, "part")


def _backend(text: str) -> str:
    try:
        return compile_options(text).backend
    except OptionError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _folder(text: str) -> Path:
    folder = Path(text)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").touch()
    except OSError as error:
        reason = error.strerror or error
        raise argparse.ArgumentTypeError(f"cannot write to '{folder}': {reason}") from None
    return folder


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options; exits with a message on stderr for those that cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures optimizer steps side by side. See benchmarks/README.md.",
        epilog="With --gate, a few ratios are compared with their limits: --gate --help.",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"fewer repetitions, and only {' and '.join(QUICK_SIZES)} unless --sizes is given",
    )
    parser.add_argument(
        "--sizes", type=_sizes, metavar="NAMES", help=f"with commas, of {', '.join(SIZES)}"
    )
    parser.add_argument(
        "--only",
        type=_parts,
        metavar="PARTS",
        default=PARTS,
        help=f"with commas, of {', '.join(PARTS)}",
    )
    parser.add_argument(
        "--backend", type=_backend, metavar="NAME", default="auto", help="of optdsl (default: auto)"
    )
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="what heats are timed with; the processors' own time depends less on other programs",
    )
    parser.add_argument(
        "--out", type=_folder, metavar="DIR", default="bench", help="for results (default: bench)"
    )
    return parser.parse_args(arguments)


def main() -> int:
    """Measures, prints and writes; 130 when interrupted, as for every interrupted program."""
    if "--gate" in sys.argv[1:]:
        return gate.main(sys.argv[1:])
    arguments = parse()
    sizes = arguments.sizes or (QUICK_SIZES if arguments.quick else CAMPAIGN)
    effort = QUICK if arguments.quick else FULL
    options = Options(sizes, arguments.only, arguments.backend, effort, arguments.clock)
    console = Console()
    begun = perf_counter()
    with console.status("") as status:

        def say(text: str) -> None:
            passed = f"{perf_counter() - begun:5.0f} s"
            if console.is_terminal:
                status.update(f"{passed}  {text}")
            else:
                console.print(f"{passed}  {text}", highlight=False, soft_wrap=True)

        try:
            results = measure(options, say)
        except KeyboardInterrupt:
            return 130
    console.print(report(results))
    write(results, arguments.out)
    drawn = draw(results, arguments.out / "roofline.png")
    files = ("results.json", "report.txt", *(["roofline.png"] if drawn else []))
    console.print(f"Written to {arguments.out}: {', '.join(files)}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
