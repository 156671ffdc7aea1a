"""Who sits where, for `GET /v1/placements`."""

from typing import Any

from moorage_scheduler.placement.state import Node
from moorage_scheduler.reconcile import Reconciler
from moorage_scheduler.reports import replica_status


def placements(reconciler: Reconciler) -> dict[str, Any]:
    """`{"nodes": [{name, gpu_model, cpu_milli_free, memory_mib_free, devices: [{device, milli_free, replicas}], ...}],
    "drained": {node: {host_id: why it is still there}}, "queued": [{tenant, model, version, reasons}],
    "warm": [host ids of empty hosts that can be taken]}`."""
    return {
        "nodes": [_node(node, reconciler) for node in reconciler.state().nodes],
        "drained": reconciler.draining.left,
        "queued": [
            {"tenant": tenant, "model": model, "version": version, "reasons": reasons}
            for (tenant, model, version), reasons in reconciler.queued.items()
        ],
        "warm": [host_id for host_id, host in reconciler.warm.hosts.items() if host.ready],
    }


def _node(node: Node, reconciler: Reconciler) -> dict[str, Any]:
    hosts = [host for host in reconciler.fleet.hosts.values() if host.placed.node == node.name]
    replicas = [
        {"tenant": host.placed.tenant, "model": host.placed.model, **replica_status(host).model_dump(mode="json")}
        for host in hosts
    ]
    bundles = {host.placed.host_id: host.placed.devices for host in hosts}
    return {
        "name": node.name,
        "gpu_model": node.size.gpu_model,
        "cpu_milli": node.size.cpu_milli,
        "cpu_milli_free": node.free_cpu_milli,
        "memory_mib": node.size.mem_mib,
        "memory_mib_free": node.free_mem_mib,
        "devices": [
            {
                "device": device.index,
                "milli_free": device.free_milli,
                "memory_mib": node.size.device_mem_mib or None,
                "memory_mib_free": device.free_mib if node.size.device_mem_mib else None,
                "replicas": [replica for replica in replicas if device.index in bundles[replica["host_id"]]],
            }
            for device in node.devices
        ],
        "without_gpu": [replica for replica in replicas if not bundles[replica["host_id"]]],
    }
