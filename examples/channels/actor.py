"""An actor: one object with a state, a mailbox in front of it, and customers in three interpreters.

The actor runs in its own process and handles one message after the other, so its state needs no
lock. A message names a method, its arguments, and the channel for the answer: a channel can be sent
through a channel.

Within one process the same needs only one line. An object that is lent stays in its interpreter,
and ``call`` runs a method of it there, for every interpreter that has the loan.
"""

import multiprocessing
import sys

import permaheap
from examples.channels.interpreters import Interpreter

FORK = multiprocessing.get_context("fork")
CUSTOMERS = 3


class Stock:
    """The goods for sale."""

    def __init__(self, count):
        self.left = {"apples": count, "pears": count // 2}

    def take(self, what, count):
        """Take some goods away; return their number."""
        count = min(count, self.left[what])
        self.left[what] -= count
        return count

    def count(self):
        """Return the goods that are left."""
        return dict(self.left)


# ---- An actor with a mailbox, in a process -------------------------------------------------------


def act(mailbox, count):
    """Run the actor until the mailbox is closed."""
    stock = Stock(count)
    for method, arguments, answers in mailbox:
        answers.send(getattr(stock, method)(*arguments))


def buy_by_mail(mailbox, bought):
    """Run a customer: buy one by one until there are no more; send the numbers bought."""
    answers, basket = permaheap.Channel(), {"apples": 0, "pears": 0}
    for what in basket:
        mailbox.send(("take", (what, 1), answers))
        while answers.recv():
            basket[what] += 1
            mailbox.send(("take", (what, 1), answers))
    bought.send(basket)


def sold_by_mail(count):
    """Return the goods that all customers bought, and those that the actor has left."""
    mailbox, answers = permaheap.Channel(), permaheap.Channel()
    # The fork comes before the interpreters: CPython does not fork while others exist.
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
    """Run a customer of an object that was lent."""
    basket = {"apples": 0, "pears": 0}
    for what in basket:
        while permaheap.call(stock, "take", what, 1):
            basket[what] += 1
    bought.send(basket)


def sold_by_call(count):
    """Return the goods that all customers bought, and those that are left."""
    stock = Stock(count)
    sold = sell_to(buy_by_call, permaheap.lend(stock))
    return sold, stock.left


# ---- Both ----------------------------------------------------------------------------------------


def sell_to(customer, stock):
    """Run the customers; return the goods that they bought together."""
    bought = permaheap.Channel()
    interpreters = [Interpreter(customer, stock, bought) for _ in range(CUSTOMERS)]
    baskets = [bought.recv() for _ in interpreters]
    for interpreter in interpreters:
        interpreter.join()
    return {what: sum(basket[what] for basket in baskets) for what in baskets[0]}


def one_after_the_other(count):
    """Return the goods that a single customer can buy, and those left then."""
    stock = Stock(count)
    return {what: stock.take(what, count) for what in stock.count()}, stock.left


def main(count=3_000):
    """Show the goods sold."""
    for title, sell in (("by mail", sold_by_mail), ("by call", sold_by_call)):
        sold, left = sell(count)
        print(f"{CUSTOMERS} interpreters bought {sold} {title}; {left} are left")


if __name__ == "__main__":
    from examples.channels import actor as this  # interpreters import the functions by this name

    this.main(*map(int, sys.argv[1:]))
