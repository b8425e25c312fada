"""The C compiler: which one, and with which flags.

To find the flags that a compiler accepts takes a few runs of it. The result is kept in the cache
directory, so that later processes need only look at the status of the compiler's file.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from optdsl.runtime.build import march
from optdsl.runtime.build.cache_directory import cache_directory, entry_text, write_entry
from optdsl.runtime.build.processes import finished

REQUIRED_FLAGS = ("-std=c99", "-O3", "-fPIC", "-shared")

# Each of these is left out if the compiler refuses it. None of them changes the results for NaN,
# infinities or subnormal numbers.
OPENMP_FLAG = "-fopenmp"
OPTIONAL_FLAGS = (
    OPENMP_FLAG,  # without it, one thread
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",  # a * b + c is rounded once
    "-fno-tree-loop-distribute-patterns",  # a short copy is a loop, not a call of memcpy
    "--param=vect-epilogues-nomask=0",  # no loop with smaller vectors for the last few elements
)
AVX512_FLAGS = ("-mprefer-vector-width=512",)
LIBRARIES = ("-lm",)

# With any of these, a library built by some compilers sets the processor's flush-to-zero mode when
# it is loaded, for everything that the process computes from then on.
FORBIDDEN_FLAGS = (
    "-Ofast",
    "-fassociative-math",
    "-ffast-math",
    "-ffinite-math-only",
    "-fp-model=fast",
    "-freciprocal-math",
    "-funsafe-math-optimizations",
    "-mdaz-ftz",
)

COMPILERS = ("cc", "gcc", "clang")
REMEDY = 'install gcc or clang, or set CC to a C compiler, or choose backend="eager"'
SECONDS_VARIABLE = "OPTDSL_COMPILER_SECONDS"

# The time limits of a compiler, in seconds, for a trial and for a library.
_TRIAL_SECONDS, _BUILD_SECONDS = 60.0, 600.0
_MEMORY_FORMAT = 2
_MESSAGE_LIMIT = 4000
_TRIVIAL = """\
#include <math.h>
#ifdef _OPENMP
#include <omp.h>
#endif
void trivial(double *restrict x, long n) {
#ifdef _OPENMP
#pragma omp parallel for simd num_threads(omp_get_max_threads())
#endif
    for (long i = 0; i < n; i++) x[i] = sqrt(x[i]) + pow(x[i], 1.5);
}
"""


class NoCompiler(RuntimeError):
    """No C compiler works; the message says what to do."""


class BuildError(RuntimeError):
    """The compiler failed to build the library; the message says why."""


class CompilerHangs(BuildError):
    """The compiler did not finish in time; it and the processes that it started were killed."""


@dataclass(frozen=True)
class Toolchain:
    """A C compiler and its arguments.

    Attributes:
        compiler: the absolute path of the program that is called.
        launched: the arguments of a launcher such as ccache, which end with the compiler's name.
        arguments: the compiler's arguments from CC.
        optional: the flags of those that may be left out that are used.
        version: the first line of its answer to ``--version``.
        seconds: the time limit of a build, unless the environment sets another one.
    """

    compiler: str
    launched: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    version: str = ""
    seconds: float = _BUILD_SECONDS

    @property
    def flags(self) -> tuple[str, ...]:
        """All arguments; of contradictory flags compilers obey the last, so CC's come last."""
        return (*self.launched, *REQUIRED_FLAGS, *self.optional, *self.arguments)

    @property
    def identity(self) -> tuple[tuple[str, str, int, int], ...]:
        """Path, real path, size and modification time of each program that CC names."""
        named = (shutil.which(flag) for flag in self.flags if not flag.startswith("-"))
        return tuple(_identity(program) for program in (self.compiler, *named) if program)

    def build(self, source: Path, library: Path) -> None:
        """Compile one C file to a shared library.

        Raises:
            BuildError: the compiler cannot be run or refuses the file.
            CompilerHangs: (a BuildError) it does not finish in time.
        """
        command = [self.compiler, *self.flags, "-o", str(library), str(source), *LIBRARIES]
        # The compiler's temporary files are removed together with the library's directory.
        environment = os.environ | {"LC_ALL": "C", "TMPDIR": str(library.parent)}
        try:
            done = _run(command, environment, self.seconds)
        except OSError as error:
            raise BuildError(f"{self.compiler} cannot be run: {error.strerror}") from error
        if done.returncode != 0 or not library.is_file():
            said = (done.stderr or done.stdout).replace(str(source), source.name).strip()
            if len(said) > _MESSAGE_LIMIT:
                left_out = len(said) - _MESSAGE_LIMIT
                said = f"{said[:_MESSAGE_LIMIT]}\n({left_out} more characters)"
            raise BuildError(
                f"{self.compiler} does not build {source.name} (status {done.returncode}):\n{said}"
            )


