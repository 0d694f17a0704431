from django.db import models


class Question(models.Model):
    text = models.TextField()
    answer = models.TextField(blank=True)
    tokens = models.PositiveIntegerField(default=0)

    def __str__(self):
        return self.text
