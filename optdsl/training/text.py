"""The training text: reading it, encoding it as symbol indices, cutting it into windows."""

import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from optdsl.training.config import TrainingError

# Pure-Python modules found in every CPython since 3.11.  A few have since moved into packages and
# are then skipped; the rest is far more than a default run reads.
_MODULES = """
    _pydecimal _pyio argparse ast asyncio/base_events asyncio/events asyncio/streams
    asyncio/tasks calendar codecs collections/__init__ concurrent/futures/process configparser
    contextlib dataclasses difflib dis doctest email/_header_value_parser email/message enum
    fractions ftplib functools gettext heapq http/client http/cookiejar http/server imaplib
    inspect ipaddress logging/__init__ logging/handlers mailbox multiprocessing/managers
    multiprocessing/pool optparse os pdb pickle pickletools platform plistlib pydoc random
    shutil smtplib socket statistics subprocess tarfile tempfile threading traceback typing
    unittest/case unittest/mock urllib/parse urllib/request weakref xml/dom/minidom
    xml/etree/ElementTree xmlrpc/client
"""
STANDARD_LIBRARY_MODULES = tuple(_MODULES.split())
MINIMUM_STANDARD_LIBRARY = 1_000_000  # characters; less would overfit in a default run

UNKNOWN = 0  # index of the symbol that stands for every rare character
MAXIMUM_VOCABULARY = 256  # symbols, so that one byte holds an index
RARE = 100_000  # a character seen less than once in this many is rare


@dataclass(frozen=True)
class Corpus:
    """An encoded text.

    Attributes:
        train: Symbol indices of the first 90 % of the text, uint8, shape (characters,).
        validation: Symbol indices of the rest, uint8, shape (characters,).
        vocabulary: Character of each index; the first is empty and stands for all rare ones.
        unigram_entropy: Entropy of the symbol frequencies in `train`, nats per character.
    """

    train: Tensor
    validation: Tensor
    vocabulary: tuple[str, ...]
    unigram_entropy: float

    def __len__(self) -> int:
        """Number of characters in the whole text."""
        return len(self.train) + len(self.validation)


def load_corpus(path: Path | None, block: int) -> Corpus:
    """Reads and encodes the text in `path`, or Python's standard library when it is None.

    Args:
        path: A UTF-8 text file.
        block: Characters in a window; both parts of the text must hold one and its successor.

    Raises:
        TrainingError: The text cannot be read, is not UTF-8, or is too short.
    """
    text = read_standard_library() if path is None else read_text(path)
    source = "the standard library" if path is None else f"'{path}'"
    if not text:
        raise TrainingError(f"{source} is empty; give a text file with something to learn")
    needed = 10 * (block + 1)
    if len(text) < needed:
        raise TrainingError(
            f"{source} has only {len(text)} characters; at least {needed} are needed to cut "
            f"training and validation blocks of {block} characters from it"
        )
    return encode(text)


def read_text(path: Path) -> str:
    """Returns the contents of a UTF-8 file.

    Raises:
        TrainingError: The file is missing, a directory, unreadable, or not UTF-8.
    """
    if path.is_dir():
        raise TrainingError(f"'{path}' is a directory; give a text file")
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise TrainingError(f"there is no file '{path}'; give an existing text file") from None
    except UnicodeDecodeError as error:
        raise TrainingError(
            f"'{path}' is not UTF-8 text (byte {error.start} cannot be decoded); "
            "convert it to UTF-8 first"
        ) from None
    except OSError as error:
        raise TrainingError(f"cannot read '{path}': {error.strerror or error}") from None


def read_standard_library() -> str:
    """Returns the sources of `STANDARD_LIBRARY_MODULES`, in that order, without missing ones.

    Raises:
        TrainingError: Too few of the sources are installed.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [root / f"{module}.py" for module in STANDARD_LIBRARY_MODULES]
    text = "".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
    if len(text) < MINIMUM_STANDARD_LIBRARY:
        raise TrainingError(
            "the sources of Python's standard library are not installed here; "
            "give a text file with --text"
        )
    return text


def encode(text: str) -> Corpus:
    """Encodes a text that is not empty; its first 90 % are for training."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    counts = np.bincount(codes)
    # Most frequent first, and by code point where two are equally frequent.
    frequent = np.argsort(-counts, kind="stable")[: MAXIMUM_VOCABULARY - 1]
    kept = np.sort(frequent[(counts[frequent] > 0) & (counts[frequent] * RARE >= len(codes))])
    index = np.full(len(counts), UNKNOWN, dtype=np.uint8)
    index[kept] = np.arange(1, len(kept) + 1)
    symbols = torch.from_numpy(index[codes])
    split = len(symbols) * 9 // 10
    train = symbols[:split]
    frequencies = torch.bincount(train.long()).double() / max(1, split)
    return Corpus(
        train=train,
        validation=symbols[split:],
        vocabulary=("", *(chr(code) for code in kept.tolist())),
        unigram_entropy=float(torch.special.entr(frequencies).sum()),
    )


def random_windows(symbols: Tensor, block: int, count: int, generator: torch.Generator) -> Tensor:
    """Draws windows of `block` symbols and one successor: int64, shape (count, block + 1)."""
    starts = torch.randint(len(symbols) - block, (count,), generator=generator)
    return _windows(symbols, block, starts)


def spaced_windows(symbols: Tensor, block: int, count: int) -> Tensor:
    """Cuts at most `count` evenly spaced windows: int64, shape (windows, block + 1).

    The blocks do not overlap; fewer are returned when the symbols do not suffice.
    """
    count = min(count, (len(symbols) - 1) // block)
    starts = torch.linspace(0, len(symbols) - block - 1, count, dtype=torch.float64).long()
    return _windows(symbols, block, starts)


def _windows(symbols: Tensor, block: int, starts: Tensor) -> Tensor:
    return symbols[starts[:, None] + torch.arange(block + 1)].long()
