"""One driver a study: a lease in the study's storage, which a driver renews and which a dead one does not keep.

It is a user attribute of the Optuna study, taken by compare-and-swap. No clock is compared with another: a lease is free when
its holder is a dead process of this machine, or when it was watched for PATIENCE seconds and never renewed.
"""

import getpass
import json
import os
import platform
import secrets
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from typing import Any, Self

from optuna.storages import RDBStorage
from sqlalchemy import ColumnElement, and_, delete, event, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from ..lpa.config import UserError
from .process import born, machine
from .storage import STUDY_ATTRIBUTES

KEY = "driver"
BEAT = 2.0
"""Seconds between two renewals (assumption)."""
PATIENCE = 30.0
"""Seconds without one after which a lease is free (assumption)."""


_HELD = set[str]()
"""The tokens of the leases that this process holds."""


@dataclass(frozen=True)
class Holder:
    """A driver, as a lease names it."""

    who: str
    """`user@host`"""
    pid: int
    born: str
    """The process's start, in the kernel's ticks; tells it from a later one of the same number."""
    machine: str
    since: str
    token: str
    """Of this one lease."""
    beat: int = 0

    @classmethod
    def here(cls) -> Self:
        """This process, with a new lease."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(f"{_user()}@{platform.node()}", os.getpid(), born(os.getpid()), machine(), since, secrets.token_hex(8))

    @classmethod
    def read(cls, text: str) -> Self:
        """The holder that a lease's text names."""
        return cls(**json.loads(text))

    @property
    def text(self) -> str:
        """What stands in the storage."""
        return json.dumps(vars(self))

    def __str__(self) -> str:
        return f"{self.who}, process {self.pid}, since {self.since}"

    @property
    def lives(self) -> bool | None:
        """Whether the process lives; None where that cannot be known from here."""
        if self.machine != machine():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            return None  # another user's
        if self.pid == os.getpid() and self.token not in _HELD:
            return False  # given back by this process while the storage did not answer
        its = born(self.pid)
        return its == self.born if its else None


@contextmanager
def held(storage: RDBStorage, study: int, name: str) -> Generator[None]:
    """The study, driven by this process alone. Raises UserError when another drives it; and so does, from then on, everything
    that is written through the storage's sessions once another has taken the lease."""
    lease = Lease(storage, study, name)
    lease.take()
    stop = threading.Event()
    beats = threading.Thread(target=lease.renew, args=(stop,), name="lease", daemon=True)
    beats.start()
    _HELD.add(lease.ours.token)
    event.listen(storage.scoped_session, "before_commit", lease.check)
    try:
        yield
    finally:
        event.remove(storage.scoped_session, "before_commit", lease.check)
        stop.set()
        beats.join(BEAT)
        _HELD.discard(lease.ours.token)
        lease.release()


class Lease:
    """The lease of one study, as one driver sees it."""

    def __init__(self, storage: RDBStorage, study: int, name: str) -> None:
        self.engine, self.name, self.study = storage.engine, name, study
        self.ours = Holder.here()

    def take(self) -> None:
        """Take it, once it is free. Raises UserError when its holder is there."""
        watched, since = self._read(), time.monotonic()
        for attempt in count():
            now = self._read()
            if now is None:
                taken = self._insert()
            elif now.token == self.ours.token:  # the answer to an earlier attempt was lost
                taken = True
            elif now.lives or now != watched:
                raise UserError(f"the study '{self.name}' is held by {now}; wait for it, or end it, or give another --out")
            elif now.lives is False or time.monotonic() - since > PATIENCE:
                taken = self._swap(now, self.ours)
            else:
                taken = False
                if attempt == 1:
                    words = f"the study '{self.name}' is held by {now}; seeing for {PATIENCE:.0f} s whether it lives"
                    print(f"lpanas: {words}", file=sys.stderr, flush=True)
            if taken:
                return
            time.sleep(0.5)

    def renew(self, stop: threading.Event) -> None:
        """Renew it until told to stop, or until it is lost; a storage that does not answer is asked again."""
        while not stop.wait(BEAT):
            after = replace(self.ours, beat=self.ours.beat + 1)
            with suppress(SQLAlchemyError):
                if self._swap(self.ours, after):
                    self.ours = after
                elif (now := self._read()) is not None and now.token == self.ours.token:
                    self.ours = now  # the answer to an earlier renewal was lost
                else:
                    return

    def check(self, session: Session) -> None:
        """Raises UserError, in a transaction that is about to be committed, when the lease is no longer ours; until its end
        nobody else can take it."""
        session.flush()  # so that a file's lock is there, too
        text = session.execute(select(STUDY_ATTRIBUTES.c.value_json).where(self._place).with_for_update(read=True)).scalar()
        now = None if text is None else Holder.read(text)
        if now is None or now.token != self.ours.token:
            by = f"taken over by {now}" if now else "taken over by another driver, which has ended"
            raise UserError(f"the study '{self.name}' was {by}, as this driver was silent for too long; it stops")

    def release(self) -> None:
        """Give it back, if it is still ours and the storage answers."""
        with suppress(SQLAlchemyError), self.engine.begin() as connection:
            connection.execute(delete(STUDY_ATTRIBUTES).where(self._place, STUDY_ATTRIBUTES.c.value_json == self.ours.text))

    @property
    def _place(self) -> ColumnElement[bool]:
        return and_(STUDY_ATTRIBUTES.c.study_id == self.study, STUDY_ATTRIBUTES.c.key == KEY)

    def _read(self) -> Holder | None:
        with self.engine.connect() as connection:
            text = connection.execute(select(STUDY_ATTRIBUTES.c.value_json).where(self._place)).scalar()
        return None if text is None else Holder.read(text)

    def _insert(self) -> bool:
        row: dict[str, Any] = {"study_id": self.study, "key": KEY, "value_json": self.ours.text}
        try:
            with self.engine.begin() as connection:
                connection.execute(insert(STUDY_ATTRIBUTES).values(row))
        except IntegrityError:  # another was faster
            return False
        return True

    def _swap(self, before: Holder, after: Holder) -> bool:
        """Whether the lease stood as `before` says and now stands as `after` says."""
        of = and_(self._place, STUDY_ATTRIBUTES.c.value_json == before.text)
        with self.engine.begin() as connection:
            return connection.execute(update(STUDY_ATTRIBUTES).where(of).values(value_json=after.text)).rowcount == 1


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in some containers
        return str(os.getuid())
