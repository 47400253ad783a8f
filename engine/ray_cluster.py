"""Units of work through a pool of Ray actors, each of which sets up the job once.

A worker that dies is replaced, on another node if need be, and its unit is given out again; finished files are kept. A
unit with which several workers die is given out again in smaller pieces (`smaller`), and at last only for a report of
its finished files.
"""

import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.errors import StopRun, UserError
from common.package import PACKAGE
from engine.remote import Mirror

ROOT = Path(__file__).resolve().parent.parent
CODE = ("clip", "common", "dataset", "engine", "pipeline", "segclip", "toyworld", "zsseg")  # what workers need
LIVES = 3  # workers that one unit may cost before it is set aside
FALSE_STARTS = 10  # workers in a row that may end before they are ready, such as on nodes that come and go
CONNECT_S = 10
PATIENCE_S = 6 * 3600  # without any report the run is given up
UNITS_A_WORKER = 8  # at least, where units may be small, so that workers end at about the same time


@dataclass(frozen=True)
class Unit:
    """A part of the list. `only_look`: report finished files, and do no work."""

    id: str
    items: Sequence[Any]
    only_look: bool = False

    def singles(self) -> "list[Unit]":
        """A unit of its own for every item."""
        return [Unit(f"{self.id}+{index}", [item]) for index, item in enumerate(self.items)]


Work = Callable[[Unit], Any]


@dataclass(frozen=True)
class ClusterOptions:
    """The options of `--engine ray`.

    address      of a running cluster; None: RAY_ADDRESS, or this machine's cores
    workers      at most; None: as many as fit
    cpus         cores and threads of a worker; None: 1, or 4 with a GPU
    shared_code  every node sees the code under the same path
    use_gpus     where there are any
    mirror       the folder whose paths are addresses; None: there are no addresses
    """

    address: str | None = None
    workers: int | None = None
    cpus: int | None = None
    shared_code: bool = False
    use_gpus: bool = True
    mirror: Mirror | None = None


@dataclass(frozen=True)
class Pool:
    """The workers of a run: at most `size`, each with so many cores (and threads) and GPUs."""

    size: int
    cpus: int
    gpus: int

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"


