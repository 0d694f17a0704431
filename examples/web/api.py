import json
import math

import calls
from django.http import StreamingHttpResponse
from django.urls import path
from prometheus_client import Counter
from rest_framework.response import Response
from rest_framework.views import APIView

from greenkit import LimitTimeout

streams = Counter("shop_streams", "Streams of answers, by how they ended.", ["end"])


class Ask(APIView):
    def post(self, request):
        try:
            return Response({"answer": calls.ask(request.data["prompt"], timeout=30.0)})
        except LimitTimeout as error:
            wait = max(1, math.ceil(error.retry_after))
            return Response({"detail": "busy"}, status=503, headers={"Retry-After": str(wait)})


class Events(APIView):
    def get(self, request):
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # nginx passes each event on
        events = as_events(calls.stream(request.query_params["prompt"], timeout=30.0))
        return StreamingHttpResponse(events, content_type="text/event-stream", headers=headers)


def as_events(words):
    end = "cut off"
    try:
        for word in words:
            if word:
                yield f"data: {json.dumps(word)}\n\n"
        yield "event: end\ndata:\n\n"
        end = "whole"
    except GeneratorExit:  # the server could not write: the client has gone
        end = "client left"
        raise
    finally:
        words.close()  # ends the LLM's call and gives the permit back
        streams.labels(end).inc()


urlpatterns = [path("ask", Ask.as_view()), path("events", Events.as_view())]
