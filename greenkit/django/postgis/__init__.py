"""GeoDjango's engine with greenkit's connection pool: `ENGINE = "greenkit.django.postgis"`.

Django loads `base` by its path; nothing is imported here, so that settings stay light.
"""
