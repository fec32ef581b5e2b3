"""What pyproject.toml cannot say: the reported rows, which lie once in the tree, are a part of the package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["bench*", "baselines*"]), "bench.reports.quoted"],
    package_dir={"bench.reports.quoted": "results/reported"},
    package_data={
        "bench.reports.quoted": ["*.jsonl"],
        "bench.reports.site": ["templates/*", "assets/*", "vendor/*"],
    },
)
