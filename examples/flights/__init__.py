"""A guided tour on real input: every departure from New York in 2013 goes through RabbitMQ into MongoDB.

``python -m examples.flights`` runs it from the repository's top folder; ``make demo`` does the set-up as well.
"""
