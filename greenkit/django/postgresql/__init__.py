"""Django's PostgreSQL engine with greenkit's connection pool: `ENGINE = "greenkit.django.postgresql"`.

Django loads `base` by its path; nothing is imported here, so that settings stay light.
"""
