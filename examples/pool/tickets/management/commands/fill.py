from django.core.management.base import BaseCommand

from tickets.models import Ticket


class Command(BaseCommand):
    help = "Make tickets without a label."

    def add_arguments(self, parser):
        parser.add_argument("rows", type=int)

    def handle(self, *, rows, **options):
        Ticket.objects.bulk_create((Ticket(text=f"Ticket {n}: it does not work.") for n in range(rows)), 1000)
        self.stdout.write(f"{Ticket.objects.count()} tickets")
