"""An actor: one object with a state, a mailbox in front of it, and customers in three interpreters.

The actor lives in a process of its own and takes one message after the other, so that its state
needs no lock. A message says what to do and where the answer shall go: a channel can travel through
a channel.

Within one process the same takes one line. An object that is lent stays where it is, and ``call``
runs a method of it in the interpreter that owns it, for whoever has the loan.
"""

import multiprocessing
import sys

import permaheap
from examples.channels.interpreters import Interpreter

FORK = multiprocessing.get_context("fork")
CUSTOMERS = 3


class Stock:
    """What is there to be sold."""

    def __init__(self, count):
        self.left = {"apples": count, "pears": count // 2}

    def take(self, what, count):
        """Take some away; return how many that were."""
        count = min(count, self.left[what])
        self.left[what] -= count
        return count

    def count(self):
        """Return what is left."""
        return dict(self.left)


# ---- An actor with a mailbox, in a process -------------------------------------------------------


def act(mailbox, count):
    """Be the actor, until the mailbox is closed."""
    stock = Stock(count)
    for method, arguments, answers in mailbox:
        answers.send(getattr(stock, method)(*arguments))


def buy_by_mail(mailbox, bought):
    """Be a customer: buy one by one, until there are no more; say how many that were."""
    answers, basket = permaheap.Channel(), {"apples": 0, "pears": 0}
    for what in basket:
        mailbox.send(("take", (what, 1), answers))
        while answers.recv():
            basket[what] += 1
            mailbox.send(("take", (what, 1), answers))
    bought.send(basket)


def sold_by_mail(count):
    """Return what all customers bought, and what the actor has left."""
    mailbox, answers = permaheap.Channel(), permaheap.Channel()
    # Before there are interpreters: CPython does not fork beside them.
    actor = FORK.Process(target=act, args=(mailbox, count))
    actor.start()
    sold = sell_to(buy_by_mail, mailbox)
    mailbox.send(("count", (), answers))
    left = answers.recv()
    mailbox.close()
    actor.join()
    return sold, left


# ---- The same by call ----------------------------------------------------------------------------


def buy_by_call(stock, bought):
    """Be a customer of an object that was lent."""
    basket = {"apples": 0, "pears": 0}
    for what in basket:
        while permaheap.call(stock, "take", what, 1):
            basket[what] += 1
    bought.send(basket)


def sold_by_call(count):
    """Return what all customers bought, and what is left."""
    stock = Stock(count)
    sold = sell_to(buy_by_call, permaheap.lend(stock))
    return sold, stock.left


# ---- Both ----------------------------------------------------------------------------------------


def sell_to(customer, stock):
    """Run the customers; return what they bought together."""
    bought = permaheap.Channel()
    interpreters = [Interpreter(customer, stock, bought) for _ in range(CUSTOMERS)]
    baskets = [bought.recv() for _ in interpreters]
    for interpreter in interpreters:
        interpreter.join()
    return {what: sum(basket[what] for basket in baskets) for what in baskets[0]}


def one_after_the_other(count):
    """Return what a single customer can buy, and what is left then."""
    stock = Stock(count)
    return {what: stock.take(what, count) for what in stock.count()}, stock.left


def main(count=3_000):
    """Show what was sold."""
    for title, sell in (("by mail", sold_by_mail), ("by call", sold_by_call)):
        sold, left = sell(count)
        print(f"{CUSTOMERS} interpreters bought {sold} {title}; {left} are left")


if __name__ == "__main__":
    from examples.channels import actor as this  # by this name interpreters find the functions

    this.main(*map(int, sys.argv[1:]))