def toolchain() -> Toolchain:
    """The compiler that CC names, else the first of cc, gcc and clang on PATH.

    Raises:
        NoCompiler: there is none, or it fails to build a trivial library, or it hangs.
        BuildError: CC contains a flag that changes the arithmetic of the whole process, or
            ``OPTDSL_MARCH`` names a processor that the compiler or this machine does not support.
    """
    return _toolchain(os.environ.get("CC", ""), os.environ.get("PATH"), march.chosen())


# The errors of compilers that hung, by identity, so that no second call waits for them.
_hanging: dict[object, str] = {}


@functools.cache
def _toolchain(cc: str, path: str | None, target: str) -> Toolchain:
    found = _find(cc, path)
    optional = _optional(target)
    full = replace(found, optional=optional)
    if full.identity in _hanging:
        raise NoCompiler(_hanging[full.identity])
    question = repr((_MEMORY_FORMAT, full.identity, full.flags, LIBRARIES, _TRIVIAL))
    memory = f"toolchains/{hashlib.sha256(question.encode()).hexdigest()[:32]}.json"
    answer = _recall(memory)
    one_thread = "-fno-openmp" in found.arguments
    try:
        if answer and not one_thread and OPENMP_FLAG in answer[1]:
            # The OpenMP library may have been installed since; that does not change the compiler.
            answer = answer if _refused(found, (OPENMP_FLAG,)) else None
        if answer is None:
            answer = _version(found), _refused(found, optional)
            _remember(memory, *answer)
    except CompilerHangs as trouble:
        _hanging[full.identity] = f"{trouble}: {REMEDY}."
        raise NoCompiler(_hanging[full.identity]) from trouble
    version, refused = answer
    if OPENMP_FLAG in refused and not one_thread:
        _warn_of_one_thread(full.compiler, version)
    if target != march.NATIVE and optional[0] in refused:
        raise BuildError(
            f"{full.compiler} ({version}) refuses {optional[0]}, which {march.MARCH_VARIABLE} asks"
            " for: set it to a name that the compiler knows, or leave it out."
        )
    accepted = tuple(flag for flag in optional if flag not in refused)
    return replace(found, optional=accepted, version=version)


def _optional(target: str) -> tuple[str, ...]:
    """The flags that may be left out; the first one selects the processor."""
    try:
        first = march.march_flags(target, processor())
    except march.WrongTarget as trouble:
        raise BuildError(str(trouble)) from trouble
    wide = AVX512_FLAGS if march.wide(target, processor()) else ()
    return (*first, *OPTIONAL_FLAGS, *wide)


def _limit(seconds: float) -> float:
    """The time limit of a compiler: the default, or the one that the environment sets."""
    try:
        chosen = float(os.environ.get(SECONDS_VARIABLE, ""))
    except ValueError:
        return seconds
    return chosen if 0 < chosen < float("inf") else seconds


def _warn_of_one_thread(compiler: str, version: str) -> None:
    warnings.warn(
        f"{compiler} ({version}) does not build with {OPENMP_FLAG}, so optimizers run on one"
        " thread: install its OpenMP library (libomp for clang) or set CC to another compiler."
        " With -fno-openmp in CC one thread is what you asked for, and this is not said.",
        RuntimeWarning,
        stacklevel=3,
    )


def _find(cc: str, path: str | None) -> Toolchain:
    """The compiler that CC names, or else the first of `COMPILERS` on PATH."""
    try:
        words = shlex.split(cc)
    except ValueError as error:
        raise NoCompiler(f"CC cannot be read ({error}): {REMEDY}.") from error
    if forbidden := [word for word in words[1:] if word in FORBIDDEN_FLAGS]:
        raise BuildError(
            f"CC holds {forbidden[0]}, which drops NaN and infinities and can switch the whole"
            " process to arithmetic without subnormal numbers: take it out."
        )
    for candidate in words[:1] or COMPILERS:
        if found := shutil.which(candidate, path=path):
            return Toolchain(os.path.abspath(found), *_launched(words[1:], path))
    if words:
        raise NoCompiler(f"CC names {words[0]!r}, and there is no such program: {REMEDY}.")
    raise NoCompiler(f"There is no C compiler (cc, gcc or clang) on PATH: {REMEDY}.")


