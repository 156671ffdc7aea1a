# syntax=docker/dockerfile:1.7
# One target a service: docker build --target <registry|router|scheduler|feature-proxy|ray> -t moorage/<target>:0.1.0 .
# Each image has only its service's dependencies, at the versions and hashes of requirements.lock.

ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS build
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
RUN --mount=type=cache,target=/root/.cache/pip python -m pip install --disable-pip-version-check 'uv>=0.9,<1'
WORKDIR /src
COPY pyproject.toml requirements.lock ./
COPY libs libs
COPY services services
RUN uv venv /opt/moorage
ENV VIRTUAL_ENV=/opt/moorage UV_CONSTRAINT=requirements.lock UV_BUILD_CONSTRAINT=requirements.lock

FROM build AS build-registry
RUN --mount=type=cache,target=/root/.cache/uv uv pip install './libs/common[db]' ./services/registry

FROM build AS build-router
RUN --mount=type=cache,target=/root/.cache/uv uv pip install ./services/router

FROM build AS build-scheduler
RUN --mount=type=cache,target=/root/.cache/uv uv pip install ./services/scheduler

FROM build AS build-feature-proxy
RUN --mount=type=cache,target=/root/.cache/uv uv pip install ./services/feature-proxy

# What a Ray node needs to run replica hosts: Ray and the runtime, at the scheduler's versions, without the scheduler.
FROM build AS build-ray
RUN --mount=type=cache,target=/root/.cache/uv uv pip install './libs/runtime[formats]' 'ray[default,serve]'

FROM ${PYTHON_IMAGE} AS runtime
RUN groupadd --gid 10001 moorage \
 && useradd --uid 10001 --gid moorage --no-create-home --home-dir /tmp --shell /usr/sbin/nologin moorage \
 && install -d -o moorage -g moorage /var/lib/moorage /var/cache/moorage
COPY --chmod=0755 deploy/docker/health.py /usr/local/bin/moorage-health
ENV PATH=/opt/moorage/bin:$PATH VIRTUAL_ENV=/opt/moorage HOME=/tmp \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /var/lib/moorage
USER 10001:10001

FROM runtime AS service
ENV MOORAGE_HOST=0.0.0.0 MOORAGE_PORT=8080 MOORAGE_OPS_HOST=0.0.0.0 MOORAGE_OPS_PORT=9090
EXPOSE 8080 9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["moorage-health"]

FROM service AS registry
COPY --from=build-registry /opt/moorage /opt/moorage
COPY --chmod=0755 deploy/docker/migrate.py /usr/local/bin/moorage-migrate
ENV MOORAGE_ARTIFACT_DIR=/var/lib/moorage/artifacts
CMD ["python", "-m", "moorage_registry"]

FROM service AS router
COPY --from=build-router /opt/moorage /opt/moorage
ENV MOORAGE_STATE_DIR=/var/lib/moorage
CMD ["python", "-m", "moorage_router"]

FROM service AS feature-proxy
COPY --from=build-feature-proxy /opt/moorage /opt/moorage
ENV MOORAGE_STATE_DIR=/var/lib/moorage
CMD ["python", "-m", "moorage_feature_proxy"]

# LightGBM's wheel needs the system's OpenMP runtime; KubeRay's probes need wget, and its start command
# may run in a login shell, which resets PATH.
FROM runtime AS ray-base
USER 0:0
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgomp1 wget \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -o moorage -g moorage /tmp/ray \
 && ln -s /opt/moorage/bin/ray /usr/local/bin/ray
USER 10001:10001
ENV RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_ENABLE_UV_RUN_RUNTIME_ENV=0

FROM ray-base AS ray
COPY --from=build-ray /opt/moorage /opt/moorage
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=6 \
  CMD ["moorage-health", "http://127.0.0.1:52365/api/local_raylet_healthz"]
CMD ["ray", "start", "--head", "--num-cpus=0", "--dashboard-host=0.0.0.0", "--disable-usage-stats", "--block"]

FROM ray-base AS scheduler
COPY --from=build-scheduler /opt/moorage /opt/moorage
ENV MOORAGE_HOST=0.0.0.0 MOORAGE_PORT=8080 MOORAGE_OPS_HOST=0.0.0.0 MOORAGE_OPS_PORT=9090 \
    MOORAGE_CACHE_DIR=/var/cache/moorage
EXPOSE 8080 9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 CMD ["moorage-health"]
CMD ["python", "-m", "moorage_scheduler"]