@contextmanager
def cluster(options: ClusterOptions) -> Iterator[None]:
    """Connect to a running cluster, or start one on this machine; on the way out leave or end it.

    The code alone, without data and results beside it, is sent to the nodes of a running cluster, unless they see it
    under the same path.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its messages go past Python's logging to stderr,
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # or to stdout; Ray's log files have them too
    on_terminate = signal.getsignal(signal.SIGTERM)
    import ray

    address = options.address or os.environ.get("RAY_ADDRESS")
    _check_reachable(address)
    with tempfile.TemporaryDirectory(prefix="clip-pseudo-masks-code-") as folder:
        code: dict[str, Any] = {"env_vars": {"PYTHONPATH": str(_package_file().parent.parent if PACKAGE else ROOT)}}
        if address and not options.shared_code:
            code = {"working_dir": folder}
            copy_code(Path(folder))
        local: dict[str, Any] = {} if address else {"include_dashboard": False}
        try:
            with _silent_stderr():
                ray.init(
                    address=address or "local",
                    runtime_env=code,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **local,
                )
        except Exception as error:  # Ray raises all sorts of errors, even Exception itself when a node is slow
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"--address {address or 'not given'}: no Ray cluster to work with ({reason})") from error
        try:
            with suppress(ValueError):  # not in the main thread, where Ray changes nothing either
                signal.signal(signal.SIGTERM, on_terminate)  # Ray's own would end the process on the spot
            yield
        finally:
            ray.shutdown()


def _package_file() -> Path:
    """The first file of the installed package, which says how its modules find each other."""
    return Path(str(sys.modules[PACKAGE.rstrip(".")].__file__))


def copy_code(folder: Path) -> None:
    """Copy what workers import into a folder that will be on their path: by its short names, or as the package."""
    target = folder / PACKAGE.rstrip(".")
    for name in CODE:
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    if PACKAGE:
        shutil.copy(_package_file(), target)


def _check_reachable(address: str | None) -> None:
    """Raise UserError when nobody listens at host:port; Ray would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not host or "://" in host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--address {address}: nobody listens there ({error}); expected that of `ray start`") from error


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Drop output on the process's stderr: Ray's compiled part writes there how it logs. Its errors are raised."""
    sys.stderr.flush()
    stderr, devnull = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(devnull)


def pool_for(options: ClusterOptions, gpu_work: bool = True) -> Pool:
    """As many workers as the cluster has cores for now, or one a GPU where the work can use GPUs."""
    import ray

    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0)) if gpu_work and options.use_gpus else 0
    cpus = options.cpus or (4 if gpus else 1)
    workers = gpus or int(resources.get("CPU", 0)) // cpus
    return Pool(options.workers or max(1, workers), cpus, 1 if gpus else 0)


def units_of(items: Sequence[Any], size: int) -> list[Unit]:
    """The list cut into units of `size` items."""
    return [Unit(str(start), items[start : start + size]) for start in range(0, len(items), size)]


def unit_size(count: int, pool: Pool, largest: int, multiple: int = 1) -> int:
    """Images a unit, rounded up to a multiple: few enough that every worker gets several units."""
    size = min(largest, max(1, count // (pool.size * UNITS_A_WORKER)))
    return -(-size // multiple) * multiple


def results(
    pool: Pool,
    set_up: Callable[[Any], Work],
    plan: Any,
    units: Sequence[Unit],
    smaller: Callable[[Unit], Sequence[Unit]],
) -> Iterator[Any]:
    """The results of `set_up(plan)`, called once a worker, for each unit; in the order in which they end.

    smaller  cuts a unit with which several workers died
    Raises UserError or StopRun when a worker did.
    """
    lost = list(units)
    for cut in (lambda unit: [unit], smaller, lambda unit: [replace(unit, only_look=True)]):
        todo = {part.id: part for unit in lost for part in cut(unit)}
        if todo:
            for unit_id, result in _one_round(pool, set_up, plan, list(todo.values())):
                if todo.pop(unit_id, None) is not None:  # Ray may repeat finished work when a node is lost
                    yield result
        lost = list(todo.values())
    if lost:
        raise StopRun(f"{len(lost)} units of work came back from no worker; the same command goes on with them")


def _one_round(
    pool: Pool, set_up: Callable[[Any], Work], plan: Any, units: Sequence[Unit]
) -> Iterator[tuple[str, Any]]:
    """The name of each unit and the result of it."""
    import ray
    import ray.data

    # Without bars and messages, and patient with nodes that are lost.
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # failed units are given out again in another round
    context.max_consecutive_actor_init_deaths = FALSE_STARTS
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0  # more workers when all have a unit
    context.execution_no_progress_timeout_s = PATIENCE_S
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")  # 2.60 has no other way to bound retries
    rows = ray.data.from_items([{"unit": unit} for unit in units], override_num_blocks=len(units)).map_batches(
        Actor,
        fn_constructor_args=(set_up, plan, str(Path.cwd())),
        batch_size=1,
        batch_format="numpy",
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
        # Elastic: of a pool of fixed size, those whose node is lost would hold what is left of the cluster and wait.
        # One unit at a time, so that a worker that dies takes no other one with it.
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=pool.size, max_tasks_in_flight_per_actor=1),
        max_restarts=-1,
        max_task_retries=LIVES - 1,
    )
    try:
        for row in rows.iter_rows():
            unit_id, result = row["result"]
            if isinstance(result, (UserError, StopRun)):
                raise result
            yield unit_id, result
    except ray.exceptions.RayError as error:
        raise StopRun(f"Ray: {' '.join(str(error).split())[:300]}; the same command goes on from here") from error


class Actor:
    """A worker on a node: sets up once. An error that ends the run becomes a result, without a traceback."""

    def __init__(self, set_up: Callable[[Any], Work], plan: Any, folder: str) -> None:
        with suppress(OSError):  # where the folder is not shared, all paths are absolute or addresses
            os.chdir(folder)
        self.error: UserError | StopRun | None = None
        self.work: Work
        try:
            self.work = set_up(plan)
        except UserError as error:
            self.error = error
        except Exception as error:  # raised here, Ray would try again and again
            reason = str(error) if isinstance(error, StopRun) else f"{type(error).__name__}: {error}"
            self.error = StopRun(f"a worker could not begin: {' '.join(reason.split())}")

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, list[Any]]:
        return {"result": [(unit.id, self._result(unit)) for unit in rows["unit"]]}

    def _result(self, unit: Unit) -> Any:
        if self.error:
            return self.error
        try:
            return self.work(unit)
        except (UserError, StopRun) as error:
            return type(error)(str(error))
