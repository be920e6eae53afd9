"""The sorting algorithm of the reference, for the one place where its result matters.

The reference orders the attributes of a block with a comparison that contradicts itself: of two
attributes, each may come before the other. What comes out depends on the algorithm, so that it has
to be the same: a pattern-defeating quicksort (O. Peters, https://arxiv.org/abs/2106.05123) with
the parameters of the reference's run-time library, and no block partitioning. All else in this
package uses Python's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_INSERTION_LENGTH: Final = 12
_NINTHER_LENGTH: Final = 50
_ALL_SWAPPED: Final = 12
_PARTIAL_STEPS: Final = 5
_UINT64: Final = (1 << 64) - 1


def reference_sort(items: list[T], is_before: Callable[[T, T], bool]) -> None:
    """Sort in place, whatever `is_before` says, always the same for the same input."""
    _Sorter(items, is_before).quicksort(0, len(items), len(items).bit_length())


class _Sorter(Generic[T]):
    """One sort; ranges are half open."""

    def __init__(self, items: list[T], is_before: Callable[[T, T], bool]) -> None:
        self._items = items
        self._is_before = is_before

    def _less(self, i: int, j: int) -> bool:
        return self._is_before(self._items[i], self._items[j])

    def _swap(self, i: int, j: int) -> None:
        self._items[i], self._items[j] = self._items[j], self._items[i]

    def quicksort(self, low: int, high: int, bad_choices: int) -> None:
        balanced = partitioned = True
        while high - low > _INSERTION_LENGTH:
            if bad_choices == 0:
                self._heapsort(low, high)
                return
            if not balanced:
                self._break_patterns(low, high)
                bad_choices -= 1
            pivot, swaps = self._choose_pivot(low, high)
            if swaps == _ALL_SWAPPED:  # seems to descend
                self._items[low:high] = self._items[low:high][::-1]
                pivot, swaps = high - 1 - (pivot - low), 0
            if balanced and partitioned and swaps == 0 and self._partial_insertion(low, high):
                return
            if low > 0 and not self._less(low - 1, pivot):
                low = self._partition_equal(low, high, pivot)
                continue
            length = high - low
            middle, partitioned = self._partition(low, high, pivot)
            balanced = min(middle - low, high - middle) >= length // 8
            if middle - low < high - middle:
                self.quicksort(low, middle, bad_choices)
                low = middle + 1
            else:
                self.quicksort(middle + 1, high, bad_choices)
                high = middle
        self._insertion(low, high)

    def _insertion(self, low: int, high: int) -> None:
        for i in range(low + 1, high):
            self._shift_left(i, low)

    def _shift_left(self, i: int, low: int) -> None:
        while i > low and self._less(i, i - 1):
            self._swap(i, i - 1)
            i -= 1

    def _partial_insertion(self, low: int, high: int) -> bool:
        """Repair a few places; True when the range is in order then."""
        i = low + 1
        for _ in range(_PARTIAL_STEPS):
            while i < high and not self._less(i, i - 1):
                i += 1
            if i == high:
                return True
            if high - low < _NINTHER_LENGTH:
                return False
            self._swap(i, i - 1)
            if i - low >= 2:
                self._shift_left(i - 1, 0)
            if high - i >= 2:
                for j in range(i + 1, high):
                    if not self._less(j, j - 1):
                        break
                    self._swap(j, j - 1)
        return False

    def _heapsort(self, low: int, high: int) -> None:
        length = high - low
        for root in range((length - 1) // 2, -1, -1):
            self._sift_down(root, length, low)
        for last in range(length - 1, -1, -1):
            self._swap(low, low + last)
            self._sift_down(0, last, low)

    def _sift_down(self, root: int, end: int, base: int) -> None:
        while (child := 2 * root + 1) < end:
            if child + 1 < end and self._less(base + child, base + child + 1):
                child += 1
            if not self._less(base + root, base + child):
                return
            self._swap(base + root, base + child)
            root = child

    def _break_patterns(self, low: int, high: int) -> None:
        length = high - low
        random = length
        mask = (1 << length.bit_length()) - 1
        middle = low + length // 4 * 2
        for i in range(middle - 1, middle + 2):
            random ^= random << 13 & _UINT64
            random ^= random >> 17
            random ^= random << 5 & _UINT64
            other = random & mask
            self._swap(i, low + (other - length if other >= length else other))

    def _choose_pivot(self, low: int, high: int) -> tuple[int, int]:
        """Where the pivot is, and how many pairs were out of order on the way to it."""
        self._swaps = 0
        quarter = (high - low) // 4
        candidates = [low + quarter, low + quarter * 2, low + quarter * 3]
        if high - low >= _NINTHER_LENGTH:
            candidates = [self._median(i - 1, i, i + 1) for i in candidates]
        return self._median(*candidates), self._swaps

    def _median(self, a: int, b: int, c: int) -> int:
        a, b = self._order(a, b)
        b, c = self._order(b, c)
        a, b = self._order(a, b)
        return b

    def _order(self, a: int, b: int) -> tuple[int, int]:
        if self._less(b, a):
            self._swaps += 1
            return b, a
        return a, b

    def _partition(self, low: int, high: int, pivot: int) -> tuple[int, bool]:
        """Where the pivot ends up, and whether nothing had to move."""
        self._swap(low, pivot)
        i, j = low + 1, high - 1
        rounds = 0
        while True:
            while i <= j and self._less(i, low):
                i += 1
            while i <= j and not self._less(j, low):
                j -= 1
            if i > j:
                break
            self._swap(i, j)
            i, j = i + 1, j - 1
            rounds += 1
        self._swap(j, low)
        return j, rounds == 0

    def _partition_equal(self, low: int, high: int, pivot: int) -> int:
        """What is not after the pivot comes first; returns where the rest starts."""
        self._swap(low, pivot)
        i, j = low + 1, high - 1
        while True:
            while i <= j and not self._less(low, i):
                i += 1
            while i <= j and self._less(low, j):
                j -= 1
            if i > j:
                return i
            self._swap(i, j)
            i, j = i + 1, j - 1
