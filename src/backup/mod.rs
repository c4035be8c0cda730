//! Taking backups.
