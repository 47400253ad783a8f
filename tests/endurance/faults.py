"""Faults put upon the real commands: what is lost when they are killed, stopped, doubled, or without room.

python -m tests.endurance.faults [--kills 20] [--only WORD ...] [--quick] [--json FILE]

The commands work on a small toy world with one broken image and one broken annotation. After each fault the same
command is given again, and its folder must end as an undisturbed run leaves one: the same bytes and no other file; of
run.json, which holds times, the same status, settings and counts. The moments of the faults are drawn (from a fixed
seed): a quarter before the first file, the others within a tenth of a second after one of the next three files.

The exit code is 0 if nothing was lost, else 3. One row is a test of tests/engine, which needs Ray.
"""

import argparse
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import measure
from benchmarks.started import KILLED, Hangs, Started, bound_by_rights, started
from cli import console
from common.arguments import positive
from common.errors import EXIT_INCOMPLETE, EXIT_INTERRUPTED, EXIT_OK, EXIT_TERMINATED, UserError
from tests.endurance.fault_world import (
    CAMS,
    READERS,
    STAGES,
    WORKERS,
    World,
    count,
    leftovers,
    lines_with,
    made,
    record,
)

COLUMNS: measure.Columns = {
    "fault": ("fault", "{}"),
    "command": ("command", "{}"),
    "times": ("times", "{}"),
    "begun": ("with work half done", "{}"),
    "lying": ("temporary files left, then swept", "{}"),
    "lost": ("lost", "{}"),
    "note": ("", "{}"),
}
SHOWN = 5  # losses of a row that are printed
FEWEST = 8  # scenes; two are broken, and five files are damaged
RAY_TEST = "tests/engine/test_ray_cluster.py::test_a_node_that_is_killed_loses_and_doubles_nothing"
Row = dict[str, Any]
Strike = Callable[[Started], "int | None"]  # does harm to a command at work; its exit code, if that has ended it


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = measure.parser_of("Faults put upon the real commands: nothing may be lost.")
    parser.add_argument(
        "--kills", type=positive, help="of each command, at random moments; not given: 20, with --quick 1"
    )
    parser.add_argument("--scenes", type=positive, help="in the toy world; not given: 16, with --quick 8")
    parser.add_argument("--only", nargs="+", metavar="WORD", help=f"some of: {', '.join(FAULTS)}")
    parser.add_argument("--mounted", action="store_true", help=argparse.SUPPRESS)  # in a place for mounts of its own
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    measure.begin(args)
    kills = args.kills or (1 if args.quick else 20)
    chosen = args.only or (QUICK if args.quick else list(FAULTS))
    if unknown := [word for word in chosen if word not in FAULTS]:
        raise UserError(f"--only {unknown[0]}: unknown; expected some of {', '.join(FAULTS)}")
    scenes = args.scenes or (8 if args.quick else 16)
    if scenes < FEWEST:
        raise UserError(f"--scenes {scenes}: expected {FEWEST} or more, so that a fault can come between them")
    rows: list[Row] = []
    with TemporaryDirectory() as name:
        found = measure.machine()
        world = World(Path(name).resolve(), scenes, kills, args.mounted, args.quick)
        for word in chosen:
            rows += tried(world, word)
    print(measure.table([{**row, "lost": in_words(row["lost"])} for row in rows], COLUMNS))
    measure.write_record(args.json, "faults", found, {"images": world.count, "kills": kills}, rows)
    return EXIT_INCOMPLETE if any(row["lost"] for row in rows) else EXIT_OK


def tried(world: World, word: str) -> list[Row]:
    """The rows of one kind of fault; what was lost is told at once."""
    rows: list[Row] = []
    try:
        for row in FAULTS[word](world):
            rows.append(row)
            print(f"{row['fault']}, {row['command']}: {in_words(row['lost'])}", file=sys.stderr)
            for loss in row["lost"][:SHOWN]:
                print(f"  {loss}", file=sys.stderr)
    except Hangs as error:
        rows.append(row_of(word, "", 1, [str(error)]))
    return rows


