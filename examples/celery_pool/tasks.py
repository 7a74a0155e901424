"""Tasks that read a big table: a template for Celery's prefork pool.

``celery -A tasks worker --concurrency 4`` imports this module in the parent of the pool. The parent
builds and freezes the table once, and the workers that it forks read it in place.
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
    """Let the workers that the parent will fork share all the memory that it has loaded.

    Celery sends this signal in the parent before it makes the pool. prefork() is then called right
    before each fork, also before that of a replacement.
    """
    os.register_at_fork(before=permaheap.prefork)


# ---- The table: rates of exchange, day by day ----------------------------------------------------

CURRENCIES = [
    *("AUD", "BRL", "CAD", "CHF", "CNY", "CZK", "DKK", "GBP", "HKD", "IDR"),
    *("ILS", "INR", "JPY", "KRW", "MXN", "NOK", "NZD", "PLN", "SEK", "USD"),
]


def load(years):
    """Return invented rates of each currency for a number of years: always the same ones."""
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

# ---- Tasks: they read frozen data like ordinary data ---------------------------------------------


@app.task
def convert(amount, currency, day):
    """Return the value of an amount of euros in another currency on a day; None if unknown."""
    record = RATES[currency].get(day)
    return record and round(amount * record["close"], 2)


@app.task
def year(currency, number):
    """Return the lowest and highest rate of a year, and the number of trades."""
    days = [record for day, record in RATES[currency].items() if day.startswith(f"{number}-")]
    return {
        "low": min((record["low"] for record in days), default=None),
        "high": max((record["high"] for record in days), default=None),
        "trades": sum(record["trades"] for record in days),
    }
