"""Threads for calls that may never return: nobody waits for them at the end, not even the interpreter.

(A `ThreadPoolExecutor`'s threads are waited for when the process ends, so one call that hangs keeps it from ending.)
"""

import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from threading import Thread
from typing import TypeVar

A = TypeVar("A")
T = TypeVar("T")


def call_aside(work: Callable[[], T], name: str) -> Future[T]:
    """Begins at once, on a thread of its own."""
    future: Future[T] = Future()
    Thread(target=_fulfil, args=(future, work), name=name, daemon=True).start()
    return future


def map_aside(work: Callable[[A], T], arguments: Iterable[A], threads: int, name: str) -> Iterator[T]:
    """`work` of each, in their order, up to `threads` at once.

    Once one has raised, or nobody wants more, none is begun; those under way are waited for, since they may write to
    memory of the caller's.
    """
    waiting: queue.SimpleQueue[tuple[Future[T], Callable[[], T]]] = queue.SimpleQueue()
    futures: list[Future[T]] = []
    for argument in arguments:
        futures.append(Future())
        waiting.put((futures[-1], partial(work, argument)))
    for _ in range(min(threads, len(futures))):
        Thread(target=_serve, args=(waiting,), name=name, daemon=True).start()
    try:
        for future in futures:
            yield future.result()
    finally:
        for future in futures:
            future.cancel()
        wait(futures)


def _serve(waiting: "queue.SimpleQueue[tuple[Future[T], Callable[[], T]]]") -> None:
    while True:
        try:
            future, work = waiting.get_nowait()
        except queue.Empty:
            return
        _fulfil(future, work)


def _fulfil(future: Future[T], work: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:  # whoever waits for it is told
        future.set_exception(error)
        del future, work  # the error's traceback would hold them, and they the error
    else:
        future.set_result(result)
