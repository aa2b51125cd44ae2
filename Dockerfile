# One image for the API, the migrations and the workers; the command tells them apart.
FROM python:3.11-slim AS foretune

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --create-home --uid 10001 foretune && install -d -o foretune /var/lib/foretune
WORKDIR /opt/foretune

COPY requirements.lock ./
RUN pip install --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY workers workers
COPY migrations migrations
COPY zoo zoo
RUN pip install --no-deps --no-build-isolation -e .

USER foretune
ENV FORETUNE_HOME=/var/lib/foretune
VOLUME /var/lib/foretune
EXPOSE 8000
CMD ["foretune", "serve", "--host", "0.0.0.0"]
