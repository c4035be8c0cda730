//! The K1 tables, in PostgreSQL or SQLite, with the same answers.
