"""The C compiler: which one, with which flags, and where its products are kept.

Finding out costs a few runs of the compiler. What came out is written down in the cache directory,
so that a later process learns everything about an unchanged compiler from its file's status.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REQUIRED_FLAGS = ("-std=c99", "-O3", "-fPIC", "-shared")

# Each of these is left out if the compiler refuses it. None of them changes what a NaN, an
# infinity or a subnormal number does.
OPTIONAL_FLAGS = (
    "-march=native",
    "-fopenmp",  # without it, one thread
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",  # a * b + c is rounded once
    "-fno-tree-loop-distribute-patterns",  # a short copy is a loop, not a call
    "--param=vect-epilogues-nomask=0",  # the last few elements need no vectors of their own
)
AVX512_FLAGS = ("-mprefer-vector-width=512",)
LIBRARIES = ("-lm",)

# With any of these, some compilers also make the library set the processor's flush-to-zero mode
# when it is loaded, for everything that the process computes from then on.
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
DIRECTORY_VARIABLE = "OPTDSL_CACHE_DIR"

_MEMORY_FORMAT = 1
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
    """There is no C compiler that works; the message says what to do."""


class BuildError(RuntimeError):
    """The compiler does not build the library; the message says why."""


@dataclass(frozen=True)
class Toolchain:
    """A C compiler and how it is called.

    Attributes:
        compiler: its absolute path.
        version: what it says of itself, one line.
        flags: its arguments, in order: first those that CC holds.
    """

    compiler: str
    version: str
    flags: tuple[str, ...]

    @property
    def identity(self) -> tuple[tuple[str, str, int, int], ...]:
        """Path, real path, size and time of change of the programs that CC names."""
        named = (shutil.which(flag) for flag in self.flags if not flag.startswith("-"))
        return tuple(_identity(program) for program in (self.compiler, *named) if program)

    def build(self, source: Path, library: Path) -> None:
        """Compile one C file to a shared library.

        Raises:
            BuildError: the compiler cannot be run or refuses the file.
        """
        command = [self.compiler, *self.flags, "-o", str(library), str(source), *LIBRARIES]
        # The compiler's own temporary files go where they are removed with everything else.
        environment = os.environ | {"LC_ALL": "C", "TMPDIR": str(library.parent)}
        try:
            done = _run(command, environment)
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
        NoCompiler: there is none, or it does not build even a trivial library.
        BuildError: CC holds a flag that changes the arithmetic of the whole process.
    """
    return _toolchain(os.environ.get("CC", ""), os.environ.get("PATH"))


@functools.cache
def _toolchain(cc: str, path: str | None) -> Toolchain:
    compiler, arguments = _find(cc, path)
    wide = AVX512_FLAGS if "avx512f" in processor().split() else ()
    full = Toolchain(compiler, "", (*arguments, *REQUIRED_FLAGS, *OPTIONAL_FLAGS, *wide))
    question = repr((_MEMORY_FORMAT, full.identity, full.flags, LIBRARIES, _TRIVIAL))
    memory = f"toolchains/{hashlib.sha256(question.encode()).hexdigest()[:32]}.json"
    answer = _recall(memory)
    if answer is None:
        version = _version(compiler, arguments)
        answer = version, _refused(Toolchain(compiler, version, full.flags), arguments)
        _remember(memory, *answer)
    version, refused = answer
    may_go = {*OPTIONAL_FLAGS, *wide} & set(refused)
    own = len(arguments)
    flags = (*arguments, *(flag for flag in full.flags[own:] if flag not in may_go))
    return Toolchain(compiler, version, flags)


def _find(cc: str, path: str | None) -> tuple[str, tuple[str, ...]]:
    """The compiler's absolute path, and the arguments that CC holds."""
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
            return os.path.abspath(found), tuple(words[1:])
    if words:
        raise NoCompiler(f"CC names {words[0]!r}, and there is no such program: {REMEDY}.")
    raise NoCompiler(f"There is no C compiler (cc, gcc or clang) on PATH: {REMEDY}.")


def _identity(program: str) -> tuple[str, str, int, int]:
    real = os.path.realpath(program)
    try:
        status = os.stat(real)
    except OSError:
        return program, real, 0, 0
    return program, real, status.st_size, status.st_mtime_ns


