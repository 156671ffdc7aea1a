"""The classes of the actors that the scheduler starts."""

import os
from typing import Any

import ray


def placed_class(host_class: type[Any]) -> type[Any]:
    """`host_class` that also remembers where it was placed, and shows its libraries all of its devices.

    A warm one learns both when it is assigned, before any library has looked for devices.
    """

    class PlacedHost(host_class):  # type: ignore[misc]
        def __init__(self, config_json: str, placed_json: str, siblings: list[int]) -> None:
            self._placed_json = placed_json
            self._devices = sorted({*(int(device) for device in ray.get_gpu_ids()), *siblings})
            if siblings:
                os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, self._devices))
            super().__init__(config_json)

        def assign(self, config_json: str, placed_json: str, devices: list[int]) -> dict[str, Any]:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, sorted(devices)))
            super().assign(config_json)
            self._placed_json, self._devices = placed_json, sorted(devices)
            return self.identity()

        def placed(self) -> str:
            return self._placed_json

        def identity(self) -> dict[str, Any]:
            return {**super().identity(), "devices": self._devices}

    return PlacedHost


class Reservation:
    """Holds a share of a bundle's GPU for a replica that runs elsewhere on the node: the whole one of a sibling for a
    replica of several devices; for a warm host that was assigned, all of its devices."""

    def devices(self) -> list[int]:
        return [int(device) for device in ray.get_gpu_ids()]