def _launched(words: list[str], path: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words of CC after the first, split into a launcher's arguments and the compiler's.

    A launcher's arguments are everything before the first option (``zig cc -g``) and up to the last
    word that is a program (``nice -n 5 gcc -g``). A compiler without a launcher has none.
    """
    count = next((n for n, word in enumerate(words) if word.startswith("-")), len(words))
    for number, word in enumerate(words[count:], start=count + 1):
        if not word.startswith("-") and shutil.which(word, path=path):
            count = number
    return tuple(words[:count]), tuple(words[count:])


def _identity(program: str) -> tuple[str, str, int, int]:
    real = os.path.realpath(program)
    try:
        status = os.stat(real)
    except OSError:
        return program, real, 0, 0
    return program, real, status.st_size, status.st_mtime_ns


def _run(
    command: list[str], environment: dict[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    seconds = _limit(seconds)
    try:
        return finished(command, environment, seconds)
    except subprocess.TimeoutExpired as error:
        raise CompilerHangs(
            f"{command[0]} did not finish within {seconds:g} seconds and was stopped"
            f" ({SECONDS_VARIABLE} sets how long it may take)"
        ) from error


def _version(found: Toolchain) -> str:
    command = [found.compiler, *found.launched, *found.arguments, "--version"]
    try:
        done = _run(command, os.environ | {"LC_ALL": "C"}, _TRIAL_SECONDS)
    except OSError as error:
        raise NoCompiler(f"{found.compiler} cannot be run ({error.strerror}): {REMEDY}.") from error
    lines = done.stdout.strip().splitlines()
    return lines[0][:200] if lines else "unknown version"


def _refused(found: Toolchain, optional: tuple[str, ...]) -> tuple[str, ...]:
    """The optional flags that the compiler does not accept."""
    try:
        with tempfile.TemporaryDirectory(prefix="optdsl-", ignore_cleanup_errors=True) as name:
            source, library = Path(name, "trivial.c"), Path(name, "trivial.so")
            source.write_text(_TRIVIAL)

            def complaint(flags: tuple[str, ...]) -> str:
                try:
                    trial = replace(found, optional=flags, seconds=_TRIAL_SECONDS)
                    trial.build(source, library)
                except CompilerHangs:
                    raise
                except BuildError as error:
                    return str(error)
                library.unlink()
                return ""

            if not complaint(optional):
                return ()
            if why := complaint(()):
                raise NoCompiler(
                    f"{found.compiler} does not build shared libraries: {REMEDY}. It says: {why}"
                )
            kept: tuple[str, ...] = ()
            for flag in optional:
                if not complaint((*kept, flag)):
                    kept = (*kept, flag)
            return tuple(flag for flag in optional if flag not in kept)
    except OSError as error:
        raise BuildError(f"The compiler cannot be tried out: {error}") from error


def _recall(memory: str) -> tuple[str, tuple[str, ...]] | None:
    try:
        answer = json.loads(entry_text(cache_directory() / memory))
        return str(answer["version"]), tuple(str(flag) for flag in answer["refused"])
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None


def _remember(memory: str, version: str, refused: tuple[str, ...]) -> None:
    with contextlib.suppress(OSError):
        text = json.dumps({"version": version, "refused": refused}) + "\n"
        write_entry(cache_directory() / memory, text)


@functools.cache
def processor() -> str:
    """The lines of /proc/cpuinfo that ``-march=native`` depends on; empty without such a file."""
    names = {"cpu family", "flags", "isa", "model", "model name", "stepping", "vendor_id"}
    names |= {f"CPU {part}" for part in ("implementer", "architecture", "variant", "part")}
    names |= {"CPU revision", "Features", "cpu", "uarch"}
    told: list[str] = []
    with contextlib.suppress(OSError, ValueError), open("/proc/cpuinfo") as lines:
        for line in lines:
            if not line.strip() and told:
                break  # the processors that follow are alike
            if line.partition(":")[0].strip() in names:
                told.append(line.strip())
    return "\n".join(told)
