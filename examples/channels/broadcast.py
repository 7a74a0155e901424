"""A configuration for all workers: frozen once, and broadcast to them by its handle.

A message has one receiver, so each worker has its own channel. The message is a handle of 40 bytes,
however large the configuration is, and all workers read the same objects. Before the parent
broadcasts a new configuration, it releases the old one. Workers continue to read the old one until
they receive the handle of the new one. The memory of the old one is returned when all workers have
called forget(). A slow worker may receive a handle whose configuration is gone already: it gets an
error, and takes the next handle.
"""

import multiprocessing
import os
import sys

import permaheap

FORK = multiprocessing.get_context("fork")


def load(version, rules):
    """Return a configuration."""
    return {
        "version": version,
        "limits": {"requests": 100 * version, "bytes": 1 << 20},
        "rules": [{"prefix": f"/part-{n}/", "allow": n % 3 != version % 3} for n in range(rules)],
    }


def in_force(config):
    """Describe a configuration in a few words."""
    allowed = sum(rule["allow"] for rule in config["rules"])
    return f"version {config['version']} allows {allowed} prefixes"


def serve(handles, answers):
    """Run a worker: take each configuration as it comes, and answer its description."""
    current = None
    for handle in handles:
        try:
            config = handle.get()
        except permaheap.HandleError:
            continue  # released: there is a newer one
        if current is not None:
            permaheap.forget(current)  # no name here refers to a part of the old one: see below
        current = handle
        # The answer is a new text. A part of the configuration would be sent by reference.
        answers.send((os.getpid(), in_force(config)))
        del config


def broadcast(config, workers):
    """Freeze a configuration, send its handle to all, and return it."""
    handle = permaheap.share(permaheap.freeze(config))
    for channel in workers:
        channel.send(handle)
    return handle


def by_broadcast(versions, rules, count):
    """Yield each worker's description of its configuration, after each broadcast."""
    workers, answers = [permaheap.Channel() for _ in range(count)], permaheap.Channel()
    processes = [FORK.Process(target=serve, args=(channel, answers)) for channel in workers]
    for process in processes:
        process.start()
    current = None
    for version in range(1, versions + 1):
        if current is not None:
            permaheap.release(current)
            permaheap.forget(current)  # this process has only the handle
        current = broadcast(load(version, rules), workers)
        yield dict(answers.recv() for _ in workers)
    for channel in workers:
        channel.close()
    for process in processes:
        process.join()


def one_after_the_other(versions, rules):
    """Return the description after each broadcast, in a program without workers."""
    return [in_force(load(version, rules)) for version in range(1, versions + 1)]


def main(versions=4, rules=50_000, count=4):
    """Show the configurations of the workers."""
    for found in by_broadcast(versions, rules, count):
        print(f"in {len(found)} workers: {', '.join(set(found.values()))}")
    permaheap.reclaim()
    stats = permaheap.stats()
    print(f"{stats.returned / 1e6:.1f} MB of old configurations were returned")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
