"""OpenTelemetry traces from the request that asks for work to the ranking; off without ``FORETUNE_OTLP_ENDPOINT``.

The W3C traceparent of a request is kept with what it asked for, and the spans of the workers join its trace. The SDK
is imported where traces are on; the usual ``OTEL_*`` variables set its sampler, its limits and its resource.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

_EXPORT_SECONDS = 5.0  # a collector that does not answer must not keep a process from ending


class Tracing:
    """The spans of one process, sent in the background to an OTLP endpoint.

    Attributes:
        provider: makes spans; None where traces are off.
    """

    def __init__(self, endpoint: str = "", *, service: str = "foretune", instance: str = "") -> None:
        """Send spans to ``endpoint``, such as ``http://collector:4318``; nothing without one."""
        self.provider = _provider(endpoint, service, instance) if endpoint else None

    @contextmanager
    def span(
        self, name: str, attributes: Mapping[str, str] | None = None, *, traceparent: str | None = None
    ) -> Iterator[None]:
        """Time a block as a span below the current one, or below that of another process.

        Args:
            name: of the span.
            attributes: what it is about.
            traceparent: of the span to join; without it, the current one is.
        """
        if self.provider is None:
            yield
            return
        tracer = self.provider.get_tracer("foretune", version("foretune"))
        parent = _context(traceparent) if traceparent else None
        with tracer.start_as_current_span(name, context=parent, attributes=dict(attributes or {})):
            yield

    def annotate(self, **attributes: str) -> None:
        """Add attributes to the current span."""
        if self.provider is not None:
            from opentelemetry import trace

            trace.get_current_span().set_attributes(attributes)

    def close(self) -> None:
        """Send what is left."""
        if self.provider is not None:
            self.provider.shutdown()


def current_traceparent() -> str | None:
    """Return the current span as a W3C traceparent; None where traces are off."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def _context(traceparent: str) -> "Context":
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent})


def _provider(endpoint: str, service: str, instance: str) -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    about = {"service.name": service, "service.version": version("foretune")}
    if instance:
        about["service.instance.id"] = instance
    provider = TracerProvider(resource=Resource.create(about))
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
