from functools import partial

from batches.models import Batch
from batches.tasks import send
from django import forms
from django.conf import settings
from django.db import transaction
from django.http import StreamingHttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods

from live.events import stream


class BatchForm(forms.Form):
    prompts = forms.IntegerField(min_value=1, max_value=settings.MAX_PROMPTS, initial=300)
    question = forms.CharField(max_length=1000, initial="What is {n} times {n}?")

    def texts(self):
        question = self.cleaned_data["question"]
        return [question.replace("{n}", str(number)) for number in range(self.cleaned_data["prompts"])]


@require_http_methods(["GET", "HEAD", "POST"])
def page(request):
    form = BatchForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        with transaction.atomic():
            batch = Batch.objects.create(prompts=form.texts())
            transaction.on_commit(partial(send, batch))
        return redirect("live")
    links = {"flower": settings.LIVE_FLOWER}
    return render(request, "live/page.html", {"form": form, **links}, status=400 if form.errors else 200)


@require_GET
def events(request):
    answer = StreamingHttpResponse(
        stream(request.headers.get("Last-Event-ID", "")), content_type="text/event-stream"
    )
    answer["Cache-Control"] = "no-cache"
    return answer
