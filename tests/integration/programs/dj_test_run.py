"""Django's own test runner: it creates a database, tests in it, and must be able to drop it."""

import sys

from dj_world import answer, set_up

set_up(CACHES={})

import unittest

from django.db import connection
from django.test import TestCase, TransactionTestCase
from django.test.runner import DiscoverRunner

ran = []


class InTransaction(TestCase):
    def test_query(self):
        with connection.cursor() as cursor:
            cursor.execute("select current_database()")
            ran.append(cursor.fetchone()[0])


class WithoutTransaction(TransactionTestCase):
    def test_query(self):
        InTransaction.test_query(self)


runner = DiscoverRunner(verbosity=0, interactive=False)
before = connection.settings_dict["NAME"]
with connection.cursor() as cursor:
    cursor.execute("select 1")  # a pool on the real database is there before the runner comes
databases = runner.setup_databases()
suite = unittest.TestSuite(
    unittest.defaultTestLoader.loadTestsFromTestCase(case) for case in (InTransaction, WithoutTransaction)
)
result = unittest.TextTestRunner(stream=sys.stderr).run(suite)
runner.teardown_databases(databases)
with connection.cursor() as cursor:
    cursor.execute("select count(*) from pg_database where datname = %s", ["test_" + before])
    left = cursor.fetchone()[0]
answer(ran=ran, before=before, successful=result.wasSuccessful(), left=left)
