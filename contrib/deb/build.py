"""`make package`: a .deb with clusterd in an environment of its own, /opt/clusterd, made with venv, pip and dpkg-deb.

The environment runs on the interpreter that builds it, at the same path: build on the distribution that it is for. Its
packages have the versions of the environment that this is called from, which are those that the suite ran with.
"""

import argparse
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PREFIX = "opt/clusterd"
SOURCES = ("clusterd", "hashing", "ipc", "tools", "setup.py", "pyproject.toml", "README.md", "LICENSE")
NOT_NEEDED = ("activate", "activate.csh", "activate.fish", "Activate.ps1")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def build(out: Path) -> Path:
    """The package's path."""
    for tool in ("dpkg-deb", "dpkg"):
        if shutil.which(tool) is None:
            sys.exit(
                f"make package: there is no {tool} on this machine (Debian, Ubuntu: the package dpkg). Without it "
                f"install clusterd as docs/operations/install.md says: a virtual environment below /opt/clusterd"
            )
    python = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory(prefix="clusterd-deb-") as work:
        stage = Path(work, "stage")
        environment = stage / PREFIX
        run(python, "-m", "venv", "--without-pip", "--symlinks", environment)
        install(environment, Path(work))
        relocate(stage, environment)
        add_files(stage)
        manual(stage, environment)
        completions(stage, environment)
        version = read_version(environment)
        architecture = told("dpkg", "--print-architecture")
        control(stage, version, architecture, python)
        refuse_paths_of(stage)
        package = out / f"clusterd_{version}_{architecture}.deb"
        out.mkdir(parents=True, exist_ok=True)
        run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z6", "--build", stage, package)
    return package


def install(environment: Path, work: Path) -> None:
    """Our packages, from a copy: what an earlier build left in the checkout must not get in."""
    source = work / "source"
    source.mkdir()
    for name in SOURCES:
        found = PROJECT / name
        if found.is_dir():
            shutil.copytree(found, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(found, source)
    versions = work / "constraints.txt"
    versions.write_text(told(sys.executable, "-m", "pip", "freeze", "--exclude-editable") + "\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", environment / "bin/python"]
    run(*pip, "install", "--quiet", "--no-compile", "--no-warn-script-location", "--constraint", versions, source)


def relocate(stage: Path, environment: Path) -> None:
    """What names the directory that it was built in names the one where it will be."""
    for name in NOT_NEEDED:
        (environment / "bin" / name).unlink(missing_ok=True)
    for script in (environment / "bin").iterdir():
        if not script.is_symlink():
            script.write_bytes(script.read_bytes().replace(str(stage).encode(), b""))
    settings = environment / "pyvenv.cfg"
    lines = [line for line in settings.read_text().splitlines() if not line.startswith("command")]
    settings.write_text("\n".join(lines) + "\n")
    for origin in environment.rglob("direct_url.json"):
        record = origin.with_name("RECORD")
        record.write_text("".join(line for line in record.read_text().splitlines(True) if origin.name not in line))
        origin.unlink()
    run(environment / "bin/python", "-m", "compileall", "-q", "-s", stage, "-p", "/", environment / "lib")


def add_files(stage: Path) -> None:
    """What is outside of the environment."""
    for relative, source in (
        ("usr/lib/systemd/system/clusterd.service", "contrib/clusterd.service"),
        ("usr/share/doc/clusterd/copyright", "LICENSE"),
        ("usr/share/doc/clusterd/changelog.md", "CHANGELOG.md"),
        *(
            (f"usr/share/doc/clusterd/{page.relative_to(PROJECT / 'docs')}", str(page.relative_to(PROJECT)))
            for page in sorted([*(PROJECT / "docs").glob("*.md"), *(PROJECT / "docs/operations").glob("*.md")])
        ),
        *(
            (f"usr/share/doc/clusterd/{path.relative_to(PROJECT)}", str(path.relative_to(PROJECT)))
            for path in sorted([*(PROJECT / "contrib").glob("*/*"), PROJECT / "contrib/clusterd.sysusers"])
            if path.parent.name in ("ha", "monitoring", "contrib") and path.is_file()
        ),
    ):
        target = stage / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PROJECT / source, target)
    (stage / "usr/bin").mkdir()
    (stage / "usr/bin/clusterd").symlink_to(f"/{PREFIX}/bin/clusterd")


def manual(stage: Path, environment: Path) -> None:
    """The manual pages of the commands that are in the environment, compressed as Debian has them."""
    pages = stage / "usr/share/man/man1"
    run(environment / "bin/python", "-I", PROJECT / "contrib/man/build.py", "--out", pages)
    for page in sorted(pages.iterdir()):
        page.with_name(f"{page.name}.gz").write_bytes(gzip.compress(page.read_bytes(), mtime=0))
        page.unlink()


def completions(stage: Path, environment: Path) -> None:
    """What the shells complete, where Debian's look for it."""
    for shell, relative in (
        ("bash", "usr/share/bash-completion/completions/clusterd"),
        ("zsh", "usr/share/zsh/vendor-completions/_clusterd"),
        ("fish", "usr/share/fish/vendor_completions.d/clusterd.fish"),
    ):
        target = stage / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(told(environment / "bin/python", "-I", "-m", "tools.cli", "completion", shell) + "\n")


def control(stage: Path, version: str, architecture: str, python: Path) -> None:
    """DEBIAN/, and the modes of everything."""
    debian = stage / "DEBIAN"
    debian.mkdir()
    is_packaged = subprocess.run(["dpkg", "-S", python], capture_output=True).returncode == 0
    needs = f"libc6 (>= 2.28), {python.name}" if is_packaged else "libc6 (>= 2.28)"
    if not is_packaged:
        print(
            f"warning: {python} belongs to no Debian package: this .deb needs it, at this path, where it is installed",
            file=sys.stderr,
        )
    size = sum(path.lstat().st_size for path in stage.rglob("*")) // 1024
    text = (HERE / "control").read_text()
    (debian / "control").write_text(
        text.format(version=version, architecture=architecture, needs=needs, size=size, python=python)
    )
    for path in stage.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    for name in ("postinst", "prerm", "postrm"):
        shutil.copyfile(HERE / name, debian / name)
        (debian / name).chmod(0o755)
    stage.chmod(0o755)


def refuse_paths_of(stage: Path) -> None:
    """A file that names where it was built would break where it is installed."""
    wrong = [path for path in stage.rglob("*") if path.is_file() and str(stage).encode() in path.read_bytes()]
    if wrong:
        sys.exit(f"make package: {', '.join(map(str, wrong))} names the directory that it was built in")


def read_version(environment: Path) -> str:
    return told(environment / "bin/python", "-I", "-m", "tools.cli", "version").split()[1]


def run(*command: object) -> None:
    subprocess.run([str(word) for word in command], env=ENVIRONMENT, check=True)


def told(*command: object) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, env=ENVIRONMENT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build a .deb of clusterd.")
    parser.add_argument("--out", type=Path, default=PROJECT / "dist")
    try:
        print(build(parser.parse_args().out))
    except subprocess.CalledProcessError as failure:
        sys.exit(f"make package: {' '.join(failure.cmd[:4])} ... ended with {failure.returncode}; see above")
