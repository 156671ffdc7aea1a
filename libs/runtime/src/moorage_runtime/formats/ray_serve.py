"""Ray Serve applications: a tenant's code, in the zip of `projects`, as graphs of deployments that call each other.

The application's ingress takes a dict of numpy arrays by input name and answers one by output name:

    async def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]

In a replica host that is a Ray actor its deployments are processes of their own, run by Ray Serve. Anywhere else (a
validation's process, its author's machine) all of it runs in this process, in Serve's local testing mode.
"""

import asyncio
import contextlib
import importlib
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException, RequestCancelledError
from ray.serve.handle import DeploymentHandle

from moorage_common.contracts.desired import LoadSpec
from moorage_common.contracts.tensors import Signature, TensorSpec
from moorage_common.errors import BadRequest, Internal, Unavailable, Unprocessable, UpstreamFailed
from moorage_runtime.formats.ray_serve_cluster import Deployed, actor_name, deploy
from moorage_runtime.predicting import model_failed
from moorage_runtime.projects import top_level_names, unpack
from moorage_runtime.v2 import DTYPES, Array, canonical

log = structlog.get_logger()

LOCAL = "local"
PROJECT_PREFIX = "moorage-project-"
"""Of the names of directories that projects are unpacked into."""


class ServeModel:
    """An application that runs, asked through the handle of its ingress."""

    def __init__(self, handle: DeploymentHandle, signature: Signature, let_go: Callable[[], None]) -> None:
        self._handle = handle
        self._inputs = signature.inputs
        self._outputs = {spec.name: spec for spec in signature.outputs}
        self._batchable = signature.batchable
        self._let_go = let_go

    async def predict(self, inputs: dict[str, Array], wanted: Collection[str]) -> dict[str, Array]:
        """Ask the ingress. Cancelled, Serve is told to cancel what the application does for it.

        Raises:
            BadRequest: the application raised ValueError.
            Internal: it raised anything else, or answered otherwise than its signature says.
            Unavailable: its queue is full, or it is being started.
            UpstreamFailed: a process of it died with this request.
        """
        answer = await self._ask({name: _read_only(array) for name, array in inputs.items()})
        if not isinstance(answer, Mapping):
            raise _wrong(f"the application answered a {type(answer).__name__}; answer a dict of arrays by output name")
        rows = len(inputs[self._inputs[0].name]) if self._batchable else None
        return {name: _as_declared(self._outputs[name], answer, rows) for name in wanted}

    async def _ask(self, inputs: dict[str, Array]) -> object:
        response = self._handle.remote(inputs)
        try:
            return await response
        except (asyncio.CancelledError, RequestCancelledError):
            response.cancel()
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError from None  # Serve puts an error of its own in its place
            raise Unavailable("the request was cancelled; send it again", retry_after_s=1) from None
        except BackPressureError as error:
            raise Unavailable(f"the application's queue is full: {error}", code="host_busy", retry_after_s=1) from None
        except DeploymentUnavailableError:
            message = "the application is being started again; try again"
            raise Unavailable(message, code="not_loaded", retry_after_s=2) from None
        except RayTaskError as error:
            raise _told(error.cause if isinstance(error.cause, Exception) else error) from None
        except RayActorError:
            message = "a process of the application died while it worked on this request; send it again"
            raise UpstreamFailed(message, code="application_died", retry_after_s=1) from None
        except Exception as error:  # noqa: BLE001 - in this process code raises as it is
            raise _told(error) from None

    def close(self) -> None:
        """End the application. Safe for threads."""
        self._let_go()


def load(path: Path, spec: LoadSpec) -> ServeModel:
    """Run the application of the project at `path`; blocks until it answers.

    Raises:
        Unprocessable: `bad_project`, `artifact_too_large`; `application_failed` with what it said as it started;
            `resources_exceeded` with what its deployments ask for and what the version has.
        Unavailable: Serve does not answer now.
    """
    directory = Path(tempfile.mkdtemp(prefix=PROJECT_PREFIX))
    try:
        manifest = unpack(path, directory)
        application = imported(directory, manifest.import_path)
        host = actor_name()
        if host is None:
            handle = local_handle(application)
            return ServeModel(handle, spec.signature, lambda: forget(directory))
        running = deploy(application, path.read_bytes(), spec, host)
    except BaseException:
        forget(directory)
        raise
    return ServeModel(running.handle, spec.signature, lambda: _end(running, directory))


