"""A Ray cluster of several nodes on this machine, with a store of objects beside it, for the tests of a file."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

MEGABYTE = 1024**2


@dataclass
class Machines:
    """A head without cores, where the driver is, and nodes of one core each: one, or as many as a test needs."""

    cluster: Any
    nodes: list[Any] = field(default_factory=list)

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def need(self, count: int) -> None:
        given = {"num_cpus": 1, "object_store_memory": 150 * MEGABYTE, "include_dashboard": False}
        while len(self.nodes) < count:
            self.nodes.append(patiently(lambda: self.cluster.add_node(**given)))

    def kill(self, node: Any) -> None:
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)


def patiently(start: Callable[[], Any]) -> Any:
    """Start a node; on a machine that is busy with other things Ray gives up after half a minute."""
    for _ in range(3):
        try:
            return start()
        except Exception as error:
            if "timed out" not in str(error):
                raise
    pytest.skip("this machine is too busy for Ray")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an empty bucket of moto's server; this process and those it starts find it."""
    server_module = pytest.importorskip("moto.server", reason="needs moto[server]")
    server = server_module.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import fsspec

        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("bucket")
        yield "s3://bucket"
        server.stop()


@pytest.fixture(scope="module")
def machines(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    pytest.importorskip("ray", reason="needs requirements-ray.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))  # of the nodes
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 200 * MEGABYTE}
        found = Machines(patiently(lambda: Cluster(initialize_head=True, head_node_args=head)))
        try:
            found.need(1)
            yield found
        finally:
            found.cluster.shutdown()
