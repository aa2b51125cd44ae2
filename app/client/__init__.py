"""The client: ``Foretune()`` finds the service and its key by itself and speaks the public REST interface."""

from app.client.errors import ApiError, Failure, JobFailed, ServiceUnreachable, WaitTimedOut
from app.client.foretune import Foretune
from app.client.plans import Plan
from app.client.resources import (
    Dataset,
    Explanation,
    FileOutcome,
    Forecast,
    Key,
    NewKey,
    RankedModel,
    Readiness,
    Results,
    Selection,
)
from app.client.tenants import AuditEvent, Tenant, Usage
from app.client.tuned_models import Finetune, TunedModel
from app.client.webhook_signature import WebhookEvent, verify_webhook
from app.client.zoo import Model, ModelEvent, Weights, Zoo

__all__ = [
    "ApiError",
    "AuditEvent",
    "Dataset",
    "Explanation",
    "Failure",
    "FileOutcome",
    "Finetune",
    "Forecast",
    "Foretune",
    "JobFailed",
    "Key",
    "Model",
    "ModelEvent",
    "NewKey",
    "Plan",
    "RankedModel",
    "Readiness",
    "Results",
    "Selection",
    "ServiceUnreachable",
    "Tenant",
    "TunedModel",
    "Usage",
    "WaitTimedOut",
    "WebhookEvent",
    "Weights",
    "Zoo",
    "verify_webhook",
]
