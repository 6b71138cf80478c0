"""Tickets in PostgreSQL, which several servers share; psycopg is used nowhere else."""
