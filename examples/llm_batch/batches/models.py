from django.db import models
from django.db.models import Aggregate, Count, FloatField, Max, Sum
from django.db.models.functions import Now
from django.utils import timezone


class Percentile(Aggregate):
    function = "percentile_cont"
    template = "%(function)s(%(share)s) WITHIN GROUP (ORDER BY %(expressions)s)"
    output_field = FloatField()

    def __init__(self, expression, share):
        super().__init__(expression, share=float(share))


class Batch(models.Model):
    # The database's clock for both ends of a batch: no two machines' clocks are compared.
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    prompts = models.JSONField(help_text="What was asked, so that what is missing can be asked again.")
    total = models.PositiveIntegerField(editable=False)

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "batches"

    def __str__(self):
        return f"batch {self.pk} of {self.total} prompts"

    def save(self, *args, **kwargs):
        self.total = len(self.prompts)
        super().save(*args, **kwargs)

    def progress(self):
        found = self.answers.aggregate(
            answered=Count("id"),
            retries=Sum("attempts", default=0) - Count("id"),
            tokens=Sum("tokens", default=0),
            waited_p50=Percentile("waited", 0.50),
            waited_p95=Percentile("waited", 0.95),
            last_answer_at=Max("answered_at"),
        )
        left = self.total - found["answered"]
        until = timezone.now() if left or not self.total else found["last_answer_at"]
        seconds = max(0.0, (until - self.created_at).total_seconds())
        rate = found["answered"] / seconds if seconds else 0.0
        eta = left / rate if rate else None
        return {**found, "left": left, "seconds": seconds, "per_second": rate, "eta_seconds": eta}


class Answer(models.Model):
    batch = models.ForeignKey(Batch, models.CASCADE, related_name="answers")
    position = models.PositiveIntegerField(help_text="Which prompt of the batch, from 0.")
    text = models.TextField()
    tokens = models.PositiveIntegerField()
    attempts = models.PositiveIntegerField(help_text="Calls made; more than 1 after a 429 or an error.")
    waited = models.FloatField(help_text="Seconds in the limiter's line, over all attempts.")
    latency = models.FloatField(help_text="Seconds the last call took.")
    answered_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        ordering = ["batch", "position"]
        # Whatever the broker delivers twice, an answer is one row.
        constraints = [models.UniqueConstraint(fields=["batch", "position"], name="one_answer_per_prompt")]

    def __str__(self):
        return f"answer {self.position} of batch {self.batch_id}"
