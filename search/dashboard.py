"""A study in optuna-dashboard: a copy in memory, with our figures, that nobody's click can change on the disk."""

import errno
import socket
import threading
import warnings
from collections.abc import Callable, Container, Generator, Iterable
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import count
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from optuna_dashboard import save_plotly_graph_object, wsgi

from ..lpa.config import UserError
from .curve_figures import curves_figure
from .figure import titled
from .front_figures import front_figure
from .ledger import SEARCH
from .live import EVERY, Moment
from .record import Record
from .results import Results

HOST, PORT, PORTS = "127.0.0.1", 8080, 20
"""Where it is served, and how many ports are tried when none was asked for."""

STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "diverged": TrialState.FAIL, "failed": TrialState.FAIL}
READING = ("GET", "HEAD")


class _Shown(InMemoryStorage):
    """An Optuna storage whose trials are what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.trials: list[FrozenTrial] = []

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """See BaseStorage."""
        return [trial for trial in self.trials if states is None or trial.state in states]


class Copy:
    """A study as an Optuna study in memory: a trial a candidate, with its number, params, curve and what tables say of it."""

    def __init__(self, found: Results) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.storage, directions = _Shown(), [StudyDirection.MINIMIZE] * len(found.space.objectives)
        self.study = optuna.create_study(storage=self.storage, study_name=found.space.name, directions=directions)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self.study.set_metric_names(list(found.space.objectives))
        self.found: Results | None = None
        self.ended: dict[int, FrozenTrial] = {}
        self.begun: dict[int, FrozenTrial] = {}
        self.lock = threading.Lock()
        self.app: Any = wsgi(self.storage)

    def update(self, found: Results, moment: Moment | None) -> None:
        """Take over what has ended since, and what runs; at the next call, when a page is being made."""
        is_new = found is not self.found
        if is_new:  # all of them: what is said of one depends on the others
            self.ended = {number(record.run): _trial(number(record.run), record, found) for record in found.records}
        workers = moment.workers if moment is not None else ()
        running = {number(one.run) for one in workers if one.run is not None and one.run.startswith(SEARCH)}
        numbers = range(max([*self.begun, *self.ended, *running], default=-1) + 1)
        figures = {f"front-{cost}": titled(front_figure(found, cost), found) for cost in found.costs} if is_new else {}
        figures |= {"learning-curves": titled(curves_figure(found), found)} if is_new else {}
        if not self.lock.acquire(timeout=EVERY):
            return
        try:
            self.storage.trials = [self.ended.get(at) or self.begun.setdefault(at, _running(at)) for at in numbers]
            for name, figure in figures.items():  # each in many pieces
                save_plotly_graph_object(self.study, figure, graph_object_id=name)
            self.found = found
        finally:
            self.lock.release()

    def application(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """The dashboard as a WSGI application that only reads."""
        if environ["REQUEST_METHOD"] not in READING:
            start_response("403 Forbidden", [("Content-Type", "application/json")])
            return [b'{"reason": "lpanas watch only shows a study"}']
        with self.lock:
            return self.app(environ, start_response)


def number(run: str) -> int:
    """Of a run in its study."""
    return int(run.rpartition("-")[2])


def _trial(at: int, record: Record, found: Results) -> FrozenTrial:
    """A run that has ended."""
    measured, complete = record.measured, record.status == "complete"
    started = datetime.fromtimestamp(measured.started) if measured else datetime.now()
    distributions = found.space.distributions if record.params else {}
    return FrozenTrial(
        number=at,
        trial_id=at,
        state=STATES[record.status],
        value=None,
        values=record.values(found.space.objectives) if complete else None,
        datetime_start=started,
        datetime_complete=started + timedelta(seconds=measured.seconds if measured else 0.0),
        params=dict(record.params),
        distributions=dict(distributions),
        user_attrs=found.row(record),
        system_attrs={"constraints": [-1.0 if record.feasible else 1.0]},  # optuna-dashboard 0.21 reads them there
        intermediate_values=dict(record.curve),
    )


def _running(at: int) -> FrozenTrial:
    """A run that has not ended."""
    trial = create_trial(state=TrialState.RUNNING)
    trial.number = trial._trial_id = at
    return trial


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """A terminal that shows the search has no room for requests."""


@contextmanager
def served(copy: Copy, host: str = HOST, port: int | None = None) -> Generator[str]:
    """The URL at which it is served, until the block ends. port: the first free one of PORTS from PORT on when left out. Raises
    UserError when it cannot be had."""
    with _bind(copy, host, port) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://{host}:{server.server_port}/dashboard/studies/{copy.study._study_id}"
        finally:
            server.shutdown()
            thread.join()


def _bind(copy: Copy, host: str, port: int | None) -> WSGIServer:
    for attempt in count(PORT) if port is None else (port,):
        try:
            return make_server(host, attempt, copy.application, server_class=_Server, handler_class=_Quiet)
        except (OSError, OverflowError) as error:
            if isinstance(error, socket.gaierror):
                raise UserError(f"--host {host}: {error.strerror}") from None
            if port is not None or attempt == PORT + PORTS - 1 or getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
                raise UserError(f"--host {host} --port {attempt}: cannot be listened at: {error}") from None
    raise AssertionError
