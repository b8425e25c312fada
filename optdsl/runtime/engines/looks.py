"""Whether the tensors of a step are those of the step before, found out by one call.

A step of many small tensors spends most of its time on finding out that nothing has changed but
where the gradients lie. Emitted code cannot tell; `look_text` has a function in C that does.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from optdsl.runtime.build.library_cache import shared_library
from optdsl.runtime.build.toolchain import BuildError, NoCompiler
from optdsl.runtime.engines.look_text import NAME, TEXT

# The functions of Python that are called, in the order of `Python` in `TEXT`.
_CALLED = (
    "PyList_Size",
    "PyList_GetItem",
    "PyList_SetItem",
    "PyDict_Size",
    "PyDict_Next",
    "PyDict_GetItem",
    "PyObject_GetAttr",
    "PyObject_Type",
    "PyObject_CallFunctionObjArgs",
    "Py_DecRef",
    "PyErr_Clear",
)
# What `TEXT` compares with or passes on, which lives as long as the process.
_GRAD = sys.intern("grad")
_OBJECTS = (None, False, Tensor.is_neg, _GRAD, Tensor)
# The version of DLPack whose tables `_exchange` reads.
_MAJOR = 1


class _Exchange(ctypes.Structure):
    """The table of DLPack's exchange functions, of version 1."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("before", ctypes.c_void_p),
        ("allocate", ctypes.c_void_p),
        ("managed_from", ctypes.c_void_p),
        ("managed_to", ctypes.c_void_p),
        ("tensor_from", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
    )