def in_words(lost: list[str]) -> str:
    return f"{len(lost)} thing{'s' * (len(lost) > 1)}" if lost else "nothing"


def row_of(fault: str, command: str, times: int, lost: list[str], note: str = "", **more: int) -> Row:
    return {"fault": fault, "command": command, "times": times, **more, "lost": lost, "note": note}


def not_possible(fault: str, why: str) -> Row:
    return row_of(fault, "", 0, [], f"not possible here: {why}")


# --- processes that end -----------------------------------------------------------------------------


def struck(world: World, fault: str, name: str, times: int, strike: Strike, wanted: int) -> Row:
    """Strike a command until that has ended it so many times; then the same command goes on undisturbed.

    What comes too late for a run counts as its end, which must be a good one; a new folder follows.
    """
    world.whole(name)
    hits, begun, lying, lost, out = 0, 0, 0, list[str](), world.out()
    while hits < times:
        with world.start(name, out) as running:
            world.wait_for_a_moment(running, name, out)
            code = strike(running)
        if code == wanted:
            hits, begun, lying = hits + 1, begun + world.begun(name, out), lying + leftovers(out)
            lost += world.halves(name, out)
            continue
        lost += [] if code == world.code(name) else [f"{name}: exit code {code}: {running.said[-200:]}"]
        lost += world.differences(name, out)
        out = world.out()
    return row_of(fault, name, times, [*lost, *world.again(name, out)], begun=begun, lying=lying)


