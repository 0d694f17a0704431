import math

from django.urls import path
from limiters import per_user
from rest_framework.response import Response
from rest_framework.views import APIView


class Ask(APIView):
    def get(self, request):
        permit = per_user.key(request.query_params["user"]).try_permit()
        if not permit:
            wait = math.ceil(permit.retry_after)
            return Response({"detail": "slow down"}, status=429, headers={"Retry-After": str(wait)})
        with permit:
            return Response({"answer": 42})


urlpatterns = [path("ask", Ask.as_view())]
