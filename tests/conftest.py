"""One local Ray for a whole test run: starting it takes longer than all that is tested with it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports ray, which reads some of these once.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_task_oom_retries"] = "1"  # noqa: SIM112 (that is its name)
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"

EXAMPLE = Path(__file__).parent.parent / "notebooks" / "smallest.py"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--plugin", action="append", default=[], help="a file whose methods take the contract tests too (repeatable)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Methods of the user's own, the example of the notebooks among them, are registered before tests are collected."""
    from bench.core.registry import load_plugin

    for file in (EXAMPLE, *config.getoption("--plugin")):
        load_plugin(file)


@pytest.fixture(scope="session")
def ray_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A running local Ray with two cores; executors find this process connected to it and leave it running."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        # Daemons and workers inherit both: nothing is written to the user's home, and workers find the test modules.
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=100 * 2**20,
            include_dashboard=False,
            logging_level="ERROR",
            log_to_driver=False,
        )
    yield
    ray.shutdown()


@pytest.fixture(scope="session", autouse=True)
def index_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Indices of image folders are not kept in the user's cache directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLICEBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