class _Look(ctypes.Structure):
    """`Look` of `TEXT`."""

    _fields_ = (
        ("state", ctypes.c_void_p),
        ("owners", ctypes.c_int64),
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("groups", ctypes.c_int64),
        ("lists", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("held", ctypes.c_void_p),
        ("types", ctypes.c_void_p),
        ("graded", ctypes.c_void_p),
        ("tensors", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("dims", ctypes.c_int64),
        ("states", ctypes.c_void_p),
        ("names", ctypes.c_void_p),
        ("objects", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("written", ctypes.c_int64),
        ("begins", ctypes.c_void_p),
        ("ends", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class _Functions:
    """The compiled functions, and the table that they are called with."""

    rows: Any
    unchanged: Any
    python: ctypes.Array[ctypes.c_void_p]


def _exchange() -> int | None:
    """The address of the function that describes a tensor of torch; None where there is none."""
    capsule = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None:
        return None
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    table = _Exchange.from_address(pointer(capsule, b"dlpack_exchange_api"))
    return table.tensor_from if table.major == _MAJOR else None


@functools.cache
def _functions() -> _Functions | None:
    """The functions; None where torch or the compiler does not help."""
    try:
        describe = _exchange()
        # References that are borrowed are safe while no other thread runs.
        if describe is None or not getattr(sys, "_is_gil_enabled", lambda: True)():
            return None
        called = [getattr(ctypes.pythonapi, name) for name in _CALLED]
        library = ctypes.PyDLL(str(shared_library(TEXT, NAME)))
        rows, unchanged = library.tensor_rows, library.tensors_unchanged
    except (NoCompiler, BuildError, OSError, AttributeError, ValueError):
        return None
    addresses = [ctypes.cast(function, ctypes.c_void_p).value for function in called]
    entries = [describe, *addresses, *map(id, _OBJECTS)]
    void, number = ctypes.c_void_p, ctypes.c_int64
    rows.argtypes, rows.restype = (void, number, void, number, void), number
    unchanged.argtypes, unchanged.restype = (void, void, ctypes.py_object, void), ctypes.c_int
    return _Functions(rows, unchanged, (ctypes.c_void_p * len(entries))(*entries))


def available() -> bool:
    """Whether there is what looks at tensors: torch describes them, and a compiler works."""
    return _functions() is not None


@dataclass
class _Column:
    """Tensors of a column, and what is known of each.

    Attributes:
        tensors: the tensors, which stay alive.
        objects: their identities.
        rows: their descriptions, one after the other.
    """

    tensors: Sequence[Tensor]
    objects: array[int]
    rows: array[int]


class Look:
    """The tensors of a step as the step left them.

    All objects that are compared by their identities are kept alive by this object.
    """

    def __init__(
        self,
        state: dict[Tensor, dict[str, Any]],
        held: Sequence[Sequence[Tensor]],
        columns: Mapping[str, Sequence[Tensor]],
        written: Sequence[str],
    ) -> None:
        """Describe tensors.

        Args:
            state: the states of an optimizer, by parameter.
            held: the parameters of each group, with and without gradients.
            columns: the parameters with gradients ("theta"), in the order in which groups have
                them, and their states, of which there are no others.
            written: the columns that a step writes, whose tensors are contiguous and overlap with
                nothing.

        Raises:
            ValueError: a tensor cannot be described.
        """
        functions = _functions()
        if functions is None:
            raise ValueError("there is nothing to describe tensors with")
        self._functions = functions
        parameters = columns["theta"]
        self._dims = max((x.dim() for x in parameters), default=0) or 1
        self._count = len(parameters)
        self._columns = {name: self._column(tensors) for name, tensors in columns.items()}
        places = {id(parameter): place for place, parameter in enumerate(parameters)}
        every = [parameter for group in held for parameter in group]
        owners = [state[parameter] for parameter in parameters]
        # Names that are compared by identity, and objects, are kept alive.
        names = [sys.intern(name) for name in columns]
        self._kept = every, owners, names, list(state), list(state.values())
        self._numbers = {
            "keys": array("q", map(id, state)),
            "values": array("q", map(id, state.values())),
            "counts": array("q", map(len, held)),
            "held": array("q", map(id, every)),
            "types": array("q", map(id, map(type, every))),
            "graded": array("q", [places.get(id(parameter), -1) for parameter in every]),
            "states": array("q", map(id, owners)),
            "names": array("q", map(id, names)),
        }
        extents = sorted(
            (begin, begin + x.nbytes)
            for name in written
            for x in columns[name]
            if (begin := x.data_ptr()) and x.nbytes
        )
        self._begins = array("q", [begin for begin, _ in extents])
        self._ends = array("q", [end for _, end in extents])
        self._objects = array("q", bytes(8 * len(names)))
        self._rows = array("q", bytes(8 * len(names)))
        self._places = array("q", bytes(8 * self._count))
        self._look = _Look(
            owners=len(state),
            groups=len(held),
            tensors=self._count,
            columns=len(names),
            dims=self._dims,
            objects=self._objects.buffer_info()[0],
            rows=self._rows.buffer_info()[0],
            written=len(extents),
            begins=self._begins.buffer_info()[0],
            ends=self._ends.buffer_info()[0],
            **{name: numbers.buffer_info()[0] for name, numbers in self._numbers.items()},
        )
        self._arrange()

    def _column(self, tensors: Sequence[Tensor]) -> _Column:
        objects = array("q", map(id, tensors))
        rows = array("q", bytes(8 * (3 + 2 * self._dims) * len(tensors)))
        addresses = objects.buffer_info()[0], self._dims, rows.buffer_info()[0]
        python = ctypes.addressof(self._functions.python)
        if self._functions.rows(python, len(tensors), *addresses) != len(tensors):
            raise ValueError("a tensor cannot be described")
        return _Column(tensors, objects, rows)

    def _arrange(self) -> None:
        """Let the columns be looked at in the order of their names."""
        for number, column in enumerate(self._columns.values()):
            self._objects[number] = column.objects.buffer_info()[0]
            self._rows[number] = column.rows.buffer_info()[0]

    def exchange(self, buffers: Mapping[str, str]) -> None:
        """Let states be the tensors that others were; see `EntryPoint.buffers`.

        Args:
            buffers: whose tensor each state has now.
        """
        if buffers:
            self._columns |= {name: self._columns[home] for name, home in buffers.items()}
            self._arrange()

    def gradients(
        self, state: dict[Tensor, dict[str, Any]], held: Sequence[list[Tensor]]
    ) -> tuple[list[Tensor], list[int]] | None:
        """The gradients and their addresses; None where anything has changed but these.

        None as well where a gradient overlaps with what a step writes.

        Args:
            state: the states of the optimizer, by parameter.
            held: the parameters of each group.
        """
        if len(held) != self._look.groups:
            return None
        lists = array("q", map(id, held))
        self._look.state, self._look.lists = id(state), lists.buffer_info()[0]
        found: list[Any] = [None] * self._count
        python, look = ctypes.addressof(self._functions.python), ctypes.addressof(self._look)
        places = self._places.buffer_info()[0]
        if not self._functions.unchanged(python, look, found, places):
            return None
        return found, self._places.tolist()
