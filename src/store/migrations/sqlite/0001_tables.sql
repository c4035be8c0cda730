-- The four K1 tables, with PostgreSQL's columns in SQLite's types: UUIDs as lower-case text,
-- timestamps as ISO 8601 UTC text with microseconds (so that text order is time order), JSON as
-- text, booleans as 0 and 1. STRICT and the checks refuse everything else, from whichever program.
-- An older SQLite takes json_valid(NULL) for false, hence the checks for NULL.

CREATE TABLE IF NOT EXISTS k1_workflow_metadata (
    workflow_id TEXT NOT NULL PRIMARY KEY CHECK (length(workflow_id) = 36 AND workflow_id = lower(workflow_id)),
    conductor_execution_id TEXT NOT NULL UNIQUE CHECK (length(conductor_execution_id) <= 255),
    created_at TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
        CHECK (created_at GLOB '[0-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9][0-9][0-9][0-9]Z'),
    updated_at TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
        CHECK (updated_at GLOB '[0-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9][0-9][0-9][0-9]Z'),
    user_id TEXT,
    source TEXT DEFAULT 'MCP',
    tags TEXT CHECK (tags IS NULL OR json_valid(tags)),
    custom_metadata TEXT CHECK (custom_metadata IS NULL OR json_valid(custom_metadata))
) STRICT;

CREATE TABLE IF NOT EXISTS k1_execution_metrics (
    metric_id TEXT NOT NULL PRIMARY KEY CHECK (length(metric_id) = 36 AND metric_id = lower(metric_id)),
    workflow_id TEXT REFERENCES k1_workflow_metadata (workflow_id) ON DELETE CASCADE,
    task_id TEXT,
    metric_name TEXT NOT NULL,
    metric_value REAL,
    metric_unit TEXT,
    recorded_at TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
        CHECK (recorded_at GLOB '[0-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9][0-9][0-9][0-9]Z'),
    tags TEXT CHECK (tags IS NULL OR json_valid(tags))
) STRICT;

CREATE TABLE IF NOT EXISTS k1_quality_gates (
    gate_id TEXT NOT NULL PRIMARY KEY CHECK (length(gate_id) = 36 AND gate_id = lower(gate_id)),
    workflow_id TEXT REFERENCES k1_workflow_metadata (workflow_id) ON DELETE CASCADE,
    task_id TEXT NOT NULL,
    gate_name TEXT NOT NULL,
    gate_threshold REAL,
    actual_value REAL,
    passed INTEGER NOT NULL CHECK (passed IN (0, 1)),
    critical INTEGER DEFAULT 0 CHECK (critical IN (0, 1)),
    checked_at TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
        CHECK (checked_at GLOB '[0-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9][0-9][0-9][0-9]Z'),
    details TEXT CHECK (details IS NULL OR json_valid(details))
) STRICT;

CREATE TABLE IF NOT EXISTS k1_agent_executions (
    execution_id TEXT NOT NULL PRIMARY KEY CHECK (length(execution_id) = 36 AND execution_id = lower(execution_id)),
    workflow_id TEXT REFERENCES k1_workflow_metadata (workflow_id) ON DELETE CASCADE,
    task_id TEXT NOT NULL,
    agent_type TEXT NOT NULL,
    started_at TEXT NOT NULL
        CHECK (started_at GLOB '[0-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9][0-9][0-9][0-9]Z'),
    completed_at TEXT
        CHECK (completed_at GLOB '[0-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9][0-9][0-9][0-9]Z'),
    status TEXT,
    exit_code INTEGER,
    stdout_log TEXT,
    stderr_log TEXT,
    result_file_path TEXT,
    metrics TEXT CHECK (metrics IS NULL OR json_valid(metrics))
) STRICT;
