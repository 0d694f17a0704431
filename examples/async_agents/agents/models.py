from django.db import models


class Run(models.Model):
    question = models.TextField()
    answer = models.TextField(blank=True)
    words = models.IntegerField(default=0)
    state = models.CharField(max_length=10, default="new")
