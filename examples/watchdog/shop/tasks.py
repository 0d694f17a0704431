import time

from celery import shared_task
from django.contrib.auth.hashers import PBKDF2PasswordHasher

from greenkit import offload

ITERATIONS = 3_000_000


def hashed(password):
    return PBKDF2PasswordHasher().encode(password, "salt", iterations=ITERATIONS)


@shared_task
def call_an_api():
    time.sleep(0.5)  # a cooperative wait, as requests and the database drivers do it


@shared_task
def set_password(password):
    return hashed(password)


@shared_task
def price_list():
    total = 0
    for number in range(20_000_000):
        total += number * number % 7
    return total


@shared_task
def set_password_in_a_thread(password):
    return offload(hashed, password)
