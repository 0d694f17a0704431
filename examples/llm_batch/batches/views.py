from functools import partial

from django.db import transaction
from django.db.models import Count
from rest_framework import mixins, viewsets

from batches.models import Batch
from batches.serializers import BatchSerializer, ProgressSerializer
from batches.tasks import send


class BatchViewSet(
    mixins.CreateModelMixin, mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet
):
    """Post a list of prompts; look at how far its answers are."""

    queryset = Batch.objects.defer("prompts")

    def get_queryset(self):
        batches = super().get_queryset()
        return batches.annotate(answered=Count("answers")) if self.action == "list" else batches

    def get_serializer_class(self):
        return ProgressSerializer if self.action == "retrieve" else BatchSerializer

    def perform_create(self, serializer):
        with transaction.atomic():
            batch = serializer.save()
            # Not before the row can be seen: a worker is faster than a commit.
            transaction.on_commit(partial(send, batch))
