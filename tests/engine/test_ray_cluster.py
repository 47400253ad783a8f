"""Units of work on a real Ray cluster of several nodes: workers that die, mistakes, and both stages end to end."""

import json
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest

pytest.importorskip("ray", reason="needs requirements-ray.txt")

from common.errors import StopRun, UserError
from engine import ray_cluster
from engine.ray_cluster import ClusterOptions, Pool, Unit, cluster, results, unit_size
from tests.engine import ray_work
from tests.engine.conftest import Machines
from tests.support import Command, Ended, tree
from toyworld.layout import write_dataset

pytestmark = pytest.mark.slow
PAIR, ONE = Pool(size=2, cpus=1, gpus=0), Pool(size=1, cpus=1, gpus=0)
COUNT = 32


def at(machines: Machines) -> ClusterOptions:
    return ClusterOptions(machines.address, shared_code=True)


@pytest.mark.long
def test_a_unit_that_kills_its_worker_costs_nothing_but_itself(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines.need(2)
    monkeypatch.setattr(ray_cluster, "LIVES", 1)
    units = [Unit(str(index), items) for index, items in enumerate([[1, 2], [3, 13, 4], [5], [14]])]
    with cluster(at(machines)):
        found = list(results(PAIR, ray_work.set_up, {"folder": str(tmp_path)}, units, Unit.singles))
    assert sorted(found) == [
        ("doubled", [2, 4]),
        ("doubled", [6]),
        ("doubled", [8]),
        ("doubled", [10]),
        ("doubled", [28]),  # its second worker lived
        ("looked", [13]),
    ]


def test_what_ends_a_run_ends_it_in_one_line(machines: Machines) -> None:
    cases: list[tuple[dict[str, Any], int, type[Exception], str]] = [
        ({"mistake": "no such model"}, 1, UserError, "no such model"),
        ({"surprise": "by zero"}, 1, StopRun, "a worker could not begin: ZeroDivisionError: by zero"),
        ({}, 15, StopRun, "no room"),
        ({}, 16, UserError, "sixteen: not a number"),
    ]
    with cluster(at(machines)):
        for plan, number, error, said in cases:
            with pytest.raises(error) as raised:
                list(results(ONE, ray_work.set_up, plan, [Unit("0", [number])], Unit.singles))
            assert str(raised.value) == said


def test_no_cluster_at_an_address_is_one_line() -> None:
    with pytest.raises(UserError) as raised, cluster(ClusterOptions("127.0.0.1:1")):
        pass
    assert "127.0.0.1:1: nobody listens there" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("count", "size", "multiple", "expected"),
    [(1, 2, 1, 1), (32, 2, 1, 2), (10**6, 4, 1, 128), (32, 2, 8, 8), (10**6, 4, 8, 128)],
)
def test_units_are_small_enough_for_all_workers(count: int, size: int, multiple: int, expected: int) -> None:
    assert unit_size(count, Pool(size, 1, 0), 128, multiple) == expected


# --- the stages -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy world; its last image is damaged."""
    root = tmp_path_factory.mktemp("toy") / "world"
    ids = write_dataset(root, seed=31, count=COUNT)
    path = root / "JPEGImages" / f"{ids[-1]}.jpg"
    path.write_bytes(path.read_bytes()[:2000])
    return root


@pytest.fixture(scope="module")
def one_machine(world: Path) -> Path:
    """What one process makes of it."""
    import generate_cams

    out = world.parent / "one"
    assert generate_cams.main(["--img_root", str(world), "--cam_out_dir", str(out / "cams"), "--device", "cpu"]) == 3
    return out


def files(folder: Path) -> dict[str, bytes]:
    """All files but run.json, in which times and arguments are."""
    return {name: content for name, content in tree(folder).items() if name != "run.json"}


def events_of_images(log: Path) -> list[str]:
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return sorted(event["id"] for event in events if event["event"] in ("image", "failed"))


def run_ray(command: Command, machines: Machines, module: str, *options: object) -> Ended:
    return command(module, *options, "--engine", "ray", "--address", machines.address)


