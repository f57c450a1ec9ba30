"""Work in a thread of its own, whose results are taken as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from queue import Empty, Queue, SimpleQueue
from threading import Event, Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Takes items from an iterable in a thread, up to `most` before they are wanted. `close` ends the thread."""

    def __init__(self, items: Iterable[T], most: int, on_news: Callable[[], None] = lambda: None) -> None:
        """`on_news` is called in the thread when an item is ready, and at the end."""
        self.error: Exception | None = None  # that ended the items
        self._items = items
        self._on_news = on_news
        self._ready: Queue[T] = Queue(most)
        self._taken = self._closed = False
        self._ended = Event()
        self._thread = Thread(target=self._take, daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """No item will follow."""
        return self._ended.is_set() and self._ready.empty()

    def next_ready(self) -> T | None:
        """None: there is none yet, or none any more. Does not block."""
        try:
            return self._ready.get_nowait()
        except Empty:
            return None

    def close(self) -> None:
        """Blocks until the item that is being made is there."""
        self._closed = True
        while self._thread.is_alive():
            self.next_ready()  # it may wait for room
            self._thread.join(0.01)

    def _take(self) -> None:
        try:
            for item in self._items:
                self._ready.put(item)
                self._on_news()
                if self._closed:
                    return
        except Exception as error:
            self.error = error
        finally:
            self._ended.set()
            self._on_news()


class Results(Generic[T]):
    """What `work` hands over, as it comes, while it runs in a thread from now on. Iterating raises what `work` raises.

    `stop` is set when it is closed before all was taken: then `work` has to end soon, and `close` waits for it.
    """

    def __init__(self, work: Callable[[Callable[[T], None]], None], stop: Event) -> None:
        self._queue: SimpleQueue[tuple[T] | BaseException | None] = SimpleQueue()
        self._work = work
        self._stop = stop
        self._taken = False  # all
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        while (result := self._queue.get()) is not None:
            if isinstance(result, BaseException):
                self._taken = True
                raise result
            yield result[0]
        self._taken = True

    def close(self) -> None:
        if not self._taken:
            self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._work(lambda result: self._queue.put((result,)))
            self._queue.put(None)
        except BaseException as error:
            self._queue.put(error)
