"""Django's test runner in two processes, each with a clone of the test database, and serialized rollback."""

import sys

from dj_world import DATABASE, answer, set_up

DATABASE["TEST"] = {"SERIALIZE": True}
if __name__ == "__main__":
    set_up(INSTALLED_APPS=["greenkit.django", "django.contrib.contenttypes"])

from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.test import TestCase, TransactionTestCase
from django.test.runner import DiscoverRunner


class Clone:
    def test_it_is_a_clone(self):
        with connection.cursor() as cursor:
            cursor.execute("select current_database()")
            name = cursor.fetchone()[0]
        # In the name of the database of the process: `…_1` or `…_2`.
        assert name.rsplit("_", 1)[1] in {"1", "2"}, name
        ContentType.objects.create(app_label="dj", model=type(self).__name__)


class First(Clone, TestCase):
    pass


class Second(Clone, TestCase):
    pass


class Serialized(TransactionTestCase):
    """Each test finds what the migrations put there, although the one before it took everything away."""

    serialized_rollback = True

    def test_once(self):
        assert ContentType.objects.count() > 0
        ContentType.objects.all().delete()

    test_twice = test_once


class Runner(DiscoverRunner):
    def suite_result(self, suite, result, **options):
        self.result = result
        return super().suite_result(suite, result, **options)


if __name__ == "__main__":
    sys.modules["dj_parallel"] = sys.modules["__main__"]
    name = connection.settings_dict["NAME"]
    with connection.cursor() as cursor:
        cursor.execute("select 1")  # a pool is there before the processes are
    runner = Runner(verbosity=0, interactive=False, parallel=2)
    failed = runner.run_tests(["dj_parallel"])
    with connection.cursor() as cursor:
        cursor.execute("select count(*) from pg_database where datname like %s", [f"test_{name}%"])
        left = cursor.fetchone()[0]
    connection.close()
    answer(failed=failed, ran=runner.result.testsRun, left=left)