def node_with_a_worker(machines: Machines) -> Any:
    """A node on which a worker of Ray Data runs, as the list of processes tells."""
    listed = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True, check=True).stdout
    parents = {line.split()[0] for line in listed.splitlines() if "ray::MapWorker" in line}
    busy = [node for node in machines.nodes if str(node.all_processes["raylet"][0].process.pid) in parents]
    assert busy, "no node has a worker"
    return busy[0]


@pytest.mark.long
def test_a_node_that_is_killed_loses_and_doubles_nothing(
    machines: Machines, world: Path, one_machine: Path, tmp_path: Path, command: Command
) -> None:
    machines.need(2)
    cams, log = tmp_path / "cams", tmp_path / "log.jsonl"
    left: list[int] = []

    def kill() -> None:
        until = time.monotonic() + 300
        while len(list(cams.glob("*.npz"))) < 3 and time.monotonic() < until:
            time.sleep(0.02)
        machines.kill(node_with_a_worker(machines))
        left.append(COUNT - 1 - len(list(cams.glob("*.npz"))))

    killer = threading.Thread(target=kill)
    killer.start()
    options = ("--img_root", world, "--cam_out_dir", cams, "--log_json", log, "--shared_code")
    ended = run_ray(command, machines, "generate_cams", *options)
    killer.join()
    assert left[0] > 0, "killed too late to show anything"
    assert ended.code == 3 and "Traceback" not in ended.err
    assert files(cams) == files(one_machine / "cams")
    assert events_of_images(log) == (world / "ImageSets/Segmentation/train.txt").read_text().split()


def test_both_stages_on_addresses_make_the_same_bytes(
    machines: Machines, store: str, world: Path, one_machine: Path, tmp_path: Path, command: Command
) -> None:
    """Three images are enough; the code is sent to the nodes for the first stage."""
    split = tmp_path / "three.txt"
    ids = (world / "ImageSets/Segmentation/train.txt").read_text().split()[-3:]
    split.write_text("\n".join(ids))
    there = fsspec.filesystem("s3")
    there.put(str(world), f"{store}/world", recursive=True)
    there.put_file(str(split), f"{store}/three.txt")
    data = ["--img_root", f"{store}/world/JPEGImages", "--split_file", f"{store}/three.txt"]
    data += ["--cam_out_dir", f"{store}/out/cams"]

    ended = run_ray(command, machines, "generate_cams", *data)
    assert ended.code == 3 and f"2 CAM files written in {store}/out/cams" in ended.out
    ended = run_ray(
        command, machines, "eval_cam_with_crf", *data, "--pseudo_mask_save_path", f"{store}/out/masks",
        "--json", tmp_path / "ray.json", "--shared_code",
    )  # fmt: skip
    assert ended.code == 3 and f"2 masks written in {store}/out/masks" in ended.out

    here = ("--img_root", world, "--split_file", split, "--cam_out_dir", one_machine / "cams")
    masks = tmp_path / "masks"
    command("eval_cam_with_crf", *here, "--pseudo_mask_save_path", masks, "--json", tmp_path / "one.json")
    there.invalidate_cache()
    there.get(f"{store}/out", str(tmp_path / "out"), recursive=True)
    for key in ids[:2]:
        assert (tmp_path / "out/cams" / f"{key}.npz").read_bytes() == (one_machine / "cams" / f"{key}.npz").read_bytes()
        assert (tmp_path / "out/masks" / f"{key}.png").read_bytes() == (masks / f"{key}.png").read_bytes()
    failure = json.loads((tmp_path / "out/cams/failures.jsonl").read_text())
    assert failure["id"] == ids[2] and failure["reason"].startswith(f"{store}/world/JPEGImages/{ids[2]}.jpg: ")
    for name in ("cams", "masks"):
        assert json.loads((tmp_path / "out" / name / "run.json").read_text())["status"] == "incomplete"
    told, expected = (json.loads((tmp_path / name).read_text()) for name in ("ray.json", "one.json"))
    assert told["miou"] == expected["miou"] and told["images"] == expected["images"] == 2
    assert sorted(path.name for path in (tmp_path / "out/cams").iterdir()) == sorted(
        ["failures.jsonl", "run.json", *(f"{key}.npz" for key in ids[:2])]
    )