def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


def _version(compiler: str, arguments: tuple[str, ...]) -> str:
    try:
        done = _run([compiler, *arguments, "--version"], os.environ | {"LC_ALL": "C"})
    except OSError as error:
        raise NoCompiler(f"{compiler} cannot be run ({error.strerror}): {REMEDY}.") from error
    lines = done.stdout.strip().splitlines()
    return lines[0][:200] if lines else "unknown version"


def _refused(full: Toolchain, arguments: tuple[str, ...]) -> tuple[str, ...]:
    """The optional flags that the compiler does not accept."""
    try:
        with tempfile.TemporaryDirectory(prefix="optdsl-", ignore_cleanup_errors=True) as name:
            source, library = Path(name, "trivial.c"), Path(name, "trivial.so")
            source.write_text(_TRIVIAL)

            def complaint(flags: tuple[str, ...]) -> str:
                try:
                    Toolchain(full.compiler, full.version, flags).build(source, library)
                except BuildError as error:
                    return str(error)
                library.unlink()
                return ""

            if not complaint(full.flags):
                return ()
            kept = (*arguments, *REQUIRED_FLAGS)
            if why := complaint(kept):
                raise NoCompiler(
                    f"{full.compiler} does not build shared libraries: {REMEDY}. It says: {why}"
                )
            refused = []
            for flag in full.flags[len(kept) :]:
                if complaint((*kept, flag)):
                    refused.append(flag)
                else:
                    kept = (*kept, flag)
            return tuple(refused)
    except OSError as error:
        raise BuildError(f"The compiler cannot be tried out: {error}") from error


def _recall(memory: str) -> tuple[str, tuple[str, ...]] | None:
    try:
        answer = json.loads((cache_directory() / memory).read_text(encoding="utf-8"))
        return str(answer["version"]), tuple(str(flag) for flag in answer["refused"])
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None


def _remember(memory: str, version: str, refused: tuple[str, ...]) -> None:
    with contextlib.suppress(OSError):
        path = cache_directory() / memory
        temporary = path.parents[1] / temporary_name()
        try:
            temporary.write_text(json.dumps({"version": version, "refused": refused}) + "\n")
            path.parent.mkdir(mode=0o700, exist_ok=True)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@functools.cache
def processor() -> str:
    """What -march=native depends on, as far as /proc/cpuinfo tells it."""
    names = {"cpu family", "flags", "isa", "model", "model name", "stepping", "vendor_id"}
    names |= {f"CPU {part}" for part in ("implementer", "architecture", "variant", "part")}
    names |= {"CPU revision", "Features", "cpu", "uarch"}
    told: list[str] = []
    with contextlib.suppress(OSError, ValueError), open("/proc/cpuinfo") as lines:
        for line in lines:
            if not line.strip() and told:
                break  # the other processors follow
            if line.partition(":")[0].strip() in names:
                told.append(line.strip())
    return "\n".join(told)


def temporary_name() -> str:
    """A name for a file or directory in the making, which tells whose it is."""
    return f"tmp-{host()}-{os.getpid()}-{os.urandom(8).hex()}"


def host() -> str:
    """This machine's name, as `temporary_name` spells it."""
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in os.uname().nodename)[:64]


def cache_directory() -> Path:
    """The directory for libraries and for what is known of compilers; made where it is missing.

    Raises:
        OSError: there is none, or it is no place for programs that this user will run.
    """
    directory = _chosen_directory()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.stat()
    if status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it belongs to another user", str(directory))
    if status.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "other users may write to it", str(directory))
    if os.statvfs(directory).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise PermissionError(errno.EPERM, "programs in it may not run", str(directory))
    return directory


def _chosen_directory() -> Path:
    try:
        if chosen := os.environ.get(DIRECTORY_VARIABLE):
            return Path(chosen).expanduser().absolute()
        if os.path.isabs(general := os.environ.get("XDG_CACHE_HOME", "")):
            return Path(general, "optdsl")
        return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "optdsl"
    except RuntimeError as error:
        raise FileNotFoundError(errno.ENOENT, "the user has no home", "~") from error
