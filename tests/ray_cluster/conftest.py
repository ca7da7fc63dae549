"""A real Ray cluster of two nodes on this machine, each with a simulated card."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from . import nodes

TESTS = Path(__file__).resolve().parents[1]
#: Of each node. Ray believes what it is told of cards.
NODE = {
    "num_cpus": 4,
    "num_gpus": 1,
    "object_store_memory": 100 * 2**20,
    "include_dashboard": False,
}


@pytest.fixture(autouse=True)
def quick(one_thread: None) -> None:
    """Small tensors are no faster on more threads."""


@pytest.fixture(scope="session")
def cluster(runtime_dir: None) -> Iterator[Any]:  # noqa: ARG001
    """The cluster, and this process connected to it."""
    ray = pytest.importorskip("ray", reason="tests of a cluster need Ray")
    pytest.importorskip("ray.data")
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short, since sockets are in it
    Path(folder, "ray").mkdir()
    set_here = {
        "RAY_TMPDIR": folder,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_worker_prestart": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_health_check_initial_delay_ms": "0",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "5",
        "PYTHONPATH": str(TESTS),
        "OMP_NUM_THREADS": "1",
    }
    before = {name: os.environ.get(name) for name in set_here}
    os.environ.update(set_here)
    made = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        made.add_node(**NODE)
        made.wait_for_nodes()
        ray.init(
            address=made.address,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"worker_process_setup_hook": nodes.set_up},
        )
        data = ray.data.DataContext.get_current()
        data.enable_progress_bars = False
        data.raise_original_map_exception = True
        yield made
    finally:
        ray.shutdown()
        made.shutdown()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def another(cluster: Any) -> Callable[..., AbstractContextManager[Any]]:
    """Open a third node, whose workers have something of their own in the environment."""
    import ray

    class Holder:
        def ready(self) -> None:
            pass

    @contextmanager
    def opened(*, alone: bool = False, **environment: str) -> Iterator[Any]:
        """Have the node for a scope; alone, others have no card left meanwhile."""
        holders = [ray.remote(num_gpus=1)(Holder).remote() for _ in range(2 * alone)]
        ray.get([each.ready.remote() for each in holders])
        node = cluster.add_node(**NODE, env_vars=environment)
        cluster.wait_for_nodes()
        try:
            yield node
        finally:
            if node in cluster.list_all_nodes():
                cluster.remove_node(node, allow_graceful=False)
            for each in holders:
                ray.kill(each)

    return opened
