import signal
import time

from django.core.management.base import BaseCommand, CommandError

from greenkit.celery import publish_many
from questions.models import Question
from questions.tasks import WAYS, answer


class Command(BaseCommand):
    help = "Make questions, have a worker answer them, and wait for the answers."

    def add_arguments(self, parser):
        parser.add_argument("way", choices=sorted(WAYS))
        parser.add_argument("count", type=int, help="0 waits for those that were made before")
        parser.add_argument("--patience", type=float, default=60.0, help="seconds without any answer")

    def handle(self, *, way, count, patience, **options):
        asked = Question.objects.bulk_create(Question(text=f"What is {n} times 7?") for n in range(count))
        start = moved = time.monotonic()
        publish_many(answer, [(question.pk, way) for question in asked])
        ours = Question.objects.all()
        if asked:
            ours = ours.filter(pk__in=[question.pk for question in asked])
        left = count = ours.filter(answer="").count()
        try:
            while left:
                time.sleep(0.1)
                before, left = left, ours.filter(answer="").count()
                if left < before:
                    moved = time.monotonic()
                    # A line that is written over is for a terminal; a log gets a line of its own each time.
                    over = "\r" if self.stdout.isatty() else "\n"
                    self.stdout.write(f"{way:9} {count - left}/{count}", ending=over)
                    self.stdout.flush()
                if time.monotonic() - moved > patience:
                    raise CommandError(
                        f"no answer for {patience:g} s, {left} are missing; see the worker's log"
                    )
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one is for the worker: this ends already
            self.stdout.write(f"stopped watching, {left} answers are missing")
            raise SystemExit(130) from None
        took = time.monotonic() - start
        self.stdout.write(f"{way:9} {count} answers in {took:.1f} s, {count / took:.0f}/s")
