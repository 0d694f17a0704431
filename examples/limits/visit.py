import os

import django
from django.test import Client

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
django.setup()

client = Client()
for user in ("ann", "ann", "ann", "ann", "bob"):
    answer = client.get("/ask", {"user": user})
    waits = 0 < int(answer.headers.get("Retry-After", 0)) <= 20
    print(user, answer.status_code, "with Retry-After" if waits else "", flush=True)