def kill_group(world: World) -> Iterator[Row]:
    for name in world.commands:
        times = world.kills if name in STAGES else -(-world.kills // 4)
        yield struck(world, "kill -9 of all its processes", name, times, lambda it: it.send(signal.SIGKILL), KILLED)


def kill_parent(world: World) -> Iterator[Row]:
    """Its workers must end by themselves."""

    def strike(running: Started) -> int | None:
        code = running.send(signal.SIGKILL, alone=True)
        wait_for_end_of_kin(running)
        return code

    for name in (WORKERS, READERS):
        yield struck(world, "kill -9 of the parent alone", name, -(-world.kills // 4), strike, KILLED)


def wait_for_end_of_kin(running: Started, patience_s: float = 60) -> None:
    from tests.endurance.fault_world import after

    over = after(patience_s)
    while running.kin():
        if over():
            raise Hangs(f"processes {running.kin()} outlive their parent")


def kill_worker(world: World) -> Iterator[Row]:
    """The command itself must go on to its end."""
    for name, word in ((WORKERS, "spawn_main"), (READERS, "spawn_main")):
        times = world.kills if name == WORKERS else -(-world.kills // 4)
        yield worker_row(world, name, word, times)


def worker_row(world: World, name: str, word: str, times: int) -> Row:
    world.whole(name)
    hits, begun, lost = 0, 0, list[str]()
    while hits < times:
        out = world.out()
        with world.start(name, out) as running:
            world.wait_for_a_moment(running, name, out)
            hit = kill_one(world, running.kin(word))
            hits, begun = hits + hit, begun + (hit and world.begun(name, out))
            code = running.wait()
        lost += [] if code == world.code(name) else [f"{name}: exit code {code}: {running.said[-200:]}"]
        lost += world.differences(name, out)
    return row_of("kill -9 of one of its processes", name, times, lost, begun=begun)


def kill_one(world: World, processes: list[int]) -> bool:
    """Kill one of them, drawn at random; whether there was one."""
    import os

    if not processes:
        return False
    try:
        os.kill(world.rng.choice(processes), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def stop(world: World) -> Iterator[Row]:
    """Ctrl-C, which reaches all processes as from a terminal, and SIGTERM to the first, as clusters send it."""
    for title, number, alone, wanted in (
        ("Ctrl-C", signal.SIGINT, False, EXIT_INTERRUPTED),
        ("SIGTERM", signal.SIGTERM, True, EXIT_TERMINATED),
    ):
        for name in world.commands:
            yield stop_row(world, f"{title} (exit code {wanted})", name, number, alone, wanted)


def stop_row(world: World, fault: str, name: str, number: signal.Signals, alone: bool, wanted: int) -> Row:
    """One stop after the first file; it must be told how to go on."""
    running, out = stopped(world, name, number, alone)
    code = running.code
    lost = [] if code == wanted else [f"{name}: exit code {code} instead of {wanted}"]
    lost += [f"{name}: said {line}" for line in lines_with(running.said, ["Traceback"])]
    lost += [] if lines_with(running.said, ["continue with: python"]) else [f"{name}: does not say how to go on"]
    lost += [] if record(out).get("status") == "interrupted" else [f"{name}: run.json says {record(out).get('status')}"]
    lost += [f"{name}: {leftovers(out)} temporary files"] * (leftovers(out) > 0)
    lost += world.halves(name, out)
    begun = world.begun(name, out)
    return row_of(fault, name, 1, [*lost, *world.again(name, out)], begun=int(begun))


def stopped(world: World, name: str, number: signal.Signals, alone: bool) -> tuple[Started, Path]:
    """A command that got a signal before its end, and its folder; on a busy machine that may need a second try."""
    world.whole(name)
    out = world.out()
    with world.start(name, out) as running:
        running.wait(until=lambda: count(out) > 0 and record(out) != {})
        code = running.send(number, alone)
    return stopped(world, name, number, alone) if code == world.code(name) else (running, out)


# --- files and folders ------------------------------------------------------------------------------


def two_at_once(world: World) -> Iterator[Row]:
    for name in STAGES:
        lost, times = list[str](), -(-world.kills // 4)
        world.whole(name)
        for _ in range(times):
            out = world.out()
            with ExitStack() as both:
                pair = [both.enter_context(world.start(name, out)) for _ in range(2)]
                codes = [running.wait() for running in pair]
            lost += [] if codes == [world.code(name)] * 2 else [f"{name}: exit codes {codes}"]
            lost += world.differences(name, out)
        yield row_of("two of them at once in one folder", name, times, lost)


def damaged(world: World) -> Iterator[Row]:
    """Files of results that somebody cut, emptied, overwrote, changed or removed are made again."""
    for name in STAGES:
        world.whole(name)
        out = world.out()
        shutil.copytree(world.place(name), out)
        harm_files(out)
        yield row_of("files cut, emptied, changed, removed", name, 1, world.again(name, out))


def harm_files(out: Path) -> None:
    cut, emptied, text, flipped, removed, *_ = sorted(path for path in out.iterdir() if path.suffix in (".npz", ".png"))
    whole = flipped.read_bytes()
    middle = len(whole) // 2
    cut.write_bytes(cut.read_bytes()[:-20])
    emptied.write_bytes(b"")
    text.write_bytes(b"no picture")
    flipped.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :])
    removed.unlink()
    (out / ".4711.0123abcd.tmp").write_bytes(b"left by a process that was killed")
    (out / "run.json").write_text("{")


def unreadable(world: World) -> Iterator[Row]:
    """An image that may not be read fails alone; once it may, the same command makes it."""
    prefix, fault = bound_by_rights(), "an image that may not be read"
    if prefix is None:
        yield not_possible(fault, "root reads everything")
        return
    image = world.images / f"{world.ids[0]}.jpg"
    for name in STAGES:
        world.whole(name)
        out = world.out()
        with without_rights(image), world.start(name, out, prefix) as running:
            code = running.wait()
        told = lines_with(made(out).get("failures.jsonl", b"").decode(), [image.stem])
        lost = [] if code == EXIT_INCOMPLETE else [f"{name}: exit code {code}"]
        lost += [] if len(told) == 1 else [f"{name}: not named, or more than once"]
        lost += [] if count(out) == len([*world.images.iterdir()]) - 3 else [f"{name}: {count(out)} files"]
        yield row_of(fault, name, 1, [*lost, *world.halves(name, out), *world.again(name, out)])


@contextmanager
def without_rights(path: Path) -> Iterator[None]:
    rights = path.stat().st_mode
    path.chmod(0)
    try:
        yield
    finally:
        path.chmod(rights)


def full_disk(world: World) -> Iterator[Row]:
    """On a tmpfs of a few kilobytes, in a mount namespace of its own, where nothing is left mounted."""
    fault = "disk full (a small tmpfs), then room made"
    if not world.mounted:
        yield from in_own_mounts(world, fault)
        return
    for name in STAGES:
        world.whole(name)
        yield full_disk_row(world, fault, name)


def in_own_mounts(world: World, fault: str) -> Iterable[Row]:
    """The rows of this program started anew where it may mount."""
    unshare = shutil.which("unshare")
    ways = [["--mount"], ["--user", "--map-root-user", "--mount"]]
    for way in ways if unshare else ():
        trial = [str(unshare), *way, "mount", "-t", "tmpfs", "tmpfs", str(world.folder)]
        if subprocess.run(trial, capture_output=True, check=False).returncode == 0:
            told = world.folder / "full disk.json"
            options = ["--only", "full_disk", "--mounted", "--scenes", world.count, "--json", told]
            with started(["-m", "tests.endurance.faults", *options], [str(unshare), *way]) as running:
                running.wait()
            if told.is_file():
                return json.loads(told.read_text())["rows"]
            return [row_of(fault, "", 1, [running.said[-300:]])]
    return [not_possible(fault, "no right to mount a tmpfs")]


def full_disk_row(world: World, fault: str, name: str) -> Row:
    disk = world.folder / f"disk {name}"
    disk.mkdir()
    pages = sum(-(-len(data) // 4096) for data in world.whole(name).values())
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={4 * (pages // 2)}k", "tmpfs", str(disk)], check=True)
    out = disk / "out"
    with world.start(name, out) as running:
        code = running.wait()
    told = lines_with(running.said, ["stopped: "])
    lost = [] if code == EXIT_INCOMPLETE else [f"{name}: exit code {code}"]
    lost += [] if len(told) == 1 and "make room" in told[0] else [f"{name}: said {running.said[-200:]}"]
    lost += [f"{name}: {line}" for line in lines_with(running.said, ["Traceback"])]
    lost += [f"{name}: {leftovers(out)} temporary files"] * (leftovers(out) > 0)
    lost += world.halves(name, out)
    begun = int(world.begun(name, out))
    subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
    return row_of(fault, name, 1, [*lost, *world.again(name, out)], begun=begun)


# --- many machines ------------------------------------------------------------------------------------


def ray_node(world: World) -> Iterator[Row]:
    fault, name = "kill of a Ray node", f"{CAMS} --engine ray"
    if any(importlib.util.find_spec(module) is None for module in ("ray", "moto", "pytest")):
        yield row_of(fault, name, 0, [], "not tried: needs requirements-ray.txt and requirements-dev.txt")
        return
    with started(["-m", "pytest", "-q", "-p", "no:cacheprovider", RAY_TEST]) as running:
        code = running.wait()
    passed = code == 0 and "1 passed" in running.said
    yield row_of(fault, name, 1, [] if passed else [running.said[-300:]], RAY_TEST)


FAULTS: dict[str, Callable[[World], Iterator[Row]]] = {
    "kill_group": kill_group,
    "kill_parent": kill_parent,
    "kill_worker": kill_worker,
    "stop": stop,
    "two_at_once": two_at_once,
    "damaged": damaged,
    "unreadable": unreadable,
    "full_disk": full_disk,
    "ray_node": ray_node,
}
QUICK = ["kill_group", "stop", "two_at_once", "damaged"]  # of single processes


if __name__ == "__main__":
    sys.exit(main())
