"""The local collector: it receives what the SDK sends, keeps it, and shows it on a page.

``sluice dev`` starts it.  It speaks the ingest contract with the types of
:mod:`sluice.events`, keeps tasks in SQLite or PostgreSQL, and serves a read API and a page.
It knows neither Celery nor a broker: what it shows is what was delivered.

Data flows one way: ``intake`` (bytes -> checked events) -> ``writer`` (one thread) ->
``store`` (one transaction) -> ``story`` (what the events of a task say together).  What reads
is apart from it: ``listing``, ``summary`` and ``detail``.  ``routes`` is HTTP, ``server``
wires the parts.
"""
