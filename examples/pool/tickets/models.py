from django.db import models


class Ticket(models.Model):
    text = models.TextField()
    label = models.CharField(max_length=200, blank=True)  # empty: still to be done

    def __str__(self):
        return self.text
