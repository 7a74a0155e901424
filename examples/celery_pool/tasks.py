"""Tasks that read a big table: a template for Celery's prefork pool.

``celery -A tasks worker --concurrency 4`` imports this module in the parent of the pool. The table
is built and frozen there, once, and the workers forked from it read it in place.
"""

import os
import random
from datetime import date, timedelta

from celery import Celery
from celery.signals import worker_init

import permaheap

app = Celery("tasks", config_source="celeryconfig")


@worker_init.connect
def share_with_workers(**_):
    """Have all that the parent has loaded shared with the workers that it is about to fork.

    Celery sends this signal in the parent before it makes the pool. The call itself comes right
    before each fork, also of workers that replace others.
    """
    os.register_at_fork(before=permaheap.prefork)


# ---- The table: rates of exchange, day by day ----------------------------------------------------

CURRENCIES = [
    *("AUD", "BRL", "CAD", "CHF", "CNY", "CZK", "DKK", "GBP", "HKD", "IDR"),
    *("ILS", "INR", "JPY", "KRW", "MXN", "NOK", "NZD", "PLN", "SEK", "USD"),
]


def load(years):
    """Return invented rates of each currency for a number of years, the same ones each time."""
    chance, first = random.Random(years), date(2000, 1, 1)
    days = [(first + timedelta(days=i)).isoformat() for i in range(365 * years)]
    return {currency: history(currency, days, chance) for currency in CURRENCIES}


def history(currency, days, chance):
    """Return the rates of one currency by day."""
    rate, rates = chance.uniform(0.5, 20), {}
    for day in days:
        opened, rate = rate, rate * chance.uniform(0.99, 1.01)
        rates[day] = {
            "currency": currency,
            "open": opened,
            "close": rate,
            "low": min(opened, rate) * 0.999,
            "high": max(opened, rate) * 1.001,
            "trades": chance.randint(10_000, 9_000_000),
        }
    return rates


RATES = permaheap.freeze(load(int(os.environ.get("YEARS", "15"))))

# ---- Tasks: they read frozen and ordinary data alike ---------------------------------------------


@app.task
def convert(amount, currency, day):
    """Return what an amount of euros was in another currency on a day; None if nobody knows."""
    record = RATES[currency].get(day)
    return record and round(amount * record["close"], 2)


@app.task
def year(currency, number):
    """Return the lowest and highest rate of a year, and how many were traded."""
    days = [record for day, record in RATES[currency].items() if day.startswith(f"{number}-")]
    return {
        "low": min((record["low"] for record in days), default=None),
        "high": max((record["high"] for record in days), default=None),
        "trades": sum(record["trades"] for record in days),
    }
