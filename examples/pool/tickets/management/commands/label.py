from contextlib import nullcontext

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

import greenkit.http
from greenkit import GreenPool, Limiter
from tickets.bars import BARS
from tickets.models import Ticket

SAVE_EVERY = 100


class Command(BaseCommand):
    help = "Have every ticket without a label labelled by the model; stop with Ctrl-C, run again to go on."

    def add_arguments(self, parser):
        parser.add_argument("--concurrency", type=int, default=200)
        parser.add_argument("--rate", default="500/s", help="the model's quota, such as 500/min")
        parser.add_argument("--bar", choices=sorted(BARS), default="tqdm")

    def handle(self, *, concurrency, rate, bar, **options):
        try:
            self.http = greenkit.http.session(concurrency)
            llm = Limiter("llm", requests=rate)
        except ValueError as error:  # a rate that cannot be read is one too
            raise CommandError(str(error)) from None
        todo = Ticket.objects.filter(label="").order_by("pk")
        self.done, self.failed = [], 0
        try:
            with (
                BARS[bar](total=todo.count()) or nullcontext() as progress,
                GreenPool(concurrency, limiter=llm, deadline=60.0) as pool,
            ):
                # Rows are read as they are needed, calls run in greenlets, and what is done is saved
                # here, in the command's own greenlet: one connection, one UPDATE per hundred.
                rows = todo.iterator(chunk_size=500)
                for ticket, out in pool.stream(self.ask, rows, on_error="return", progress=progress):
                    self.take(ticket, out)
        except KeyboardInterrupt:
            self.save()  # what was answered is paid for
            self.stdout.write(f"stopped, {todo.count()} tickets are left; run it again to go on")
            raise SystemExit(130) from None
        self.save()
        if self.failed:
            raise CommandError(f"{self.failed} calls failed; {todo.count()} tickets are left for another run")
        self.stdout.write(f"{todo.count()} tickets are left")

    def ask(self, ticket):
        """Run in one of the pool's greenlets: one call, no database."""
        prompt = f"Label this in one word. {ticket.text}"
        body = {"model": "mock-small", "messages": [{"role": "user", "content": prompt}]}
        answer = self.http.post(f"{settings.LLM_URL}/v1/chat/completions", json=body)
        answer.raise_for_status()  # a 429 pauses the limiter for everybody; the row is for the next run
        return answer.json()["choices"][0]["message"]["content"]

    def take(self, ticket, out):
        if not out.ok:
            self.failed += 1
            if self.failed <= 3:  # the others will say the same
                self.stderr.write(f"ticket {ticket.pk}: {out.error}")
            return
        ticket.label = out.value[:200]
        self.done.append(ticket)
        if len(self.done) >= SAVE_EVERY:
            self.save()

    def save(self):
        Ticket.objects.bulk_update(self.done, ["label"])
        self.done = []
