"""A minimum cut of a network (Dinitz 1970)."""

from __future__ import annotations

from collections import deque

# No sum of capacities comes close to it.
ENDLESS = 1 << 60


class Network:
    """A directed network with a source and a sink, whose capacities are whole numbers."""

    SOURCE, SINK = 0, 1

    def __init__(self) -> None:
        """A source and a sink, and no edges."""
        self._edges: list[list[int]] = [[], []]
        self._ends: list[int] = []
        self._left: list[int] = []

    def node(self) -> int:
        """A new node."""
        self._edges.append([])
        return len(self._edges) - 1

    def edge(self, begin: int, end: int, capacity: int) -> None:
        """An edge from one node to another."""
        for at, other, left in ((begin, end, capacity), (end, begin, 0)):
            self._edges[at].append(len(self._ends))
            self._ends.append(other)
            self._left.append(left)

    def behind(self) -> set[int] | None:
        """The nodes on the sink's side of the minimum cut that is closest to the sink.

        Returns:
            The nodes, or None where no cut is finite.
        """
        total = 0
        while (level := self._levels()) is not None:
            total += self._blocking(level)
            if total >= ENDLESS:
                return None
        found, waiting = {self.SINK}, [self.SINK]
        while waiting:
            at = waiting.pop()
            for edge in self._edges[at]:
                begin = self._ends[edge]
                if self._left[edge ^ 1] and begin not in found:
                    found.add(begin)
                    waiting.append(begin)
        return found

    def _levels(self) -> list[int] | None:
        """The distances from the source along edges with room; None if the sink has none."""
        level = [-1] * len(self._edges)
        level[self.SOURCE] = 0
        waiting = deque([self.SOURCE])
        while waiting:
            at = waiting.popleft()
            for edge in self._edges[at]:
                end = self._ends[edge]
                if self._left[edge] and level[end] < 0:
                    level[end] = level[at] + 1
                    waiting.append(end)
        return level if level[self.SINK] >= 0 else None

    def _blocking(self, level: list[int]) -> int:
        """Fill all shortest paths; how much flows along them."""
        total, tried = 0, [0] * len(self._edges)
        path: list[int] = []
        while True:
            at = self._ends[path[-1]] if path else self.SOURCE
            if at == self.SINK:
                amount = min(self._left[edge] for edge in path)
                total += amount
                for edge in path:
                    self._left[edge] -= amount
                    self._left[edge ^ 1] += amount
                if total >= ENDLESS:
                    return total
                path = path[: next(n for n, e in enumerate(path) if not self._left[e])]
                continue
            while tried[at] < len(self._edges[at]):
                edge = self._edges[at][tried[at]]
                if self._left[edge] and level[self._ends[edge]] == level[at] + 1:
                    path.append(edge)
                    break
                tried[at] += 1
            else:
                if not path:
                    return total
                # Nothing more leaves this node.
                level[at] = -1
                path.pop()
