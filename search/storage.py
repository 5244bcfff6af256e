"""An Optuna storage by its URL, and patience with one that does not answer."""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from typing import Any, TypeVar

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy import column, create_engine, delete, insert, inspect, select, table
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from ..lpa.config import UserError, one_line

PATIENCE = 600.0
"""Seconds for which a storage that fails is asked again: a server's restart, a full disk that somebody clears (assumption)."""
LONGEST = 5.0
"""Seconds between two attempts, at most."""
FAILURES = (ImportError, OSError, ValueError, SQLAlchemyError, StorageInternalError)
EXTRA = "pip install 'lpanas[postgresql]'"
LIBPQ: dict[str, Any] = {
    "client_encoding": "utf8",  # a database in SQL_ASCII would give bytes for text
    "connect_timeout": 10,  # seconds; without these a server whose machine is gone is waited for without end
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}
"""What a PostgreSQL URL is given that does not say it."""

STUDY_ATTRIBUTES = table("study_user_attributes", column("study_id"), column("key"), column("value_json"))
_TRIALS = table("trials", column("trial_id"), column("study_id"), column("state"))
_TRIAL_ATTRIBUTES = table("trial_user_attributes", column("trial_id"), column("key"), column("value_json"))
_TRIAL_PARAMS = table(
    "trial_params", column("trial_id"), column("param_name"), column("param_value"), column("distribution_json")
)
"""Optuna's tables, for what its own interface cannot do: a lease needs a compare-and-swap, 5,000 trials come five times as
fast without their parameters, and a trial's parameters go in at once (Optuna takes some queries for each: 35 ms for nine)."""

T = TypeVar("T")


def open_storage(url: str) -> RDBStorage:
    """The storage, its tables made if need be. Raises UserError, without the URL's password."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        options: dict[str, Any] = {"connect_args": _connect_args(url), "pool_pre_ping": True}
        for _ in range(2):  # another search on a new server may be making the same tables
            try:
                return _storage(url, options)
            except (SQLAlchemyError, StorageInternalError) as error:
                if "already exists" not in str(error.__cause__ or error):
                    raise
                time.sleep(1.0)
        return _storage(url, options)
    except FAILURES as error:
        raise failed(url, error) from None


def has_tables(url: str) -> bool:
    """Whether there is a storage of Optuna's, without making one. Raises UserError when that cannot be seen."""
    try:
        parts = make_url(url)
        file = parts.database if parts.get_backend_name() == "sqlite" else None
        if file and not file.startswith(("file:", ":")) and not os.path.exists(file):
            return False
        engine = create_engine(url, connect_args=_connect_args(url))
        try:
            return inspect(engine).has_table("studies")
        finally:
            engine.dispose()
    except FAILURES as error:
        raise failed(url, error) from None


def _storage(url: str, options: dict[str, Any]) -> RDBStorage:
    return RDBStorage(url.replace("{", "{{").replace("}", "}}"), engine_kwargs=options)  # Optuna formats it


def _connect_args(url: str) -> dict[str, Any]:
    parts = make_url(url)
    if parts.get_backend_name() == "sqlite":
        return {"timeout": 100}  # a dashboard that polls the file must not stop the driver: wait for its lock
    if parts.get_driver_name() in ("psycopg", "psycopg2"):
        return {name: value for name, value in LIBPQ.items() if name not in parts.query}
    return {}


def attributes(storage: BaseStorage, study: int) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(trial's id, its state's name, its user attributes) of all trials of a study that have some, in their order."""
    if not isinstance(storage, RDBStorage):  # one in memory
        yield from ((one._trial_id, one.state.name, one.user_attrs) for one in storage.get_all_trials(study, deepcopy=False))
        return
    trials, held = _TRIALS.c, _TRIAL_ATTRIBUTES.c
    columns = select(trials.trial_id, trials.state, held.key, held.value_json)
    rows = columns.join(_TRIAL_ATTRIBUTES, held.trial_id == trials.trial_id).where(trials.study_id == study)
    with storage.engine.connect() as connection:
        found = connection.execute(rows.order_by(trials.trial_id)).all()
    for (trial_id, state), its in groupby(found, key=lambda row: (row[0], row[1])):
        yield trial_id, state, {key: json.loads(text) for _, _, key, text in its}


def write_params(
    storage: BaseStorage, trial: int, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]
) -> None:
    """Give a new trial its parameters, or give them again. Only for other readers, and so outside of the lease's check."""
    inside = {name: distributions[name].to_internal_repr(value) for name, value in params.items()}
    if not isinstance(storage, RDBStorage):
        for name, value in inside.items():
            storage.set_trial_param(trial, name, value, distributions[name])
        return
    rows = [
        {
            "trial_id": trial,
            "param_name": name,
            "param_value": value,
            "distribution_json": distribution_to_json(distributions[name]),
        }
        for name, value in inside.items()
    ]
    with storage.engine.begin() as connection:
        connection.execute(delete(_TRIAL_PARAMS).where(_TRIAL_PARAMS.c.trial_id == trial))
        connection.execute(insert(_TRIAL_PARAMS), rows)


def patiently(url: str, do: Callable[[], T]) -> T:
    """What `do` returns, which is called again while the storage fails in a way that may pass, and so must be such that it may
    have been done already. Says so once on stderr. Raises UserError when it goes on for PATIENCE or cannot pass."""
    began, wait = None, 0.1
    while True:
        try:
            result = do()
        except FAILURES as error:
            if not _may_pass(error):
                raise failed(url, error) from None
            now = time.monotonic()
            if began is None:
                began = now
                _say(f"{failed(url, error)}; trying again for {PATIENCE / 60:.0f} minutes")
            if now - began > PATIENCE:
                raise UserError(f"{failed(url, error)}; the same command goes on from here") from None
        else:
            if began is not None:
                _say(f"the storage answers again, after {time.monotonic() - began:.0f} s")
            return result
        time.sleep(wait)
        wait = min(2 * wait, LONGEST)


def _may_pass(error: BaseException) -> bool:
    """Whether the storage may do later what it does not do now: it is away, locked or full."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return isinstance(cause, (OperationalError, InterfaceError)) or (
        isinstance(cause, DBAPIError) and cause.connection_invalidated
    )


def failed(url: str, error: BaseException) -> UserError:
    """An error of a storage as one line."""
    wrapped = isinstance(error, (StorageInternalError, ImportError))  # Optuna says little in these
    cause = error.__cause__ if wrapped and error.__cause__ else error
    reason = one_line(getattr(cause, "orig", None) or cause)
    if isinstance(cause, ImportError) and url.startswith("postgresql"):
        reason = f"there is no driver for it here ({reason}); {EXTRA}"
    elif url.startswith("postgres:"):
        reason = "expected postgresql+psycopg://USER@HOST/DATABASE"
    return UserError(f"--storage {shown(url)}: {reason}")


def shown(url: str) -> str:
    """A storage's URL without its password, to be printed."""
    url = re.sub(r"(?i)([?&](?:ssl)?password=)[^&]*", r"\1***", url)
    return re.sub(r"(://[^/:@]*):[^@]*@", r"\1:***@", url)


def _say(text: str) -> None:
    print(f"lpanas: {text}", file=sys.stderr, flush=True)
