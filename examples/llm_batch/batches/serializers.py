from django.conf import settings
from rest_framework import serializers

from batches.models import Batch


class Prompt(serializers.CharField):
    default_error_messages = {"not_text": "A prompt is a string, not {kind}."}

    def to_internal_value(self, data):
        if not isinstance(data, str):  # CharField would make "7" of 7
            self.fail("not_text", kind=type(data).__name__)
        return super().to_internal_value(data)


class BatchSerializer(serializers.ModelSerializer):
    prompts = serializers.ListField(
        child=Prompt(max_length=20_000),
        allow_empty=False,
        max_length=settings.MAX_PROMPTS,
        write_only=True,
        error_messages={
            "empty": "Send at least one prompt.",
            "max_length": "Send at most {max_length} prompts at once; make several batches of more.",
            "not_a_list": 'Send {{"prompts": ["…", "…"]}}: a list of strings, not {input_type}.',
        },
    )
    answered = serializers.IntegerField(read_only=True)
    url = serializers.HyperlinkedIdentityField(view_name="batch-detail")

    class Meta:
        model = Batch
        fields = ["id", "url", "created_at", "total", "answered", "prompts"]
        read_only_fields = ["created_at", "total"]


class ProgressSerializer(serializers.ModelSerializer):
    class Meta:
        model = Batch
        fields = ["id", "created_at", "total"]

    def to_representation(self, instance):
        return {**super().to_representation(instance), **instance.progress()}
