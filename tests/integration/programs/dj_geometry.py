"""A model with a point, written and asked for by greenlets; run like the others, with `postgis`."""

from dj_world import SIZE, answer, set_up

# isort: split
import gevent

set_up()

from django.contrib.gis.db import models
from django.contrib.gis.db.models.functions import Distance
from django.contrib.gis.geos import Point
from django.contrib.gis.measure import D
from django.db import connection, connections, transaction

# Of this database alone: the other worker's tests sleep on the same server.
SLEEPING = (
    "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()"
)
connection.prepare_database()  # as a migration does: CREATE EXTENSION postgis


class Town(models.Model):
    """A name, and where it is."""

    name = models.CharField(max_length=20)
    place = models.PointField(geography=True)

    class Meta:  # noqa: D106 - Django's
        app_label = "world"


with connection.schema_editor() as editor:
    editor.create_model(Town)
connection.close()

DRESDEN, LEIPZIG, ROME = Point(13.74, 51.05), Point(12.37, 51.34), Point(12.49, 41.89)
found, wrong = [], []


def found_by(number):
    here = Town.objects.create(name=f"town {number}", place=Point(DRESDEN.x + number / 1000, DRESDEN.y))
    near = Town.objects.filter(place__dwithin=(DRESDEN, D(km=200))).annotate(far=Distance("place", DRESDEN))
    nearest = near.exclude(name__startswith="town").order_by("far").first()
    found.append((nearest.name, round(nearest.far.km)))
    if Town.objects.get(pk=here.pk).place.coords != here.place.coords:
        wrong.append(number)
    # The rest is left open: the end of the greenlet brings the connection back.


def in_the_middle():
    with transaction.atomic():
        Town.objects.create(name="killed", place=ROME)
        Town.objects.filter(place__dwithin=(ROME, D(km=1))).extra(select={"slow": "pg_sleep(30)"}).first()


for name, place in (("Dresden", DRESDEN), ("Leipzig", LEIPZIG), ("Rome", ROME)):
    Town.objects.create(name=name, place=place)
connection.close()
gevent.joinall([gevent.spawn(found_by, number) for number in range(40)], raise_error=True)
pool = connections["default"].pool

victim = gevent.spawn(in_the_middle)
with connection.cursor() as cursor:
    for _ in range(500):
        cursor.execute(SLEEPING)
        if slept := cursor.fetchone()[0]:
            break
        gevent.sleep(0.01)
    victim.kill()
    cursor.execute(SLEEPING)
    left = cursor.fetchone()[0]
answer(
    found=sorted(set(found)),
    times=len(found),
    wrong=wrong,
    slept=slept,
    left=left,
    killed_rows=Town.objects.filter(name="killed").count(),
    created=pool.statistics().created,
    size=SIZE,
)
