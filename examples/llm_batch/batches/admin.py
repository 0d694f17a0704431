from django.contrib import admin
from django.db.models import Count

from batches.models import Answer, Batch


@admin.register(Batch)
class BatchAdmin(admin.ModelAdmin):
    list_display = ["id", "created_at", "total", "answered"]
    fields = ["created_at", "total", "prompts"]
    readonly_fields = fields

    def get_queryset(self, request):
        return super().get_queryset(request).defer("prompts").annotate(answered=Count("answers"))

    @admin.display(ordering="answered")
    def answered(self, batch):
        return batch.answered


@admin.register(Answer)
class AnswerAdmin(admin.ModelAdmin):
    list_display = ["batch", "position", "attempts", "waited", "latency", "tokens", "answered_at"]
    list_filter = ["attempts"]
    list_select_related = ["batch"]
    raw_id_fields = ["batch"]
    search_fields = ["text"]
