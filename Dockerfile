# Two images from one tree: `api` serves and migrates and knows nothing of torch; `worker` computes.
#   docker build --target api -t foretune-api .
#   docker build --target worker -t foretune-worker .
# The wheels of torch bring CUDA with them: the host gives the driver, by the NVIDIA Container Toolkit.

FROM python:3.11.14-slim-bookworm AS base
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    FORETUNE_HOME=/var/lib/foretune FORETUNE_WEIGHTS_CACHE=/var/cache/foretune/weights HF_HOME=/var/cache/foretune/hub
RUN groupadd --gid 10001 foretune \
    && useradd --uid 10001 --gid foretune --no-create-home --home-dir /var/lib/foretune --shell /usr/sbin/nologin foretune \
    && install -d -o foretune -g foretune /var/lib/foretune /var/cache/foretune


FROM base AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv --without-pip /opt/venv


FROM build AS wheel
COPY requirements-build.lock ./
RUN pip install --require-hashes -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY workers workers
COPY migrations migrations
COPY zoo zoo
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .


FROM build AS api-packages
COPY requirements-api.lock ./
RUN pip --python /opt/venv/bin/python install --require-hashes -r requirements-api.lock
COPY --from=wheel /wheels /wheels
RUN pip --python /opt/venv/bin/python install --no-deps /wheels/*.whl


FROM build AS worker-packages
COPY requirements.lock ./
RUN pip --python /opt/venv/bin/python install --require-hashes -r requirements.lock
COPY --from=wheel /wheels /wheels
RUN pip --python /opt/venv/bin/python install --no-deps /wheels/*.whl


FROM base AS api
COPY --from=api-packages /opt/venv /opt/venv
USER 10001:10001
WORKDIR /var/lib/foretune
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=6 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["foretune", "serve", "--api-only", "--host", "0.0.0.0"]


FROM base AS worker
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=worker-packages /opt/venv /opt/venv
USER 10001:10001
WORKDIR /var/lib/foretune
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=4 \
    CMD ["python", "-m", "workers.health"]
CMD ["foretune", "worker"]