def imported(directory: Path, import_path: str) -> serve.Application:
    """The application that `import_path` names, its modules found in `directory` first. Runs the project's code.

    Raises:
        Unprocessable: `application_failed`: it cannot be imported, or is no application.
    """
    module_name, _, attribute = import_path.partition(":")
    _drop_modules(directory)
    names = top_level_names(str(file.relative_to(directory)) for file in directory.rglob("*.py"))
    for name in [name for name in sys.modules if name.partition(".")[0] in names]:
        del sys.modules[name]
    sys.path.insert(0, str(directory))
    importlib.invalidate_caches()
    try:
        found: Any = importlib.import_module(module_name)
        for name in attribute.split("."):
            found = getattr(found, name)
    except Exception as error:
        log.warning("the project cannot be imported", exc_info=True)
        text = f"{import_path} cannot be imported: {type(error).__name__}: {str(error)[:500]}"
        raise Unprocessable(text, code="application_failed") from None
    if not isinstance(found, serve.Application):
        text = (
            f"{import_path} is a {type(found).__name__}, not a Ray Serve application; bind its ingress: "
            "app = Pipeline.bind(...)"
        )
        raise Unprocessable(text, code="application_failed")
    return found


def local_handle(application: serve.Application) -> DeploymentHandle:
    """Run all of the application in this process.

    Raises:
        Unprocessable: `application_failed`: the constructor of a deployment raised.
    """
    logger = logging.getLogger("ray.serve")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        return serve.run(
            application,
            name=LOCAL,
            route_prefix=None,
            logging_config={"log_level": "WARNING"},
            _local_testing_mode=True,
        )
    except Exception as error:  # noqa: BLE001 - a constructor may raise anything
        text = f"the application does not start: {type(error).__name__}: {str(error)[:500]}"
        raise Unprocessable(text, code="application_failed") from None
    finally:
        logger.setLevel(level)


def _end(running: Deployed, directory: Path) -> None:
    running.delete()
    forget(directory)


def forget(directory: Path) -> None:
    """Take the project's modules out of this process, and remove its files."""
    _drop_modules(directory)
    shutil.rmtree(directory, ignore_errors=True)


def _drop_modules(directory: Path) -> None:
    """Forget what was imported from this or an earlier project, so that the next one does not find it."""
    roots = [entry for entry in sys.path if Path(entry).name.startswith(PROJECT_PREFIX)]
    for entry in roots:
        sys.path.remove(entry)
    prefixes = tuple(f"{root}/" for root in (*roots, str(directory)))
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(prefixes):
            del sys.modules[name]


def _read_only(array: Array) -> Array:
    """As another process of the application gets it: aligned, and not to be written to."""
    view = array.view() if array.flags.aligned else array.copy()
    view.flags.writeable = False
    return view


def _as_declared(spec: TensorSpec, answer: Mapping[Any, Any], rows: int | None) -> Array:
    """An output in the signature's datatype and shape. Raises Internal."""
    if spec.name not in answer:
        raise _wrong(f"the application did not answer output '{spec.name}'")
    with contextlib.suppress(ValueError, TypeError):
        array = canonical(np.asarray(answer[spec.name]))
        wanted = DTYPES[spec.datatype]
        if array.dtype != wanted and np.can_cast(array.dtype, wanted, "same_kind"):
            array = array.astype(wanted)
        fits = len(spec.shape) == array.ndim and all(
            want in {-1, have} for want, have in zip(spec.shape, array.shape, strict=True)
        )
        if array.dtype == wanted and fits and (rows is None or len(array) == rows):
            return array
        shown = f"{array.dtype} {list(array.shape)}"
        expected = f"{spec.datatype} {spec.shape}" + (f" with {rows} rows" if rows is not None else "")
        raise _wrong(f"the application answered output '{spec.name}' as {shown}; its signature says {expected}")
    raise _wrong(f"the application's output '{spec.name}' is no array of numbers or texts")


def _told(error: Exception) -> Exception:
    """What a caller is told of an exception of the application's own code."""
    if isinstance(error, RayServeException):
        return Internal(f"Ray Serve could not run the request: {str(error)[:300]}", code="model_failed")
    if isinstance(error, ValueError):
        return BadRequest(f"the application refuses the request: {str(error)[:300]}")
    return model_failed(error)


def _wrong(text: str) -> Internal:
    return Internal(text, code="model_failed")
